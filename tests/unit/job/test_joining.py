"""One session per job, whoever comes and however they go."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from broker.errors import BrokerError, Code, Misconfigured, Refused, Unavailable
from broker.job.job_token import JobToken, parse_job_token
from broker.job.joining import Joined, Left, join_or_open, leave
from broker.job.retry import Patience
from broker.job.session_file import Opener, SessionPlace, State
from broker.job.settings import JobSettings
from broker.secret import Secret
from tests.fakes.broker_wire import BrokerWire, broker_wire

OLD_KEY = "o" * 43


@dataclass
class Job:
    wire: BrokerWire
    place: SessionPlace
    token: str
    joined: list[Joined]
    slept: list[float]

    def join(
        self,
        who: Opener = "exec",
        *,
        environment: str | None = None,
        url: str | None = "",
        token: str | None = "",
        now: Callable[[], float] = time.time,
    ) -> Joined:
        settings = JobSettings.read({}, url=self.wire.unix_url if url == "" else url)

        def find() -> JobToken:
            if token is None:
                raise Misconfigured(Code.JOB_TOKEN_MISSING, "there is no job token")
            return parse_job_token(Secret(token or self.token), "the test")

        patience = Patience(wait=0, told=lambda _: None, sleep=self.slept.append)
        one = join_or_open(self.place, settings, find, who=who, environment=environment, patience=patience, now=now)
        self.joined.append(one)
        return one

    def leave(self, joined: Joined) -> Left:
        return leave(joined, Patience(wait=0, told=lambda _: None))

    @property
    def states(self) -> list[str]:
        return [session.state for session in self.wire.sessions]


@pytest.fixture
def job(tmp_path: Path) -> Iterator[Job]:
    with broker_wire(tmp_path / "s", http=False) as wire:
        one = Job(wire, SessionPlace(tmp_path / "own" / "7.json"), wire.mint(), [], [])
        yield one
        for joined in one.joined:
            joined.client.close()


def test_the_first_opens_and_the_others_join(job: Job) -> None:
    first, second, third = job.join(), job.join(), job.join("get")
    assert (first.opened_here, second.opened_here, third.opened_here) == (True, False, False)
    assert len({joined.session.session_id for joined in job.joined}) == 1
    assert job.wire.sessions[0].heartbeat
    assert job.leave(first) is Left.IN_USE
    assert job.leave(second) is Left.REVOKED
    assert job.place.read() is None
    assert job.states == ["closed"]


def test_what_get_opened_stays_and_has_no_heartbeat_to_miss(job: Job) -> None:
    job.join("get")
    assert job.leave(job.join()) is Left.KEPT
    assert job.states == ["live"]
    assert not job.wire.sessions[0].heartbeat


def test_a_joiner_needs_no_token(job: Job) -> None:
    first = job.join()
    second = job.join("get", token=None, url=None)
    assert second.session.session_id == first.session.session_id
    job.leave(first)
    with pytest.raises(Misconfigured, match="there is no job token"):
        job.join(token=None)


@pytest.mark.parametrize("state", ["revoked", "expired", "idle", "closed"])
def test_a_session_that_is_over_is_replaced(job: Job, state: str) -> None:
    job.join("get")
    job.wire.end(state)
    assert job.join().opened_here
    assert job.states == [state, "live"]


def test_a_session_past_its_hours_is_not_even_asked_for(job: Job) -> None:
    job.join("get")
    job.wire.end("expired")
    before = len(job.wire.calls("GET", "/v1/session"))
    token = job.wire.mint(lifetime=9000)
    job.place.write_state(State())
    job.join(token=token, now=lambda: time.time() + 4000)
    assert len(job.wire.calls("GET", "/v1/session")) == before


def test_a_refusal_that_is_not_about_the_session_is_passed_on(job: Job) -> None:
    job.join()
    job.wire.fail("/v1/session", "handle_peer")
    with pytest.raises(Refused) as caught:
        job.join()
    assert caught.value.code is Code.HANDLE_PEER


def test_another_brokers_address_or_another_environment_is_refused(job: Job) -> None:
    job.join()
    with pytest.raises(Misconfigured, match=r"has a session at 'unix://.*cannot use the broker at"):
        job.join(url="https://other.example")
    with pytest.raises(Refused, match="is in environment 'production', not in the requested 'review'") as caught:
        job.join(environment="review")
    assert caught.value.code is Code.ENVIRONMENT_MISMATCH
    job.join(environment="production")


def test_nobody_says_where_the_broker_is(job: Job) -> None:
    with pytest.raises(Misconfigured, match="where is the broker"):
        job.join(url=None)


def test_another_jobs_file_under_the_same_path_is_not_joined(job: Job) -> None:
    """A shell runner with a fixed CREDBROKER_SESSION_FILE: the last job's production session is not this job's."""
    job.join("get")
    joined = job.join(token=job.wire.mint())
    assert joined.opened_here
    assert job.place.state().left == 7


def test_the_resume_key_is_on_disk_before_the_exchange_is_sent(job: Job) -> None:
    job.wire.lose_answer("/v1/token")
    with pytest.raises(Unavailable):
        job.join()
    assert job.place.state().resume_key == job.wire.sessions[0].resume_key
    assert job.join().opened_here
    assert job.states == ["revoked", "live"]
    assert job.place.state().resume_key == ""


def test_a_refused_exchange_leaves_nothing_pending(job: Job) -> None:
    job.wire.fail("/v1/token", "no_environment")
    with pytest.raises(Refused):
        job.join()
    assert job.place.state().resume_key == ""
    assert job.place.state().left is None


def test_a_second_holder_of_the_token_is_refused_at_once(job: Job) -> None:
    job.join()
    job.place.remove()  # what a thief sees: the token, and none of our files
    job.place.write_state(State())
    with pytest.raises(Refused) as caught:
        job.join()
    assert caught.value.code is Code.SESSION_EXISTS
    assert job.slept == []


def pending(job: Job, *, ago: float) -> None:
    """An exec of this job was killed between the broker's answer and its own file, so many seconds ago."""
    job.join()
    job.wire.sessions[0].resume_key = OLD_KEY
    job.wire.sessions[0].opened_at -= ago
    job.place.remove()
    job.place.write_state(replace(job.place.state(), resume_key=OLD_KEY, asked_at=time.time() - ago))


