"""What an entry can be found by. Always read from its bytes, so that an index beside the log can be checked against the log."""

from dataclasses import dataclass
from typing import Any

import msgspec


@dataclass(frozen=True, slots=True, kw_only=True)
class Facets:
    """The searchable side of one entry. `credentials` are the ids that other systems' logs know the credential by."""

    entry_id: str
    kind: str
    time_ms: int
    project_id: str = ""
    project_path: str = ""
    job_id: str = ""
    session_id: str = ""
    environment: str = ""
    grant: str = ""
    intent_id: str = ""
    policy_hash: str = ""
    credentials: tuple[str, ...] = ()


class _Metadata(msgspec.Struct, frozen=True):
    uid: str


class _Identity(msgspec.Struct, frozen=True):
    project_id: str = ""
    project_path: str = ""
    job_id: str = ""


class _SignedClaims(msgspec.Struct, frozen=True):
    project_id: Any = ""  # an issuer of another kind may use the names for something else
    project_path: Any = ""
    job_id: Any = ""


class _Signed(msgspec.Struct, frozen=True):
    claims: _SignedClaims = _SignedClaims()


class _Ids(msgspec.Struct, frozen=True):
    accessor: str = ""
    lease_id: str = ""
    access_key_id: str = ""
    session_name: str = ""
    source_identity: str = ""
    request_id: str = ""


class _Ours(msgspec.Struct, frozen=True):
    kind: str
    identity: _Identity | None = None
    signed: _Signed = _Signed()  # a refused token: found by what its issuer signed
    session_id: str = ""
    environment: str = ""
    grant: str = ""
    intent_id: str = ""
    policy_hash: str = ""
    lease_id: str = ""
    upstream_ids: _Ids = _Ids()


class _Event(msgspec.Struct, frozen=True):
    time: int
    metadata: _Metadata
    unmapped: _Ours


def parsed(body: bytes) -> Any:
    """The entry as plain JSON values. Raises ValueError."""
    try:
        return msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError(f"not JSON: {error}") from None


_DECODER = msgspec.json.Decoder(_Event)


def facets_of(body: bytes) -> Facets:
    """The facets of the entry with these bytes. Raises ValueError when they are not an entry of ours."""
    try:
        body.decode()  # what the decoder skips, it does not look at
        event = _DECODER.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError(f"not an entry of this log: {error}") from None
    ours = event.unmapped
    job = ours.identity or _named(ours.signed.claims)
    ids = ours.upstream_ids
    names = (
        ours.lease_id, ids.accessor, ids.lease_id, ids.access_key_id, ids.session_name, ids.source_identity, ids.request_id,
    )  # fmt: skip
    return Facets(
        entry_id=event.metadata.uid,
        kind=ours.kind,
        time_ms=event.time,
        project_id=job.project_id,
        project_path=job.project_path,
        job_id=job.job_id,
        session_id=ours.session_id,
        environment=ours.environment,
        grant=ours.grant,
        intent_id=ours.intent_id,
        policy_hash=ours.policy_hash,
        credentials=tuple(sorted({name for name in names if name})),
    )


def _named(claims: _SignedClaims) -> _Identity:
    texts = (value if isinstance(value, str) else "" for value in msgspec.structs.astuple(claims))
    return _Identity(*texts)
