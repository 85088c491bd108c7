"""The Vault upstream against servers: the double always, and a real `bao` or `vault` when one is on PATH.

On the real one the database tests need PostgreSQL on PATH too. What is not there is skipped, and `-ra` says why.
"""

import asyncio
import base64
import json
import secrets
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from broker.assertions import AssertionIssuer
from broker.errors import BrokerError, Code, Misconfigured, Refused, Unavailable
from broker.lease import UpstreamIds
from broker.policy.target import VaultTarget
from broker.secret import Secret
from broker.signing import FileSigner, Keyring, TimedSigner
from broker.upstream import Held, Minted, Order, Upstream
from broker.upstreams.pool import UpstreamPool
from broker.upstreams.vault import Assertions, VaultSettings, VaultUpstream
from tests.contract.vault_servers import (
    AUDIENCE,
    ISSUER,
    KINDS,
    WITH_DATABASE,
    Server,
    SigningIssuer,
    fake_server,
    real_server,
    set_up,
)
from tests.fakes.jwks import jwks_server
from tests.strategies import identity

needs_database = pytest.mark.parametrize("site", WITH_DATABASE, indirect=True, scope="module")


@dataclass(kw_only=True)
class Site:
    server: Server
    issuer: Assertions
    public_pem: str


@pytest.fixture(scope="module", params=KINDS)
def site(request: pytest.FixtureRequest) -> Iterator[Site]:
    """One set-up server for the whole module; every test logs in for itself."""
    with fake_server() if request.param == "double" else real_server() as server:
        issuer = SigningIssuer(server.now)
        set_up(server, issuer.public_pem)
        yield Site(server=server, issuer=issuer, public_pem=issuer.public_pem)


class Door:
    """The upstream as `issuing` uses it, with the notes it made durable."""

    def __init__(self, site: Site, pool: UpstreamPool, **settings: Any) -> None:
        plain = {"name": "vault", "url": site.server.url, "audience": AUDIENCE, "maintenance_role": "maintenance"}
        self.upstream = VaultUpstream(VaultSettings(**{**plain, **settings}), site.issuer, pool, site.server.clock)
        self.noted: list[UpstreamIds] = []

    async def note(self, ids: UpstreamIds) -> None:
        self.noted.append(ids)

    async def issue(self, order: Order) -> Minted:
        return await self.upstream.issue(order, self.note)


@pytest.fixture
async def pool() -> AsyncIterator[UpstreamPool]:
    made = UpstreamPool(4)
    yield made
    made.close()


@pytest.fixture
async def door(site: Site, pool: UpstreamPool) -> AsyncIterator[Door]:
    made = Door(site, pool)
    yield made
    made.upstream.close()


def order(path: str, engine: Any = "kv2", role: str = "etl", login: Held | None = None, **changes: Any) -> Order:
    plain: dict[str, Any] = {
        "correlation_id": "corr-1",
        "session_id": "s" * 26,
        "identity": identity(),
        "environment": "production",
        "grant": "warehouse",
        "target": VaultTarget(role=role, path=path, engine=engine, upstream=None),
        "ttl": timedelta(hours=1),
        "login": login,
    }
    return Order(**{**plain, **changes})


def database(path: str = "database/creds/etl", **changes: Any) -> Order:
    return order(path, "lease", **changes)


def revealed(minted: Minted) -> dict[str, str]:
    return {name: value.reveal() for name, value in minted.fields.items()}


def refusal_of(caught: pytest.ExceptionInfo[BrokerError]) -> tuple[Code, str]:
    return caught.value.code, caught.value.public


async def test_it_is_an_upstream(door: Door) -> None:
    """What wiring hands to the story is one; it says its name and kind."""
    upstream: Upstream = door.upstream
    assert (upstream.name, upstream.kind) == ("vault", "vault")


# Reading