def test_within_the_window_the_old_key_replaces_the_orphan(job: Job) -> None:
    pending(job, ago=60)
    assert job.join().opened_here
    assert job.states == ["revoked", "live"]
    assert job.slept == []


def test_after_the_window_the_orphans_lapse_is_waited_for(job: Job) -> None:
    """Five minutes of silence end it: the job waits instead of being locked out."""
    pending(job, ago=200)
    sleep = job.slept.append

    def lapse(seconds: float) -> None:
        sleep(seconds)
        job.wire.end("idle")

    settings = JobSettings.read({}, url=job.wire.unix_url)
    said = list[str]()
    patience = Patience(wait=0, told=said.append, sleep=lapse)
    token = parse_job_token(Secret(job.token), "the test")
    joined = join_or_open(job.place, settings, lambda: token, who="exec", environment=None, patience=patience)
    job.joined.append(joined)
    assert joined.opened_here
    assert 105 < job.slept[0] < 115
    assert "lapses within five minutes" in said[0]
    assert job.states == ["idle", "live"]


def test_an_orphan_that_does_not_lapse_is_a_refusal_in_the_end(job: Job) -> None:
    pending(job, ago=200)
    with pytest.raises(Refused) as caught:
        job.join()
    assert caught.value.code is Code.SESSION_EXISTS
    assert len(job.slept) == 1


@pytest.mark.parametrize("commands", [10, 20])
def test_in_a_row_every_session_but_the_last_but_one_is_revoked_at_once(job: Job, commands: int) -> None:
    """The one that stays falls silent after the job's last command: five minutes later the broker has ended it."""
    outcomes = [job.leave(job.join()) for _ in range(commands)]
    assert outcomes == [Left.REVOKED] * 6 + [Left.SPARED] * (commands - 6)
    assert job.states == ["closed"] * 6 + ["live"]
    assert all(session.heartbeat for session in job.wire.sessions)


