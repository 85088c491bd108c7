"""The broker is killed under load, again and again: no unlogged credential, no promise left open, a log that verifies."""

import contextlib
import http.client
import json
import random
import signal
import socket
import threading
import time
import urllib.parse
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest

from broker.demo.sts import MintOrder, RoleSession
from broker.demo.world import World
from tests.fakes.aws import needs_ministack

ROUNDS = 8
WORKERS = 4
SWEPT_WITHIN = 90.0  # an intent lives 60 s, the sweep looks every 5

pytestmark = [pytest.mark.soak, pytest.mark.timeout(900)]


@pytest.fixture
def world() -> Iterator[World]:
    with needs_ministack(), World() as running:
        yield running


@dataclass
class Load:
    """Clients that open sessions and read credentials until they are told to stop, and what they were given."""

    world: World
    given: list[dict[str, Any]] = field(default_factory=list)
    stop: threading.Event = field(default_factory=threading.Event)

    def ask(self, method: str, path: str, body: str = "", **headers: str) -> tuple[int, dict[str, Any]]:
        connection = http.client.HTTPConnection("localhost", timeout=20)
        connection.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            connection.sock.settimeout(20)
            connection.sock.connect(str(self.world.socket))
            connection.request(method, path, body, headers)
            answer = connection.getresponse()
            return answer.status, json.loads(answer.read())
        finally:
            connection.close()

    def one_job(self) -> None:
        form = {
            "grant_type": "urn:ietf:params:oauth:grant-type:token-exchange",
            "subject_token_type": "urn:ietf:params:oauth:token-type:id_token",
            "subject_token": self.world.token(),
        }
        kind = {"Content-Type": "application/x-www-form-urlencoded"}
        status, session = self.ask("POST", "/v1/token", urllib.parse.urlencode(form), **kind)
        assert status == 200, session
        handle = {"Authorization": f"Bearer {session['access_token']}"}
        status, credential = self.ask("GET", "/v1/credentials/lake", **handle)
        assert status == 200, credential
        self.given.append({"session": session["session_id"], **credential})

    def work(self) -> None:
        while not self.stop.is_set():
            # What a killed broker does to its clients: refused, reset, cut off. They just come again.
            with contextlib.suppress(OSError, http.client.HTTPException, json.JSONDecodeError):
                self.one_job()


def query(world: World, *filters: str) -> list[dict[str, Any]]:
    bare = {"HOME": str(world.folder), "PATH": "/usr/bin:/bin"}
    done = world.run(["audit", "query", str(world.database), "--json", "--limit", "1000000", *filters], bare, seconds=300)
    assert done.returncode == 0, done.stderr
    return [json.loads(line)["entry"] for line in done.stdout.splitlines()]


def test_kill_9_under_load_leaves_no_unlogged_credential_and_no_open_promise(world: World) -> None:
    minted: list[str] = []
    mint = world.sts._mint

    def remembered(order: MintOrder) -> RoleSession:
        minted.append(order.session_name)
        return mint(order)

    world.sts._mint = remembered
    load = Load(world)
    threads = [threading.Thread(target=load.work) for _ in range(WORKERS)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(ROUNDS):
            time.sleep(random.uniform(0.6, 2.0))
            broker = world._broker
            assert broker is not None
            broker.send_signal(signal.SIGKILL)
            broker.wait()
            world.start_broker()
    finally:
        load.stop.set()
        for thread in threads:
            thread.join()
    assert len(load.given) > ROUNDS * 3, "there was no load to speak of"

    # Every credential that a client was given has its entry.
    issued = {entry["metadata"]["uid"]: entry["unmapped"] for entry in query(world, "--kind", "issued")}
    for credential in load.given:
        entry = issued[credential["receipt"].rsplit("/", 1)[1]]
        assert entry["upstream_ids"]["access_key_id"] == credential["data"]["access_key_id"]

    # Every session that was minted upstream, seen by a client or not, has its promise.
    promised = {entry["unmapped"]["upstream_ids"]["session_name"] for entry in query(world, "--kind", "intent")}
    assert set(minted) <= promised

    # Every promise gets its outcome: what a kill left open, the sweeper closes.
    until = time.monotonic() + SWEPT_WITHIN
    while (left := open_intents(world)) and time.monotonic() < until:
        time.sleep(2)
    assert left == set()

    key = {"HOME": str(world.folder), "PATH": "/usr/bin:/bin"}
    verified = world.run(["audit", "verify", str(world.database), "--key", world.log_key], key, seconds=300)
    assert verified.returncode == 0, verified.stdout + verified.stderr


def open_intents(world: World) -> set[str]:
    intents = {entry["metadata"]["uid"] for entry in query(world, "--kind", "intent")}
    outcomes = ("issued", "renewed", "intent_failed", "intent_swept")
    return intents - {entry["unmapped"]["intent_id"] for kind in outcomes for entry in query(world, "--kind", kind)}