async def test_a_kv2_secret_is_read_and_every_value_is_text(door: Door) -> None:
    """Text, number and boolean come as their text, nested values as JSON text, a null not at all; and it has no end."""
    minted = await door.issue(order("kv/etl/warehouse"))
    fields = revealed(minted)
    assert json.loads(fields.pop("tags")) == ["a", {"b": 1}]
    assert fields == {"host": "db.internal", "port": "5432", "tls": "true", "ratio": "1.5"}
    assert minted.expires_at is None
    assert (minted.renewable, minted.revocable) == (False, "none")
    ids = minted.held.ids
    assert (ids.upstream, ids.role, ids.path, ids.kv_version) == ("vault", "etl", "kv/etl/warehouse", 1)
    assert ids.accessor
    assert ids.request_id


async def test_a_kv1_secret_is_read(door: Door) -> None:
    """The old engine has no versions, and its `lease_duration` is advice, not an end."""
    minted = await door.issue(order("kv1/etl/plain", "kv1"))
    assert revealed(minted) == {"user": "plain", "ttl": "30m"}
    assert minted.expires_at is None
    assert minted.held.ids.kv_version is None


@pytest.mark.parametrize(
    ("path", "engine", "words"),
    [
        ("kv/etl/none", "kv2", "has nothing at the place"),
        ("kv/etl/gone", "kv2", "has nothing at the place"),
        ("kv1/etl/none", "kv1", "has nothing at the place"),
        ("kv/etl/hollow", "kv2", "has no field"),
        ("kv/other/x", "kv2", "refuses grant 'warehouse'"),
    ],
)
async def test_what_is_not_there_or_not_allowed_is_a_refusal_and_leaves_no_login(
    site: Site, door: Door, path: str, engine: str, words: str
) -> None:
    """Final, with a sentence that names the grant and not the path; the login that was made for it is revoked."""
    with pytest.raises(Refused) as caught:
        await door.issue(order(path, engine))
    code, public = refusal_of(caught)
    assert code is Code.UPSTREAM_DENIED
    assert words in public
    assert "warehouse" in public
    assert path not in public
    assert not site.server.knows_accessor(door.noted[0].accessor)


async def test_a_wrong_engine_is_a_configuration_error(door: Door) -> None:
    """A KV path read as a leased one has no lease; the sentence says which key of the grant to look at."""
    with pytest.raises(Misconfigured) as caught:
        await door.issue(order("kv1/etl/plain", "lease"))
    assert caught.value.code is Code.UPSTREAM_CONFIG
    assert "engine" in caught.value.public


# Logging in


async def test_the_accessor_is_durable_before_anything_is_read(site: Site, door: Door) -> None:
    """When the note cannot be written, nothing is read and the login is gone."""
    seen: list[str] = []

    async def failing(ids: UpstreamIds) -> None:
        assert site.server.knows_accessor(ids.accessor)
        seen.append(ids.accessor)
        raise Refused(Code.SESSION_REVOKED, "the session has ended")

    with pytest.raises(Refused) as caught:
        await door.upstream.issue(order("kv/etl/warehouse"), failing)
    assert caught.value.code is Code.SESSION_REVOKED
    assert not site.server.knows_accessor(seen[0])


@pytest.mark.parametrize(
    ("role", "kind", "words"),
    [
        ("staging", Refused, "refuses grant 'warehouse'"),
        ("nobody", Misconfigured, "not set up for grant 'warehouse'"),
        ("etl-batch", Misconfigured, "service tokens of unlimited use"),
        ("etl-oneuse", Misconfigured, "service tokens of unlimited use"),
    ],
)
async def test_a_role_that_does_not_fit_gives_nothing(door: Door, role: str, kind: type[BrokerError], words: str) -> None:
    """Bound claims of another environment refuse the job; a role that cannot hold and lose leases is an operator's matter."""
    with pytest.raises(kind) as caught:
        await door.issue(order("kv/etl/warehouse", role=role))
    assert words in caught.value.public
    assert door.noted == []


