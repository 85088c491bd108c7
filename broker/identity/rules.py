"""What the tokens of one issuer have to meet, whoever it is: names that nobody mistakes, hours, audience. Pure."""

import unicodedata
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Any

import msgspec

from broker.errors import Code, Refused
from broker.moment import rfc3339

_MAX_SHOWN = 200
_MAX_DATE = 253_402_300_799  # the last second of the year 9999
_NAMES_KEPT = 128


@dataclass(frozen=True, slots=True, kw_only=True)
class Advice:
    """What the author of a job can do, in the words of the job's own platform."""

    audience: str  # where the audience is written: "change `aud:` under `id_tokens:`"
    lifetime: str  # how a token gets shorter
    expired: str  # why it ended, and how to get another


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """What one issuer's tokens have to meet."""

    issuer: str
    audience: tuple[str, ...]
    algorithms: frozenset[str]
    types: frozenset[str | None]  # of the header's `typ`
    thumbprint: bool  # whether the header may have `x5t`
    audience_list: bool  # `aud` is a list (Kubernetes), all of it ours; otherwise one text
    other_class: Callable[[Mapping[str, Any]], str]  # what to say of a token signed for another purpose; "" for none
    known: frozenset[str]  # claim names that no other claim may resemble
    max_lifetime: timedelta
    leeway: timedelta
    advice: Advice
    seconds_of_leeway: float = field(init=False)
    seconds_of_life: float = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "seconds_of_leeway", self.leeway.total_seconds())
        object.__setattr__(self, "seconds_of_life", self.max_lifetime.total_seconds())


class Names(msgspec.Struct, frozen=True, eq=False):
    """The names of a token's members, one object for each set of them: what follows from them can be looked up by it."""

    names: tuple[str, ...]
    unknown: tuple[str, ...]  # to the profile


def check_hours(members: Mapping[str, Any], rules: Rules, now: datetime) -> tuple[int, int]:
    """`iat` and `exp`, checked against each other and the time."""
    exp, iat, nbf = _date(members, "exp"), _date(members, "iat"), _date(members, "nbf")
    if exp is None or iat is None:
        raise Refused(Code.TOKEN_CLAIMS, f"{'exp' if exp is None else 'iat'} is missing; a token without its hours is not taken")
    seconds, leeway = now.timestamp(), rules.seconds_of_leeway
    if seconds >= exp + leeway:
        raise Refused(
            Code.TOKEN_EXPIRED,
            f"the job token ended at {_shown(exp)} and it is {rfc3339(now)}; {rules.advice.expired}",
        )
    if iat - leeway > seconds or (nbf is not None and nbf - leeway > seconds):
        name, date = ("iat", iat) if nbf is None or iat - leeway > seconds else ("nbf", nbf)
        raise Refused(
            Code.TOKEN_CLAIMS,
            f"{name} is {_shown(date)}, in the future (it is {rfc3339(now)}); the issuer's clock or the broker's is wrong",
        )
    if not iat < exp <= iat + rules.seconds_of_life:
        raise Refused(
            Code.TOKEN_CLAIMS,
            f"the job token is valid for {exp - iat} s, and this broker takes at most "
            f"{rules.seconds_of_life:.0f} s; {rules.advice.lifetime}",
        )
    return iat, exp


def _date(members: Mapping[str, Any], name: str) -> int | None:
    value = members.get(name)
    if type(value) is int and 0 <= value <= _MAX_DATE:
        return value
    if value is None and name not in members:
        return None
    raise Refused(Code.TOKEN_CLAIMS, f"{name} is not a whole number of seconds since 1970")


def _shown(date: int) -> str:
    return rfc3339(datetime.fromtimestamp(date, UTC))


def check_audience(audience: Any, rules: Rules) -> None:
    if type(audience) is str and not rules.audience_list and audience in rules.audience:
        return
    ours = " or ".join(rules.audience)
    # A token for several services can be replayed by each of them at the others: every one it names has to be ours.
    if type(audience) is str and not rules.audience_list:
        raise Refused(Code.TOKEN_AUDIENCE, f"aud is {_printable(audience)}; this broker is {ours}: {rules.advice.audience}")
    if type(audience) is list and rules.audience_list and audience and all(type(one) is str for one in audience):
        foreign = [one for one in audience if one not in rules.audience]
        if not foreign:
            return
        raise Refused(
            Code.TOKEN_AUDIENCE, f"aud has {_printable(foreign[0])} in it; this broker is {ours}: {rules.advice.audience}"
        )
    if type(audience) is list and not rules.audience_list:
        raise Refused(
            Code.TOKEN_AUDIENCE, f"aud is a list; give this broker a token for {rules.audience[0]} alone: {rules.advice.audience}"
        )
    kind = "a list of texts" if rules.audience_list else "a text"
    raise Refused(Code.TOKEN_AUDIENCE, f"aud is missing, or is not {kind}; this broker is {ours}: {rules.advice.audience}")


def _printable(value: str) -> str:
    return value if value.isascii() and value.isprintable() and len(value) <= _MAX_SHOWN else ascii(value[:_MAX_SHOWN])


@lru_cache(_NAMES_KEPT)
def names_of(names: tuple[str, ...], known: frozenset[str]) -> Names:
    """Which are not known. Refuses one that folds onto a known one without being it, as `SUB` does (hashicorp/cap#191).

    Remembered by the names alone, of tokens whose signature holds: an issuer's tokens differ in their values.
    """
    unknown = tuple(name for name in names if name not in known)
    for name in unknown:
        if unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", name).casefold()) in known:
            raise Refused(Code.TOKEN_CLAIMS, f"the claim {name[:80]!a} resembles another claim's name; no issuer sends both")
    return Names(names, unknown)
