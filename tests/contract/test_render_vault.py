"""What `policy render vault` writes, applied: each environment gets what it should, and is refused what it should not.

On the strict double, and on a real OpenBao with a real PostgreSQL where they are on PATH.
"""

import subprocess
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from msgspec import structs

from broker.lease import UpstreamIds
from broker.policy.language import parse
from broker.policy.model import Policy
from broker.policy.render_vault import VaultFiles, VaultSide, files, stop, vault
from broker.policy.target import VaultTarget
from broker.upstream import Order
from broker.upstreams.pool import UpstreamPool
from broker.upstreams.vault import VaultSettings, VaultUpstream
from tests.contract.vault_servers import AUDIENCE, BINARY, ISSUER, KINDS, Server, SigningIssuer, fake_server, real_server
from tests.fakes.workloads import ACCOUNT_UID, workload
from tests.unit.policy.build import job

SIDE = VaultSide(issuer_url=ISSUER, audience=AUDIENCE, connection="pg")

POLICY = """
version = 1
project_id = ["4711"]

[[environment]]
name = "production"
when.issuer = "gitlab"
when.ref_path = "refs/heads/main"
when.ref_protected = true
max_session = "2h"

[[environment]]
name = "review"
when.issuer = "gitlab"
when.ref_path = "refs/heads/**"
unless.ref_path = "refs/heads/main"
max_session = "10m"

[[grant]]
name = "warehouse"
environments = ["production"]
max_ttl = "1h"
[grant.vault]
role = "etl-{environment}"
path = "database/creds/etl-{environment}"

[[grant]]
name = "secrets"
environments = ["production", "review"]
[grant.vault]
role = "etl-{environment}"
path = "kv/{environment}/{project_id}/*"
engine = "kv2"
"""


@dataclass
class Site:
    server: Server
    issuer: SigningIssuer
    rendered: VaultFiles

    def login(self, role: str, environment: str, grant: str, **claims: Any) -> tuple[int, Any]:
        """Status and answer of a login with the broker's assertion for that."""
        claims = {"ref_protected": environment == "production", **claims}
        protected = claims["ref_protected"]
        identity = structs.replace(job(**claims), ref_protected=protected, ref_path="refs/heads/main")
        token = self.issuer.for_job(identity, environment, grant, AUDIENCE, session_id="s" * 26, aws=False)
        return self.server.api("POST", "auth/jwt/login", {"role": role, "jwt": token.reveal()}, ok=False)

    def reads(self, token: str, path: str) -> tuple[int, Any]:
        return replace_token(self.server, token).api("GET", path, ok=False)


def replace_token(server: Server, token: str) -> Server:
    return replace(server, root_token=token)


def loaded(text: str = POLICY) -> Policy:
    return parse(text, "policy.toml", lambda _: "")


@pytest.fixture(scope="module", params=KINDS)
def site(request: pytest.FixtureRequest) -> Iterator[Site]:
    with fake_server() if request.param == "double" else real_server() as server:
        issuer = SigningIssuer(server.now)
        rendered = vault(loaded(), SIDE)
        apply(server, rendered, issuer)
        server.api("POST", "kv/data/production/4711/key", {"data": {"a": "production"}})
        server.api("POST", "kv/data/review/4711/key", {"data": {"a": "review"}})
        server.api("POST", "kv/data/production/4712/key", {"data": {"a": "another project's"}})
        yield Site(server, issuer, rendered)


def apply(server: Server, rendered: VaultFiles, issuer: SigningIssuer) -> None:
    """Every write as it is, but for the keys: nobody serves this issuer's discovery document."""
    server.api("POST", "sys/auth/jwt", {"type": "jwt"})
    server.api("POST", "sys/mounts/kv", {"type": "kv", "options": {"version": "2"}})
    if server.postgres is not None:
        server.api("POST", "sys/mounts/database", {"type": "database"})
        connection = {
            "plugin_name": "postgresql-database-plugin",
            "allowed_roles": ["*"],
            "connection_url": f"postgresql://{{{{username}}}}:{{{{password}}}}@{server.postgres or '127.0.0.1:54330'}"
            "/postgres?sslmode=disable",
            "username": "postgres",
            "password": "x",
        }
        server.api("POST", "database/config/pg", connection)
        if server.postgres:
            psql(server.postgres, "postgres", files(rendered)["owners.sql"])
    for name in rendered.policies:
        server.api("POST", f"sys/policies/acl/{name}", {"policy": files(rendered)[f"policy-{name}.json"]})
    for path, body in rendered.writes.items():
        if path == "auth/jwt/config":
            keys = {"jwt_validation_pubkeys": [issuer.public_pem], "bound_issuer": body["bound_issuer"]}
            server.api("POST", path, keys | {"jwt_supported_algs": body["jwt_supported_algs"]})
        elif server.postgres is not None or not path.startswith("database/"):
            server.api("POST", path, dict(body))