@pytest.mark.parametrize(
    ("settings", "kind", "words"),
    [
        ({"audience": "https://other.example.com"}, Misconfigured, "must trust the broker"),
        ({"mount": "nowhere"}, Refused, "refuses grant 'warehouse'"),
        ({"namespace": "nowhere"}, Misconfigured, "cannot answer as configured"),
    ],
)
async def test_settings_that_do_not_fit_the_server(
    site: Site, pool: UpstreamPool, settings: dict[str, str], kind: type[BrokerError], words: str
) -> None:
    """Each of them gets a sentence of its own, and none is an outage that would be tried again for ever."""
    door = Door(site, pool, **settings)
    with pytest.raises(kind) as caught:
        await door.issue(order("kv/etl/warehouse"))
    assert words in caught.value.public


async def test_a_server_that_does_not_trust_the_brokers_key(site: Site, pool: UpstreamPool) -> None:
    """A key that the auth method does not know is an operator's matter, not the job's."""
    stranger = replace(site, issuer=SigningIssuer(site.server.now))
    with pytest.raises(Misconfigured) as caught:
        await Door(stranger, pool).issue(order("kv/etl/warehouse"))
    assert "must trust the broker's current issuer and keys" in caught.value.public


async def test_a_namespace_is_spoken_to_when_it_is_set(site: Site, pool: UpstreamPool) -> None:
    """The same paths in another namespace are other secrets."""
    site.server.api("POST", "sys/namespaces/team", {})
    set_up(site.server, site.public_pem, namespace="team")
    site.server.api("POST", "kv/data/etl/warehouse", {"data": {"host": "team.internal"}}, namespace="team")
    minted = await Door(site, pool, namespace="team").issue(order("kv/etl/warehouse"))
    assert revealed(minted) == {"host": "team.internal"}


async def test_an_earlier_login_is_used_again_while_it_lives(site: Site, door: Door) -> None:
    """One login per (session, grant); when it has died it is replaced once, without an error."""
    first = await door.issue(order("kv/etl/warehouse"))
    second = await door.issue(order("kv/etl/warehouse", login=first.held))
    assert second.held.ids.accessor == first.held.ids.accessor == door.noted[1].accessor
    site.server.api("POST", "auth/token/revoke-accessor", {"accessor": first.held.ids.accessor})
    third = await door.issue(order("kv/etl/warehouse", login=second.held))
    assert third.held.ids.accessor != first.held.ids.accessor
    assert revealed(third) == revealed(first)


async def test_a_login_of_another_role_is_not_used_again(door: Door) -> None:
    """The policy may have changed the grant's role since; the old login would read with the old rights."""
    first = await door.issue(order("kv/etl/warehouse"))
    other = await door.issue(order("kv/etl/warehouse", role="etl-norevoke", login=first.held))
    assert other.held.ids.accessor != first.held.ids.accessor


