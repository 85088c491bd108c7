"""Vault or OpenBao in the demo, where one of them is on PATH: `server -dev` on loopback, set up as docs/quickstart.md says.

What it leases is the value of a KV v1 mount with `leased_passthrough`: a real lease with an id, which Vault lists, renews, lets
lapse and revokes. Behind it is one stored value, not an account made for the job: `database/creds` makes those, and needs a
database, which a machine with nothing else installed does not have.
"""

import contextlib
import json
import os
import secrets
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import urllib3

from broker.demo.processes import die_with_parent, free_port, stop_group

GRANT = "signing"
BINARIES = ("bao", "vault")

# Added to the demo's policy.toml and broker.toml.
POLICY = f"""
[[grant]]
name = "{GRANT}"
environments = ["production"]
[grant.vault]
role = "etl-{{environment}}"
path = "leased/etl-{{environment}}"
"""
UPSTREAM = """
[[upstream]]
name = "vault"
kind = "vault"
url = "{url}"
mount = "jwt"
via = "issuer"
maintenance_role = "credbroker-maintenance"
"""

_NAMES = {"bao": "OpenBao", "vault": "Vault"}
_PATH = "leased/etl-production"
_LEASE = "15m"
_READY_SECONDS = 30.0
_PORTS = 3
_OK, _NOT_FOUND, _MULTIPLE = 200, 404, 300
# For whoever has another `vault` on PATH.
_WITHOUT = "the demo goes without it when neither `bao` nor `vault` is on PATH"

_REVOKE = {"sys/leases/revoke": ["update"]}
_MAINTENANCE = (
    "sys/leases/renew",
    "sys/leases/revoke",
    "auth/token/renew-accessor",
    "auth/token/revoke-accessor",
    "auth/token/revoke-self",
)


class VaultUnfit(RuntimeError):
    """It is on PATH, but does not start or cannot be set up; the message says what it said."""


def find_binary() -> Path | None:
    """The first of `bao` and `vault` that is on PATH."""
    found = next(filter(None, map(shutil.which, BINARIES)), None)
    return None if found is None else Path(found)


