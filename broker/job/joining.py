"""How the processes of one job come to share one session, and who ends it.

The first opens it and writes the session file; the others join. While an `exec` runs it is a user of the session. The last user
to leave revokes it, if an `exec` opened it; one that `get` opened stays for the rest of the job, since what `get` printed must
live.

A token opens a few sessions only (`max_exchanges`), and a job may have more commands than that. So the last but one is not
revoked but left to the job's next command, which joins it; the broker ends it after five minutes without one. Only when that has
happened is the token's last session opened, and opened without a heartbeat: it stays until its end, since a job that lost it
could open no other.
"""

import contextlib
import secrets
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from enum import Enum
from typing import TypeVar

from broker.errors import BrokerError, Code, Misconfigured, Refused
from broker.job.address import parse_address
from broker.job.answers import Opened
from broker.job.client import BrokerClient
from broker.job.job_token import JobToken
from broker.job.retry import Patience
from broker.job.session_file import KeptSession, Opener, SessionPlace, State, UserLock
from broker.job.settings import URL_VARIABLE, JobSettings

_RESUME_WINDOW = 115.0  # the broker's is 120 s (DESIGN 3.5); ours ends before it does
_LAPSES_AFTER = 310.0  # a session opened with a heartbeat is gone after 5 minutes of silence (DESIGN 3.6)
OVER = {Code.HANDLE_INVALID, Code.SESSION_EXPIRED, Code.SESSION_REVOKED, Code.SESSION_IDLE}
T = TypeVar("T")


class Left(Enum):
    """What became of the session when an `exec` left it."""

    REVOKED = "revoked"
    IN_USE = "still used by another exec of this job"
    KEPT = "kept for the rest of the job, whose `get` opened it"
    SPARED = "kept for the job's next command, since its token may open one more; revoked after five minutes without one"
    LAST = "kept for later commands of the job, since its token may open no other"
    GONE = "gone already"
    FAILED = "not revoked"


@dataclass(frozen=True, slots=True, kw_only=True)
class Joined:
    """A live session that this process may use."""

    place: SessionPlace
    client: BrokerClient
    session: KeptSession
    opened_here: bool
    user: UserLock | None  # of an `exec`; None for `get`


def join_or_open(
    place: SessionPlace,
    settings: JobSettings,
    token: Callable[[], JobToken],
    *,
    who: Opener,
    environment: str | None,
    patience: Patience,
    now: Callable[[], float] = time.time,
) -> Joined:
    """The job's one session: the one in the file while it lives, else a new one.

    `token` is asked only when it is needed, and may raise job_token_missing: a command inside `exec` has none and joins. Raises
    Refused(environment_mismatch) when the job's session is of another environment, and what the exchange raises.
    """
    with place.locked(patience):
        # 1. What is there.
        kept, state, own = place.read(), place.state(), None
        with contextlib.suppress(BrokerError):
            own = token()
        if own is not None and state.jti and own.jti != state.jti:
            # A file that another job left behind, under a fixed path: never ours to use.
            kept, state = None, State()

        # 2. Join it, if it still lives.
        if kept is not None and kept.expires_at > datetime.fromtimestamp(now(), timezone.utc):
            _same_broker(kept, settings)
            with _closed_on_failure(BrokerClient(parse_address(kept.url), settings)) as client:
                lives = _lives(client, kept, who, patience)
                if lives:
                    _same_environment(kept.environment, environment)
                if lives and who == "get" and own is not None and _falls_silent(place, state):
                    patience.call(lambda: client.revoke(kept.handle))
                    lives = False
                if lives:
                    return Joined(
                        place=place,
                        client=client,
                        session=kept,
                        opened_here=False,
                        user=place.join_users() if who == "exec" else None,
                    )
            client.close()

        # 3. Open one. The resume key is on disk before the exchange is sent: whoever comes after a kill can repeat it.
        place.sweep(now())
        url = settings.url or (kept.url if kept is not None else None)
        if url is None:
            raise Misconfigured(
                Code.CONFIG_INVALID,
                f"where is the broker? Set {URL_VARIABLE} or --url to https://…, http://127.0.0.1:… or unix:///path/broker.sock",
            )
        with _closed_on_failure(BrokerClient(parse_address(url), settings)) as client:
            opened = _open(place, client, token(), state, who=who, environment=environment, patience=patience, now=now)

        # 4. Tell the others.
        session = KeptSession(
            url=client.address.url,
            handle=opened.handle,
            session_id=opened.session_id,
            environment=opened.environment,
            expires_at=opened.expires_at,
        )
        place.write(session)
        place.write_state(replace(place.state(), resume_key="", asked_at=0.0, left=opened.left))
        user = place.join_users() if who == "exec" else None
    return Joined(place=place, client=client, session=session, opened_here=True, user=user)


