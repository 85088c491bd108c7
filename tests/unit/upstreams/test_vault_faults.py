"""The Vault upstream when the server, the network or the database fails: nothing minted is lost, nothing is asked twice."""

import asyncio
import http.server
import ipaddress
import ssl
import threading
import time
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from broker.errors import BrokerError, Code, Misconfigured, Refused, Unavailable
from broker.lease import UpstreamIds
from broker.policy.target import VaultTarget
from broker.upstream import Held, LeftBehind, Order
from broker.upstreams.pool import UpstreamPool
from broker.upstreams.vault import Patience, VaultSettings, VaultUpstream
from tests.contract.vault_servers import AUDIENCE, Server, SigningIssuer, set_up
from tests.fakes.vault import FakeVault, Fault, wait_until
from tests.fakes.vault_parts import Response
from tests.strategies import identity

QUICK = Patience(connect=2.0, answer=0.4, revoke_answer=0.4, login=5.0, read=5.0, renew=5.0, revoke=5.0)


@pytest.fixture
def vault() -> Iterator[FakeVault]:
    with FakeVault() as made:
        yield made


@pytest.fixture
def server(vault: FakeVault) -> Server:
    return Server(
        url=vault.url, root_token=vault.root_token, now=vault.clock.now, pass_time=vault.clock.advance, postgres="", fake=vault
    )


@pytest.fixture
def issuer(server: Server) -> SigningIssuer:
    made = SigningIssuer(server.now)
    set_up(server, made.public_pem)
    assert server.fake is not None
    server.fake.seen.clear()
    return made


@pytest.fixture
async def pool() -> AsyncIterator[UpstreamPool]:
    made = UpstreamPool(4)
    yield made
    made.close()


@pytest.fixture
def upstream(server: Server, issuer: SigningIssuer, pool: UpstreamPool) -> Iterator[VaultUpstream]:
    made = connect(server, issuer, pool)
    yield made
    made.close()


def connect(server: Server, issuer: SigningIssuer, pool: UpstreamPool, **settings: Any) -> VaultUpstream:
    plain = {"name": "vault", "url": server.url, "audience": AUDIENCE, "maintenance_role": "maintenance"}
    return VaultUpstream(VaultSettings(**{**plain, **settings}), issuer, pool, server.clock, QUICK)


def order(path: str = "database/creds/etl", engine: Any = "lease", login: Held | None = None, role: str = "etl") -> Order:
    return Order(
        correlation_id="corr-1",
        session_id="s" * 26,
        identity=identity(),
        environment="production",
        grant="warehouse",
        target=VaultTarget(role=role, path=path, engine=engine, upstream=None),
        ttl=timedelta(hours=1),
        login=login,
    )


KV = order("kv/etl/warehouse", "kv2")


async def nowhere(ids: UpstreamIds) -> None:
    """A note that is durable."""


def paths(vault: FakeVault) -> list[str]:
    return [f"{one.method} {one.path}" for one in vault.seen]


def living(vault: FakeVault) -> int:
    """Tokens besides root."""
    return len(vault.tokens().tokens) - 1


# What is sent


async def test_an_issuance_is_two_calls_with_the_correlation_id(vault: FakeVault, upstream: VaultUpstream) -> None:
    """Login and read, each with X-Correlation-Id and X-Vault-Request; the login carries no token."""
    await upstream.issue(order(), nowhere)
    assert paths(vault) == ["POST auth/jwt/login", "GET database/creds/etl"]
    assert [one.headers.get("x-correlation-id") for one in vault.seen] == ["corr-1", "corr-1"]
    assert all(one.headers.get("x-vault-request") == "true" for one in vault.seen)
    assert "x-vault-token" not in vault.seen[0].headers