def psql(where: str, user: str, statements: str, *, ok: bool = True) -> str:
    host, port = where.split(":")
    command = ["psql", "-h", host, "-p", port, "-U", user, "-d", "postgres", "-v", "ON_ERROR_STOP=1", "-Atc", statements]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    assert not ok or ran.returncode == 0, ran.stderr
    return ran.stdout.strip() if ok else ran.stderr


@pytest.mark.parametrize(
    ("environment", "grant"), [("production", "warehouse"), ("production", "secrets"), ("review", "secrets")]
)
def test_each_grant_gets_its_role(site: Site, environment: str, grant: str) -> None:
    status, answer = site.login(f"etl-{environment}", environment, grant)
    assert status == 200
    assert answer["auth"]["token_policies"] == ["credbroker-etl-" + environment, "default"]
    assert answer["auth"]["lease_duration"] == (1800 if environment == "production" else 600)
    assert answer["auth"]["metadata"]["job_id"] == "302"


@pytest.mark.parametrize(
    ("role", "environment", "grant", "claims"),
    [
        ("etl-production", "review", "secrets", {}),
        ("etl-review", "production", "secrets", {}),
        ("etl-review", "review", "warehouse", {}),
        ("etl-production", "production", "warehouse", {"project_id": "4712"}),
        ("etl-production", "production", "warehouse", {"issuer_name": "other"}),
        ("etl-production", "production", "warehouse", {"ref_protected": False}),
        ("credbroker-maintenance", "production", "warehouse", {}),
    ],
)
def test_an_assertion_for_something_else_is_refused(
    site: Site, role: str, environment: str, grant: str, claims: dict[str, Any]
) -> None:
    status, answer = site.login(role, environment, grant, **claims)
    assert status == 400
    words = (
        "invalid subject (sub) claim" if role == "credbroker-maintenance" else "does not match any associated bound claim values"
    )
    assert words in answer["errors"][0]


def test_a_token_reads_its_own_paths_and_no_others(site: Site) -> None:
    token = site.login("etl-production", "production", "secrets")[1]["auth"]["client_token"]
    status, answer = site.reads(token, "kv/data/production/4711/key")
    assert (status, answer["data"]["data"]) == (200, {"a": "production"})
    for path in ("kv/data/review/4711/key", "kv/data/production/4712/key", "sys/policies/acl/default"):
        assert site.reads(token, path)[0] == 403, path
    review = site.login("etl-review", "review", "secrets")[1]["auth"]["client_token"]
    assert site.reads(review, "kv/data/review/4711/key")[0] == 200
    for path in ("kv/data/production/4711/key", "database/creds/etl-production"):
        assert site.reads(review, path)[0] == 403, path


def test_the_maintenance_role_revokes_and_reads_nothing(site: Site) -> None:
    jwt = site.issuer.maintenance(AUDIENCE).reveal()
    status, answer = site.server.api("POST", "auth/jwt/login", {"role": "credbroker-maintenance", "jwt": jwt}, ok=False)
    assert status == 200
    assert answer["auth"]["token_policies"] == ["credbroker-upkeep"]
    upkeep = replace_token(site.server, answer["auth"]["client_token"])
    assert upkeep.api("GET", "kv/data/production/4711/key", ok=False)[0] == 403
    victim = site.login("etl-review", "review", "secrets")[1]["auth"]
    assert upkeep.api("POST", "auth/token/revoke-accessor", {"accessor": victim["accessor"]})[0] == 204
    assert not site.server.knows_accessor(victim["accessor"])


def test_everything_ends_with_max_session_even_when_the_broker_is_lost(site: Site) -> None:
    role = site.server.api("GET", "auth/jwt/role/etl-review")[1]["data"]
    assert (role["token_ttl"], role["token_explicit_max_ttl"]) == (600, 600)
    role = site.server.api("GET", "auth/jwt/role/etl-production")[1]["data"]
    assert (role["token_ttl"], role["token_explicit_max_ttl"], role["token_type"]) == (1800, 7200, "service")


