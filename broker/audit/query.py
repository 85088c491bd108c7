"""What somebody asks the log, and how an entry is told in one line. Pure."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from broker.audit.facets import Facets
from broker.moment import epoch_ms


@dataclass(frozen=True, slots=True, kw_only=True)
class Query:
    """Everything given has to hold. Answers are the newest `limit`, in the log's order."""

    project: str = ""  # id or path
    job: str = ""
    session: str = ""
    environment: str = ""
    grant: str = ""
    kind: str = ""
    credential: str = ""  # any id: AccessKeyId, accessor, lease id (ours or Vault's), session name, request id
    since: datetime | None = None
    until: datetime | None = None  # exclusive
    limit: int = 1000

    def matches(self, said: Facets) -> bool:
        """Asked of the entry itself, so that an index that was changed cannot show something that is not there."""
        exact = (
            (self.job, said.job_id),
            (self.session, said.session_id),
            (self.environment, said.environment),
            (self.grant, said.grant),
            (self.kind, said.kind),
        )
        return (
            all(not wanted or wanted == value for wanted, value in exact)
            and (not self.project or self.project in {said.project_id, said.project_path})
            and (not self.credential or self.credential in said.credentials)
            and (self.since is None or said.time_ms >= epoch_ms(self.since))
            and (self.until is None or said.time_ms < epoch_ms(self.until))
        )


@dataclass(frozen=True, slots=True)
class Line:
    """One entry for a person."""

    time: str
    kind: str
    job: str
    where: str
    what: str


def told(index: int, event: dict[str, Any]) -> Line:
    """The line of an entry, from its parsed bytes."""
    ours: dict[str, Any] = event["unmapped"]
    identity = ours.get("identity", {})
    at = datetime.fromtimestamp(event["time"] / 1000, UTC)
    job = f"{identity['project_path']}#{identity['job_id']}" if identity else ""
    where = "/".join(part for part in (ours.get("environment"), ours.get("grant"), ours.get("subpath")) if part)
    return Line(at.strftime("%Y-%m-%d %H:%M:%S"), ours["kind"], job, where, ", ".join(_what(ours)) or f"entry {index}")


def _what(ours: dict[str, Any]) -> Iterator[str]:
    for name in ("code", "state", "reason", "outcome", "detail"):
        if ours.get(name):
            yield str(ours[name])
    ids = ours.get("upstream_ids", {})
    for name in ("access_key_id", "lease_id", "accessor", "path", "role"):
        if ids.get(name):
            yield f"{name} {ids[name]}"
            break
    if ours.get("version"):
        yield f"version {ours['version']}"
    if ours.get("expires_at"):
        yield f"until {ours['expires_at']}"
    if ours["kind"] == "rollup":
        yield from (f"{line['count']} x {line['code']} on {line['listener']}" for line in ours["counts"])
    yield from _of_policy(ours)


def _of_policy(ours: dict[str, Any]) -> Iterator[str]:
    if ours["kind"] in {"policy_loaded", "broker_started"} and ours.get("policy_hash"):
        yield f"policy {ours['policy_hash']}"
    if ours["kind"] == "policy_refused":
        yield f"{ours['problem_count']} problems; policy {ours['policy_hash']} stays"
    if ours.get("git_commit"):
        yield f"commit {ours['git_commit']}"
