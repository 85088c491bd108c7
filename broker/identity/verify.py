"""From the text of a job token to a job identity: the order of the checks, and nothing else."""

import asyncio
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from types import MappingProxyType

from broker.errors import Code, Misconfigured, Refused
from broker.identity.claims import JobIdentity
from broker.identity.gate import UNKNOWN_ISSUER, VerifiedClaims, check_claims, check_signature, parse, refuse_wrong_header
from broker.identity.jwks import Keys
from broker.identity.profile import Profile
from broker.identity.profiles import PROFILES
from broker.identity.proven import Proven, SignedRefusal
from broker.identity.rules import Rules
from broker.identity.settings import IssuerSettings
from broker.moment import Moment

_NAMES_KEPT = 32  # of unknown claims, for the log; an issuer adds a handful a year

_log = logging.getLogger("credbroker.identity")


@dataclass(frozen=True, slots=True)
class _Trusted:
    name: str
    profile: Profile
    rules: Rules
    keys: Keys


class TokenVerifier:
    """Every check of a job token, by the issuers that configuration trusts. Implements `issuing.Verifier`."""

    def __init__(self, issuers: Sequence[tuple[IssuerSettings, Keys]]) -> None:
        """Raises Misconfigured(config_invalid) for no issuer at all, an unknown profile, or one `issuer` that stands twice."""
        if not issuers:
            raise Misconfigured(Code.CONFIG_INVALID, "no [[issuer]] is configured, so no job token could ever be accepted")
        self._trusted = {settings.issuer: _trusted(settings, keys) for settings, keys in issuers}
        if len(self._trusted) != len(issuers):
            raise Misconfigured(
                Code.CONFIG_INVALID, "two [[issuer]] tables have one `issuer`; a token could not say which it is of"
            )
        self._lookalikes = {prefix: text for t in self._trusted.values() for prefix, text in t.profile.lookalikes.items()}
        self._lookalike_prefixes = tuple(self._lookalikes)
        self._unknown = {trusted.name: 0 for trusted in self._trusted.values()}
        self._unknown_names: set[str] = set()

    async def verify(self, unverified_token: str, now: Moment) -> JobIdentity:
        """The identity in a token whose every check passed. Says nothing of what the job may do, nor whether it was seen before.

        Raises Refused(token_…) or Unavailable(issuer_unavailable); a refusal of a token whose signature holds is a SignedRefusal,
        which carries what that proves. An issuer that is not configured is refused before any network
        call; until the signature holds, no refusal tells or logs a value of the token.
        """
        if unverified_token.startswith(self._lookalike_prefixes):
            instead = next(text for prefix, text in self._lookalikes.items() if unverified_token.startswith(prefix))
            raise Refused(Code.TOKEN_CLASS, instead)
        token = parse(unverified_token)
        trusted = self._trusted.get(token.unverified_issuer)
        if trusted is None:
            raise Refused(Code.TOKEN_ISSUER, UNKNOWN_ISSUER)
        refuse_wrong_header(token, trusted.rules)
        key = trusted.keys.at_hand(token.unverified_kid, now) or await trusted.keys.find(token.unverified_kid, now)
        signed = check_signature(token, key, trusted.rules)
        try:
            verified = check_claims(signed, trusted.rules, now.wall)
            if verified.unknown:
                self._count_unknown(trusted, verified)
            return trusted.profile.identify(verified, trusted.name)
        except Refused as refusal:
            raise SignedRefusal(refusal, Proven(signed, trusted.name, trusted.profile)) from None

    async def warm(self, now: Moment) -> None:
        """Fetches the keys of every issuer that has none yet. Raises nothing: `problems` says what came of it."""
        await asyncio.gather(*(trusted.keys.load(now) for trusted in self._trusted.values()))

    async def ready(self, now: Moment) -> bool:
        """Whether every issuer's tokens can be checked. Fetches missing keys, as seldom as a token would."""
        await self.warm(now)
        return not self.problems(now)

    def problems(self, now: Moment) -> tuple[str, ...]:
        """One sentence for each issuer whose tokens cannot be checked at the moment."""
        away = (trusted.name for trusted in self._trusted.values() if not trusted.keys.usable(now))
        return tuple(f"the keys of issuer {name!r} could not be fetched yet" for name in away)

    @property
    def skew(self) -> timedelta | None:
        """The largest difference between an issuer's clock and ours, as last seen; None while none has told its time."""
        seen = [trusted.keys.skew for trusted in self._trusted.values() if trusted.keys.skew is not None]
        return max(seen, key=abs, default=None)

    @property
    def unknown_claims(self) -> Mapping[str, int]:
        """By issuer name: how many tokens had claims that its profile does not know. They are ignored (DESIGN 3.3)."""
        return MappingProxyType(self._unknown)

    async def close(self) -> None:
        for trusted in self._trusted.values():
            await trusted.keys.close()

    def _count_unknown(self, trusted: _Trusted, verified: VerifiedClaims) -> None:
        unknown = [name for name in verified.unknown if name not in trusted.profile.claims]
        self._unknown[trusted.name] += bool(unknown)
        new = [name for name in unknown if name not in self._unknown_names][:_NAMES_KEPT]
        if new and len(self._unknown_names) < _NAMES_KEPT:
            self._unknown_names.update(new)
            _log.info(
                "identity.unknown_claims",
                extra={"issuer": trusted.name, "names": [ascii(name[:80]) for name in new]},
            )


def _trusted(settings: IssuerSettings, keys: Keys) -> _Trusted:
    profile = PROFILES.get(settings.profile)
    if profile is None or not settings.audience:
        raise Misconfigured(Code.CONFIG_INVALID, f"issuer {settings.name!r} has an unknown profile, or no audience")
    rules = Rules(
        issuer=settings.issuer,
        audience=settings.audience,
        algorithms=profile.algorithms,
        types=profile.types,
        thumbprint=profile.thumbprint,
        audience_list=profile.audience_list,
        other_class=profile.other_class,
        known=profile.known,
        max_lifetime=settings.max_lifetime,
        leeway=settings.leeway,
        advice=profile.advice,
    )
    return _Trusted(settings.name, profile, rules, keys)
