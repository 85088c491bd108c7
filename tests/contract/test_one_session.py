"""One session per job token, with real brokers: two processes on one store, cut connections, killed clients, restarts."""

import http.client
import json
import os
import secrets
import signal
import socket
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Self
from urllib.parse import urlencode

import pytest

from tests.fakes.forge import AUDIENCE, ISSUER, base_claims, forge, gitlab_key, jwks_file

CONFIG = """
public_url = "{audience}"
policy = "policy.toml"
[listen]
unix = "run/{name}.sock"
admin = "admin/{name}.sock"
admin_uids = [{uid}]
[store]
url = "sqlite:///broker.db"
[keys]
issuer = "keys/issuer"
log = "keys/log.pem"
store = "keys/store.key"
[log]
origin = "test.example/log"
[[issuer]]
name = "gitlab"
profile = "gitlab"
issuer = "{issuer}"
audience = ["{audience}"]
jwks_file = "jwks.json"
[[upstream]]
name = "aws"
kind = "aws"
region = "eu-central-1"
"""
# The environment has no grant, so that `exec` has nothing to mint and no upstream is needed.
POLICY = """
version = 1
project_id = ["20", "21", "22", "23"]
[[environment]]
name = "production"
when.issuer = "gitlab"
when.ref_path = "refs/heads/main"
when.ref_protected = true
[[environment]]
name = "review"
when.issuer = "gitlab"
when.ref_path = "refs/heads/review"
[[grant]]
name = "lake"
environments = ["review"]
[grant.aws]
role_arn = "arn:aws:iam::111122223333:role/etl-{environment}"
ttl = "1h"
"""
COUNT_LIVE = (
    "import sqlite3, sys; "
    "print(sqlite3.connect(sys.argv[1]).execute(\"SELECT count(*) FROM session WHERE state='live'\").fetchone()[0])"
)


# `serve` takes a SQLite file for itself: brokers that share a store will share a PostgreSQL. What is shown here is that the
# store's own transactions decide who opens a token's session; so the lock before them is left out, and nothing else.
SHARING = """
import contextlib
import broker.cli
import broker.wiring

broker.wiring.only_server_of = lambda store: contextlib.nullcontext()
broker.cli.main()
"""


