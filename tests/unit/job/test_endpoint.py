"""The loopback endpoint for AWS SDKs."""

import contextlib
import json
import socket
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone

import pytest

from broker.errors import BrokerError, Code, Misconfigured, Refused, Unavailable
from broker.job.answers import ContainerCredentials
from broker.job.endpoint import Answers, Endpoint
from broker.job.heartbeat import Heartbeat
from broker.secret import Secret

NOON = datetime(2026, 1, 1, 12, tzinfo=timezone.utc)
AWAY = Unavailable(Code.BROKER_UNREACHABLE, "the broker is away")


class Broker:
    """What the endpoint forwards to: an answer or an error, and how often it was asked."""

    def __init__(self) -> None:
        self.now, self.clock = NOON, 0.0
        self.says: ContainerCredentials | BrokerError = answer("one")
        self.asked: list[tuple[str, float]] = []

    def fetch(self, grant: str, seconds: float) -> ContainerCredentials:
        self.asked.append((grant, seconds))
        if isinstance(self.says, BrokerError):
            raise self.says
        return self.says

    def answers(self) -> Answers:
        return Answers(self.fetch, now=lambda: self.now, clock=lambda: self.clock)


def answer(body: str, *, minutes: int = 60) -> ContainerCredentials:
    return ContainerCredentials(body=Secret(body), expires_at=NOON + timedelta(minutes=minutes), secrets=())


def test_while_the_broker_answers_its_answer_is_given() -> None:
    broker = Broker()
    answers = broker.answers()
    assert answers.current("lake").body.reveal() == "one"
    broker.says = answer("two")
    assert answers.current("lake").body.reveal() == "two"
    assert all(seconds <= 0.8 for _, seconds in broker.asked)


def test_an_outage_is_survived_until_the_true_expiry_and_no_longer() -> None:
    broker = Broker()
    answers = broker.answers()
    answers.current("lake")
    broker.says = AWAY
    broker.now = NOON + timedelta(minutes=59, seconds=59)
    assert answers.current("lake").body.reveal() == "one"
    broker.now, broker.clock = NOON + timedelta(minutes=60), 10.0
    with pytest.raises(Unavailable, match="away"):
        answers.current("lake")


def test_a_broker_that_was_away_is_left_alone_for_two_seconds() -> None:
    broker = Broker()
    answers = broker.answers()
    answers.current("lake")
    broker.says = AWAY
    for _ in range(5):
        answers.current("lake")
    assert len(broker.asked) == 2
    broker.clock, broker.says = 2.1, answer("back")
    assert answers.current("lake").body.reveal() == "back"


def test_a_refusal_drops_what_was_kept() -> None:
    """Only an outage is survived: a revoked session must not live on in here."""
    broker = Broker()
    answers = broker.answers()
    answers.current("lake")
    broker.says = Refused(Code.SESSION_REVOKED, "over")
    with pytest.raises(Refused, match="over"):
        answers.current("lake")
    broker.says = AWAY
    with pytest.raises(Unavailable):
        answers.current("lake")


def test_an_answer_that_has_expired_already_is_not_given() -> None:
    broker = Broker()
    broker.says = answer("old", minutes=0)
    with pytest.raises(Unavailable, match="expired already; is this machine's clock right"):
        broker.answers().current("lake")


def test_grants_do_not_share_answers() -> None:
    broker = Broker()
    answers = broker.answers()
    answers.current("lake")
    broker.says = AWAY
    with pytest.raises(Unavailable):
        answers.current("lake-two")


# --- over HTTP --------------------------------------------------------------------------------------------------------


@pytest.fixture
def broker() -> Broker:
    return Broker()


@pytest.fixture
def endpoint(broker: Broker) -> Iterator[Endpoint]:
    one = Endpoint(["lake", "lake-two"], broker.answers())
    one.start()
    yield one
    one.stop()


def ask(url: str, method: str = "GET", **headers: str) -> tuple[int, dict[str, str], bytes]:
    request = urllib.request.Request(
        url, method=method, headers={name.replace("_", "-"): value for name, value in headers.items()}
    )
    try:
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=10) as response:
            return response.status, dict(response.headers), response.read()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, dict(error.headers), error.read()


def test_the_token_opens_both_grants_bare_and_as_bearer(endpoint: Endpoint, broker: Broker) -> None:
    token = endpoint.token.reveal()
    for grant, given in (("lake", token), ("lake-two", "Bearer " + token)):
        status, headers, body = ask(endpoint.url(grant), Authorization=given)
        assert (status, body) == (200, b"one")
        assert headers["Content-Type"] == "application/json"
        assert headers["Cache-Control"] == "no-store"
    assert [grant for grant, _ in broker.asked] == ["lake", "lake-two"]


@pytest.mark.parametrize(
    ("headers", "code"),
    [
        ({}, "token_wrong"),
        ({"Authorization": "wrong"}, "token_wrong"),
        ({"Authorization": "Bearer "}, "token_wrong"),
        ({"Authorization": "TOKEN", "Origin": "https://evil.example"}, "origin_foreign"),
        ({"Authorization": "TOKEN", "X_Forwarded_For": "10.0.0.1"}, "origin_foreign"),
        ({"Authorization": "TOKEN", "Host": "evil.example"}, "host_unknown"),
        ({"Authorization": "TOKEN", "Host": "127.0.0.1:1"}, "host_unknown"),
    ],
)
def test_others_are_refused_in_both_spellings(endpoint: Endpoint, broker: Broker, headers: dict[str, str], code: str) -> None:
    given = {name: value.replace("TOKEN", endpoint.token.reveal()) for name, value in headers.items()}
    status, answered, body = ask(endpoint.url("lake"), **given)
    assert status == 403
    assert answered["Content-Type"] == "application/json"
    document = json.loads(body)
    assert document["code"] == document["Code"] == code
    assert document["message"] == document["Message"] != ""
    assert broker.asked == []