def test_a_database_user_acts_as_the_owner_and_ends_with_its_connections(site: Site) -> None:
    """What one user makes, the next one may drop: it belongs to the role that both are in. Revoking ends open connections."""
    token = site.login("etl-production", "production", "warehouse")[1]["auth"]["client_token"]
    if site.server.postgres is None:
        assert site.reads(token, "database/creds/etl-production")[0] != 200
        pytest.skip("PostgreSQL's server is not on PATH")
    first = site.reads(token, "database/creds/etl-production")
    assert first[0] == 200, first
    if not site.server.postgres:
        pytest.skip("the double's database keeps users, not tables")
    where = site.server.postgres
    psql(where, "postgres", 'GRANT CREATE ON SCHEMA public TO "etl-production"')
    user = first[1]["data"]["username"]
    assert psql(where, user, "SELECT current_user || ' ' || session_user") == f"etl-production {user}"
    psql(where, user, "CREATE TABLE kept (n int)")
    ended: list[str] = []
    sleeping = threading.Thread(target=lambda: ended.append(psql(where, user, "SELECT pg_sleep(60)", ok=False)))
    sleeping.start()
    waiting = f"SELECT count(*) FROM pg_stat_activity WHERE usename = '{user}' AND query LIKE '%pg_sleep%'"
    deadline = time.monotonic() + 20
    while psql(where, "postgres", waiting) != "1":
        assert time.monotonic() < deadline
        time.sleep(0.05)
    site.server.api("PUT", "sys/leases/revoke", {"lease_id": first[1]["lease_id"], "sync": True})
    sleeping.join(20)
    assert "terminating connection" in ended[0]
    assert "does not exist" in psql(where, user, "SELECT 1", ok=False)
    second = site.reads(token, "database/creds/etl-production")[1]["data"]["username"]
    assert psql(where, second, "INSERT INTO kept VALUES (1); SELECT n FROM kept; DROP TABLE kept").endswith("DROP TABLE")


async def test_the_broker_issues_renews_and_takes_back_with_these_roles(site: Site) -> None:
    """Warm with its own token, and cold with the maintenance role: a job's token may revoke no lease by its id."""
    if site.server.postgres is None:
        pytest.skip("PostgreSQL's server is not on PATH")
    pool = UpstreamPool(2)
    settings = VaultSettings(name="vault", url=site.server.url, audience=AUDIENCE, maintenance_role="credbroker-maintenance")
    upstream = VaultUpstream(settings, site.issuer, pool, site.server.clock)
    order = Order(
        correlation_id="c",
        session_id="s" * 26,
        identity=job(),
        environment="production",
        grant="warehouse",
        target=VaultTarget(role="etl-production", path="database/creds/etl-production", engine="lease", upstream=None),
        ttl=timedelta(minutes=30),
        login=None,
    )

    async def note(ids: UpstreamIds) -> None:
        assert ids.accessor

    try:
        for cold in (False, True):
            minted = await upstream.issue(order, note)
            if site.server.fake is not None:  # a real one has first to grow older
                site.server.pass_time(600)
                renewed = await upstream.renew(order, minted.held)
                assert minted.expires_at is not None
                assert renewed.expires_at > minted.expires_at
            await upstream.revoke([replace(minted.held, token=None) if cold else minted.held])
            assert not site.server.knows_lease(minted.held.ids.lease_id)
            assert not site.server.knows_accessor(minted.held.ids.accessor)
    finally:
        upstream.close()
        pool.close()


def test_a_namespace_is_admitted_by_a_glob_and_no_other(site: Site) -> None:
    """`*` stands for the project alone: it is the last part of the subject."""
    text = POLICY.replace('project_id = ["4711"]', "").replace(
        'when.issuer = "gitlab"', 'when.issuer = "gitlab"\nwhen.namespace_id = "72"'
    )
    wide = vault(loaded(text.replace('etl-{environment}"\npath', 'group-{environment}"\npath')), replace(SIDE, database="other"))
    body = wide.writes["auth/jwt/role/group-production"]
    assert body["bound_claims_type"] == "glob"
    site.server.api("POST", "auth/jwt/role/group-production", dict(body))
    for project in ("4711", "5"):
        assert site.login("group-production", "production", "secrets", project_id=project)[0] == 200
    assert site.login("group-production", "review", "secrets", ref_protected=True)[0] == 400


def test_stop_names_every_role_and_every_lease() -> None:
    assert stop(loaded(), SIDE) == [
        "vault delete auth/jwt/role/etl-production",
        "vault delete auth/jwt/role/etl-review",
        "vault delete auth/jwt/role/credbroker-maintenance",
        "vault lease revoke -prefix -sync auth/jwt/login",
        "vault lease revoke -prefix -sync database/creds/etl-production",
    ]


