"""The story of `credbroker doctor`: from the job's variables to the broker's answer, each thing that can be wrong on the way.

It asks as an `exec` with an empty command would. A live session of the job is looked at and left alone: a second exchange would
be taken for theft. Where there is none, one is opened and closed again, which is the only way to hear what the broker decides;
that is one of the few sessions that a token may open. No credential is minted or read.
"""

import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime, timezone

from broker.errors import BrokerError, Code, Misconfigured, Refused
from broker.job.address import Address, parse_address
from broker.job.answers import View
from broker.job.client import BrokerClient
from broker.job.findings import Finding, Report, failed, ok, warn
from broker.job.job_token import JobToken, find_job_token
from broker.job.joining import OVER, Left, join_or_open, leave, left_behind
from broker.job.retry import Patience
from broker.job.session_file import KeptSession, SessionPlace, find_session_file
from broker.job.settings import URL_VARIABLE, JobSettings
from broker.job.surroundings import check_aws_chain, check_shared_uid
from broker.job.token_checks import SKEW_ALARM, check_hours, check_kind, elsewhere, length, plain
from broker.job.trust import check_origin

_LOCK_SECONDS = 5.0  # another command of the job may be opening its session just now
_DOCS = "docs/errors.md says what to do about `{}`; whoever runs the broker finds the details by the correlation id"


