"""One issuer's keys: found by discovery, a URL or a file; kept, refreshed in single flight, and never trusted past their age.

The rules, each against something in gitlab-tokens.md 2 and 5.2:
- An unknown `kid` causes one fetch, then none for 30 s: rotation works at once, a flood of made-up names does not.
- Keys older than half an hour are fetched again in the background; an outage changes nothing until they are an hour old. Then
  they are not used, reachable issuer or not: this bounds how long a withdrawn key lives.
- A document that is refused leaves the keys as they are.
"""

import asyncio
import logging
import os
import stat
from datetime import timedelta
from pathlib import Path

from broker.errors import Code, Misconfigured, Refused, Unavailable
from broker.identity import fetch
from broker.identity.fetch import Fetched, FetchError
from broker.identity.keyset import MAX_BYTES, KeySet, KeySetError, VerificationKey, parse_jwks
from broker.identity.profiles import PROFILES
from broker.identity.settings import IssuerSettings
from broker.identity.strict_json import NotStrictError, strict_object
from broker.moment import Moment

MAX_AGE = timedelta(hours=1)
REFRESH_AGE = timedelta(minutes=30)
COOL_DOWN = timedelta(seconds=30)
RETRY_AFTER_FAILURE = timedelta(seconds=5)  # while there is no key to go on with
_REFRESH_SECONDS = REFRESH_AGE.total_seconds()

_log = logging.getLogger("credbroker.identity")


