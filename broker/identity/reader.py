"""A profile's table made ready to read tokens fast: what depends on the names of the members alone is worked out once. Pure.

Every value of every token is looked at; nothing is remembered of a token but the names of its members. The fast way accepts only
what `typed_values` accepts, with the same result; whatever else comes goes that way and is refused there, in its words.
"""

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

import msgspec

from broker.identity.claims import ClaimValue
from broker.identity.gate import VerifiedClaims
from broker.identity.profile import Claim, ClaimKind
from broker.identity.rules import Names
from broker.identity.typed import MAX_TEXT, typed_values

_SHAPES_KEPT = 128  # an issuer's tokens have a handful; they are remembered only once their signature holds
_BOOLS = {"true": True, "false": False}


class _Shape(msgspec.Struct, frozen=True):
    """What is to be done with tokens of these members."""

    fast: bool  # every required claim is there, and nothing but texts, truth values and numbers is to be read
    dropped: tuple[str, ...] = ()  # not in the table
    bools: tuple[str, ...] = ()
    numbers: tuple[str, ...] = ()


class Reader:
    """The typed claims of one kind of token, whose table has no JSON pointers."""

    def __init__(self, table: Mapping[str, Claim]) -> None:
        self._table = table
        self._required: Sequence[str] = tuple(name for name, claim in table.items() if claim.required)
        self._shape = lru_cache(_SHAPES_KEPT)(self._work_out)

    def read(self, verified: VerifiedClaims) -> dict[str, ClaimValue]:
        """`typed_values`, of this table. Raises Refused(token_claims)."""
        if verified.plain:
            typed = _fast(self._shape(verified.names), verified.members.copy())
            if typed is not None:
                return typed
        return typed_values(self._table, self._required, verified.members)

    def _work_out(self, names_of: Names) -> _Shape:
        names = names_of.names
        kinds = {name: self._table[name].kind for name in names if name in self._table}
        return _Shape(
            fast=ClaimKind.TEXTS not in kinds.values() and kinds.keys() >= set(self._required),
            dropped=tuple(name for name in names if name not in kinds),
            bools=tuple(name for name, kind in kinds.items() if kind is ClaimKind.BOOL),
            numbers=tuple(name for name, kind in kinds.items() if kind is ClaimKind.NUMBER),
        )


def _fast(shape: _Shape, members: dict[str, Any]) -> dict[str, ClaimValue] | None:
    """The members, which are the caller's to give, made the typed claims in place, when all is as it nearly always is; None to
    look at it in full. Every text among them is printable: the token is plain.
    """
    if not shape.fast:
        return None
    for name in shape.dropped:
        del members[name]
    numbers = [members.pop(name) for name in shape.numbers]
    try:
        if len("".join(members.values())) > MAX_TEXT:  # raises for whatever is no text
            return None
        if "" in members.values():  # of a required claim that is missing, of an optional one fine
            return None
        for name in shape.bools:
            members[name] = _BOOLS[members[name]]
    except (TypeError, KeyError):
        return None
    for name, number in zip(shape.numbers, numbers, strict=True):
        if type(number) is not int:
            return None
        members[name] = number
    return members
