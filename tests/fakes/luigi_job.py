"""A GitLab job as the Luigi package finds it: a session file of `credbroker exec`, a luigi.cfg, and Luigi itself as a process.

The session is opened over the wire by hand; nothing of `broker/` or of the package under test is used here.
"""

import http.client
import json
import os
import secrets
import socket
import subprocess
import sys
import textwrap
import urllib.parse
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.fakes.broker_wire import BrokerWire, stamp

ROOT = Path(__file__).parents[2]


@dataclass
class LuigiJob:
    """One job's folder: `luigi.cfg` is in it, and it is the working directory of what runs."""

    folder: Path
    wire: BrokerWire
    session_file: Path = field(init=False)

    def __post_init__(self) -> None:
        self.folder.mkdir(exist_ok=True)
        self.session_file = self.folder / "credbroker-session" / "4242.json"
        self.session_file.parent.mkdir(mode=0o700, exist_ok=True)

    def open_session(self, *, environment: str | None = None, expires_at: float | None = None) -> None:
        """Exchanges a job token over the Unix socket and writes the session file, as `exec` does."""
        connection = http.client.HTTPConnection("localhost")
        connection.sock = socket.socket(socket.AF_UNIX)
        connection.sock.connect(self.wire.unix_url.removeprefix("unix://"))
        form = {
            "grant_type": "urn:ietf:params:oauth:grant-type:token-exchange",
            "subject_token_type": "urn:ietf:params:oauth:token-type:id_token",
            "subject_token": self.wire.mint(),
            "resume_key": secrets.token_urlsafe(32),
        }
        headers = {"Content-Type": "application/x-www-form-urlencoded", "Connection": "close"}
        connection.request("POST", "/v1/token", urllib.parse.urlencode(form), headers)
        with connection.getresponse() as response:
            answer = json.loads(response.read())
        connection.close()
        session = self.wire.sessions[-1]
        self.write_session(
            url=self.wire.unix_url,
            handle=answer["access_token"],
            session_id=answer["session_id"],
            environment=environment or answer["environment"],
            expires_at=stamp(expires_at or session.expires_at),
        )

    def write_session(self, **content: Any) -> None:
        self.session_file.unlink(missing_ok=True)
        descriptor = os.open(self.session_file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w") as file:
            json.dump(content, file)

    def configure(self, text: str) -> Path:
        """Writes luigi.cfg."""
        path = self.folder / "luigi.cfg"
        # The default folder of Luigi's locks is one for all users of a machine.
        core = f"[core]\nautoload_range = false\nlock_pid_dir = {self.folder}/locks\n"
        path.write_text(core + textwrap.dedent(text))
        return path

    def environment(self) -> dict[str, str]:
        """What `exec` gives its command, and nothing of the developer's own."""
        kept = {
            name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "CREDBROKER_", "CI_", "LUIGI_"))
        }
        return kept | {
            "CREDBROKER_URL": self.wire.unix_url,
            "CREDBROKER_SESSION_FILE": str(self.session_file),
            "PYTHONPATH": os.pathsep.join([str(ROOT), str(self.folder)]),
        }

    def luigi(self, module: str, *arguments: str, timeout: float = 60, env: Mapping[str, str] | None = None) -> "Ran":
        """`luigi --module pipeline …` on `module`'s text, with a local scheduler."""
        (self.folder / "pipeline.py").write_text(textwrap.dedent(module))
        if not (self.folder / "luigi.cfg").exists():
            self.configure("")
        command = [sys.executable, "-m", "luigi", "--module", "pipeline", "--local-scheduler", *arguments]
        return self._run(command, timeout, env or {})

    def python(self, script: str, *, timeout: float = 60) -> "Ran":
        """A script of the job's own."""
        if not (self.folder / "luigi.cfg").exists():
            self.configure("")
        return self._run([sys.executable, "-c", textwrap.dedent(script)], timeout, {})

    def _run(self, command: list[str], timeout: float, extra: Mapping[str, str]) -> "Ran":
        done = subprocess.run(
            command,
            cwd=self.folder,
            env=self.environment() | dict(extra),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=timeout,
            check=False,
        )
        return Ran(done.returncode, done.stdout)

    def fetches(self, grant: str) -> int:
        """How often the broker was asked for this grant."""
        return len(self.wire.calls("GET", f"/v1/credentials/{grant}"))

    def lines(self, name: str) -> list[str]:
        """What the tasks wrote, line by line."""
        path = self.folder / name
        return path.read_text().splitlines() if path.exists() else []


@dataclass(frozen=True)
class Ran:
    code: int
    output: str