async def test_the_brokers_own_issuer_is_trusted_by_its_jwks(site: Site, pool: UpstreamPool) -> None:
    """The server fetches the broker's key set live and takes the assertion of `assertions.py`, maintenance included.

    A JWKS that is away when an unknown key arrives is an outage (a 400 upstream), and no refusal.
    """
    with jwks_server() as published:
        first = AssertionIssuer(ISSUER, a_keyring(), site.server.clock)
        published.keys = first.jwks()["keys"]
        mount = f"jwks-{secrets.token_hex(3)}"
        site.server.api("POST", f"sys/auth/{mount}", {"type": "jwt"})
        site.server.api("POST", f"auth/{mount}/config", {"jwks_url": published.url + "/jwks", "bound_issuer": ISSUER})
        role = {
            "role_type": "jwt",
            "user_claim": "sub",
            "bound_audiences": [AUDIENCE],
            "token_policies": ["etl"],
            "token_ttl": "9m",
        }
        claims = {"environment": "production", "grant": "warehouse", "ref_protected": "true", "stable_id": "4711"}
        site.server.api("POST", f"auth/{mount}/role/etl", {**role, "bound_claims": claims})
        upkeep = {"bound_subject": "broker:maintenance", "token_policies": ["maintenance"]}
        site.server.api("POST", f"auth/{mount}/role/maintenance", {**role, **upkeep})
        door = Door(replace(site, issuer=first), pool, mount=mount)
        minted = await door.issue(order("kv1/etl/plain", "kv1"))
        await door.upstream.revoke([Held(ids=minted.held.ids, token=None)])
        assert not site.server.knows_accessor(minted.held.ids.accessor)

        published.down = True
        second = AssertionIssuer(ISSUER, a_keyring(), site.server.clock)
        rotated = Door(replace(site, issuer=second), pool, mount=mount)
        with pytest.raises(Unavailable) as caught:
            await rotated.issue(order("kv1/etl/plain", "kv1"))
        assert "fetching keys" in caught.value.detail
        published.down, published.keys = False, second.jwks()["keys"]
        assert revealed(await rotated.issue(order("kv1/etl/plain", "kv1")))["user"] == "plain"


def a_keyring() -> Keyring:
    """One fresh P-256 key that signs from long ago."""
    return Keyring([TimedSigner(FileSigner(ec.generate_private_key(ec.SECP256R1())), datetime(2026, 1, 1, tzinfo=UTC))])


# Ending


async def test_revoking_ends_the_login_verified_and_may_be_repeated(site: Site, door: Door) -> None:
    """After revoke returns the token is not known; doing it again is no error."""
    minted = await door.issue(order("kv/etl/warehouse"))
    await door.upstream.revoke([minted.held])
    assert not site.server.knows_accessor(minted.held.ids.accessor)
    await door.upstream.revoke([minted.held])


async def test_a_cold_login_is_ended_by_its_accessor(site: Site, door: Door) -> None:
    """Without the token the broker's own maintenance login does it; again, an unknown accessor is gone."""
    minted = await door.issue(order("kv/etl/warehouse"))
    cold = Held(ids=minted.held.ids, token=None)
    await door.upstream.revoke([cold])
    assert not site.server.knows_accessor(minted.held.ids.accessor)
    await door.upstream.revoke([cold])


@pytest.mark.parametrize(
    ("role", "words"), [(None, "has no `maintenance_role`"), ("weak", "may not revoke leases and accessors")]
)
async def test_a_cold_login_without_a_maintenance_role_that_may_is_a_clear_error(
    site: Site, pool: UpstreamPool, role: str | None, words: str
) -> None:
    """Nothing is claimed to be revoked that is not; the sentence says what is missing."""
    door = Door(site, pool, maintenance_role=role)
    minted = await door.issue(order("kv/etl/warehouse"))
    with pytest.raises(Misconfigured) as caught:
        await door.upstream.revoke([Held(ids=minted.held.ids, token=None)])
    assert words in caught.value.public
    assert site.server.knows_accessor(minted.held.ids.accessor)


async def test_several_logins_are_all_ended_though_one_cannot_be(site: Site, pool: UpstreamPool) -> None:
    """One failure does not keep the others alive, and it is raised."""
    door = Door(site, pool, maintenance_role=None)
    one, two, three = [await door.issue(order("kv/etl/warehouse")) for _ in range(3)]
    with pytest.raises(Misconfigured):
        await door.upstream.revoke([one.held, Held(ids=two.held.ids, token=None), three.held])
    known = [site.server.knows_accessor(minted.held.ids.accessor) for minted in (one, two, three)]
    assert known == [False, True, False]


# Leases, where there is a database


