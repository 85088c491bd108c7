"""From verified JSON to typed claims, by a profile's table."""

import unicodedata
from collections.abc import Mapping, Sequence
from typing import Any

from broker.errors import Code, Refused
from broker.identity.claims import ClaimValue
from broker.identity.gate import VerifiedClaims
from broker.identity.profile import Claim, ClaimKind

MAX_TEXT = 2048  # a ref is at most 255 bytes, a URI of a config file a few hundred
_MAX_DIGITS = 20  # of a 64-bit number
_SHOWN_CHARS = 80
_BOOLS = {"true": True, "false": False}
_SHOWN = {str: "a text", bool: "a JSON boolean", int: "a number", list: "a list", dict: "an object"}
_BIDI = "\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"


def typed_claims(table: Mapping[str, Claim], required: Sequence[str], verified: VerifiedClaims) -> dict[str, ClaimValue]:
    """`typed_values` of the token's own members: for a table without JSON pointers."""
    return typed_values(table, required, verified.members)


def typed_values(table: Mapping[str, Claim], required: Sequence[str], values: Mapping[str, Any]) -> dict[str, ClaimValue]:
    """The claims of the table that the token carries, each of exactly its type. Null is absent (gitlab-tokens.md 1.2).

    Raises Refused(token_claims) for one of another type, one with characters that a log line or terminal would obey, and a
    required one that is missing. Claims that the table does not know are left out.
    """
    typed: dict[str, ClaimValue] = {}
    for name, value in values.items():
        claim = table.get(name)
        if claim is None or value is None:
            continue
        # Nearly every claim is a short printable text; the rest is looked at in full.
        if claim.kind is ClaimKind.TEXT and type(value) is str and value.isprintable() and len(value) <= MAX_TEXT:
            typed[name] = value
        else:
            typed[name] = _typed(name, claim, value)
    for name in required:
        if typed.get(name, "") == "":
            raise Refused(Code.TOKEN_CLAIMS, _missing(name, table[name]))
    return typed


def is_decimal_id(value: ClaimValue) -> bool:
    """One spelling only: `020`, ` 20` and digits of other scripts are not another way to write 20."""
    return type(value) is str and value.isascii() and value.isdecimal() and value[0] != "0" and len(value) <= _MAX_DIGITS


def text_of(claims: Mapping[str, ClaimValue], name: str) -> str:
    """A claim that is a text; "" when the token does not have it."""
    value = claims.get(name, "")
    assert isinstance(value, str)
    return value


def _typed(name: str, claim: Claim, value: object) -> ClaimValue:
    kind = claim.kind
    # `type(...) is`, not isinstance: True is an int to isinstance.
    if type(value) is str:
        if kind is ClaimKind.TEXT:
            return _plain(name, value)
        if kind is ClaimKind.BOOL and value in _BOOLS:
            return _BOOLS[value]
        if kind is ClaimKind.BOOL:
            raise Refused(Code.TOKEN_CLAIMS, f'{name} is {_cut(value)!r}, neither "true" nor "false"')
        if claim.one_or_more:
            return (_plain(name, value),)
    elif type(value) is int and kind is ClaimKind.NUMBER:
        return value
    elif type(value) is list and kind is ClaimKind.TEXTS:
        return tuple(_element(name, element) for element in value)
    wanted = 'the text "true" or "false"' if kind is ClaimKind.BOOL else kind.value
    raise Refused(Code.TOKEN_CLAIMS, f"{name} is {_SHOWN.get(type(value), 'of another type')}; it should be {wanted}")


def _element(name: str, value: object) -> str:
    if type(value) is not str:
        raise Refused(Code.TOKEN_CLAIMS, f"{name} has an element that is not a text")
    return _plain(name, value)


def _plain(name: str, value: str) -> str:
    if len(value) > MAX_TEXT:
        raise Refused(Code.TOKEN_CLAIMS, f"{name} is longer than {MAX_TEXT} characters")
    # isprintable is the fast answer, and stricter than we are (an emoji joined of several is not "printable").
    if not value.isprintable() and any(c in _BIDI or unicodedata.category(c) in ("Cc", "Cs", "Zl", "Zp") for c in value):
        raise Refused(Code.TOKEN_CLAIMS, f"{name} has control characters, line breaks or direction marks in it: {_cut(value)!a}")
    return value


def _cut(value: str) -> str:
    return value if len(value) <= _SHOWN_CHARS else value[:_SHOWN_CHARS] + "…"


def _missing(name: str, claim: Claim) -> str:
    if claim.sent_by:
        return f"{name} is missing: {claim.sent_by} sends it"
    return f"{name} is missing; this is not the ID token of a CI job as its issuer documents it"