class Keys:
    """The verification keys of one issuer. Used from one event loop; `close` before that ends."""

    def __init__(self, settings: IssuerSettings) -> None:
        """Fetches nothing yet. Raises Misconfigured(config_invalid) for addresses that keys must not come from."""
        self._settings = settings
        self._algorithms = PROFILES[settings.profile].algorithms
        self._keys: KeySet | None = None
        self._fetched = 0.0  # monotonic, from before the fetch: the keys are never thought younger than they are
        self._not_before = 0.0  # monotonic; no fetch until then
        self._flight: asyncio.Task[bool] | None = None
        self.skew: timedelta | None = None  # the issuer's clock minus ours, at the last fetch; None where it did not say
        address = settings.jwks_url or settings.discovery_url or settings.issuer
        problem = None if settings.jwks_file else fetch.address_problem(address)
        if problem:
            raise Misconfigured(Code.CONFIG_INVALID, f"issuer {settings.name!r}: {address} {problem}")

    def at_hand(self, kid: str, now: Moment) -> VerificationKey | None:
        """The key of that name while nothing has to be fetched for it, which is nearly always; else `find` it."""
        known = self._keys
        return None if known is None or now.mono - self._fetched >= _REFRESH_SECONDS else known.keys.get(kid)

    async def find(self, kid: str, now: Moment) -> VerificationKey:
        """The key of that name.

        Raises Refused(token_signature) when the issuer does not publish it, and Unavailable(issuer_unavailable) when that
        cannot be known.
        """
        age = now.mono - self._fetched
        key = None if self._keys is None else self._keys.keys.get(kid)
        if key is not None and age < MAX_AGE.total_seconds():
            if age >= REFRESH_AGE.total_seconds():
                self._start(now)
            return key
        flight = self._start(now)
        answered = flight is not None and await asyncio.shield(flight)
        if not self.usable(now):
            raise self._away(now)
        assert self._keys is not None
        key = self._keys.keys.get(kid)
        if key is not None:
            return key
        if flight is not None:
            self._not_before = max(self._not_before, now.mono + COOL_DOWN.total_seconds())
            if not answered:
                raise self._away(now)
        raise Refused(Code.TOKEN_SIGNATURE, "the job token is signed with a key that its issuer does not publish")

    async def load(self, now: Moment) -> bool:
        """Fetches the keys where there are none to go on with. Whether there are now."""
        if not self.usable(now):
            flight = self._start(now)
            if flight is not None:
                await asyncio.shield(flight)
        return self.usable(now)

    def usable(self, now: Moment) -> bool:
        """Whether there are keys that may still be gone by."""
        return self._keys is not None and now.mono - self._fetched < MAX_AGE.total_seconds()

    async def close(self) -> None:
        """Ends a fetch that is under way."""
        if self._flight is not None:
            self._flight.cancel()
            await asyncio.wait([self._flight])

    def _away(self, now: Moment) -> Unavailable:
        return Unavailable(
            Code.ISSUER_UNAVAILABLE,
            f"the keys of issuer {self._settings.name!r} cannot be fetched at the moment, so its tokens cannot be checked; "
            "the broker's log says why",
            retry_after=max(1.0, self._not_before - now.mono),
        )

    def _start(self, now: Moment) -> asyncio.Task[bool] | None:
        """The fetch under way, a new one, or None while it is too early for one."""
        if self._flight is None or self._flight.done():
            if now.mono < self._not_before:
                return None
            self._flight = asyncio.get_running_loop().create_task(self._refresh(now))
        return self._flight

    async def _refresh(self, now: Moment) -> bool:
        started = asyncio.get_running_loop().time()
        try:
            fetched = await self._fetch()
            keys = parse_jwks(fetched.body, self._algorithms)
        except (FetchError, KeySetError) as error:
            wait = COOL_DOWN if self.usable(now) else RETRY_AFTER_FAILURE
            self._not_before = now.mono + wait.total_seconds()
            _log.warning("identity.keys_failed", extra={"issuer": self._settings.name, "reason": str(error)})
            return False
        if fetched.date is not None:
            taken = timedelta(seconds=asyncio.get_running_loop().time() - started)
            self.skew = fetched.date - (now.wall + taken)
        self._keys, self._fetched = keys, now.mono
        _log.info(
            "identity.keys_loaded",
            extra={"issuer": self._settings.name, "kids": sorted(keys.keys), "left_out": list(keys.left_out)},
        )
        return True

    async def _fetch(self) -> Fetched:
        settings = self._settings
        if settings.jwks_file is not None:
            return await asyncio.to_thread(_read, settings.jwks_file)
        url = settings.jwks_url or await self._discover()
        return await fetch.get(url, ca_file=settings.ca_file, max_bytes=MAX_BYTES)

    async def _discover(self) -> str:
        """The address of the keys, from the issuer's discovery document (OpenID Connect Discovery 1.0, sections 3 and 4)."""
        settings = self._settings
        # Appended, not inserted as RFC 8414 would: a GitLab under a relative path is found only this way.
        url = settings.discovery_url or settings.issuer.rstrip("/") + "/.well-known/openid-configuration"
        fetched = await fetch.get(url, ca_file=settings.ca_file, max_bytes=MAX_BYTES)
        try:
            document = strict_object(fetched.body)
        except NotStrictError as error:
            raise FetchError(f"the discovery document at {url} cannot be read: {error}") from None
        if document.get("issuer") != settings.issuer:
            raise FetchError(
                f"the discovery document at {url} is of another issuer than {settings.issuer}; set `jwks_url` if that is right"
            )
        found = document.get("jwks_uri")
        if type(found) is not str or fetch.address_problem(found) or fetch.origin(found) != fetch.origin(url):
            # Followed to another host, a discovery document could make the broker knock anywhere.
            raise FetchError(
                f"the discovery document at {url} has its keys at another origin, or nowhere; set `jwks_url` if that is right"
            )
        return found


def _read(path: Path) -> Fetched:
    try:
        with path.open("rb") as file:
            if os.fstat(file.fileno()).st_mode & stat.S_IWOTH:
                # Whoever can write the keys can make tokens.
                raise FetchError(f"{path} can be written by everybody; `chmod o-w` it")
            return Fetched(file.read(MAX_BYTES + 1), None)
    except OSError as error:
        raise FetchError(f"{path} cannot be read ({os.strerror(error.errno or 0)})") from None