@needs_database
async def test_user_and_password_come_from_one_lease(site: Site, door: Door) -> None:
    """One read, one lease, its end counted from before the call; it can be renewed and revoked."""
    before = site.server.clock().wall
    minted = await door.issue(database())
    assert set(minted.fields) == {"username", "password"}
    assert minted.fields["username"].reveal().startswith("v-")
    assert minted.held.ids.lease_id.startswith("database/creds/etl/")
    assert minted.expires_at is not None
    assert timedelta(seconds=595) < minted.expires_at - before <= timedelta(seconds=601)
    assert (minted.renewable, minted.revocable) == (True, "lease")
    assert site.server.knows_lease(minted.held.ids.lease_id)


@needs_database
async def test_a_lease_is_never_thought_longer_than_its_token(site: Site, door: Door) -> None:
    """A lease of ten minutes on a token of one ends with the token (reference/vault.md 2.2)."""
    before = site.server.clock().wall
    minted = await door.issue(database(role="etl-short"))
    assert minted.expires_at is not None
    assert minted.expires_at - before <= timedelta(seconds=61)


@needs_database
async def test_a_renewed_lease_lives_longer_and_so_does_its_token(site: Site, door: Door) -> None:
    """Where the token would end first, it is renewed with the lease."""
    minted = await door.issue(database(role="etl-short"))
    assert minted.expires_at is not None
    site.server.pass_time(5)
    renewed = await door.upstream.renew(database(role="etl-short"), minted.held)
    assert renewed.expires_at > minted.expires_at + timedelta(seconds=1)
    assert renewed.request_id


@needs_database
async def test_a_lease_at_its_maximum_is_not_renewed_for_ever(site: Site, door: Door) -> None:
    """It grows until its maximum; from then on a renewal says so, while the lease still lives, and the caller issues anew."""
    minted = await door.issue(database("database/creds/etl-brief"))
    site.server.pass_time(5)
    await door.upstream.renew(database("database/creds/etl-brief"), minted.held)
    site.server.pass_time(3)
    with pytest.raises(Refused) as caught:
        await door.upstream.renew(database("database/creds/etl-brief"), minted.held)
    assert caught.value.code is Code.TTL_UNAVAILABLE
    assert "longest life" in caught.value.public
    assert site.server.knows_lease(minted.held.ids.lease_id)
    fresh = await door.issue(database("database/creds/etl-brief", login=minted.held))
    assert fresh.held.ids.accessor == minted.held.ids.accessor
    assert revealed(fresh) != revealed(minted)


@needs_database
async def test_a_lease_that_is_gone_is_refused_and_another_can_be_had(site: Site, door: Door) -> None:
    """Somebody revoked the lease upstream: a renewal is refused, and an issuance on the same login works."""
    minted = await door.issue(database())
    site.server.api("PUT", "sys/leases/revoke", {"lease_id": minted.held.ids.lease_id, "sync": True})
    with pytest.raises(Refused) as caught:
        await door.upstream.renew(database(), minted.held)
    assert caught.value.code is Code.UPSTREAM_DENIED
    assert "cannot be renewed any more" in caught.value.public
    again = await door.issue(database(login=minted.held))
    assert again.held.ids.accessor == minted.held.ids.accessor


@needs_database
async def test_a_lease_whose_login_is_dead_is_refused(site: Site, door: Door) -> None:
    """A dead token is told from a denial: `lookup-self` settles it, and only a new login helps."""
    minted = await door.issue(database())
    site.server.api("POST", "auth/token/revoke-accessor", {"accessor": minted.held.ids.accessor})
    with pytest.raises(Refused) as caught:
        await door.upstream.renew(database(), minted.held)
    assert "has ended" in caught.value.public


@needs_database
async def test_every_lease_of_a_login_is_gone_after_revoke(site: Site, door: Door) -> None:
    """Two leases on one login: both gone, then the token; and again without an error."""
    one = await door.issue(database())
    two = await door.issue(database(login=one.held))
    await door.upstream.revoke([one.held, two.held])
    assert not site.server.knows_lease(one.held.ids.lease_id)
    assert not site.server.knows_lease(two.held.ids.lease_id)
    assert not site.server.knows_accessor(one.held.ids.accessor)
    await door.upstream.revoke([one.held, two.held])


