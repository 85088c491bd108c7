"""Servers that speak Vault's API, each set up through it: the double, and a real `bao` or `vault` when one is on PATH.

The real one gets a real PostgreSQL for its database engine when `initdb` and `postgres` are on PATH as well.
"""

import json
import os
import secrets
import shutil
import socket
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from broker.identity.claims import JobIdentity
from broker.moment import Moment
from broker.secret import Secret
from tests.fakes.vault import FakeVault

AUDIENCE = "https://vault.example.com"
ISSUER = "https://broker.example.com"
BINARY = shutil.which("bao") or shutil.which("vault")
POSTGRES = shutil.which("initdb") is not None and shutil.which("postgres") is not None

# Parameters, so that `-ra` says what was not run. The real servers are optional on every machine, and in CI.
_NO_BINARY = "neither bao nor vault is on PATH"
KINDS = ["double", pytest.param("real", marks=pytest.mark.skipif(BINARY is None, reason=_NO_BINARY))]
WITH_DATABASE = [
    "double",
    pytest.param(
        "real",
        marks=pytest.mark.skipif(
            BINARY is None or not POSTGRES, reason=_NO_BINARY if BINARY is None else "PostgreSQL's server is not on PATH"
        ),
    ),
]

# What the maintenance role has to be allowed, without Vault's default policy; docs/quickstart.md shows these.
MAINTENANCE = {
    path: ["update"]
    for path in (
        "sys/leases/renew",
        "sys/leases/revoke",
        "auth/token/renew-accessor",
        "auth/token/revoke-accessor",
        "auth/token/revoke-self",
    )
}

CREATE = "CREATE ROLE \"{{name}}\" WITH LOGIN PASSWORD '{{password}}' VALID UNTIL '{{expiration}}';"
DROP = 'DROP ROLE IF EXISTS "{{name}}";'


@dataclass(kw_only=True)
class Server:
    """One running server. `pass_time` lets its clock, and that of what talks to it, go on."""

    url: str
    root_token: str
    now: Callable[[], float]
    pass_time: Callable[[float], None]
    postgres: str | None  # host:port; "" for the double's own; None where there is none
    fake: FakeVault | None = None

    def clock(self) -> Moment:
        return Moment(datetime.fromtimestamp(self.now(), UTC), self.now())

    def api(self, method: str, path: str, body: object = None, *, namespace: str = "", ok: bool = True) -> tuple[int, Any]:
        headers = {"X-Vault-Token": self.root_token, "X-Vault-Request": "true", "Content-Type": "application/json"}
        if namespace:
            headers["X-Vault-Namespace"] = namespace
        payload = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(f"{self.url}/v1/{path}", data=payload, headers=headers, method=method)
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        try:
            with opener.open(request, timeout=20) as response:
                status, text = response.status, response.read()
        except urllib.error.HTTPError as error:
            with error:
                status, text = error.code, error.read()
        assert not ok or 200 <= status < 300, (path, status, text)
        return status, json.loads(text) if text else None

    def policy(self, name: str, paths: dict[str, list[str]], *, namespace: str = "") -> None:
        rules = {path: {"capabilities": capabilities} for path, capabilities in paths.items()}
        self.api("POST", f"sys/policies/acl/{name}", {"policy": json.dumps({"path": rules})}, namespace=namespace)

    def role(self, name: str, *, namespace: str = "", **changes: object) -> None:
        role = {
            "role_type": "jwt",
            "user_claim": "sub",
            "bound_audiences": [AUDIENCE],
            "bound_claims": {"environment": "production", "grant": "warehouse"},
            "token_policies": ["etl"],
            "token_ttl": "20m",
            "token_max_ttl": "1h",
            "token_explicit_max_ttl": "1h",
            "token_type": "service",
            **changes,
        }
        self.api("POST", f"auth/jwt/role/{name}", role, namespace=namespace)

    def knows_accessor(self, accessor: str) -> bool:
        return self.api("POST", "auth/token/lookup-accessor", {"accessor": accessor}, ok=False)[0] == 200

    def knows_lease(self, lease_id: str) -> bool:
        return self.api("PUT", "sys/leases/lookup", {"lease_id": lease_id}, ok=False)[0] == 200


