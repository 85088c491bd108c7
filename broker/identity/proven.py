"""What is known of a token that its issuer signed and that is refused all the same: less than an identity, more than nothing."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, final

from broker.errors import Refused
from broker.identity.gate import SignedClaims
from broker.identity.pointer import value_at
from broker.identity.profile import ClaimKind, Profile

_MAX_TEXT = 255
_MAX_ELEMENTS = 8
_OF_THE_TOKEN = {
    "aud": (str, list),
    "exp": (int,),
    "iat": (int,),
    "jti": (str,),
    "nbf": (int,),
}
_TYPES = {ClaimKind.TEXT: (str,), ClaimKind.BOOL: (str,), ClaimKind.NUMBER: (int,), ClaimKind.TEXTS: (list,)}


@final
class Proven:
    """What the issuer's signature proves of a refused token, for the log alone: whose key signed it, and what it says of itself.

    Made of signed claims and of nothing else. It is no JobIdentity and never becomes one: the audience may be another service's,
    the hours may be over, the kind may be another than a job's. `claims` are those that the profile knows and that are not about
    a person; a value of another type, or that is no short printable text, is left out.
    """

    __slots__ = ("claims", "issuer", "issuer_name", "kid", "profile", "stable_id")

    def __init__(self, signed: SignedClaims, issuer_name: str, profile: Profile) -> None:
        self.issuer = signed.issuer
        self.issuer_name = issuer_name
        self.profile = profile.name
        self.kid = signed.kid
        types = _OF_THE_TOKEN | {name: _TYPES[claim.kind] for name, claim in profile.claims.items() if not claim.personal}
        kept = {name: _plain(_at(signed.members, name), types[name]) for name in sorted(types)}
        self.claims: Mapping[str, str | int | tuple[str, ...]] = MappingProxyType(
            {name: value for name, value in kept.items() if value is not None}
        )
        stable_id = self.claims.get(profile.stable_id)
        self.stable_id = stable_id if isinstance(stable_id, str) else ""  # "" when the token names nothing that could be one

    def __repr__(self) -> str:
        return f"Proven(issuer={self.issuer!r}, stable_id={self.stable_id!r})"


class SignedRefusal(Refused):
    """A refusal of a token whose signature holds: a fact about its issuer's token, so it may be an entry of its own."""

    def __init__(self, refusal: Refused, proven: Proven) -> None:
        super().__init__(refusal.code, refusal.public, detail=refusal.detail)
        self.proven = proven


def _at(members: Mapping[str, Any], name: str) -> Any:
    try:
        return value_at(members, name)
    except Refused:  # perhaps the very reason why the token is refused
        return None


def _plain(value: Any, types: tuple[type, ...]) -> str | int | tuple[str, ...] | None:
    if type(value) not in types:
        return None
    if type(value) is list:
        return tuple(value) if len(value) <= _MAX_ELEMENTS and all(_is_short(element) for element in value) else None
    if type(value) is int:
        return value
    return value if _is_short(value) else None


def _is_short(value: Any) -> bool:
    return type(value) is str and len(value) <= _MAX_TEXT and value.isprintable()
