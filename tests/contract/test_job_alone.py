"""`exec`, `get` and `doctor` in an environment that has the core dependency and nothing else: a job's image without extras."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import PackagePath, files
from pathlib import Path

import pytest

from tests.fakes.broker_wire import BrokerWire, broker_wire

REPOSITORY = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `broker` and `click` in it, for an interpreter that sees no other package (`-S -E`)."""
    folder = tmp_path_factory.mktemp("bare")
    (folder / "broker").symlink_to(REPOSITORY / "broker")
    listed: list[PackagePath] = files("click") or []
    package = Path(str(next(path for path in listed if path.name == "__init__.py").locate())).parent
    (folder / "click").symlink_to(package)
    return folder


@pytest.fixture
def wire(tmp_path: Path) -> Iterator[BrokerWire]:
    with broker_wire(tmp_path / "s") as running:
        yield running


def credbroker(bare: Path, folder: Path, wire: BrokerWire, *arguments: str) -> subprocess.CompletedProcess[str]:
    """The command line with the standard library, `click` and us; what it imported besides is printed at the end."""
    code = (
        "import sys\n"
        f"sys.path.insert(0, {str(bare)!r})\n"
        "from broker.cli import main\n"
        "try: main()\n"
        "finally:\n"
        "    ours = {'broker', 'click', '__main__'} | set(sys.stdlib_module_names)\n"
        "    print('foreign:', sorted({n.partition('.')[0] for n in sys.modules} - ours), file=sys.stderr)\n"
    )
    environ = {
        "PATH": os.environ["PATH"],
        "XDG_RUNTIME_DIR": str(folder),
        "CI_JOB_ID": "1",
        "CREDBROKER_URL": wire.unix_url,
        "CREDBROKER_ID_TOKEN": wire.mint(jti="the-one"),
    }
    return subprocess.run(
        [sys.executable, "-I", "-S", "-c", code, *arguments], env=environ, capture_output=True, text=True, check=False, timeout=60
    )


def test_exec_needs_nothing_but_click(bare: Path, wire: BrokerWire, tmp_path: Path) -> None:
    result = credbroker(bare, tmp_path, wire, "exec", "--", sys.executable, "-c", "print('ran')")
    assert (result.returncode, result.stdout) == (0, "ran\n"), result.stderr
    assert "foreign: []" in result.stderr


def test_get_needs_nothing_but_click(bare: Path, wire: BrokerWire, tmp_path: Path) -> None:
    result = credbroker(bare, tmp_path, wire, "get", "lake", "--format", "aws")
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout)["Version"] == 1
    assert "foreign: []" in result.stderr


def test_doctor_needs_nothing_but_click(bare: Path, wire: BrokerWire, tmp_path: Path) -> None:
    result = credbroker(bare, tmp_path, wire, "doctor", "--json")
    assert result.returncode == 0, result.stdout + result.stderr
    assert {check["status"] for check in json.loads(result.stdout)["checks"]} <= {"ok", "warn"}
    assert "foreign: []" in result.stderr


@pytest.mark.parametrize("command", ["exec", "get", "doctor"])
def test_help_shows_an_example(bare: Path, wire: BrokerWire, tmp_path: Path, command: str) -> None:
    result = credbroker(bare, tmp_path, wire, command, "--help")
    assert result.returncode == 0, result.stderr
    assert "Example:" in result.stdout
    assert wire.seen == []
