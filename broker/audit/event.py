"""What every entry has in common: the exact bytes of an OCSF event, made once, and what the store finds it by."""

import base64
import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime

from broker.audit import ocsf
from broker.audit.canonical import Json
from broker.audit.facets import Facets, facets_of
from broker.audit.fitting import fitted, plain_items
from broker.audit.record import identity_record, signed_record
from broker.identity.claims import JobIdentity
from broker.identity.proven import Proven
from broker.moment import epoch_ms

_WITH_CLAIMS = frozenset({"session_opened", "intent", "issued", "denied"})  # the decisions, and what a receipt is kept of


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One entry, finished. `policy_text` is what a `policy_loaded` entry names by hash; the store keeps it beside the tree."""

    entry_id: str
    kind: str
    time_ms: int
    body: bytes
    facets: Facets
    policy_text: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class About:
    """What several entries of one request have in common."""

    correlation_id: str
    identity: JobIdentity | None = None
    proven: Proven | None = None  # of a token that was signed and refused, which makes no identity
    session_id: str = ""
    environment: str = ""
    grant: str = ""
    subpath: str = ""
    policy_hash: str = ""


Ids = Mapping[str, str | int]
"""What a credential is named by upstream: `UpstreamIds.named()`."""


def fresh_entry_id() -> str:
    """128 random bits as 26 lower-case base32 characters."""
    return base64.b32encode(secrets.token_bytes(16)).decode("ascii").rstrip("=").lower()


@dataclass(frozen=True, slots=True)
class Events:
    """Makes the event of one broker. Writes nothing."""

    broker_id: str
    version: str
    fresh_id: Callable[[], str] = fresh_entry_id

    def made(
        self,
        kind: str,
        at: datetime,
        about: About,
        data: Mapping[str, Json],
        *,
        entry_id: str = "",
        extra: Mapping[str, Json] | None = None,
        entity: str = "",
        expires_at: datetime | None = None,
        policy_text: str = "",
    ) -> Entry:
        entry_id = entry_id or self.fresh_id()
        code = str(data.get("code", ""))
        shape = ocsf.shape_of(kind, code=code, grant=about.grant)
        event = ocsf.header(shape, time_ms=epoch_ms(at), uid=entry_id, correlation_id=about.correlation_id, version=self.version)
        if about.identity is None and about.proven is not None:
            event |= ocsf.refused_subject(about.proven.issuer_name, about.proven.stable_id)
        else:
            event |= ocsf.subject(about.identity)
        if shape.class_uid == ocsf.AUTHENTICATION:
            event |= ocsf.authentication(about.identity)
        if shape.class_uid == ocsf.AUTHORIZE_SESSION:
            event["privileges"] = ocsf.privileges(about.environment, [about.grant])
        if shape.class_uid == ocsf.ENTITY_MANAGEMENT:
            event["entity"] = ocsf.entity(shape, uid=entity, name=about.grant or kind)
            event.pop("user")  # 3004 knows an actor, not a user
        if about.session_id and shape.class_uid != ocsf.ENTITY_MANAGEMENT:
            event["session"] = ocsf.session(about.session_id, self.broker_id, expires_at)
        if about.policy_hash:
            event["policy"] = {"uid": about.policy_hash}
        if code:
            event["status_code"] = code
        event |= extra or {}
        ours = {
            "broker_id": self.broker_id,
            "correlation_id": about.correlation_id,
            "environment": about.environment,
            "grant": about.grant,
            "identity": identity_record(about.identity, with_claims=kind in _WITH_CLAIMS),
            "kind": kind,
            "policy_hash": about.policy_hash,
            "session_id": about.session_id,
            "signed": signed_record(about.proven),
            "subpath": about.subpath,
            **data,
        }
        event["unmapped"] = {name: value for name, value in ours.items() if value not in ("", None)}
        body = fitted(plain_items(event))
        return Entry(
            entry_id=entry_id,
            kind=kind,
            time_ms=epoch_ms(at),
            body=body,
            facets=facets_of(body),
            policy_text=policy_text,
        )
