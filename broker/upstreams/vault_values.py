"""From a Vault answer to fields and an end. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Annotated

import msgspec

from broker.errors import Code, Misconfigured, Refused, Unavailable
from broker.lease import Revocable
from broker.policy.target import VaultTarget
from broker.secret import Secret
from broker.upstreams.vault_answers import UNREADABLE, Answer, Seconds

# What a static role says about its rotation: not part of the credential, and different at every read.
_ROTATION = frozenset({"ttl", "rotation_period", "rotation_schedule", "rotation_window", "last_vault_rotation"})
_EMPTY = frozenset({b'""', b"null", b"{}", b"[]"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Read:
    """One read: every field of one credential, all from one answer."""

    fields: Mapping[str, Secret]
    lease_id: str
    kv_version: int | None
    expires_at: datetime | None  # of the lease alone; None for a value without an end
    renewable: bool
    revocable: Revocable


def url_path(target: VaultTarget) -> str:
    """The API path of a target; for KV v2 with `data/` behind the mount, which is the path's first segment.

    Raises Refused(template_value) for a path that Vault, a proxy or our HTTP library would read as another one.
    """
    segments = target.path.split("/")
    if any(not _plain(segment) for segment in segments):
        raise Refused(
            Code.TEMPLATE_VALUE,
            "a value of this job would make a Vault path with an empty, dotted or reserved segment; rename what it comes from",
            detail=f"path {target.path!r}",
        )
    if len(segments) < 2:  # noqa: PLR2004 - mount and name
        raise Misconfigured(
            Code.UPSTREAM_CONFIG,
            "the grant's Vault path names a mount and nothing in it; the policy has to be corrected",
            detail=f"path {target.path!r}",
        )
    return "/".join([segments[0], "data", *segments[1:]] if target.engine == "kv2" else segments)


def read_secret(answer: Answer, target: VaultTarget, *, asked: datetime, upstream: str, what: str) -> Read:
    """The credential in a successful answer; its life counts from `asked`, before the call.

    Every text, number and boolean is a field as its text, an object or list as its JSON text; a null is no field.
    Raises Misconfigured when the engine is not what the grant says, Refused for a secret without a field, and Unavailable
    for a credential that is at its end already.
    """
    data = _object(answer.data, target, upstream, what)
    if target.engine == "kv2":
        inner = _object(bytes(data.get("data", msgspec.Raw(b"null"))), target, upstream, what)
        return Read(
            fields=_fields(inner, target, upstream, what),
            lease_id="",
            kv_version=_version(data.get("metadata")),
            expires_at=None,
            renewable=False,
            revocable="none",
        )
    if target.engine == "kv1":
        return Read(
            fields=_fields(data, target, upstream, what),
            lease_id="",
            kv_version=None,
            expires_at=None,
            renewable=False,
            revocable="none",
        )
    return _leased(answer, data, target, asked, upstream, what)


def _leased(answer: Answer, data: dict[str, msgspec.Raw], target: VaultTarget, asked: datetime, upstream: str, what: str) -> Read:
    # A leased answer may carry no duration (Vault 1.13.0 with STS), and a static role has no lease: then `ttl` is the end.
    stated = _ttl(data["ttl"]) if "ttl" in data else None
    seconds = answer.lease_duration if answer.lease_id and answer.lease_duration > 0 else stated
    if seconds is None:
        raise Misconfigured(
            Code.UPSTREAM_CONFIG,
            f"upstream {upstream!r} answered {what} without a lease; the grant needs the `engine` that is at its path",
            detail=f"path {target.path!r}",
        )
    if seconds <= 0:
        raise Unavailable(
            Code.UPSTREAM_UNAVAILABLE,
            f"the credential of {what} is being rotated at this moment; try again",
            detail=f"path {target.path!r} answered with a ttl of {seconds} s",
            retry_after=1.0,
        )
    credential = {name: raw for name, raw in data.items() if name not in _ROTATION}
    fields = _fields(credential, target, upstream, what)
    if all(bytes(raw) in _EMPTY for raw in credential.values()):
        raise Unavailable(
            Code.UPSTREAM_UNAVAILABLE,
            f"upstream {upstream!r} answered {what} with an empty credential; try again",
            detail=f"path {target.path!r}: no field has a value",
        )
    # An STS session cannot be taken back: Vault forgets the lease, AWS keeps the session (reference/vault.md 2.1).
    sts = "security_token" in fields or "session_token" in fields
    return Read(
        fields=fields,
        lease_id=answer.lease_id,
        kv_version=None,
        expires_at=asked + timedelta(seconds=seconds),
        renewable=bool(answer.lease_id) and answer.renewable,
        revocable="lease" if answer.lease_id and not sts else "none",
    )


def _object(raw: bytes, target: VaultTarget, upstream: str, what: str) -> dict[str, msgspec.Raw]:
    try:
        return msgspec.json.decode(raw, type=dict[str, msgspec.Raw])
    except UNREADABLE:
        raise Misconfigured(
            Code.UPSTREAM_CONFIG,
            f"upstream {upstream!r} answered {what} in another shape than the grant's engine has; the policy has to be corrected",
            detail=f"engine {target.engine!r} at path {target.path!r}",
        ) from None


def _fields(data: Mapping[str, msgspec.Raw], target: VaultTarget, upstream: str, what: str) -> dict[str, Secret]:
    fields = {name: Secret(text) for name, raw in data.items() if (text := _text(bytes(raw))) is not None}
    if not fields:
        raise Refused(
            Code.UPSTREAM_DENIED,
            f"the secret that {what} points to in upstream {upstream!r} has no field; it has to be written there",
            detail=f"path {target.path!r}",
        )
    return fields


def _text(raw: bytes) -> str | None:
    if raw.startswith(b'"'):
        return msgspec.json.decode(raw, type=str)
    # Digits stay as they were written: a number is often an account id, and a float would change it.
    return None if raw == b"null" else raw.decode()


def _ttl(raw: msgspec.Raw) -> int | None:
    try:
        return msgspec.json.decode(raw, type=Seconds)
    except UNREADABLE:
        return None


def _version(raw: msgspec.Raw | None) -> int | None:
    """Of a KV v2 secret; None where the server says none that could be one."""
    if raw is None:
        return None
    try:
        return msgspec.json.decode(raw, type=_Metadata).version
    except UNREADABLE:
        return None


class _Metadata(msgspec.Struct, frozen=True):
    version: Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]


def _plain(segment: str) -> bool:
    return segment not in ("", ".", "..") and segment.isprintable() and not any(c in segment for c in '%?#\\;"<>^`{|}')