class DevVault:
    """A context manager: it answers on `url` inside, and afterwards its process and its folder are gone."""

    def __init__(self, binary: Path) -> None:
        self.name = _NAMES.get(binary.name, binary.name)
        self.key = secrets.token_hex(16)
        """The leased value, to compare with what came of it."""
        self.url = ""
        self._binary = binary
        self._root = "root-" + secrets.token_hex(16)
        self._folder: Path | None = None
        self._process: subprocess.Popen[bytes] | None = None
        # Our own pool: no proxy of the user's stands before loopback.
        self._http = urllib3.PoolManager(timeout=urllib3.Timeout(10), retries=False)

    def __enter__(self) -> Self:
        """Raises VaultUnfit; nothing is left behind then."""
        self._folder = Path(tempfile.mkdtemp(prefix="credbroker-vault-"))
        try:
            self._start_on_some_port(self._folder)
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *exc: object) -> None:
        self.stop()

    def stop(self) -> None:
        """Safe to call twice."""
        process, self._process = self._process, None
        if process is not None:
            stop_group(process)
        self._http.clear()
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
            self._folder = None

    def trust(self, broker: str, project: str) -> None:
        """Vault logs in who has an assertion of this broker for production and the demo's grant, and leases `key` to nobody else.

        The broker has to be running: Vault fetches its keys. Raises VaultUnfit.
        """
        # 1. What is leased.
        leased = {"version": "1", "leased_passthrough": "true"}
        self._api("POST", "sys/mounts/leased", {"type": "kv", "options": leased})
        self._api("POST", _PATH, {"key": self.key, "ttl": _LEASE})

        # 2. What a job and the broker's own upkeep may do.
        self._policy("etl-production", {_PATH: ["read"], **_REVOKE})
        self._policy("credbroker-maintenance", {path: ["update"] for path in _MAINTENANCE})

        # 3. Who they are.
        self._api("POST", "sys/auth/jwt", {"type": "jwt"})
        self._api("POST", "auth/jwt/config", {"jwks_url": f"{broker}/jwks", "bound_issuer": broker})
        self._role("etl-production", f"environment:production:grant:{GRANT}:issuer:gitlab:project:{project}", "30m", "12h")
        self._role("credbroker-maintenance", "broker:maintenance", "5m", "15m", token_no_default_policy=True)

    def leases(self) -> list[str]:
        """The ids of the leases that are alive, as Vault lists them."""
        listed = self._api("GET", f"sys/leases/lookup/{_PATH}?list=true")
        return [f"{_PATH}/{key}" for key in listed.get("data", {}).get("keys", [])]

    # --- how --------------------------------------------------------------------------------------------------------

    def _policy(self, name: str, paths: Mapping[str, list[str]]) -> None:
        rules = {path: {"capabilities": capabilities} for path, capabilities in paths.items()}
        self._api("POST", f"sys/policies/acl/{name}", {"policy": json.dumps({"path": rules})})

    def _role(self, name: str, subject: str, ttl: str, longest: str, **more: object) -> None:
        role = {
            **more,
            "role_type": "jwt",
            "user_claim": "sub",
            "bound_audiences": self.url,
            "bound_subject": subject,
            "token_policies": name,
            "token_ttl": ttl,
            "token_explicit_max_ttl": longest,
        }
        self._api("POST", f"auth/jwt/role/{name}", role)

    def _api(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> dict[str, Any]:
        headers = {"X-Vault-Token": self._root, "X-Vault-Request": "true"}
        try:
            answer = self._http.request(method, f"{self.url}/v1/{path}", json=body, headers=headers)
        except urllib3.exceptions.HTTPError as error:
            raise VaultUnfit(f"{self.name} went away at {path} ({type(error).__name__}):\n{self._log()}") from None
        if answer.status == _NOT_FOUND and method == "GET":
            return {}
        if not _OK <= answer.status < _MULTIPLE:
            said = answer.data.decode(errors="replace")[:500]
            raise VaultUnfit(f"{self._binary} refused {method} {path} ({answer.status}: {said}); {_WITHOUT}")
        return dict(json.loads(answer.data)) if answer.data else {}

    def _start_on_some_port(self, folder: Path) -> None:
        # A port is only known to be free until somebody takes it, so a process that ends at once gets another.
        if not any(self._comes_up(self._launch(folder)) for _ in range(_PORTS)):
            raise VaultUnfit(f"{self._binary} did not come up; {_WITHOUT}:\n{self._log()}")

    def _launch(self, folder: Path) -> "subprocess.Popen[bytes]":
        port = free_port()
        self.url = f"http://127.0.0.1:{port}"
        # Nothing of ours is inherited: VAULT_* and BAO_* would change it. The root token is not for `ps` to show.
        environment = {
            "PATH": os.environ.get("PATH", os.defpath),
            "HOME": str(folder),
            "TMPDIR": str(folder),
            "VAULT_DEV_ROOT_TOKEN_ID": self._root,
            "BAO_DEV_ROOT_TOKEN_ID": self._root,
        }
        with (folder / "log").open("wb") as log:
            self._process = subprocess.Popen(  # noqa: S603 - what the user has on PATH under one of two names
                [str(self._binary), "server", "-dev", "-dev-no-store-token", f"-dev-listen-address=127.0.0.1:{port}"],
                env=environment,
                cwd=folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C is for us: we stop it
                preexec_fn=die_with_parent if sys.platform == "linux" else None,  # noqa: PLW1509 - one prctl, no locks
            )
        return self._process

    def _comes_up(self, process: "subprocess.Popen[bytes]") -> bool:
        """False when it ended. Raises VaultUnfit for one that lives and stays silent."""
        until = time.monotonic() + _READY_SECONDS
        while process.poll() is None:
            with contextlib.suppress(urllib3.exceptions.HTTPError):
                if self._http.request("GET", f"{self.url}/v1/sys/health").status == _OK:
                    return process.poll() is None
            if time.monotonic() > until:
                raise VaultUnfit(f"{self._binary} is silent on {self.url}; {_WITHOUT}:\n{self._log()}")
            time.sleep(0.05)
        return False

    def _log(self) -> str:
        return (self._folder / "log").read_text(errors="replace")[-2000:] if self._folder else ""
