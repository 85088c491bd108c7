"""The Luigi package's client against a strict double of the wire: what it sends, what it keeps, what it survives."""

import os
import signal
import threading
import time
from collections.abc import Callable

import pytest

from luigi_contrib_secrets import (
    Bundle,
    Reference,
    SecretError,
    SecretMisconfigured,
    SecretRefused,
    SecretStr,
    SecretUnavailable,
)
from luigi_contrib_secrets.client import Client, client
from tests.fakes.broker_wire import FakeGrant
from tests.fakes.luigi_job import LuigiJob

PASSWORD = Reference.parse("secret://warehouse#password")
USERNAME = Reference.parse("secret://warehouse#username")


class Time:
    """A monotonic clock that a test moves; sleeping moves it as well."""

    def __init__(self) -> None:
        self.ahead = 0.0
        self.slept: list[float] = []

    def now(self) -> float:
        return time.monotonic() + self.ahead

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.ahead += seconds


@pytest.fixture
def clock() -> Time:
    return Time()


@pytest.fixture
def reader(inside_job: LuigiJob, clock: Time) -> Client:
    return Client(clock.now, clock.sleep)


def issued(job: LuigiJob, version: int, grant: str = "warehouse") -> dict[str, str]:
    lease = job.wire.live[-1].leases[grant, ""]
    assert lease.version == version
    return lease.data


def test_a_read_gives_the_live_value_and_asks_once(reader: Client, inside_job: LuigiJob) -> None:
    """The second read, of another field, comes out of the same lease."""
    assert reader.read(PASSWORD, task="Load_1") == issued(inside_job, 1)["password"]
    assert reader.read(USERNAME) == issued(inside_job, 1)["username"]
    (seen,) = inside_job.wire.calls("GET", "/v1/credentials/")
    assert seen.path == "/v1/credentials/warehouse"
    assert seen.headers["authorization"] == f"Bearer {inside_job.wire.live[-1].handle}"
    assert seen.headers["x-luigi-task"] == "Load_1"
    assert seen.query == ""


def test_a_task_id_that_is_no_header_is_left_out(reader: Client, inside_job: LuigiJob) -> None:
    """A class name may hold any letter; a header may not, and nobody may write one into our request."""
    reader.read(PASSWORD, task="Lädt_1\r\nX-Evil: 1")
    (seen,) = inside_job.wire.calls("GET", "/v1/credentials/")
    assert "x-luigi-task" not in seen.headers
    assert "x-evil" not in seen.headers


def test_a_subpath_is_part_of_what_is_asked(reader: Client, inside_job: LuigiJob) -> None:
    inside_job.wire.grants["kv"] = FakeGrant(subpath=True)
    inside_job.open_session()
    assert reader.read(Reference.parse("secret://kv/team/app#password"))
    assert inside_job.wire.calls("GET", "/v1/credentials/")[0].path == "/v1/credentials/kv/team/app"