class SigningIssuer:
    """A broker as its assertions are specified (DESIGN 3.2), signing with a P-256 key of its own."""

    def __init__(self, now: Callable[[], float]) -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._now = now

    @property
    def public_pem(self) -> str:
        return self._key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()

    def for_job(
        self, identity: JobIdentity, environment: str, grant: str, audience: str, *, session_id: str, aws: bool
    ) -> Secret:
        assert session_id
        assert not aws
        stable = identity.stable_id
        return self._signed(
            audience,
            sub=f"environment:{environment}:grant:{grant}:issuer:{identity.issuer_name}:project:{stable}",
            environment=environment,
            grant=grant,
            issuer_name=identity.issuer_name,
            stable_id=stable,
            project_id=identity.project_id,
            ref_path=identity.ref_path,
            ref_protected="true" if identity.ref_protected else "false",
            job_id=identity.job_id,
            pipeline_id=identity.pipeline_id,
        )

    def maintenance(self, audience: str) -> Secret:
        return self._signed(audience, sub="broker:maintenance")

    def _signed(self, audience: str, **claims: str) -> Secret:
        now = int(self._now())
        times = {"iat": now, "nbf": now - 30, "exp": now + 60, "jti": secrets.token_hex(8)}
        payload = {"iss": ISSUER, "aud": audience, **times, **claims}
        return Secret(jwt.encode(payload, self._key, algorithm="ES256", headers={"kid": "test-1"}))


def set_up(server: Server, public_pem: str, *, namespace: str = "") -> None:
    """Mounts, policies, roles and secrets that the suite speaks of."""

    def api(method: str, path: str, body: object) -> None:
        server.api(method, path, body, namespace=namespace)

    api("POST", "sys/auth/jwt", {"type": "jwt"})
    api("POST", "auth/jwt/config", {"jwt_validation_pubkeys": [public_pem], "bound_issuer": ISSUER})
    api("POST", "sys/mounts/kv", {"type": "kv", "options": {"version": "2"}})
    api("POST", "sys/mounts/kv1", {"type": "kv", "options": {"version": "1"}})
    reading: dict[str, list[str]] = {
        "kv/data/etl/*": ["read"],
        "kv1/etl/*": ["read"],
        "database/creds/*": ["read"],
        "database/static-creds/*": ["read"],
    }
    server.policy("etl", {**reading, "sys/leases/revoke": ["update"]}, namespace=namespace)
    server.policy("etl-norevoke", reading, namespace=namespace)
    server.policy("maintenance", MAINTENANCE, namespace=namespace)
    server.role("etl", namespace=namespace)
    server.role("etl-norevoke", namespace=namespace, token_policies=["etl-norevoke"])
    server.role("etl-batch", namespace=namespace, token_type="batch", token_explicit_max_ttl=0)
    server.role("etl-oneuse", namespace=namespace, token_num_uses=3)
    server.role("etl-short", namespace=namespace, token_ttl="60s", token_max_ttl="90s", token_explicit_max_ttl="90s")
    server.role("staging", namespace=namespace, bound_claims={"environment": "staging"})
    server.role(
        "maintenance",
        namespace=namespace,
        bound_claims=None,
        bound_subject="broker:maintenance",
        token_policies=["maintenance"],
        token_no_default_policy=True,
    )
    server.role(
        "weak", namespace=namespace, bound_claims=None, bound_subject="broker:maintenance", token_policies=["etl-norevoke"]
    )
    values = {"host": "db.internal", "port": 5432, "tls": True, "ratio": 1.50, "tags": ["a", {"b": 1}], "nothing": None}
    api("POST", "kv/data/etl/warehouse", {"data": values})
    api("POST", "kv/data/etl/gone", {"data": {"a": "b"}})
    api("DELETE", "kv/data/etl/gone", None)
    api("POST", "kv/data/etl/hollow", {"data": {}})
    api("POST", "kv/data/other/x", {"data": {"a": "b"}})
    api("POST", "kv1/etl/plain", {"user": "plain", "ttl": "30m"})
    if server.postgres is not None and not namespace:
        _set_up_database(server)