@needs_database
@pytest.mark.parametrize("role", ["etl", "etl-norevoke"])
async def test_what_may_not_be_handed_out_is_taken_back_alone(site: Site, door: Door, role: str) -> None:
    """A second lease on a login whose first is in use: the second goes, the first and the login stay."""
    one = await door.issue(database(role=role))
    asked = database(role=role, login=one.held)
    two = await door.issue(asked)
    await door.upstream.take_back(asked, two)
    assert not site.server.knows_lease(two.held.ids.lease_id)
    assert site.server.knows_lease(one.held.ids.lease_id)
    assert site.server.knows_accessor(one.held.ids.accessor)


@needs_database
async def test_what_was_minted_with_its_own_login_goes_with_it(site: Site, door: Door) -> None:
    """A first lease that may not be handed out leaves no login behind; a dead login has taken its leases along."""
    minted = await door.issue(database())
    await door.upstream.take_back(database(), minted)
    assert not site.server.knows_lease(minted.held.ids.lease_id)
    assert not site.server.knows_accessor(minted.held.ids.accessor)
    await door.upstream.take_back(database(login=minted.held), minted)


async def test_a_value_that_cannot_be_taken_back_leaves_its_shared_login_alone(site: Site, door: Door) -> None:
    """A KV value has no lease; the login goes on serving the session."""
    one = await door.issue(order("kv/etl/warehouse"))
    asked = order("kv/etl/warehouse", login=one.held)
    await door.upstream.take_back(asked, await door.issue(asked))
    assert site.server.knows_accessor(one.held.ids.accessor)


@needs_database
async def test_cold_leases_are_renewed_and_revoked_by_id(site: Site, door: Door) -> None:
    """After a restart the broker has ids and no token; its maintenance login renews and revokes by them."""
    minted = await door.issue(database())
    cold = Held(ids=minted.held.ids, token=None)
    renewed = await door.upstream.renew(database(), cold)
    assert minted.expires_at is not None
    assert renewed.expires_at >= minted.expires_at
    await door.upstream.revoke([cold])
    assert not site.server.knows_lease(minted.held.ids.lease_id)
    assert not site.server.knows_accessor(minted.held.ids.accessor)


@needs_database
async def test_a_cold_lease_without_a_maintenance_role_is_not_renewed(site: Site, pool: UpstreamPool) -> None:
    """The sentence says what is missing."""
    door = Door(site, pool, maintenance_role=None)
    minted = await door.issue(database())
    with pytest.raises(Misconfigured) as caught:
        await door.upstream.renew(database(), Held(ids=minted.held.ids, token=None))
    assert "maintenance_role" in caught.value.public


@needs_database
async def test_a_role_that_may_not_revoke_is_helped_by_maintenance(site: Site, door: Door) -> None:
    """`sys/leases/revoke` is not in Vault's default policy."""
    minted = await door.issue(database(role="etl-norevoke"))
    await door.upstream.revoke([minted.held])
    assert not site.server.knows_lease(minted.held.ids.lease_id)
    assert not site.server.knows_accessor(minted.held.ids.accessor)


@needs_database
async def test_a_role_that_may_not_revoke_without_maintenance_is_said_so(site: Site, pool: UpstreamPool) -> None:
    """The token is revoked, which queues the lease; that this is not more than queued is an error with its remedy."""
    door = Door(site, pool, maintenance_role=None)
    minted = await door.issue(database(role="etl-norevoke"))
    with pytest.raises(Misconfigured) as caught:
        await door.upstream.revoke([minted.held])
    assert "`update` on sys/leases/revoke" in caught.value.public
    assert not site.server.knows_accessor(minted.held.ids.accessor)


