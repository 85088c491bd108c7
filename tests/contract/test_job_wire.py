"""The job's client against the double of the wire and against the real doors: what one promises, the other keeps."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import pytest

from broker.errors import Code, Refused
from broker.job.address import parse_address
from broker.job.answers import Offer
from broker.job.client import BrokerClient
from broker.job.job_token import JobToken
from broker.job.settings import JobSettings
from broker.secret import Secret
from broker.web.sockets import LoopbackAt, UnixAt
from tests.fakes.broker_wire import FakeGrant, broker_wire, new_handle
from tests.fakes.running_broker import RunningBroker

KEY = "r" * 43


@dataclass
class Served:
    client: BrokerClient
    mint: Callable[[], str]

    def token(self) -> JobToken:
        address = self.client.address.url
        return JobToken(value=Secret(self.mint()), audiences=(address,), expires_at=2e9, jti="j", job_id="1")

    def open(self) -> Secret:
        opened = self.client.exchange(self.token(), resume_key=KEY, heartbeat=True, environment="production")
        assert opened.environment == "production"
        assert opened.left == 7
        return opened.handle


@pytest.fixture(params=["double over unix", "double over http", "doors over unix", "doors over http"])
def served(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Served]:
    who, _, transport = request.param.split(" ")
    folder = tmp_path / "s"
    folder.mkdir(mode=0o700)
    if who == "double":
        grants = {"lake": FakeGrant(kind="aws"), "warehouse": FakeGrant()}
        with broker_wire(folder, grants=grants) as wire:
            one = Served(_client(wire.unix_url if transport == "unix" else wire.http_url), wire.mint)
            yield one
            one.client.close()
        return
    socket = folder / "broker.sock"
    with RunningBroker([UnixAt(path=socket), LoopbackAt(host="127.0.0.1", port=0)]) as broker:
        url = f"unix://{socket}" if transport == "unix" else broker.urls[1]

        def mint() -> str:
            broker.desk.tokens.add("good-token")
            return "good-token"

        one = Served(_client(url), mint)
        yield one
        one.client.close()


def _client(url: str) -> BrokerClient:
    return BrokerClient(parse_address(url), JobSettings.read({}))


def test_a_session_from_its_exchange_to_its_end(served: Served) -> None:
    client, handle = served.client, served.open()
    assert client.view(handle).offers == (
        Offer(grant="lake", kind="aws", subpath=False, region="eu-central-1"),
        Offer(grant="warehouse", kind="vault", subpath=False, region=None),
    )
    credential = client.credential(handle, "warehouse", min_ttl=timedelta(minutes=1))
    assert (credential.grant, credential.kind, credential.version) == ("warehouse", "vault", 1)
    assert {"username", "password"} <= credential.fields.keys()
    lake = client.credential(handle, "lake")
    assert lake.kind == "aws"
    assert {"access_key_id", "secret_access_key", "session_token", "account_id", "region"} == lake.fields.keys()
    answer = client.container(handle, "lake", seconds=2)
    assert [secret.reveal() for secret in answer.secrets] == [
        lake.fields["secret_access_key"].reveal(),
        lake.fields["session_token"].reveal(),
    ]
    assert answer.expires_at == lake.expires_at
    client.heartbeat(handle)
    view = client.view(handle)
    assert view.environment == "production"
    assert {(lease.grant, lease.subpath, lease.version) for lease in view.leases} == {("warehouse", "", 1), ("lake", "", 1)}
    client.revoke(handle)
    client.revoke(handle)
    with pytest.raises(Refused) as caught:
        client.heartbeat(handle)
    assert caught.value.code is Code.SESSION_REVOKED
    assert caught.value.detail.startswith("correlation id ")


@pytest.mark.parametrize(
    ("ask", "code"),
    [
        (lambda client, handle: client.credential(handle, "nowhere"), Code.GRANT_UNKNOWN),
        (lambda client, handle: client.container(handle, "nowhere", seconds=2), Code.GRANT_UNKNOWN),
        (lambda client, handle: client.credential(handle, "lake", "a/b"), Code.SUBPATH_DENIED),
        (lambda client, handle: client.credential(handle, "lake", ".."), Code.PATH_INVALID),
        (lambda client, handle: client.credential(handle, "lake", min_ttl=timedelta(days=2)), Code.TTL_UNAVAILABLE),
        (lambda client, _: client.view(Secret("cbs_short")), Code.HANDLE_INVALID),
        (lambda client, _: client.view(Secret(new_handle())), Code.HANDLE_INVALID),
    ],
)
def test_a_refusal_has_the_same_code_from_both(served: Served, ask: Callable[[BrokerClient, Secret], object], code: Code) -> None:
    handle = served.open()
    with pytest.raises(Refused) as caught:
        ask(served.client, handle)
    assert caught.value.code is code


def test_a_token_that_nobody_minted_is_refused(served: Served) -> None:
    token = JobToken(value=Secret("a.b.c"), audiences=(served.client.address.url,), expires_at=2e9, jti="j", job_id=None)
    with pytest.raises(Refused) as caught:
        served.client.exchange(token, resume_key=KEY, heartbeat=False, environment=None)
    assert caught.value.code is Code.TOKEN_SIGNATURE
