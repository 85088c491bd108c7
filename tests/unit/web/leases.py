"""A lease with the fields that a test needs."""

from collections.abc import Mapping
from datetime import timedelta

from broker.lease import Lease, UpstreamIds
from broker.secret import Secret
from tests.fakes.memory_desk import NOW


def a_lease(fields: Mapping[str, Secret]) -> Lease:
    return Lease(
        lease_id="l",
        session_id="s",
        environment="production",
        grant="lake",
        subpath="",
        kind="aws",
        version=1,
        fields=fields,
        ids=UpstreamIds(),
        revocable="none",
        receipt="r",
        issued_at=NOW,
        refresh_at=NOW,
        expires_at=NOW + timedelta(hours=1),
        upstream_expires_at=None,
        renewable=False,
        mono_issued=0,
        mono_refresh=1,
        mono_expires=2,
    )
