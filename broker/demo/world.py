"""Everything around the demo's jobs, on loopback in one folder: a GitLab-like issuer, S3 with IAM, a strict STS, the broker.

The broker is the real one, a process of its own, started by `credbroker serve` from files that are written here.
"""

import contextlib
import http.client
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from broker.demo.files import (
    ACCOUNT,
    BROKER,
    BUCKET,
    DEMO_POLICY,
    LUIGI,
    ORDERS,
    PROJECT,
    ROTATE_EVERY,
    SESSION_POLICY,
    role,
)
from broker.demo.iam import Account, OidcProvider
from broker.demo.issuer import TestIssuer
from broker.demo.ministack import MiniStack
from broker.demo.processes import free_port
from broker.demo.sts import StrictSts
from broker.demo.vault import POLICY, UPSTREAM, DevVault

_READY_SECONDS = 20.0
_STOP_SECONDS = 10.0
_ROOM_FOR_SOCKET = 60  # characters of a temporary folder that leave room for the socket's name


class WorldBroken(RuntimeError):
    """Something around the demo did not start; the message says what and shows its last words."""


class World:
    """A context manager. On the way out everything is stopped by its pid and the folder is gone, also after Ctrl-C."""

    def __init__(self, *, policy: str = "", upstreams: str = "", vault: Path | None = None) -> None:
        """`policy` and `upstreams` are TOML that is added to the demo's own: what the story tests need beyond it.

        `vault` is the `bao` or `vault` that joins in.
        """
        # Short: a Unix socket's path has at most 107 bytes.
        roomy = len(tempfile.gettempdir()) < _ROOM_FOR_SOCKET
        self.folder = Path(tempfile.mkdtemp(prefix="credbroker-demo-", dir=None if roomy else "/tmp"))  # noqa: S108 - mkdtemp's
        self.socket = self.folder / "run" / "broker.sock"
        self.database = self.folder / "broker.db"
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.log_key = ""
        self.vault = None if vault is None else DevVault(vault)
        self._more_policy = policy
        self._more_upstreams = upstreams
        self._parts = contextlib.ExitStack()
        self._broker: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        try:
            self._start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *exc: object) -> None:
        self.stop()

    def stop(self) -> None:
        """Nothing of it runs, and the folder is removed. Safe to call twice."""
        try:
            self.stop_broker()
            self._parts.close()
        finally:
            shutil.rmtree(self.folder, ignore_errors=True)

    # --- jobs -------------------------------------------------------------------------------------------------------

    def token(self, **claims: Any) -> str:
        """A GitLab job token for this broker: of a job on protected main in production, unless the claims say otherwise."""
        claims.setdefault("aud", self.url)
        claims.setdefault("project_id", PROJECT)
        claims.setdefault("job_project_id", PROJECT)
        return self.gitlab.mint(**claims)

    def job_environment(self, token: str, job: str) -> dict[str, str]:
        """What a runner gives a job: nothing of ours but the token, the broker's address and the place of S3."""
        home = self.folder / f"job-{job}"
        home.mkdir(exist_ok=True, mode=0o700)
        return {
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}",
            "HOME": str(home),
            "XDG_RUNTIME_DIR": str(home),
            "LANG": "C.UTF-8",
            "CI_JOB_ID": job,
            "CREDBROKER_URL": f"unix://{self.socket}",
            "CREDBROKER_ID_TOKEN": token,
            "AWS_ENDPOINT_URL_S3": self.cloud.url,
            "LUIGI_CONFIG_PATH": str(self.folder / "luigi.cfg"),
            "PYTHONWARNINGS": "ignore",
        }

    def run(
        self, arguments: Sequence[str], environment: Mapping[str, str], *, seconds: float = 90
    ) -> "subprocess.CompletedProcess[str]":
        """`credbroker …`, in a job of that environment, to its end. Killed, with what it started, when this is interrupted."""
        command = [sys.executable, "-m", "broker", *arguments]
        process = subprocess.Popen(  # noqa: S603 - our own interpreter and our own program
            command,
            env=dict(environment),
            cwd=environment["HOME"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        try:
            out, err = process.communicate(timeout=seconds)
        except BaseException:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
            raise
        return subprocess.CompletedProcess(command, process.returncode, out, err)

    def ask(self, path: str, handle: str) -> tuple[int, dict[str, Any]]:
        """Status and body of one GET over the broker's socket, with that handle."""
        connection = http.client.HTTPConnection("localhost", timeout=10)
        connection.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            connection.sock.connect(str(self.socket))
            connection.request("GET", path, headers={"Authorization": f"Bearer {handle}"})
            answer = connection.getresponse()
            return answer.status, json.loads(answer.read())
        finally:
            connection.close()

    # --- the broker -------------------------------------------------------------------------------------------------

    def start_broker(self) -> None:
        """The process is ready. Raises WorldBroken with its last words when it is not within twenty seconds."""
        with (self.folder / "broker.log").open("ab") as log:
            self._broker = subprocess.Popen(  # noqa: S603 - as in `run`
                [sys.executable, "-m", "broker", "serve", "--config", str(self.folder / "broker.toml")],
                env={"PATH": os.environ.get("PATH", os.defpath), "HOME": str(self.folder), "LANG": "C.UTF-8"},
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,  # Ctrl-C is for us: we stop it, and it answers what is in flight
            )
        until = time.monotonic() + _READY_SECONDS
        while time.monotonic() < until and self._broker.poll() is None:
            if self._ready():
                return
            time.sleep(0.05)
        words = (self.folder / "broker.log").read_text(errors="replace")[-2000:]
        raise WorldBroken(f"the broker did not become ready:\n{words}")

    def _ready(self) -> bool:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=2)  # not urllib: a proxy is not for loopback
        try:
            connection.request("GET", "/readyz")
            return connection.getresponse().status == http.HTTPStatus.OK
        except (http.client.HTTPException, OSError):
            return False
        finally:
            connection.close()

    def stop_broker(self) -> None:
        """It has answered what was in flight, flushed its log and is gone."""
        process, self._broker = self._broker, None
        if process is None:
            return
        process.terminate()
        try:
            process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    # --- setting it up ----------------------------------------------------------------------------------------------

    def _start(self) -> None:
        self.gitlab = self._parts.enter_context(TestIssuer())
        self.cloud = self._parts.enter_context(MiniStack(account_id=ACCOUNT))
        self.account = Account(ACCOUNT)
        provider = OidcProvider(url=self.url, client_ids=("sts.amazonaws.com",))
        self.account.put_provider(provider)
        for environment in ("production", "review"):
            made = role(environment, self.account.provider_arn(provider), provider.host)
            self.account.put_role(made)
            self.cloud.put_role(made)
        self.cloud.create_bucket(BUCKET)
        self.cloud.put_object(BUCKET, "production/in/orders.csv", ORDERS.encode())
        self.cloud.put_object(BUCKET, "review/in/orders.csv", ORDERS.encode())
        self.sts = self._parts.enter_context(StrictSts(self.account, self.cloud.mint))
        if self.vault is not None:
            self._parts.enter_context(self.vault)
            self._more_policy += POLICY
            self._more_upstreams += UPSTREAM.format(url=self.vault.url)

        self.socket.parent.mkdir(mode=0o700)
        keygen = self.run(
            ["keygen", str(self.folder / "keys"), "--origin", "demo.example/log"],
            {"PATH": os.environ.get("PATH", os.defpath), "HOME": str(self.folder)},
        )
        if keygen.returncode != 0:
            raise WorldBroken(f"keygen failed: {keygen.stderr}")
        self.log_key = keygen.stdout.split()[-1]
        (self.folder / "lake.json").write_text(json.dumps(SESSION_POLICY))
        policy = DEMO_POLICY.format(project=PROJECT, account=ACCOUNT) + self._more_policy
        (self.folder / "policy.toml").write_text(policy)
        (self.folder / "luigi.cfg").write_text(LUIGI.format(bucket=BUCKET, project=PROJECT, folder=self.folder))
        (self.folder / "broker.toml").write_text(
            BROKER.format(
                url=self.url,
                socket=self.socket,
                port=self.port,
                issuer=self.gitlab.url,
                sts=self.sts.url,
                rotate_every=ROTATE_EVERY,
            )
            + self._more_upstreams
        )
        self.start_broker()
        if self.vault is not None:
            self.vault.trust(self.url, PROJECT)