def test_over_loopback_http_it_works_as_over_the_socket(
    reader: Client, inside_job: LuigiJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CREDBROKER_URL", inside_job.wire.http_url)
    inside_job.wire.live[-1].transport = "http"
    assert reader.read(PASSWORD) == issued(inside_job, 1)["password"]


def test_luigi_cfg_says_where_the_broker_is_before_the_environment_does(
    reader: Client, inside_job: LuigiJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CREDBROKER_URL", "unix:///nowhere.sock")
    inside_job.configure(f"[secrets]\nurl = {inside_job.wire.unix_url}\n")
    reload_config()
    assert reader.read(PASSWORD)


def test_without_either_the_session_file_says_it(reader: Client, inside_job: LuigiJob, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CREDBROKER_URL")
    assert reader.read(PASSWORD)


def reload_config() -> None:
    from luigi.configuration import get_config

    config = get_config()  # type: ignore[no-untyped-call]  # Luigi's
    config.clear()
    config.reload()


# -- rotation ---------------------------------------------------------------------------------------------------------------


def test_a_rotation_is_seen_by_the_next_read_after_a_pause(reader: Client, inside_job: LuigiJob, clock: Time) -> None:
    """From `refresh_at` on, the read that comes after a pause asks, and brings the new version."""
    old = reader.read(PASSWORD)
    inside_job.wire.rotate("warehouse")
    clock.ahead += 1700
    assert reader.read(PASSWORD) == old, "before refresh_at nobody asks"
    clock.ahead += 120
    assert reader.read(PASSWORD) == issued(inside_job, 2)["password"] != old
    assert inside_job.fetches("warehouse") == 2


def test_user_and_password_never_come_from_two_versions(reader: Client, inside_job: LuigiJob) -> None:
    """Rotating at every turn while a user, then a password is read: 0 torn pairs, and the newest version is reached (R5)."""
    inside_job.configure("[secrets]\npin_idle = 0.005\npin_cap = 0.05\n")
    reload_config()
    stop = threading.Event()
    versions: dict[str, str] = {}
    inside_job.wire.grants["warehouse"] = FakeGrant(rotate_after=0)  # every answer is a new version, at once out of date

    def rotate() -> None:
        while not stop.wait(0.004):
            entry = reader._entry(PASSWORD)
            entry.ask_at = 0.0  # as if `refresh_at` were now
            if entry.lease is not None:
                versions[entry.lease.fields["username"]] = str(entry.lease.fields["password"])

    thread = threading.Thread(target=rotate)
    thread.start()
    pairs = []
    try:
        for turn in range(400):
            pairs.append((str(reader.read(USERNAME)), str(reader.read(PASSWORD))))
            time.sleep(0.006 if turn % 40 == 0 else 0.0005)
    finally:
        stop.set()
        thread.join()
    torn = [pair for pair in pairs if pair[0] in versions and versions[pair[0]] != pair[1]]
    assert torn == []
    assert len({user for user, _ in pairs}) > 5, "it did rotate"


def test_reading_key_secret_token_token_as_redshift_does_never_tears(reader: Client, inside_job: LuigiJob, clock: Time) -> None:
    """contrib/redshift.py reads the token twice per use: a cap that fires at any field would tear the triple (R5)."""
    names = ("access_key_id", "secret_access_key", "session_token", "session_token")
    fields = [Reference.parse(f"secret://lake#{name}") for name in names]
    inside_job.wire.grants["lake"] = FakeGrant(kind="aws", rotate_after=0)
    seen = set()
    for _ in range(60):
        got = []
        for field in fields:
            reader._entry(field).ask_at = 0.0
            got.append(str(reader.read(field)))
            clock.ahead += 0.7
        assert got[2] == got[3]
        seen.add(tuple(got))
    everything = "\n".join(inside_job.wire.values)
    for _, secret, token, _ in seen:
        # Both were issued side by side, in one lease.
        assert f"{secret}\n{token}" in everything
    assert len(seen) > 1, "it did rotate"


def test_threads_that_come_at_once_make_one_request(reader: Client, inside_job: LuigiJob) -> None:
    """Single flight: without a lease, they wait for the one who asks."""
    inside_job.wire.slow("/v1/credentials/", 0.2)
    got: list[str] = []
    threads = [threading.Thread(target=lambda: got.append(reader.read(PASSWORD))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert got == [issued(inside_job, 1)["password"]] * 8
    assert inside_job.fetches("warehouse") == 1


def test_while_one_asks_for_a_newer_version_the_others_go_on(reader: Client, inside_job: LuigiJob, clock: Time) -> None:
    """With a valid lease at hand nobody waits for the one who renews."""
    old = reader.current(PASSWORD)
    clock.ahead += 1900
    inside_job.wire.slow("/v1/credentials/", 1.0)
    asking = threading.Thread(target=reader.current, args=(PASSWORD,))
    asking.start()
    wait_until(reader._entry(PASSWORD).flight.locked)
    began = time.monotonic()
    assert reader.current(PASSWORD) is old
    assert time.monotonic() - began < 0.5
    asking.join()


def test_a_lease_with_min_ttl_is_replaced_when_it_has_less_left(reader: Client, inside_job: LuigiJob) -> None:
    first = reader.current(PASSWORD)
    inside_job.wire.live[-1].leases["warehouse", ""].expires_at -= 3000
    reader._entry(PASSWORD).drop()
    assert reader.current(PASSWORD).version == first.version
    longer = reader.current(PASSWORD, min_ttl=1800)
    assert longer.version == first.version + 1
    assert inside_job.wire.calls("GET", "/v1/credentials/")[-1].query == "min_ttl=1800"
    assert reader.current(PASSWORD, min_ttl=1800) is longer, "it has that much left: nobody asks"


def test_a_grant_that_cannot_last_that_long_is_refused_and_the_lease_stays(reader: Client, inside_job: LuigiJob) -> None:
    """`ttl_unavailable` says nothing against the credential that is there."""
    kept = reader.current(PASSWORD)
    with pytest.raises(SecretRefused, match=r"secret://warehouse: .*ttl_unavailable") as refused:
        reader.current(PASSWORD, min_ttl=10800)
    assert refused.value.code == "ttl_unavailable"
    assert reader.current(PASSWORD) is kept


# -- outages ----------------------------------------------------------------------------------------------------------------


def test_a_broker_that_is_away_is_survived_on_the_lease_until_its_true_end(
    reader: Client, inside_job: LuigiJob, clock: Time, caplog: pytest.LogCaptureFixture
) -> None:
    """Past `refresh_at` it is served, with one line in the log; past `expires_at` it is not (R8)."""
    old = reader.read(PASSWORD)
    inside_job.wire.vanish()
    clock.ahead += 2000
    assert reader.read(PASSWORD) == old
    assert "version 1 is served until" in caplog.text
    assert old not in caplog.text
    assert clock.slept == [], "nobody waits while there is something to serve"
    clock.ahead += 1600
    with pytest.raises(SecretUnavailable, match=r"secret://warehouse: no answer .*\[broker_unreachable\]"):
        reader.read(PASSWORD)
    inside_job.wire.listen()
    inside_job.wire.rotate("warehouse")
    assert reader.read(PASSWORD) != old


def test_during_an_outage_not_every_read_asks(reader: Client, inside_job: LuigiJob, clock: Time) -> None:
    reader.current(PASSWORD)
    clock.ahead += 2000
    inside_job.wire.fail("/v1/credentials/", "upstream_unavailable", times=50, retry_after=7)
    for _ in range(20):
        reader.current(PASSWORD)
    assert inside_job.fetches("warehouse") == 2
    clock.ahead += 6
    reader.current(PASSWORD)
    assert inside_job.fetches("warehouse") == 2, "Retry-After was 7"
    clock.ahead += 2
    reader.current(PASSWORD)
    assert inside_job.fetches("warehouse") == 3


@pytest.mark.parametrize("word", ["upstream_unavailable", "log_unavailable", "rate_limited"])
def test_without_a_lease_an_outage_is_waited_for(reader: Client, inside_job: LuigiJob, clock: Time, word: str) -> None:
    """With the pause that the broker names, and then the value comes."""
    inside_job.configure("[secrets]\nwait = 60\n")
    reload_config()
    inside_job.wire.fail("/v1/credentials/", word, times=2, retry_after=3)
    assert reader.read(PASSWORD) == issued(inside_job, 1)["password"]
    assert clock.slept == [3.0, 3.0]


def test_a_broker_that_is_starting_is_waited_for_with_growing_pauses(reader: Client, inside_job: LuigiJob, clock: Time) -> None:
    inside_job.configure("[secrets]\nwait = 60\n")
    reload_config()
    inside_job.wire.vanish()

    def sleep(seconds: float) -> None:
        clock.slept.append(seconds)
        if len(clock.slept) == 6:
            inside_job.wire.listen()

    reader._sleep = sleep
    assert reader.read(PASSWORD)
    assert len(clock.slept) == 6
    assert all(2**n * 0.05 <= pause <= 2**n * 0.1 for n, pause in enumerate(clock.slept))


def test_nobody_waits_longer_than_luigi_cfg_says(reader: Client, inside_job: LuigiJob, clock: Time) -> None:
    inside_job.configure("[secrets]\nwait = 20\n")
    reload_config()
    inside_job.wire.vanish()
    with pytest.raises(SecretUnavailable, match="broker_unreachable"):
        reader.read(PASSWORD)
    assert 10 < sum(clock.slept) <= 20


def test_nobody_waits_past_the_end_of_the_session(reader: Client, inside_job: LuigiJob, clock: Time) -> None:
    inside_job.configure("[secrets]\nwait = 60\n")
    reload_config()
    inside_job.open_session(expires_at=time.time() + 5)
    inside_job.wire.vanish()
    with pytest.raises(SecretUnavailable, match="broker_unreachable"):
        reader.read(PASSWORD)
    assert sum(clock.slept) < 60
    assert max(clock.slept) < 5


@pytest.mark.parametrize("word", ["internal", "upstream_config"])
def test_a_bug_or_a_wrong_role_upstream_is_not_waited_for(reader: Client, inside_job: LuigiJob, clock: Time, word: str) -> None:
    """Waiting mends neither. But nobody refused, so what is valid is served."""
    inside_job.wire.fail("/v1/credentials/", word)
    with pytest.raises(SecretUnavailable, match=rf"\[{word}\] \(correlation id [0-9a-f]+\)"):
        reader.read(PASSWORD)
    assert clock.slept == []
    value = reader.read(PASSWORD)
    clock.ahead += 2000
    inside_job.wire.fail("/v1/credentials/", word)
    assert reader.read(PASSWORD) == value


def test_a_proxys_page_is_an_outage_and_never_shown(reader: Client, inside_job: LuigiJob) -> None:
    """502 from a proxy in front of a broker that restarts: survived, and its page stays out of the message."""
    page = b"<html>tok3n</html>"
    head = b"HTTP/1.1 502 Bad Gateway\r\nContent-Type: text/html\r\nConnection: close\r\nContent-Length: %d\r\n\r\n" % len(page)
    inside_job.wire.answer_raw("/v1/credentials/", head + page, times=20)
    with pytest.raises(SecretUnavailable, match="the answer was HTTP 502") as error:
        reader.read(PASSWORD)
    assert "tok3n" not in str(error.value)


def test_somebody_elses_404_says_that_the_address_is_wrong(reader: Client, inside_job: LuigiJob) -> None:
    inside_job.wire.answer_raw("/v1/credentials/", b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n")
    with pytest.raises(SecretMisconfigured, match="the address is not the broker's"):
        reader.read(PASSWORD)


# -- refusals ---------------------------------------------------------------------------------------------------------------


def test_a_refusal_is_final_and_drops_what_was_cached(reader: Client, inside_job: LuigiJob, clock: Time) -> None:
    """Even the value that this thread was pinned to, and although its hours are not over."""
    reader.read(PASSWORD)
    clock.ahead += 1900
    inside_job.wire.end("revoked")
    with pytest.raises(SecretRefused, match=r"secret://warehouse: .*\[session_revoked\]") as refused:
        reader.read(PASSWORD)
    assert refused.value.code == "session_revoked"
    assert clock.slept == [], "a refusal is not retried"
    inside_job.wire.vanish()
    with pytest.raises(SecretUnavailable):
        reader.read(PASSWORD)


def test_a_thread_that_is_pinned_loses_its_version_at_another_threads_refusal(
    reader: Client, inside_job: LuigiJob, clock: Time
) -> None:
    reader.read(PASSWORD)
    clock.ahead += 1900
    reader.read(USERNAME)
    inside_job.wire.end("revoked")
    raised: list[SecretError] = []

    def other() -> None:
        try:
            reader.read(PASSWORD)
        except SecretError as error:
            raised.append(error)

    reader._entry(PASSWORD).ask_at = 0.0
    thread = threading.Thread(target=other)
    thread.start()
    thread.join()
    assert [error.code for error in raised] == ["session_revoked"]
    with pytest.raises(SecretRefused, match="session_revoked"):
        reader.read(PASSWORD)


@pytest.mark.parametrize("word", ["grant_denied", "upstream_denied", "subpath_denied"])
def test_a_denied_grant_names_itself_and_the_code(reader: Client, inside_job: LuigiJob, word: str) -> None:
    inside_job.wire.grants["warehouse"].denied = word
    with pytest.raises(SecretRefused, match=rf"^secret://warehouse: .* \[{word}\] \(correlation id "):
        reader.read(PASSWORD)


def test_an_unknown_grant_is_refused(reader: Client) -> None:
    with pytest.raises(SecretRefused, match=r"^secret://nope: .*\[grant_unknown\]"):
        reader.read(Reference.parse("secret://nope#password"))


def test_a_field_that_is_not_there_names_those_that_are(reader: Client, inside_job: LuigiJob) -> None:
    with pytest.raises(SecretMisconfigured, match="has no field 'passwrd'; it has password, username"):
        reader.read(Reference.parse("secret://warehouse#passwrd"))


def test_in_another_environment_nothing_is_even_asked(reader: Client, inside_job: LuigiJob) -> None:
    """A worker that took another environment's task from a shared luigid resolves nothing; its own environment does."""
    inside_job.configure("[secrets]\nenvironment = review\n")
    reload_config()
    with pytest.raises(SecretRefused, match=r"is 'review', but this job's session is in 'production' \[environment_mismatch\]"):
        reader.read(PASSWORD)
    assert inside_job.fetches("warehouse") == 0
    inside_job.configure("[secrets]\nenvironment = production\n")
    reload_config()
    assert reader.read(PASSWORD)


def test_the_brokers_word_on_the_environment_counts_and_not_the_files(reader: Client, inside_job: LuigiJob) -> None:
    inside_job.configure("[secrets]\nenvironment = review\n")
    reload_config()
    inside_job.open_session(environment="review")
    with pytest.raises(SecretRefused, match="environment_mismatch"):
        reader.read(PASSWORD)


# -- answers that are none --------------------------------------------------------------------------------------------------

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nConnection: close\r\n"
GOOD = b'{"grant":"warehouse","environment":"production","version":1,"refresh_at":"2100-01-01T00:00:00Z",'


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b"hunter2",
        b'{"grant":"warehouse","data":{"password":"hunter2"}}',
        GOOD + b'"expires_at":"2100-01-01T00:00:00Z","data":{}}',
        GOOD + b'"expires_at":"2100-01-01T00:00:00Z","data":{"password":["hunter2"]}}',
        GOOD + b'"expires_at":"2100-01-01T00:00:00+00:00","data":{"password":"hunter2"}}',
        (GOOD + b'"expires_at":"2100-01-01T00:00:00Z","data":{"password":"hunter2"}}').replace(b"warehouse", b"lake"),
        (GOOD + b'"expires_at":"2100-01-01T00:00:00Z","data":{"password":"hunter2"}}').replace(b":1,", b':"1",'),
    ],
)
def test_half_an_answer_is_none(reader: Client, inside_job: LuigiJob, body: bytes) -> None:
    """Nothing of it is used, and nothing of it is in the error or its chain."""
    inside_job.wire.answer_raw("/v1/credentials/", HEAD + b"Content-Length: %d\r\n\r\n" % len(body) + body)
    with pytest.raises(SecretUnavailable, match="is not a credential") as error:
        reader.read(PASSWORD)
    assert "hunter2" not in str(error.value)
    assert error.value.__cause__ is None
    assert error.value.__suppress_context__


def test_a_lease_at_its_end_is_not_handed_out(reader: Client, inside_job: LuigiJob) -> None:
    body = GOOD + b'"expires_at":"2020-01-01T00:00:00Z","data":{"password":"hunter2"}}'
    inside_job.wire.answer_raw("/v1/credentials/", HEAD + b"Content-Length: %d\r\n\r\n" % len(body) + body, times=9)
    with pytest.raises(SecretUnavailable, match="at its end"):
        reader.read(PASSWORD)


@pytest.mark.parametrize(
    "raw",
    [
        b"nonsense\r\n\r\n",
        HEAD + b"Content-Length: 100\r\n\r\n{}",
        HEAD + b"\r\n" + b" " * (1024 * 1024 + 1),
    ],
)
def test_what_is_not_http_or_not_whole_is_an_outage(reader: Client, inside_job: LuigiJob, raw: bytes) -> None:
    inside_job.wire.answer_raw("/v1/credentials/", raw, times=30)
    with pytest.raises(SecretUnavailable, match="broker_unreachable"):
        reader.read(PASSWORD)


def test_a_clock_that_is_wrong_on_this_host_does_not_end_a_lease(reader: Client, inside_job: LuigiJob) -> None:
    """Its life is counted against the broker's `Date`: an hour of difference between the two hosts does not matter."""
    for shift in (-3600, 3600):
        there = time.time() + shift
        answer = (
            f'{{"grant":"warehouse","environment":"production","version":1,"refresh_at":"{stamp_of(there + 300)}",'
            f'"expires_at":"{stamp_of(there + 600)}","data":{{"password":"x"}}}}'
        ).encode()
        date = time.strftime("%a, %d %b %Y %H:%M:%S GMT", time.gmtime(there)).encode()
        head = HEAD + b"Date: " + date + b"\r\nContent-Length: %d\r\n\r\n" % len(answer)
        inside_job.wire.answer_raw("/v1/credentials/", head + answer)
        reader._entry(PASSWORD).drop()
        assert 590 < reader.current(PASSWORD).left(time.monotonic()) <= 600


def stamp_of(seconds: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))


# -- the session ------------------------------------------------------------------------------------------------------------


def test_a_new_session_file_is_picked_up_at_the_next_fetch(reader: Client, inside_job: LuigiJob, clock: Time) -> None:
    """The file is read at every fetch: a second `exec` in the job leaves nobody behind with a handle that is over."""
    reader.read(PASSWORD)
    inside_job.wire.end("closed")
    inside_job.open_session()
    clock.ahead += 1900
    assert reader.read(PASSWORD) == issued(inside_job, 1)["password"]


def test_without_a_session_the_message_says_how_to_get_one(
    reader: Client, inside_job: LuigiJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CREDBROKER_SESSION_FILE", str(inside_job.folder / "credbroker-session" / "none.json"))
    with pytest.raises(SecretMisconfigured, match=r"run the pipeline as `credbroker exec -- luigi …` \[config_invalid\]"):
        reader.read(PASSWORD)


def test_an_address_that_is_none_is_not_waited_for_nor_repeated(
    reader: Client, inside_job: LuigiJob, clock: Time, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CREDBROKER_URL", "https://user:hunter2@broker.example.com")
    with pytest.raises(SecretMisconfigured) as error:
        reader.read(PASSWORD)
    assert "hunter2" not in str(error.value)
    assert clock.slept == []


@pytest.mark.parametrize(
    "url",
    [
        "http://broker.example.com",
        "http://10.0.0.7:8400",
        "ftp://127.0.0.1",
        "unix://broker.sock",
        "https://u:p@broker.example.com",
        "https://broker.example.com/v2",
        "https://broker.example.com:99999",
        "broker.example.com",
    ],
)
def test_the_handle_is_not_sent_in_clear_nor_to_what_is_no_address(
    reader: Client, inside_job: LuigiJob, monkeypatch: pytest.MonkeyPatch, url: str
) -> None:
    monkeypatch.setenv("CREDBROKER_URL", url)
    with pytest.raises(SecretMisconfigured, match="the broker's address must be"):
        reader.read(PASSWORD)


# -- fork -------------------------------------------------------------------------------------------------------------------


def in_child(work: Callable[[], object]) -> str:
    """What `work` returns in a forked child, or the name of what it raised; killed after 10 seconds."""
    out, into = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            said = str(work())
        except BaseException as error:  # noqa: BLE001 - a child says what happened and ends
            said = type(error).__name__
        os.write(into, said.encode())
        os._exit(0)
    os.close(into)
    deadline = time.monotonic() + 10
    while os.waitpid(pid, os.WNOHANG) == (0, 0):
        if time.monotonic() > deadline:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            return "hung"
        time.sleep(0.01)
    with os.fdopen(out) as pipe:
        return pipe.read()


fork_with_threads = pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")


@fork_with_threads
def test_a_child_starts_with_nothing_and_asks_once(inside_job: LuigiJob) -> None:
    """No lease of the parent's, no lock, no connection: one fetch for all of a child's reads (R2)."""
    client().read(PASSWORD)
    inside_job.wire.rotate("warehouse")
    new = issued(inside_job, 2)["password"]
    assert in_child(lambda: "".join({client().read(PASSWORD) for _ in range(5)})) == new
    assert in_child(lambda: client().read(PASSWORD)) == new
    assert inside_job.fetches("warehouse") == 3
    assert client().read(PASSWORD) != new, "the parent goes on with what it has until refresh_at"


@fork_with_threads
def test_a_lock_that_is_held_at_the_fork_hangs_no_child(inside_job: LuigiJob) -> None:
    """A thread of the parent is in the middle of a fetch when a child is forked (R1)."""
    inside_job.wire.slow("/v1/credentials/", 3.0)
    asking = threading.Thread(target=client().read, args=(PASSWORD,))
    asking.start()
    wait_until(lambda: inside_job.wire._faults[0].times == 0)  # the slow answer is the parent's, not the child's
    assert client()._entry(PASSWORD).flight.locked()
    began = time.monotonic()
    assert in_child(lambda: client().read(PASSWORD)) == issued(inside_job, 1)["password"]
    assert time.monotonic() - began < 2.5, "it waited for a thread that is not there"
    asking.join()


def test_a_fork_that_python_did_not_see_is_noticed_by_the_pid(inside_job: LuigiJob) -> None:
    before = client()
    before.pid = -1
    assert client() is not before
    assert client().pid == os.getpid()


# -- bundles ----------------------------------------------------------------------------------------------------------------


def test_a_snapshot_is_one_version_whatever_happens_meanwhile(inside_job: LuigiJob) -> None:
    with Bundle(Reference("warehouse"), "Big_1").lease(min_ttl="10m") as c:
        user = c.username
        inside_job.wire.rotate("warehouse")
        client()._entry(PASSWORD).drop()
        client().read(PASSWORD)
        assert (user, c.password, c["password"]) == (c.username, c.password, c.password)
        assert c.version == 1
        assert isinstance(c.password, SecretStr)
        assert 3500 < c.expires_at.timestamp() - time.time() <= 3600
        assert c.password not in repr(c)
    (seen, *_) = inside_job.wire.calls("GET", "/v1/credentials/")
    assert (seen.query, seen.headers["x-luigi-task"]) == ("min_ttl=600", "Big_1")


def test_a_snapshot_refuses_once_its_lease_has_ended(inside_job: LuigiJob) -> None:
    inside_job.wire.grants["warehouse"].ttl = 3
    with Bundle(Reference("warehouse")).lease() as c:
        assert c.password
        wait_until(lambda: c._lease.left(time.monotonic()) <= 0)
        with pytest.raises(SecretUnavailable, match="this snapshot's lease has ended"):
            _ = c.password


def test_an_unpickled_live_value_is_read_again(inside_job: LuigiJob) -> None:
    """What travels is the reference; the value is this process's, of now."""
    import copy
    import pickle

    value = client().read(PASSWORD)
    raw = pickle.dumps(value)
    assert value.encode() not in raw
    assert copy.deepcopy(value) is copy.copy(value) is value
    client()._entry(PASSWORD).drop()
    inside_job.wire.rotate("warehouse")
    again = pickle.loads(raw)
    assert again == issued(inside_job, 2)["password"]
    assert again.reference == PASSWORD


def wait_until(met: Callable[[], bool], seconds: float = 8) -> None:
    deadline = time.monotonic() + seconds
    while not met():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.005)