def test_stop_ends_everything_without_the_broker(site: Site) -> None:
    if site.server.fake is not None:
        pytest.skip("the double knows no revocation by prefix")
    accessor = site.login("etl-review", "review", "secrets")[1]["auth"]["accessor"]
    assert BINARY is not None
    environment = {"VAULT_ADDR": site.server.url, "BAO_ADDR": site.server.url}
    environment |= {"VAULT_TOKEN": site.server.root_token, "BAO_TOKEN": site.server.root_token, "HOME": "/nonexistent"}
    for line in stop(loaded(), SIDE):
        subprocess.run([BINARY, *line.split()[1:]], env=environment, check=True, capture_output=True)
    assert not site.server.knows_accessor(accessor)
    assert site.login("etl-review", "review", "secrets")[0] == 400
    apply_again = {path: body for path, body in site.rendered.writes.items() if "/role/" in path}
    for path, body in apply_again.items():
        site.server.api("POST", path, dict(body))


def test_the_script_applies_what_stands_beside_it(site: Site, tmp_path: Path) -> None:
    """As `sh apply.sh` with the real command, into a server of its own; discovery is taken out, nobody serves it here."""
    if site.server.fake is not None:
        pytest.skip("the commands of the script speak to a real server alone")
    for name, text in files(site.rendered).items():
        (tmp_path / name).write_text(text)
    script = (tmp_path / "apply.sh").read_text()
    (tmp_path / "apply.sh").write_text("".join(f"{line}\n" for line in script.splitlines() if "auth/jwt/config" not in line))
    environment = {"PATH": "/usr/bin:/bin", "VAULT": str(BINARY), "HOME": str(tmp_path)}
    environment |= {"VAULT_ADDR": site.server.url, "BAO_ADDR": site.server.url}
    environment |= {"VAULT_TOKEN": site.server.root_token, "BAO_TOKEN": site.server.root_token}
    ran = subprocess.run(["sh", str(tmp_path / "apply.sh")], env=environment, check=False, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    read = site.server.api("GET", "sys/policies/acl/credbroker-etl-production")[1]["data"]["policy"]
    assert read == files(site.rendered)["policy-credbroker-etl-production.hcl"]


OTHERS = """
version = 1

[[environment]]
name = "cluster"
when.issuer = "kubernetes"
when."/kubernetes.io/serviceaccount/uid" = "14ee3fa4-a7e2-420f-9f9a-dbc4507c3798"
max_session = "1h"

[[environment]]
name = "batch"
when.issuer = "okta"
when.cid = "0oa2hl2inow5Uqc6c357"
max_session = "1h"

[[grant]]
name = "secrets"
environments = ["cluster", "batch"]
[grant.vault]
role = "etl-{environment}"
path = "kv/{environment}/{project_id}/*"
engine = "kv2"
"""


@pytest.fixture(scope="module", params=KINDS)
def others(request: pytest.FixtureRequest) -> Iterator[Site]:
    with fake_server() if request.param == "double" else real_server() as server:
        issuer = SigningIssuer(server.now)
        rendered = vault(loaded(OTHERS), SIDE)
        apply(server, rendered, issuer)
        for path in (f"cluster/{ACCOUNT_UID}", "batch/0oa2hl2inow5Uqc6c357", "cluster/another"):
            server.api("POST", f"kv/data/{path}/key", {"data": {"a": path}})
        yield Site(server, issuer, rendered)


def _login(site: Site, role: str, kind: str, environment: str, **changes: Any) -> tuple[int, Any]:
    who = structs.replace(workload(kind), **({"issuer_name": kind} | changes))
    token = site.issuer.for_job(who, environment, "secrets", AUDIENCE, session_id="s" * 26, aws=False)
    return site.server.api("POST", "auth/jwt/login", {"role": role, "jwt": token.reveal()}, ok=False)


@pytest.mark.parametrize(("kind", "environment"), [("kubernetes", "cluster"), ("okta", "batch")])
def test_a_job_without_refs_gets_its_own_environments_role_and_no_other(others: Site, kind: str, environment: str) -> None:
    status, answer = _login(others, f"etl-{environment}", kind, environment)
    assert status == 200
    token, stable = answer["auth"]["client_token"], workload(kind).stable_id
    status, read = others.reads(token, f"kv/data/{environment}/{stable}/key")
    assert (status, read["data"]["data"]) == (200, {"a": f"{environment}/{stable}"})
    assert others.reads(token, "kv/data/cluster/another/key")[0] == 403
    other = {"cluster": "batch", "batch": "cluster"}[environment]
    assert _login(others, f"etl-{other}", kind, environment)[0] == 400
    assert _login(others, f"etl-{environment}", kind, environment, issuer_name="gitlab")[0] == 400
    assert _login(others, f"etl-{environment}", kind, environment, stable_id="another")[0] == 400