@needs_database
async def test_a_static_role_is_read_with_its_rotation_as_its_end(site: Site, door: Door) -> None:
    """No lease: `ttl` is the end, the rotation's own data are no fields, and it can be neither renewed nor revoked."""
    before = site.server.clock().wall
    minted = await door.issue(database("database/static-creds/fixed"))
    assert set(minted.fields) == {"username", "password"}
    assert minted.expires_at is not None
    assert timedelta(0) < minted.expires_at - before <= timedelta(hours=1, seconds=1)
    assert (minted.renewable, minted.revocable, minted.held.ids.lease_id) == (False, "none", "")
    with pytest.raises(Refused) as caught:
        await door.upstream.renew(database("database/static-creds/fixed"), minted.held)
    assert caught.value.code is Code.TTL_UNAVAILABLE


@needs_database
async def test_an_unknown_database_role_is_refused(door: Door) -> None:
    """A leased path that names nothing: final, like a missing secret."""
    with pytest.raises(Refused) as caught:
        await door.issue(database("database/creds/nobody"))
    assert "has nothing at the place" in caught.value.public


# Naming what will be asked for


@pytest.mark.parametrize("path", ["kv//x", "kv/../x", "kv/./x", "kv/a%2e%2e/x", "kv/a?b", "kv/a#b", "kv/a\nb", "/kv/x", "kv/x/"])
async def test_a_path_that_would_be_read_as_another_one_is_never_sent(door: Door, path: str) -> None:
    """Policy makes canonical paths; what is not one is refused before the intent, too."""
    with pytest.raises(Refused) as caught:
        door.upstream.plan(order(path))
    assert caught.value.code is Code.TEMPLATE_VALUE


async def test_a_plan_names_role_and_path(door: Door) -> None:
    """What the intent says before anything is asked for."""
    assert door.upstream.plan(order("kv/etl/warehouse")).named() == {
        "upstream": "vault",
        "role": "etl",
        "path": "kv/etl/warehouse",
    }


@pytest.mark.parametrize("role", ["", "a/b", "a\nb"])
async def test_a_role_name_that_does_not_fit_is_refused(door: Door, role: str) -> None:
    """A slash in a role's name would be another endpoint."""
    with pytest.raises(Refused) as caught:
        door.upstream.plan(order("kv/etl/warehouse", role=role))
    assert caught.value.code is Code.TEMPLATE_VALUE


async def test_a_path_of_a_mount_alone_is_a_policy_error(door: Door) -> None:
    with pytest.raises(Misconfigured, match="names a mount and nothing in it"):
        door.upstream.plan(order("kv"))


async def test_a_name_with_a_space_is_sent_quoted(site: Site, door: Door) -> None:
    """KV names may hold what a URL may not."""
    site.server.api("POST", "kv/data/etl/two%20words", {"data": {"a": "b"}})
    assert revealed(await door.issue(order("kv/etl/two words"))) == {"a": "b"}


async def test_many_jobs_at_once_never_mix_their_tokens(site: Site, door: Door) -> None:
    """Each credential comes with the login that read it (reference/vault.md 5: a shared client mixed 57 of 160)."""
    minted = await asyncio.gather(*(door.issue(order("kv/etl/warehouse")) for _ in range(24)))
    accessors = {one.held.ids.accessor for one in minted}
    assert len(accessors) == 24
    for one in minted[:6]:
        assert one.held.token is not None
        assert await _accessor_of(site, door, one.held.token) == one.held.ids.accessor


async def _accessor_of(site: Site, door: Door, token: Secret) -> str:
    own = replace(site.server, root_token=token.reveal())
    return str((await asyncio.to_thread(own.api, "GET", "auth/token/lookup-self"))[1]["data"]["accessor"])


def test_no_assertion_travels_but_to_the_login(site: Site) -> None:
    """The audience of an assertion is the one that the roles bind."""
    token = site.issuer.maintenance(AUDIENCE).reveal()
    claims = json.loads(base64.urlsafe_b64decode(token.split(".")[1] + "=="))
    assert claims["aud"] == AUDIENCE
    assert claims["exp"] - claims["iat"] == 60
