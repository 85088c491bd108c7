"""Strangers without a token on TCP: what they use up is not what the jobs on the Unix socket have."""

import contextlib
import time
from pathlib import Path

from broker.web.limits import DoorLimits
from broker.web.sockets import LoopbackAt, UnixAt
from tests.contract.test_wire import body_of, exchange
from tests.fakes.running_broker import RunningBroker, Wire

FORM = b"Content-Type: application/x-www-form-urlencoded\r\n"
SLOW = b"POST /v1/token HTTP/1.1\r\nHost: localhost\r\n" + FORM + b"Content-Length: 999\r\n\r\ngr"


def test_bodies_that_do_not_come_keep_nobody_off_another_listener(tmp_path: Path) -> None:
    """One bound for all listeners let anybody who reached HTTPS shut the runner's own socket, and the admin's."""
    limits = DoorLimits(concurrency=4, request_seconds=20)
    with (
        RunningBroker([UnixAt(path=tmp_path / "b.sock"), LoopbackAt(host="127.0.0.1", port=0)], limits=limits) as broker,
        contextlib.ExitStack() as stack,
    ):
        for _ in range(4):
            stack.enter_context(Wire(broker.urls[1])).send(SLOW)
        deadline = time.monotonic() + 10
        while True:
            with Wire(broker.urls[1]) as stranger:
                if stranger.request("GET", "/healthz").status == 429:
                    break
            assert time.monotonic() < deadline
        with Wire(broker.urls[0]) as job:
            assert body_of(exchange(job), "Token")