def test_with_long_pauses_the_tokens_last_session_stays_to_its_end_and_no_longer(job: Job) -> None:
    """Nobody beats between two commands, and a job that lost its last session could open no other."""
    for _ in range(7):
        job.leave(job.join())
    for _ in range(12):
        job.wire.end_silent()
        last = job.join()
        assert job.leave(last) is Left.LAST
    assert job.states == ["closed"] * 6 + ["idle", "live"]
    assert [session.heartbeat for session in job.wire.sessions] == [True] * 7 + [False]
    assert last.session.expires_at.timestamp() <= parse_job_token(Secret(job.token), "the test").expires_at + 1
    job.wire.end("expired")
    with pytest.raises(Refused) as caught:
        job.join()
    assert caught.value.code is Code.TOKEN_REPLAYED


@pytest.mark.parametrize(
    ("allowed", "outcomes", "beats"),
    [(1, [Left.REVOKED], [True]), (2, [Left.SPARED, Left.SPARED], [True]), (3, [Left.REVOKED, Left.SPARED], [True, True])],
)
def test_the_policys_number_counts_and_not_ours(job: Job, allowed: int, outcomes: list[Left], beats: list[bool]) -> None:
    job.wire.max_exchanges = allowed
    assert [job.leave(job.join()) for _ in outcomes] == outcomes
    assert [session.heartbeat for session in job.wire.sessions] == beats


def test_a_killed_opening_counts(job: Job) -> None:
    """Its answer was lost and with it the count; the state of before the exchange says what is left at most."""
    job.wire.max_exchanges = 3
    job.leave(job.join())
    job.wire.lose_answer("/v1/token")
    with pytest.raises(Unavailable):
        job.join()
    assert job.place.state().left == 1
    assert job.leave(job.join()) is Left.LAST
    assert job.states == ["closed", "revoked", "live"]
    assert not job.wire.sessions[-1].heartbeat


def test_an_opening_that_never_arrived_costs_no_session(job: Job) -> None:
    """It was counted before it was sent, so the next has no heartbeat; that one is not left behind, since there is another."""
    job.wire.max_exchanges = 3
    job.leave(job.join())
    job.wire.vanish()
    with pytest.raises(Unavailable):
        job.join()
    job.wire.listen()
    assert job.leave(job.join()) is Left.REVOKED
    assert job.leave(job.join()) is Left.LAST
    assert job.states == ["closed", "closed", "live"]


def test_an_exec_that_joins_beats_at_once(job: Job) -> None:
    """The session may have been silent for almost five minutes; the first regular beat would come too late."""
    for _ in range(7):
        job.leave(job.join())
    assert job.wire.sessions[-1].beats == 0
    job.join()
    assert job.wire.sessions[-1].beats == 1


def test_get_does_not_print_from_a_session_that_falls_silent(job: Job) -> None:
    """What it prints is to live as long as the job; so it opens the session that stays."""
    for _ in range(7):
        job.leave(job.join())
    assert job.join("get").opened_here
    assert job.states == ["closed"] * 7 + ["live"]
    assert not job.wire.sessions[-1].heartbeat
    assert job.leave(job.join()) is Left.KEPT


def test_get_joins_the_session_of_an_exec_that_runs(job: Job) -> None:
    """The twin: it beats, and nobody may take it away."""
    running = job.join()
    assert not job.join("get").opened_here
    assert job.leave(running) is Left.REVOKED


def test_get_without_a_token_joins_what_there_is(job: Job) -> None:
    """It could open nothing else."""
    for _ in range(7):
        job.leave(job.join())
    assert not job.join("get", token=None, url=None).opened_here


def test_a_session_that_is_gone_or_another_ones_is_not_revoked(job: Job) -> None:
    joined = job.join()
    job.place.remove()
    assert job.leave(joined) is Left.GONE
    assert job.states == ["live"]


def test_a_revocation_that_fails_leaves_the_file_for_the_next(job: Job) -> None:
    joined = job.join()
    job.wire.fail("/v1/revoke", "upstream_unavailable")
    assert job.leave(joined) is Left.FAILED
    assert job.place.read() is not None
    assert job.leave(job.join()) is Left.REVOKED


def test_an_unreachable_broker_is_not_taken_for_the_end_of_the_session(job: Job) -> None:
    joined = job.join()
    job.wire.vanish()
    with pytest.raises(BrokerError) as caught:
        job.join()
    assert caught.value.code is Code.BROKER_UNREACHABLE
    job.wire.listen()
    assert job.join().session.session_id == joined.session.session_id