def leave(joined: Joined, patience: Patience) -> Left:
    """Ends this `exec`'s part in the session; revokes it and removes the file when nobody else needs it.

    A revocation that fails leaves the file, so that the next command of the job joins the session instead of being locked out by
    it. Raises nothing of the broker's.
    """
    assert joined.user is not None
    try:
        with joined.place.locked(patience):
            if not joined.user.is_last():
                return Left.IN_USE
            kept, state = joined.place.read(), joined.place.state()
            if kept is None or kept.session_id != joined.session.session_id:
                return Left.GONE
            stays = _stays(state)
            if stays is not None:
                return stays
            patience.call(lambda: joined.client.revoke(kept.handle))
            joined.place.remove()
    except BrokerError:
        return Left.FAILED
    finally:
        joined.user.release()
    return Left.REVOKED


def _stays(state: State) -> Left | None:
    """Why the session in the file is not revoked by the `exec` that leaves it last; None when it is."""
    if state.opener == "get":
        return Left.KEPT
    if state.left == 0:
        return None if state.heartbeat else Left.LAST
    return Left.SPARED if state.left == 1 and state.heartbeat else None


def _open(
    place: SessionPlace,
    client: BrokerClient,
    token: JobToken,
    state: State,
    *,
    who: Opener,
    environment: str | None,
    patience: Patience,
    now: Callable[[], float],
) -> Opened:
    # A pending key whose window is over is of no use to the broker, but it tells us that a refusal may be about our own session.
    orphan = state if left_behind(state, now()) else None
    if not state.resume_key or orphan is not None:
        state = replace(state, resume_key=secrets.token_urlsafe(32), asked_at=now())
    before = state.left
    state = replace(
        state,
        jti=token.jti,
        opener=who,
        left=None if before is None else max(0, before - 1),
        # The token's last session is kept between commands, when nobody sends a heartbeat; and so is what `get` opens.
        heartbeat=who == "exec" and (before is None or before > 1),
    )

    def exchange() -> Opened:
        return client.exchange(
            token,
            resume_key=state.resume_key,
            heartbeat=state.heartbeat,
            environment=environment,
        )

    place.write_state(state)
    try:
        return patience.call(exchange, at_most=token.expires_at - now())
    except Refused as refused:
        if orphan is None and now() - state.asked_at >= _RESUME_WINDOW:
            orphan = state  # our own answer was lost, and the broker was away for longer than it lets us resume
        if refused.code is not Code.SESSION_EXISTS or orphan is None:
            place.write_state(replace(state, resume_key="", left=before))
            raise
    # A command of this job was killed between the broker's answer and its own file, and the resume window has passed. That
    # session has not been heard of since and lapses; waiting for it is all that can be done without a handle.
    place.write_state(replace(state, resume_key=orphan.resume_key, asked_at=orphan.asked_at, left=before))
    patience.told("a killed command of this job left a session behind, which lapses within five minutes; waiting for that")
    patience.sleep(max(0.0, orphan.asked_at + _LAPSES_AFTER - now()))
    place.write_state(replace(state, asked_at=now()))
    return patience.call(exchange, at_most=token.expires_at - now())


def left_behind(state: State, now: float) -> bool:
    """Whether an exchange was sent whose answer never came, too long ago to be resumed."""
    return bool(state.resume_key) and not 0 <= now - state.asked_at < _RESUME_WINDOW


@contextlib.contextmanager
def _closed_on_failure(client: BrokerClient) -> Iterator[BrokerClient]:
    try:
        yield client
    except BaseException:
        client.close()
        raise


def _lives(client: BrokerClient, kept: KeptSession, who: Opener, patience: Patience) -> bool:
    """The broker's word on the session in the file. An `exec` asks with a heartbeat: the last one may be minutes old."""
    try:
        patience.call(lambda: client.heartbeat(kept.handle) if who == "exec" else client.view(kept.handle))
    except Refused as refused:
        if refused.code in OVER:
            return False
        raise
    return True


def _falls_silent(place: SessionPlace, state: State) -> bool:
    """The session ends in five minutes, since no `exec` beats for it: what `get` prints of it would end as well.

    Not the token's last one: there could be no other.
    """
    if not state.heartbeat or state.left == 0:
        return False
    user = place.join_users()
    try:
        return user.is_last()
    finally:
        user.release()


def _same_broker(kept: KeptSession, settings: JobSettings) -> None:
    if settings.url is not None and parse_address(settings.url).url != kept.url:
        raise Misconfigured(
            Code.CONFIG_INVALID,
            f"this job has a session at {kept.url!r} already, so it cannot use the broker at {settings.url!r} too",
        )


def _same_environment(has: str, wanted: str | None) -> None:
    if wanted is not None and wanted != has:
        raise Refused(Code.ENVIRONMENT_MISMATCH, f"this job's session is in environment {has!r}, not in the requested {wanted!r}")