class Pair:
    """Two brokers, `a` and `b`, on one SQLite file."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.database = folder / "broker.db"
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        for name in ("run", "admin"):
            (folder / name).mkdir(mode=0o700)
        self.broker("keygen", "keys", "--origin", "test.example/log")
        jwks_file(folder)
        (folder / "policy.toml").write_text(POLICY)
        for name in ("a", "b"):
            config = CONFIG.format(name=name, uid=os.geteuid(), audience=AUDIENCE, issuer=ISSUER)
            (folder / f"{name}.toml").write_text(config)

    def broker(self, *arguments: str) -> None:
        subprocess.run([sys.executable, "-m", "broker", *arguments], cwd=self.folder, check=True, capture_output=True)

    def start(self, name: str) -> None:
        with (self.folder / f"{name}.log").open("ab") as log:
            self.processes[name] = subprocess.Popen(
                [sys.executable, "-c", SHARING, "serve", "--config", f"{name}.toml"], cwd=self.folder, stdout=log, stderr=log
            )
        until = time.monotonic() + 30
        while time.monotonic() < until:
            try:
                if self.ask(name, "GET", "/readyz")[0] == 200:
                    return
            except OSError:
                time.sleep(0.05)
        raise AssertionError((self.folder / f"{name}.log").read_text())

    def stop(self, name: str, how: signal.Signals = signal.SIGTERM) -> None:
        process = self.processes.pop(name)
        process.send_signal(how)
        process.wait(30)

    def socket_of(self, name: str) -> Path:
        return self.folder / "run" / f"{name}.sock"

    def ask(
        self, name: str, method: str, path: str, form: dict[str, str] | None = None, *, handle: str = "", at: Path | None = None
    ) -> tuple[int, Any]:
        connection = http.client.HTTPConnection("localhost", timeout=30)
        connection.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        connection.sock.settimeout(30)
        try:
            connection.sock.connect(str(at or self.socket_of(name)))
            headers = {"Content-Type": "application/x-www-form-urlencoded"} if form else {}
            headers |= {"Authorization": f"Bearer {handle}"} if handle else {}
            connection.request(method, path, urlencode(form) if form else None, headers)
            answer = connection.getresponse()
            body = answer.read()
            return answer.status, json.loads(body) if answer.headers["Content-Type"] == "application/json" else body.decode()
        finally:
            connection.close()

    def exchange(self, name: str, token: str, at: Path | None = None, **more: Any) -> tuple[int, Any]:
        form = {
            "grant_type": "urn:ietf:params:oauth:grant-type:token-exchange",
            "subject_token": token,
            "subject_token_type": "urn:ietf:params:oauth:token-type:id_token",
        }
        return self.ask(name, "POST", "/v1/token", form | more, at=at)

    def close(self, name: str, handle: str) -> None:
        assert self.ask(name, "POST", "/v1/revoke", {"token": handle})[0] == 200

    def live(self) -> int:
        db = sqlite3.connect(self.database)
        try:
            return int(db.execute("SELECT count(*) FROM session WHERE state = 'live'").fetchone()[0])
        finally:
            db.close()

    def entries(self, token: str) -> list[dict[str, Any]]:
        """`unmapped` of every entry about this token, in order."""
        db = sqlite3.connect(self.database)
        try:
            bodies = [json.loads(body)["unmapped"] for (body,) in db.execute("SELECT body FROM entry ORDER BY idx")]
        finally:
            db.close()
        jti = jti_of(token)
        return [
            body
            for body in bodies
            if jti in (body.get("identity", {}).get("jti"), body.get("signed", {}).get("claims", {}).get("jti"))
        ]

    def thefts(self) -> float:
        lines = [
            line for name in self.processes for line in self.metrics(name) if line.startswith("credbroker_theft_suspected_total")
        ]
        return sum(float(line.split()[-1]) for line in lines)

    def metrics(self, name: str) -> list[str]:
        text: str = self.ask(name, "GET", "/metrics", at=self.folder / "admin" / f"{name}.sock")[1]
        return text.splitlines()

    def job(self, token: str, home: Path, *arguments: str, at: Path | None = None) -> "subprocess.Popen[str]":
        """A real client in a job of its own."""
        home.mkdir(mode=0o700, exist_ok=True)
        environ = {
            "PATH": os.environ["PATH"],
            "HOME": str(home),
            "XDG_RUNTIME_DIR": str(home),
            "CI_JOB_ID": "302",
            "CREDBROKER_URL": f"unix://{at or self.socket_of('a')}",
            "CREDBROKER_ID_TOKEN": token,
        }
        return subprocess.Popen(
            [sys.executable, "-m", "broker", *arguments],
            env=environ,
            cwd=home,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def run(self, token: str, home: Path) -> None:
        """One whole `exec`, which sees exactly one live session."""
        process = self.job(token, home, "exec", "--wait", "20s", "--", sys.executable, "-c", COUNT_LIVE, str(self.database))
        out, err = process.communicate(timeout=60)
        assert process.returncode == 0, err
        assert int(out) == 1


def jti_of(token: str) -> str:
    import base64

    part = token.split(".")[1]
    claims: dict[str, str] = json.loads(base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)))
    return claims["jti"]


def claims_now(**changes: Any) -> dict[str, Any]:
    now = int(time.time())
    return base_claims(**{"iat": now, "nbf": now - 5, "exp": now + 3600, "jti": secrets.token_hex(16)} | changes)


def fresh_token(project: str = "20", **changes: Any) -> str:
    """A token of a job of its own. Denials of one project are rolled up past twenty a minute: who counts them takes another."""
    return forge(claims_now(project_id=project, job_project_id=project, **changes))


@pytest.fixture(scope="module")
def pair() -> Iterator[Pair]:
    with tempfile.TemporaryDirectory(prefix="pair-") as folder:  # short: a socket's path has at most 107 bytes
        brokers = Pair(Path(folder))
        try:
            brokers.start("a")
            brokers.start("b")
            yield brokers
        finally:
            for name in list(brokers.processes):
                brokers.stop(name)


class Between:
    """A proxy before broker `a` that stops at one step of the first exchange, and passes everything else on."""

    STEPS = ("connected", "asked", "answered", "half told", "told")

    def __init__(self, pair: Pair, step: str) -> None:
        self._pair = pair
        self._step = step
        self.path = pair.folder / "run" / f"between-{secrets.token_hex(4)}.sock"
        self.reached = threading.Event()
        self._go_on = threading.Event()
        self._listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._listening.bind(str(self.path))
        self._listening.listen(16)
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._go_on.set()
        self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()
        self._thread.join(10)
        self.path.unlink()

    def go_on(self) -> None:
        self._go_on.set()

    def _at(self, step: str) -> None:
        if step == self._step and not self.reached.is_set():
            self.reached.set()
            self._go_on.wait(30)

    def _serve(self) -> None:
        while True:
            try:
                client, _ = self._listening.accept()
            except OSError:
                return
            with client:
                try:
                    self._pass_on(client)
                except OSError:
                    continue  # the client is gone, which is what the test is about

    def _pass_on(self, client: socket.socket) -> None:
        self._at("connected")
        request = _message(client.recv)
        if not request:
            return
        self._at("asked")
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as broker:
            broker.connect(str(self._pair.socket_of("a")))
            broker.sendall(request.replace(b"\r\n", b"\r\nConnection: close\r\n", 1))
            answer = b""
            while piece := broker.recv(65536):
                answer += piece
        self._at("answered")
        half = len(answer) // 2
        client.sendall(answer[:half])
        self._at("half told")
        client.sendall(answer[half:])
        self._at("told")


def _message(receive: Callable[[int], bytes]) -> bytes:
    data = b""
    while b"\r\n\r\n" not in data:
        piece = receive(65536)
        if not piece:
            return data
        data += piece
    head, _, body = data.partition(b"\r\n\r\n")
    lengths = [line.split(b":")[1] for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:")]
    while len(body) < int(lengths[0] if lengths else 0):
        piece = receive(65536)
        data, body = data + piece, body + piece
    return data


# --- two brokers, one store -----------------------------------------------------------------------------------------


def test_of_many_racing_over_two_brokers_exactly_one_gets_a_session(pair: Pair) -> None:
    """Without a resume key, or each with its own: all others are told, logged and counted as possible theft."""
    for keyed, project in ((False, "21"), (True, "22")):
        token, before = fresh_token(project), pair.thefts()

        def race(number: int, token: str = token, keyed: bool = keyed) -> tuple[int, Any]:
            more: dict[str, Any] = {"resume_key": secrets.token_urlsafe(32)} if keyed else {}
            return pair.exchange("ab"[number % 2], token, **more)

        with ThreadPoolExecutor(16) as many:
            answers = list(many.map(race, range(16)))
        opened = [body for status, body in answers if status == 200]
        refused = [body for status, body in answers if status != 200]
        assert len(opened) == 1
        assert {body["code"] for body in refused} == {"session_exists"}
        entries = pair.entries(token)
        assert [entry["kind"] for entry in entries].count("session_opened") == 1
        assert [entry["kind"] for entry in entries].count("denied") == 15
        held = {entry["possible_theft"]["live_session_id"] for entry in entries if entry["kind"] == "denied"}
        assert held == {opened[0]["session_id"]}
        assert pair.thefts() - before == 15
        pair.close("a", opened[0]["access_token"])


def test_one_client_that_asks_many_times_at_once_ends_with_one_session(pair: Pair) -> None:
    """The same key: a client whose first request is still under way. Nobody takes it for a thief."""
    token, key, before = fresh_token(), secrets.token_urlsafe(32), pair.thefts()
    live = pair.live()
    with ThreadPoolExecutor(6) as many:
        answers = list(many.map(lambda number: pair.exchange("ab"[number % 2], token, resume_key=key), range(6)))
    assert {body.get("code", "ok") for _, body in answers} <= {"ok", "rate_limited"}
    assert pair.live() == live + 1
    assert pair.thefts() == before
    status, body = pair.exchange("a", token, resume_key=key)
    assert (status, pair.live()) == (200, live + 1)
    pair.close("b", body["access_token"])
    assert pair.live() == live


def test_what_one_broker_opened_the_other_knows(pair: Pair) -> None:
    token = fresh_token()
    status, opened = pair.exchange("a", token)
    assert status == 200
    assert pair.exchange("b", token)[1]["code"] == "session_exists"
    pair.close("b", opened["access_token"])
    status, again = pair.exchange("b", token)
    assert status == 200
    pair.close("b", again["access_token"])


# --- what burns a token and what does not ----------------------------------------------------------------------------


def test_a_refused_exchange_does_not_burn_the_token(pair: Pair) -> None:
    """However often; and its eight sessions are counted over both brokers."""
    token = fresh_token()
    for number in range(12):
        wrong: dict[str, Any] = {"scope": "nothing"} if number % 2 else {"environment": "review"}
        assert pair.exchange("ab"[number % 2], token, **wrong)[1]["code"] in ("grant_unknown", "environment_mismatch")
    for number in range(8):
        status, opened = pair.exchange("ab"[number % 2], token)
        assert status == 200, opened
        pair.close("a", opened["access_token"])
    assert pair.exchange("a", token)[1]["code"] == "token_replayed"
    assert pair.exchange("b", token)[1]["code"] == "token_replayed"


def test_a_token_is_known_by_what_it_says_and_not_by_its_spelling(pair: Pair) -> None:
    """The same claims in another order, under another header: other bytes, another signature, the same token."""
    claims = claims_now()
    first = forge(claims)
    second = forge(dict(reversed(claims.items())), {"kid": gitlab_key().kid, "alg": "RS256"})
    assert first.split(".")[0] != second.split(".")[0]
    assert first.split(".")[1] != second.split(".")[1]
    status, opened = pair.exchange("a", first)
    assert status == 200
    assert pair.exchange("b", second)[1]["code"] == "session_exists"
    pair.close("a", opened["access_token"])
    status, other = pair.exchange("b", forge(claims | {"jti": "another"}))
    assert status == 200
    pair.close("b", other["access_token"])


# --- answers that do not arrive --------------------------------------------------------------------------------------


def test_an_answer_that_is_cut_off_after_the_commit_is_resumed_with_the_key_alone(pair: Pair) -> None:
    token, key, live = fresh_token("23"), secrets.token_urlsafe(32), pair.live()
    with Between(pair, "answered") as between, ThreadPoolExecutor(1) as one:
        asking = one.submit(pair.exchange, "a", token, between.path, resume_key=key)
        assert between.reached.wait(20)
        assert pair.live() == live + 1  # it is committed, and nobody was told
        between._listening.shutdown(socket.SHUT_RDWR)
        assert pair.exchange("b", token)[1]["code"] == "session_exists"
        status, resumed = pair.exchange("b", token, resume_key=key)
        assert (status, pair.live()) == (200, live + 1)
        between.go_on()
        late = asking.result(30)[1]["access_token"]
    assert pair.ask("b", "GET", "/v1/session", handle=late)[1]["code"] == "session_revoked"
    assert pair.ask("b", "GET", "/v1/session", handle=resumed["access_token"])[0] == 200
    kinds = [entry["kind"] for entry in pair.entries(token)]
    assert kinds == ["session_opened", "denied", "session_closed", "session_opened"]
    pair.close("b", resumed["access_token"])


@pytest.mark.parametrize("step", Between.STEPS)
def test_a_client_killed_at_any_step_of_the_exchange_does_not_lock_its_job_out(pair: Pair, tmp_path: Path, step: str) -> None:
    token, home = fresh_token(), tmp_path / "home"
    live, thefts = pair.live(), pair.thefts()
    with Between(pair, step) as between:
        process = pair.job(token, home, "exec", "--", "sleep", "30", at=between.path)
        try:
            assert between.reached.wait(30), step
        finally:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
            between.go_on()
    session_file = next(iter(home.glob("credbroker-*/302.json")), None)
    if session_file is not None:  # it was told, and kept what it was told: the address has to be one that is still there
        kept = json.loads(session_file.read_text())
        session_file.write_text(json.dumps(kept | {"url": f"unix://{pair.socket_of('a')}"}))
    pair.run(token, home)
    assert pair.live() == live
    assert pair.thefts() == thefts


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_a_broker_that_is_started_again_still_knows_every_token(pair: Pair, how: signal.Signals) -> None:
    token, key = fresh_token(), secrets.token_urlsafe(32)
    status, opened = pair.exchange("a", token, resume_key=key)
    assert status == 200
    pair.stop("a", how)
    pair.start("a")
    assert pair.exchange("a", token)[1]["code"] == "session_exists"
    assert pair.exchange("a", token, resume_key=secrets.token_urlsafe(32))[1]["code"] == "session_exists"
    assert pair.ask("a", "GET", "/v1/session", handle=opened["access_token"])[0] == 200
    status, resumed = pair.exchange("a", token, resume_key=key)
    assert status == 200
    assert pair.ask("a", "GET", "/v1/session", handle=opened["access_token"])[1]["code"] == "session_revoked"
    pair.close("a", resumed["access_token"])


# --- refusals in the log --------------------------------------------------------------------------------------------


def test_signed_tokens_that_are_refused_are_entries_and_others_never_are(pair: Pair) -> None:
    """Found by project; nothing in them is called an identity."""
    signed = fresh_token("4999", aud="https://vault.example")
    answer = pair.exchange("a", signed)[1]
    assert answer["code"] == "token_audience"
    assert "https://vault.example" in answer["error_description"]
    (entry,) = pair.entries(signed)
    assert (entry["kind"], entry["code"]) == ("denied", "token_audience")
    assert entry["signed"]["claims"]["aud"] == "https://vault.example"
    assert entry["correlation_id"] == answer["correlation_id"]
    assert "identity" not in entry
    unsigned = fresh_token()[:-6] + "AAAAAA"
    assert pair.exchange("a", unsigned)[1]["code"] in ("token_signature", "token_malformed")
    assert pair.entries(unsigned) == []
    found = subprocess.run(
        [sys.executable, "-m", "broker", "audit", "query", str(pair.database), "--project", "4999", "--json"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert entry["correlation_id"] in found.stdout