def test_another_grant_path_or_method_is_refused(endpoint: Endpoint) -> None:
    token = endpoint.token.reveal()
    assert ask(endpoint.url("warehouse"), Authorization=token)[0] == 404
    assert ask(endpoint.url("lake").replace("/v1/aws/", "/"), Authorization=token)[0] == 404
    for method in ("POST", "PUT", "DELETE", "OPTIONS", "PATCH", "HEAD"):
        assert ask(endpoint.url("lake"), method, Authorization=token)[0] == 405


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (AWAY, 503),
        (Refused(Code.SESSION_REVOKED, "over"), 403),
        (Refused(Code.GRANT_DENIED, "no"), 403),
        (Misconfigured(Code.UPSTREAM_CONFIG, "role"), 500),
    ],
)
def test_the_brokers_errors_keep_their_code_and_sentence(
    endpoint: Endpoint, broker: Broker, error: BrokerError, status: int
) -> None:
    broker.says = error
    answered, _, body = ask(endpoint.url("lake"), Authorization=endpoint.token.reveal())
    assert answered == status
    assert json.loads(body)["code"] == error.code.word
    assert json.loads(body)["message"] == error.public


def test_headers_and_body_leave_in_one_write(endpoint: Endpoint) -> None:
    """Two writes cost 44 ms each time: 100 answers on one connection are done well before that would allow."""
    port = int(endpoint.url("lake").split(":")[2].split("/")[0])
    request = f"GET /v1/aws/lake HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nAuthorization: {endpoint.token.reveal()}\r\n\r\n"
    with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
        started = time.monotonic()
        for _ in range(100):
            connection.sendall(request.encode())
            assert connection.recv(65536).endswith(b"\r\n\r\none")
        assert time.monotonic() - started < 3


def port_of(one: Endpoint) -> int:
    return int(one.url("lake").split(":")[2].split("/")[0])


def test_a_request_that_drips_ends_with_its_time(endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    """A byte now and then does not prolong it (slowloris)."""
    monkeypatch.setattr("broker.job.endpoint._REQUEST_SECONDS", 0.3)
    with socket.create_connection(("127.0.0.1", port_of(endpoint)), timeout=10) as connection:
        started = time.monotonic()
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            for byte in b"GET / HTTP/1.1\r\nX-Slow: " + b"a" * 200:
                connection.sendall(bytes([byte]))
                time.sleep(0.02)
        assert time.monotonic() - started < 3


def test_many_silent_connections_keep_no_sdk_out_and_are_bounded(
    endpoint: Endpoint, broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each held a thread. The oldest that has not shown the token makes room; one that has stays."""
    monkeypatch.setattr("broker.job.endpoint._MOST_CONNECTIONS", 4)
    port, token = port_of(endpoint), endpoint.token.reveal()
    request = f"GET /v1/aws/lake HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nAuthorization: {token}\r\n\r\n".encode()
    with contextlib.ExitStack() as stack:

        def connect() -> socket.socket:
            return stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=5))

        sdk = connect()
        sdk.sendall(request)
        assert sdk.recv(65536).endswith(b"one")
        before = threading.active_count()
        silent = [connect() for _ in range(30)]
        assert all(one.recv(1) == b"" for one in silent[:27])
        # A closed connection's thread sees it a moment after its peer does.
        deadline = time.monotonic() + 10
        while threading.active_count() > before + 4 and time.monotonic() < deadline:
            time.sleep(0.01)
        assert threading.active_count() <= before + 4
        for one in (sdk, connect()):
            one.sendall(request)
            assert one.recv(65536).endswith(b"one")


def test_requests_from_before_the_start_wait_for_it() -> None:
    one = Endpoint(["lake"], Broker().answers())
    port = int(one.url("lake").split(":")[2].split("/")[0])
    with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
        connection.sendall(f"GET / HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n\r\n".encode())
        one.start()
        assert connection.recv(65536).startswith(b"HTTP/1.1 403 ")
    one.stop()


def test_an_endpoint_that_was_never_started_can_be_stopped() -> None:
    Endpoint(["lake"], Broker().answers()).stop()


# --- the heartbeat ----------------------------------------------------------------------------------------------------


def beating(*outcomes: BrokerError | None) -> tuple[list[int], list[str]]:
    """How often it beat, and what it told, when the broker answered like this."""
    beats, told = list[int](), list[str]()
    waiting = list(outcomes)

    def beat() -> None:
        beats.append(1)
        if waiting and (error := waiting.pop(0)) is not None:
            raise error

    heart = Heartbeat(beat, told.append, each=0.005)
    heart.start()
    deadline = time.monotonic() + 5
    while waiting and time.monotonic() < deadline:
        time.sleep(0.005)
    time.sleep(0.05)
    heart.stop()
    heart._thread.join(5)
    return beats, told


def test_a_heartbeat_survives_an_outage_silently() -> None:
    beats, told = beating(None, AWAY, None)
    assert len(beats) > 3
    assert told == []


def test_a_heartbeat_that_is_refused_is_told_once_and_stops() -> None:
    beats, told = beating(None, Refused(Code.SESSION_IDLE, "fell silent"))
    assert len(beats) == 2
    assert told == ["the session is over (session_idle): fell silent"]