@dataclass(slots=True, kw_only=True)
class Doctor:
    """One examination. `examine` runs every check that what failed before it leaves sense in."""

    settings: JobSettings
    environ: Mapping[str, str] = field(repr=False)
    environment: str | None = None
    now: Callable[[], float] = time.time
    _findings: list[Finding] = field(default_factory=list, init=False)
    _not_checked: list[str] = field(default_factory=list, init=False)

    def examine(self) -> Report:
        """Raises nothing that a job, its settings or a broker can cause."""
        place, kept = self._kept()
        token = self._token(kept)
        address = self._address(kept)
        meant = self._audience(token, address) if token is not None and address is not None else self._skip("audience", kept)
        reached = self._broker(address) if address is not None else self._skip("broker", None)
        if place is not None and reached and (kept is not None or (token is not None and meant)):
            self._add(self._session(place, kept, token))
        else:
            self._not_checked.append("session")
        self._add(check_aws_chain(self.environ))
        if address is not None:
            self._add(check_shared_uid(address))
        else:
            self._not_checked.append("shared_uid")
        return Report(tuple(self._findings), tuple(self._not_checked))

    # --- the token ------------------------------------------------------------------------------------------------------

    def _token(self, kept: KeptSession | None) -> JobToken | None:
        try:
            token = find_job_token(self.settings, self.environ)
        except BrokerError as error:
            if error.code is Code.JOB_TOKEN_MISSING and kept is not None:
                self._add(ok("token", "there is no job token here, as inside `credbroker exec`; the job's session stands for it"))
            else:
                self._add(failed("token", error, elsewhere(self.settings, self.environ)))
            self._not_checked += ["token_kind", "token_hours"]
            return None
        where = str(self.settings.token_file) if self.settings.token_file else f"variable {self.settings.token_env}"
        self._add(ok("token", f"the job token is in {where}"))
        self._add(check_kind(token, self.settings.ci_job_id))
        self._add(check_hours(token, self.now()))
        return token

    # --- the way to the broker ------------------------------------------------------------------------------------------

    def _address(self, kept: KeptSession | None) -> Address | None:
        url = self.settings.url or (kept.url if kept is not None else None)
        try:
            if url is None:
                raise Misconfigured(Code.CONFIG_INVALID, f"nothing says where the broker is: {URL_VARIABLE} is not set")
            address = parse_address(url)
        except BrokerError as error:
            self._add(failed("address", error, f"set {URL_VARIABLE} to the broker's https://…, or unix:///path/broker.sock"))
            return None
        self._add(ok("address", f"the broker is at {address.url}"))
        return address

    def _audience(self, token: JobToken, address: Address) -> bool:
        named = ", ".join(plain(audience) for audience in token.audiences)
        if token.several_audiences:
            wrong = Refused(
                Code.TOKEN_AUDIENCE, f"`aud` is a list ({named}): each service in it could replay the token at the others"
            )
            self._add(failed("audience", wrong, "give the broker a token of its own, with one `aud`, under `id_tokens:`"))
            return False
        try:
            check_origin(token, address)
        except Refused as refused:
            self._add(failed("audience", refused, "one of the two is wrong: `aud:` under `id_tokens:`, or the broker's address"))
            return False
        whether = "; over a socket only the broker can tell whether that is it" if address.scheme == "unix" else ""
        self._add(ok("audience", f"the token is for {named}{whether}"))
        return True

    def _broker(self, address: Address) -> bool:
        client: BrokerClient | None = None
        try:
            client = BrokerClient(address, self.settings)
            before = self.now()
            health = client.health()
            ready = client.ready()
        except BrokerError as error:
            self._add(failed("broker", error, _advice_on_reaching(error, address)))
            self._not_checked.append("clock")
            return False
        finally:
            if client is not None:
                client.close()
        if ready:
            self._add(ok("broker", f"the broker at {address.url} answers and is ready"))
        else:
            self._add(
                warn(
                    "broker",
                    "the broker answers and says that it is not ready: it may refuse new sessions and credentials",
                    "try again; if it stays so, whoever runs it finds the reasons at /readyz of its admin socket",
                )
            )
        self._add(self._clock(health.date, before))
        return True

    def _clock(self, told: float | None, before: float) -> Finding:
        if told is None:
            return warn("clock", "the broker's answer does not tell its time", "nothing; something between removes `Date`")
        skew = told - before
        if abs(skew) > SKEW_ALARM:
            side = "behind" if skew > 0 else "ahead of"
            return warn(
                "clock",
                f"this host's clock is {length(abs(skew))} {side} the broker's",
                "set the clock of whichever is wrong (NTP); ends of credentials are read by it",
            )
        return ok("clock", "this host's clock and the broker's agree")

    # --- what the broker says -------------------------------------------------------------------------------------------

    def _kept(self) -> tuple[SessionPlace | None, KeptSession | None]:
        """Where this job keeps its session, and the one that is there and not past its end."""

        def job_id() -> str | None:
            with suppress(BrokerError):
                return find_job_token(self.settings, self.environ).job_id
            return None

        try:
            place = SessionPlace(find_session_file(self.settings, job_id))
            kept = place.read()
        except BrokerError as error:
            self._add(failed("session_file", error, "without a place for its session, `exec` and `get` do not start"))
            return None, None
        if kept is not None and kept.expires_at <= datetime.fromtimestamp(self.now(), timezone.utc):
            kept = None
        return place, kept

    def _session(self, place: SessionPlace, kept: KeptSession | None, token: JobToken | None) -> Finding:
        patience = Patience(wait=_LOCK_SECONDS, told=lambda _: None)
        try:
            seen = self._living(kept) if kept is not None else None
            if seen is not None:
                return seen
            if token is None:
                gone = Misconfigured(Code.JOB_TOKEN_MISSING, "the job's session is over, and there is no job token to open one")
                return failed("session", gone, "run `doctor` outside of `exec`")
            if left_behind(place.state(), self.now()):
                return warn(
                    "session",
                    "a killed command of this job left a session behind that nobody can resume; the broker ends it by itself",
                    "wait five minutes, or let `exec` wait for it",
                )
            return self._opened(place, token, patience)
        except BrokerError as error:
            return failed("session", error, _DOCS.format(error.code.word))

    def _living(self, kept: KeptSession) -> Finding | None:
        """What the session in the file says; None when it is over."""
        client = BrokerClient(parse_address(kept.url), self.settings)
        try:
            view = client.view(kept.handle)
        except Refused as refused:
            if refused.code in OVER:
                return None
            raise
        finally:
            client.close()
        return ok("session", f"this job has a live session: {_what(view)}")

    def _opened(self, place: SessionPlace, token: JobToken, patience: Patience) -> Finding:
        joined = join_or_open(
            place, self.settings, lambda: token, who="exec", environment=self.environment, patience=patience, now=self.now
        )
        try:
            view = joined.client.view(joined.session.handle)
        finally:
            left = leave(joined, patience)
            joined.client.close()
        said = f"the broker takes the token: {_what(view)}"
        if left is Left.FAILED:
            return warn("session", f"{said}; closing the session failed", "nothing: it ends by itself in five minutes")
        return ok("session", said)

    def _add(self, finding: Finding) -> None:
        self._findings.append(finding)

    def _skip(self, check: str, kept: KeptSession | None) -> bool:
        """A check that has nothing to look at. True when a live session answers in its place."""
        self._not_checked.append(check)
        return kept is not None


def _advice_on_reaching(error: BrokerError, address: Address) -> str:
    if error.code is Code.CONFIG_INVALID:
        return "the sentence names the file, folder or setting; nothing was sent there"
    if address.scheme == "unix":
        return "is the socket's folder mounted into the job, and the broker running?"
    return "is the name right, and may this runner reach it (firewall, DNS)? No proxy is used"


def _what(view: View) -> str:
    return f"environment {view.environment}, grants {', '.join(offer.grant for offer in view.offers) or 'none'}"
