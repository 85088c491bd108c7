"""An STS that drips: it keeps no thread of the pool for itself."""

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from typing import Any, cast

import pytest
from botocore.exceptions import HTTPClientError

from broker.upstreams import aws
from broker.upstreams.aws import AwsSettings, AwsUpstream
from broker.upstreams.pool import UpstreamPool


@pytest.fixture
def dripping() -> Iterator[str]:
    listening = socket.create_server(("127.0.0.1", 0))

    def attend(client: socket.socket) -> None:
        with client, suppress(OSError):
            client.recv(65536)
            client.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 200\r\n\r\n")
            for _ in range(200):
                client.sendall(b" ")
                time.sleep(0.05)

    def accept() -> None:
        with suppress(OSError):
            while True:
                client, _ = listening.accept()
                threading.Thread(target=attend, args=(client,), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    yield f"http://127.0.0.1:{listening.getsockname()[1]}"
    listening.close()


def test_an_answer_that_drips_ends_with_its_time(dripping: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A time-out per byte held a thread past the deadline; three attempts of 0.2 s and their pauses are well below 10 s each."""
    monkeypatch.setattr(aws, "READ_SECONDS", 0.2)
    settings = AwsSettings(name="aws", region="eu-central-1", sts_url=dripping, via="issuer", audience="sts.amazonaws.com")
    pool = UpstreamPool(1)
    upstream = AwsUpstream(settings, cast("Any", None), pool, cast("Any", None))
    client = upstream._client("eu-central-1")
    began = time.monotonic()
    with pytest.raises(HTTPClientError):
        client.assume_role_with_web_identity(
            RoleArn="arn:aws:iam::111122223333:role/etl", RoleSessionName="ab", WebIdentityToken="abcdef"
        )
    assert time.monotonic() - began < 8
    client.close()
    pool.close()
