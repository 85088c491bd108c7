"""The vocabulary of the tests: identities, moments and values as they really look."""

import time
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

from broker.identity.claims import ClaimSet, ClaimValue, JobIdentity
from broker.lease import Lease, UpstreamIds
from broker.moment import Moment
from broker.secret import Secret

NOON = datetime(2026, 11, 23, 12, 0, 0, tzinfo=UTC)


def moment(seconds: float = 0.0) -> Moment:
    """Noon, and `seconds` after it, on both clocks."""
    return Moment(NOON + timedelta(seconds=seconds), 1000.0 + seconds)


class ManualClock:
    """A clock that stands still until it is told. Both readings move together unless only one is stepped."""

    def __init__(self) -> None:
        self.wall = NOON
        self.mono = 1000.0

    def __call__(self) -> Moment:
        return Moment(self.wall, self.mono)

    def forward(self, seconds: float) -> None:
        self.wall += timedelta(seconds=seconds)
        self.mono += seconds

    def step_wall(self, seconds: float) -> None:
        """What NTP, or an operator, does."""
        self.wall += timedelta(seconds=seconds)


class RealClock(ManualClock):
    """Real seconds from noon on, for what the event loop's own timers do."""

    def __call__(self) -> Moment:
        passed = time.monotonic() - self._began
        return Moment(self.wall + timedelta(seconds=passed), self.mono + passed)

    def __init__(self) -> None:
        super().__init__()
        self._began = time.monotonic()


def a_lease(**changes: Any) -> Lease:
    """An hour's Vault lease from noon on, due after forty minutes."""
    lease = Lease(
        lease_id="lease-1",
        session_id="session-1",
        environment="production",
        grant="warehouse",
        subpath="",
        kind="vault",
        version=1,
        fields={"password": Secret("s3cr3t-value")},
        ids=UpstreamIds(upstream="vault", accessor="accessor-1", lease_id="database/creds/etl/abc"),
        revocable="lease",
        receipt="entry-2",
        issued_at=NOON,
        refresh_at=NOON + timedelta(minutes=40),
        expires_at=NOON + timedelta(hours=1),
        upstream_expires_at=NOON + timedelta(hours=1),
        renewable=True,
        mono_issued=1000.0,
        mono_refresh=3400.0,
        mono_expires=4600.0,
    )
    return replace(lease, **changes)


def identity(**changes: Any) -> JobIdentity:
    """A job of project 4711 on protected main, in GitLab's environment `production`."""
    claims: dict[str, ClaimValue] = {
        "project_id": "4711",
        "project_path": "acme/data",
        "namespace_id": "72",
        "namespace_path": "acme",
        "job_project_id": "4711",
        "pipeline_id": "574",
        "job_id": "302",
        "pipeline_source": "push",
        "ref": "main",
        "ref_type": "branch",
        "ref_path": "refs/heads/main",
        "ref_protected": True,
        "environment": "production",
        "environment_protected": False,
        "sha": "714a629c0b401fdce83e847fc9589983fc6f46bc",
        "user_id": "1",
        "runner_id": 12,
    }
    claims.update(changes.pop("claims", {}))
    for name in changes.pop("without", ()):
        claims.pop(name, None)
    fields: dict[str, Any] = {
        "issuer_name": "gitlab",
        "profile": "gitlab",
        "issuer": "https://gitlab.example.com",
        "stable_id": str(claims.get("project_id", "")),
        "jti": "a3c5d7e9-0000-4000-8000-000000000001",
        "kid": "k1",
        "issued_at": NOON - timedelta(seconds=5),
        "expires_at": NOON + timedelta(hours=1),
        "project_id": str(claims.get("project_id", "")),
        "project_path": str(claims.get("project_path", "")),
        "job_id": str(claims.get("job_id", "")),
        "pipeline_id": str(claims.get("pipeline_id", "")),
        "ref_path": str(claims.get("ref_path", "")),
        "ref_protected": claims.get("ref_protected") is True,
        "user_id": str(claims.get("user_id", "")),
        "claims": ClaimSet(claims),
    }
    return JobIdentity(**(fields | changes))
