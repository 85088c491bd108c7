"""The process of MiniStack: started in its own environment and folder, on loopback, and ended by its id."""

import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

import urllib3

from broker.demo.processes import die_with_parent, free_port, stop_group

ENVIRONMENT_VARIABLE = "CREDBROKER_MINISTACK_VENV"
VERSION = "1.5.33"
_READY_SECONDS = 60.0
_PORTS = 3


class MiniStackMissing(RuntimeError):
    """MiniStack is not installed; the message says how it gets there."""


class MiniStackUnfit(RuntimeError):
    """It runs, but does not start properly or does not enforce what the demo claims."""


def find_python(venv: Path | None = None) -> Path:
    """The interpreter of MiniStack's environment. Raises MiniStackMissing."""
    named = os.environ.get(ENVIRONMENT_VARIABLE)
    root = venv or (Path(named) if named else Path(__file__).resolve().parents[2] / ".venv-ministack")
    python = root / "bin" / "python"
    if not python.exists():
        raise MiniStackMissing(
            f"MiniStack {VERSION} is not installed in {root}: `make demo` and `make test` put it there "
            f"(requirements/ministack.txt), or set {ENVIRONMENT_VARIABLE}"
        )
    return python


class MiniStackProcess:
    """`start` returns when it answers on `url`. It ends by `stop`, and with the thread that started it (Linux)."""

    def __init__(self, settings: Mapping[str, str], venv: Path | None = None) -> None:
        self.url = ""
        self._python = find_python(venv)
        self._settings = settings
        self._process: subprocess.Popen[bytes] | None = None
        self._folder: Path | None = None

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process else None

    @property
    def folder(self) -> Path | None:
        return self._folder

    def start(self) -> None:
        """Raises MiniStackUnfit; nothing is left behind then."""
        self._folder = Path(tempfile.mkdtemp(prefix="credbroker-ministack-"))
        try:
            self._start_on_some_port(self._folder)
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """The process is gone, and its folder. Safe to call twice."""
        process, self._process = self._process, None
        if process is not None:
            stop_group(process)  # it may have started others
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
            self._folder = None

    def _start_on_some_port(self, folder: Path) -> None:
        # A port is only known to be free until somebody takes it, so a process that ends at once gets another.
        if not any(self._comes_up(self._launch(folder)) for _ in range(_PORTS)):
            raise MiniStackUnfit(f"MiniStack did not come up:\n{self._log()}")

    def _launch(self, folder: Path) -> "subprocess.Popen[bytes]":
        port = free_port()
        self.url = f"http://127.0.0.1:{port}"
        state, scratch = folder / "state", folder / "tmp"
        state.mkdir(exist_ok=True)
        scratch.mkdir(exist_ok=True)
        # Nothing is inherited but what a process needs to run: an AWS_* or a proxy of ours would change it.
        environment = {
            "PATH": os.environ.get("PATH", os.defpath),
            "HOME": str(scratch),
            "LANG": "C.UTF-8",
            "PYTHONDONTWRITEBYTECODE": "1",
            "BIND_HOST": "127.0.0.1",
            "GATEWAY_PORT": str(port),
            "STATE_DIR": str(state),
            "TMPDIR": str(scratch),
            "LOG_LEVEL": "WARNING",
            **self._settings,
        }
        with (folder / "log").open("wb") as log:
            self._process = subprocess.Popen(  # noqa: S603 - our own interpreter and a constant module
                [str(self._python), "-m", "ministack"],
                env=environment,
                cwd=scratch,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C is for us: we stop it
                preexec_fn=die_with_parent if sys.platform == "linux" else None,  # noqa: PLW1509 - one prctl, no locks
            )
        return self._process

    def _comes_up(self, process: "subprocess.Popen[bytes]") -> bool:
        """False when it ended. Raises MiniStackUnfit for one that lives and stays silent."""
        until = time.monotonic() + _READY_SECONDS
        with urllib3.PoolManager(timeout=urllib3.Timeout(5), retries=False) as http:
            while process.poll() is None:
                with contextlib.suppress(urllib3.exceptions.HTTPError):
                    if http.request("GET", f"{self.url}/_ministack/ready").status == 200:  # noqa: PLR2004 - OK
                        return process.poll() is None
                if time.monotonic() > until:
                    raise MiniStackUnfit(f"MiniStack is silent on {self.url}:\n{self._log()}")
                time.sleep(0.05)
        return False

    def _log(self) -> str:
        return (self._folder / "log").read_text(errors="replace")[-2000:] if self._folder else ""