def _set_up_database(server: Server) -> None:
    server.api("POST", "sys/mounts/database", {"type": "database"})
    where = server.postgres or "127.0.0.1:54330"
    connection = {
        "plugin_name": "postgresql-database-plugin",
        "allowed_roles": ["*"],
        "connection_url": f"postgresql://{{{{username}}}}:{{{{password}}}}@{where}/postgres?sslmode=disable",
        "username": "postgres",
        "password": "x",
    }
    server.api("POST", "database/config/pg", connection)
    for name, first, longest in (("etl", "10m", "30m"), ("etl-brief", "8s", "12s")):
        role = {"db_name": "pg", "creation_statements": [CREATE], "revocation_statements": [DROP]}
        server.api("POST", f"database/roles/{name}", {**role, "default_ttl": first, "max_ttl": longest})
    static = {"db_name": "pg", "username": "static_etl", "rotation_period": "1h"}
    server.api("POST", "database/static-roles/fixed", static)


@contextmanager
def fake_server() -> Iterator[Server]:
    with FakeVault() as vault:
        yield Server(
            url=vault.url,
            root_token=vault.root_token,
            now=vault.clock.now,
            pass_time=vault.clock.advance,
            postgres="",
            fake=vault,
        )


@contextmanager
def real_server() -> Iterator[Server]:
    """`bao server -dev` or `vault server -dev` in a folder of its own; gone with everything it wrote afterwards."""
    assert BINARY is not None
    with ExitStack() as stack:
        home = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        postgres = stack.enter_context(_postgres()) if POSTGRES else None
        port, token = _free_port(), "root-" + secrets.token_hex(12)
        command = [BINARY, "server", "-dev", f"-dev-root-token-id={token}", f"-dev-listen-address=127.0.0.1:{port}"]
        environment = {"PATH": os.environ["PATH"], "HOME": str(home)}
        with (home / "log").open("wb") as log:
            process = subprocess.Popen(command, cwd=home, env=environment, stdout=log, stderr=subprocess.STDOUT)
        stack.callback(_stop, process)
        server = Server(url=f"http://127.0.0.1:{port}", root_token=token, now=time.time, pass_time=time.sleep, postgres=postgres)
        _answering(server.url + "/v1/sys/health", home / "log")
        yield server


@contextmanager
def _postgres() -> Iterator[str]:
    """A PostgreSQL on loopback with trust authentication. It refuses to run as root, so as root it runs as nobody."""
    root = os.geteuid() == 0
    who: dict[str, Any] = {"user": "nobody", "group": "nogroup"} if root else {}
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "data"
        data.mkdir()
        if root:
            for path in (folder, data):
                shutil.chown(path, "nobody", "nogroup")
        data.chmod(0o700)
        quiet: dict[str, Any] = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "cwd": folder, **who}
        subprocess.run(["initdb", "-D", str(data), "-U", "postgres", "-A", "trust", "-N"], check=True, **quiet)
        port = _free_port()
        command = ["postgres", "-D", str(data), "-p", str(port), "-h", "127.0.0.1", "-k", folder, "-F"]
        process = subprocess.Popen(command, **quiet)
        try:
            _psql_ready(port)
            create = ["psql", "-h", "127.0.0.1", "-p", str(port), "-U", "postgres", "-c", "CREATE ROLE static_etl LOGIN"]
            subprocess.run(create, check=True, **quiet)
            yield f"127.0.0.1:{port}"
        finally:
            _stop(process)


def _psql_ready(port: int) -> None:
    asking = ["psql", "-h", "127.0.0.1", "-p", str(port), "-U", "postgres", "-c", "SELECT 1"]
    for _ in range(300):
        if subprocess.run(asking, check=False, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL).returncode == 0:
            return
        time.sleep(0.1)
    raise AssertionError("PostgreSQL did not come up in 30 s")


def _answering(url: str, log: Path) -> None:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    for _ in range(300):
        try:
            with opener.open(url, timeout=2):
                return
        except OSError:
            time.sleep(0.1)
    raise AssertionError(f"the server did not come up in 30 s: {log.read_text()[-2000:]}")


def _stop(process: "subprocess.Popen[bytes]") -> None:
    process.terminate()
    try:
        process.wait(timeout=20)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