async def test_nothing_ambient_is_read(
    vault: FakeVault, upstream: VaultUpstream, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Neither VAULT_TOKEN nor ~/.vault-token nor a namespace, a proxy or a netrc of the environment reaches the server."""
    (tmp_path / ".vault-token").write_text("s.ambient-from-home")
    (tmp_path / ".netrc").write_text("machine 127.0.0.1 login a password s.ambient-netrc\n")
    for name, value in {
        "HOME": str(tmp_path),
        "VAULT_TOKEN": "s.ambient",
        "VAULT_NAMESPACE": "ambient",
        "VAULT_ADDR": "http://127.0.0.1:9",
        "HTTP_PROXY": "http://127.0.0.1:9",
        "http_proxy": "http://127.0.0.1:9",
    }.items():
        monkeypatch.setenv(name, value)
    await upstream.issue(KV, nowhere)
    for one in vault.seen:
        assert "ambient" not in str(dict(one.headers))
        assert "authorization" not in one.headers


async def test_a_redirect_is_not_followed_and_the_token_stays(vault: FakeVault, upstream: VaultUpstream) -> None:
    """hvac would send the token to whatever host a standby names; here that is an outage and the other host hears nothing."""
    heard: list[str] = []

    class Elsewhere(http.server.BaseHTTPRequestHandler):
        def handle(self) -> None:
            heard.append(str(self.client_address))

    other = http.server.HTTPServer(("127.0.0.1", 0), Elsewhere)
    thread = threading.Thread(target=other.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    location = f"http://127.0.0.1:{other.server_address[1]}/v1/database/creds/etl"
    vault.faults.append(Fault(path="database/", instead=Response(status=307, headers={"Location": location})))
    with pytest.raises(Unavailable) as caught:
        await upstream.issue(order(), nowhere)
    other.shutdown()
    other.server_close()
    thread.join()
    assert caught.value.code is Code.UPSTREAM_UNAVAILABLE
    assert location in caught.value.detail
    assert heard == []


# When it fails


async def test_a_lost_answer_to_a_creation_is_not_asked_for_again(vault: FakeVault, upstream: VaultUpstream) -> None:
    """The server minted and the answer was lost: one request, an outage, and the login's end takes the user with it."""
    vault.faults.append(Fault(path="database/creds", drop="after"))
    with pytest.raises(Unavailable) as caught:
        await upstream.issue(order(), nowhere)
    assert "does not answer" in caught.value.public
    assert paths(vault).count("GET database/creds/etl") == 1
    assert paths(vault)[-1] == "POST auth/token/revoke-self"
    assert living(vault) == 0
    assert not [user for user in vault.database().users if user.startswith("v-")]


async def test_a_slow_answer_to_a_creation_is_an_outage_and_leaves_nothing(vault: FakeVault, upstream: VaultUpstream) -> None:
    """The read times out after the work was done; the login that made it ends, and the lease with it."""
    go = threading.Event()
    vault.faults.append(Fault(path="database/creds", wait=go))
    with pytest.raises(Unavailable):
        await upstream.issue(order(), nowhere)
    go.set()
    assert paths(vault).count("GET database/creds/etl") == 1
    assert living(vault) == 0
    assert not [user for user in vault.database().users if user.startswith("v-")]


async def test_a_lost_login_is_an_outage(vault: FakeVault, upstream: VaultUpstream) -> None:
    """Nothing was noted and nothing read."""
    vault.faults.append(Fault(path="auth/jwt/login", drop="before"))
    with pytest.raises(Unavailable):
        await upstream.issue(order(), nowhere)
    assert paths(vault) == []


async def test_a_login_that_comes_after_its_deadline_is_given_back(
    vault: FakeVault, server: Server, issuer: SigningIssuer, pool: UpstreamPool
) -> None:
    """Nobody noted its accessor, so nobody could revoke it later."""
    go = threading.Event()
    vault.faults.append(Fault(path="auth/jwt/login", wait=go))
    patience = Patience(connect=2.0, answer=20.0, login=0.2)
    settings = VaultSettings(name="vault", url=server.url, audience=AUDIENCE)
    late = VaultUpstream(settings, issuer, pool, server.clock, patience)
    with pytest.raises(Unavailable) as caught:
        await late.issue(order(), nowhere)
    assert "did not answer in time" in caught.value.public
    go.set()
    assert await asyncio.to_thread(wait_until, lambda: "POST auth/token/revoke-self" in paths(vault) and living(vault) == 0)


async def test_a_caller_that_goes_away_leaves_no_login(vault: FakeVault, upstream: VaultUpstream) -> None:
    """Cancelled in the middle of the note: the login ends all the same."""
    noting = asyncio.Event()

    async def waiting(ids: UpstreamIds) -> None:
        noting.set()
        await asyncio.Event().wait()

    caller = asyncio.ensure_future(upstream.issue(order(), waiting))
    await asyncio.wait_for(noting.wait(), 10)
    assert living(vault) == 1
    caller.cancel()
    with pytest.raises(asyncio.CancelledError):
        await caller
    assert living(vault) == 0


async def test_a_login_that_cannot_even_be_given_back_is_said_in_our_log(
    vault: FakeVault, upstream: VaultUpstream, caplog: pytest.LogCaptureFixture
) -> None:
    """The intent is left to the sweeper, with the read's own error inside; the log names the accessor, and no token."""
    vault.faults += [Fault(path="database/", drop="before"), Fault(path="auth/token/revoke-self", drop="before")]
    noted: list[UpstreamIds] = []

    async def note(ids: UpstreamIds) -> None:
        noted.append(ids)

    with pytest.raises(LeftBehind) as caught:
        await upstream.issue(order(), note)
    assert isinstance(caught.value.error, Unavailable)
    assert "database/creds/etl" in caught.value.error.detail
    assert noted[0].accessor in caplog.text
    assert "s." not in caplog.text.replace("upstreams.vault", "")


async def test_a_server_that_is_not_there_is_an_outage(issuer: SigningIssuer, pool: UpstreamPool, server: Server) -> None:
    with pytest.raises(Unavailable) as caught:
        await connect(server, issuer, pool, url="http://127.0.0.1:9").issue(KV, nowhere)
    assert caught.value.code is Code.UPSTREAM_UNAVAILABLE
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__


async def test_a_sealed_server_is_an_outage_and_works_again_unsealed(vault: FakeVault, upstream: VaultUpstream) -> None:
    vault.sealed = True
    with pytest.raises(Unavailable) as caught:
        await upstream.issue(KV, nowhere)
    assert "try again" in caught.value.public
    vault.sealed = False
    assert (await upstream.issue(KV, nowhere)).fields


async def test_a_rate_limit_says_when_to_come_back(server: Server, upstream: VaultUpstream) -> None:
    """429 with Retry-After, where the server gives it."""
    server.api("POST", "sys/quotas/config", {"enable_rate_limit_response_headers": True})
    server.api("POST", "sys/quotas/rate-limit/one", {"path": "kv/", "rate": 1, "interval": "1h"})
    await upstream.issue(KV, nowhere)
    with pytest.raises(Unavailable) as caught:
        await upstream.issue(KV, nowhere)
    assert caught.value.retry_after == 0.0


async def test_a_database_that_is_away_is_an_outage_at_every_step(vault: FakeVault, upstream: VaultUpstream) -> None:
    """Issue, renew and revoke: 500 and twice 400, and none of them final. Back again, all of them work."""
    minted = await upstream.issue(order(), nowhere)
    vault.database().away = True
    with pytest.raises(Unavailable):
        await upstream.issue(order(login=minted.held), nowhere)
    with pytest.raises(Unavailable):
        await upstream.renew(order(), minted.held)
    with pytest.raises(Unavailable):
        await upstream.revoke([minted.held])
    assert living(vault) == 1  # the token stays, so that a later attempt can ask and verify
    vault.database().away = False
    vault.clock.advance(60)
    assert (await upstream.renew(order(), minted.held)).request_id
    await upstream.revoke([minted.held])
    assert living(vault) == 0
    assert minted.fields["username"].reveal() not in vault.database().users


async def test_one_lease_that_cannot_be_revoked_does_not_keep_the_others(vault: FakeVault, upstream: VaultUpstream) -> None:
    one = await upstream.issue(order(), nowhere)
    two = await upstream.issue(order(login=one.held), nowhere)
    vault.faults.append(Fault(path="sys/leases/revoke", drop="before"))
    with pytest.raises(Unavailable):
        await upstream.revoke([one.held, two.held])
    assert two.fields["username"].reveal() not in vault.database().users
    await upstream.revoke([one.held, two.held])
    assert one.fields["username"].reveal() not in vault.database().users
    assert living(vault) == 0


async def test_a_revocation_that_was_only_queued_is_not_called_done(vault: FakeVault, upstream: VaultUpstream) -> None:
    """A server that answers 202 and goes on listing the lease: an outage, to be tried again."""
    minted = await upstream.issue(order(), nowhere)
    vault.faults.append(Fault(path="sys/leases/revoke", instead=Response(status=202), times=1))
    with pytest.raises(Unavailable) as caught:
        await upstream.revoke([minted.held])
    assert "queued" in caught.value.public
    await upstream.revoke([minted.held])
    assert minted.fields["username"].reveal() not in vault.database().users


async def test_a_202_that_maintenance_cannot_look_into_is_not_called_done(vault: FakeVault, upstream: VaultUpstream) -> None:
    """The maintenance role may not look up: its proof is the 204 after the work."""
    minted = await upstream.issue(order(), nowhere)
    vault.faults.append(Fault(path="sys/leases/revoke", instead=Response(status=202), times=1))
    with pytest.raises(Unavailable, match="queued"):
        await upstream.revoke([Held(ids=minted.held.ids, token=None)])


async def test_a_dead_token_leaves_its_leases_to_the_server_or_to_maintenance(
    vault: FakeVault, server: Server, issuer: SigningIssuer, pool: UpstreamPool
) -> None:
    """The token is gone and the database was away when it went: maintenance revokes by id; without it nothing is left to do."""
    upstream = connect(server, issuer, pool)
    minted = await upstream.issue(order(), nowhere)
    assert minted.held.token is not None
    vault.tokens().tokens.pop(minted.held.token.reveal())
    assert minted.held.ids.lease_id in vault.tokens().leases
    await connect(server, issuer, pool, maintenance_role=None).revoke([minted.held])
    await upstream.revoke([minted.held])
    assert minted.held.ids.lease_id not in vault.tokens().leases


async def test_a_token_that_outlives_its_revocation_is_not_called_gone(vault: FakeVault, upstream: VaultUpstream) -> None:
    minted = await upstream.issue(KV, nowhere)
    vault.faults.append(Fault(path="auth/token/revoke-self", instead=Response(status=204)))
    with pytest.raises(Unavailable, match="queued"):
        await upstream.revoke([minted.held])
    held = Held(ids=minted.held.ids, token=None)
    vault.faults.append(Fault(path="auth/token/revoke-accessor", instead=Response(status=204), times=2))
    with pytest.raises(Unavailable, match="queued"):
        await upstream.revoke([held])


async def test_an_accessor_that_may_not_be_revoked_is_a_configuration_error(vault: FakeVault, upstream: VaultUpstream) -> None:
    """Whatever else the server says about it is judged like any answer."""
    minted = await upstream.issue(KV, nowhere)
    vault.faults.append(Fault(path="auth/token/revoke-accessor", instead=Response(status=503, json={"errors": ["standby"]})))
    with pytest.raises(Unavailable):
        await upstream.revoke([Held(ids=minted.held.ids, token=None)])


# Logins over time


async def test_a_login_near_its_end_is_renewed_and_one_at_its_maximum_replaced(vault: FakeVault, upstream: VaultUpstream) -> None:
    """Of a role with 20 minutes renewable up to an hour: renewed at 11 minutes, replaced at 55."""
    first = await upstream.issue(KV, nowhere)
    vault.clock.advance(11 * 60)
    second = await upstream.issue(order("kv/etl/warehouse", "kv2", login=first.held), nowhere)
    assert second.held.ids.accessor == first.held.ids.accessor
    assert "POST auth/token/renew-self" in paths(vault)
    for _ in range(2):
        vault.clock.advance(15 * 60)
        second = await upstream.issue(order("kv/etl/warehouse", "kv2", login=second.held), nowhere)
        assert second.held.ids.accessor == first.held.ids.accessor
    vault.clock.advance(14 * 60)
    third = await upstream.issue(order("kv/etl/warehouse", "kv2", login=second.held), nowhere)
    assert third.held.ids.accessor != first.held.ids.accessor


async def test_a_login_that_dies_between_look_up_and_read_is_replaced_once(vault: FakeVault, upstream: VaultUpstream) -> None:
    """The read of a dead token made nothing, so another login may read; its accessor is noted as well."""
    first = await upstream.issue(KV, nowhere)
    assert first.held.token is not None
    noted: list[UpstreamIds] = []

    async def note(ids: UpstreamIds) -> None:
        noted.append(ids)
        if len(noted) == 1 and first.held.token is not None:
            vault.tokens().tokens.pop(first.held.token.reveal())

    again = await upstream.issue(order("kv/etl/warehouse", "kv2", login=first.held), note)
    assert [ids.accessor for ids in noted] == [first.held.ids.accessor, again.held.ids.accessor]
    assert again.held.ids.accessor != first.held.ids.accessor


async def test_a_denied_read_with_a_living_login_is_final_and_not_tried_with_another(
    vault: FakeVault, server: Server, upstream: VaultUpstream
) -> None:
    """The policy upstream was narrowed while the session lived."""
    first = await upstream.issue(KV, nowhere)
    server.policy("etl", {"kv1/*": ["read"]})
    with pytest.raises(Refused) as caught:
        await upstream.issue(order("kv/etl/warehouse", "kv2", login=first.held), nowhere)
    assert caught.value.code is Code.UPSTREAM_DENIED
    assert paths(vault).count("POST auth/jwt/login") == 1


@pytest.mark.parametrize(
    ("path", "body", "kind"),
    [
        ("auth/jwt/login", {"data": {}}, Misconfigured),
        ("auth/jwt/login", {"auth": {"client_token": "s.x", "accessor": "", "lease_duration": 9}}, Misconfigured),
        ("auth/token/lookup-self", {"data": {"no": "ttl"}}, Unavailable),
        ("auth/token/renew-self", {"data": {}}, Unavailable),
        ("sys/leases/lookup", {"data": "?"}, Unavailable),
    ],
)
async def test_answers_that_say_nothing_are_not_taken_for_something(
    vault: FakeVault, upstream: VaultUpstream, path: str, body: dict[str, Any], kind: type[BrokerError]
) -> None:
    """A 200 without what it should carry: no token, no time to live."""
    minted = await upstream.issue(order(role="etl-short"), nowhere)
    vault.faults.append(Fault(path=path, instead=Response(status=200, json=body)))
    vault.clock.advance(10)
    logs_in = path == "auth/jwt/login"
    asking = upstream.issue(order(), nowhere) if logs_in else upstream.renew(order(role="etl-short"), minted.held)
    with pytest.raises(kind):
        await asking


# TLS


def authority(folder: Path) -> tuple[Path, ssl.SSLContext]:
    """A certificate authority that is not in the system's store, and a server's context under it."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "test CA")])
    now = datetime.now(UTC)
    names = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(minutes=5))
        .not_valid_after(now + timedelta(hours=1))
        .add_extension(names, critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    ca, private = folder / "ca.pem", folder / "key.pem"
    ca.write_bytes(certificate.public_bytes(Encoding.PEM))
    private.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(ca, private)
    return ca, context


async def test_a_private_authority_is_trusted_when_it_is_named_and_only_then(tmp_path: Path, pool: UpstreamPool) -> None:
    """With `ca_file` the server is proved; without it, or with another's, nothing is sent and an operator is asked."""
    ca, context = authority(tmp_path)
    (tmp_path / "other").mkdir()
    another, _ = authority(tmp_path / "other")
    with FakeVault() as plain, FakeVault(tls=context) as vault:
        vault._spaces = plain._spaces
        issuer = SigningIssuer(time.time)
        seen_by = Server(url=plain.url, root_token=plain.root_token, now=time.time, pass_time=time.sleep, postgres="")
        set_up(seen_by, issuer.public_pem)
        server = Server(url=vault.url, root_token=plain.root_token, now=time.time, pass_time=time.sleep, postgres="")
        assert (await connect(server, issuer, pool, ca_file=ca).issue(KV, nowhere)).fields
        vault.seen.clear()
        for untrusted in (None, another):
            with pytest.raises(Misconfigured) as caught:
                await connect(server, issuer, pool, ca_file=untrusted).issue(KV, nowhere)
            assert caught.value.code is Code.UPSTREAM_CONFIG
            assert "certificate or `ca_file`" in caught.value.public
        with pytest.raises(Misconfigured, match="cannot read the `ca_file`"):
            await connect(server, issuer, pool, ca_file=tmp_path / "none.pem").issue(KV, nowhere)
        assert vault.seen == []
