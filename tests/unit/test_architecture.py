"""Rules that import-linter cannot see: who opens a secret, who reads the clock, who speaks SQL, who swallows."""

import ast
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FILES = sorted([*(ROOT / "broker").rglob("*.py"), *(ROOT / "luigi_contrib_secrets").rglob("*.py")])

# Every place that may open a Secret, and why it has to.
OPENS_SECRETS = {
    "broker/exchanging.py": "hashes a handle it has just made",
    "broker/sealing.py": "derives the seal's key; seals values",
    "broker/upstreams/aws.py": "sends the broker's assertion to STS",
    "broker/upstreams/rds.py": "signs with a session's keys",
    "broker/upstreams/vault_login.py": "sends the broker's assertion to Vault",
    "broker/upstreams/vault_wire.py": "sends a Vault token to Vault",
    "broker/web/replies.py": "the wire encoder: handle and credentials leave here",
    "broker/job/client.py": "sends token and handle to the broker",
    "broker/job/job_token.py": "reads the token's own audience and end",
    "broker/job/session_file.py": "the session file holds the handle",
    "broker/job/environment.py": "what the command is given",
    "broker/job/endpoint.py": "the loopback endpoint of the AWS SDKs",
    "broker/job/getting.py": "`get` prints a credential",
    "broker/job/masking.py": "masks the values in the command's output",
}

# In the server, time is a parameter. These read a clock themselves.
READS_THE_CLOCK = {
    "broker/wiring.py": "hands it down",
    "broker/store/writer.py": "how long a write took, when to try the disk again",
    "broker/web/door.py": "latency for the metrics",
    "broker/upstreams/bounded_http.py": "how long one answer of an upstream takes",
    "broker/cli/audit.py": "progress on a terminal",
    "broker/cli/keys.py": "the new key's activate_at",
    "broker/cli/policy_diff.py": "what `--since 30d` means",
}
CLOCKS = {"datetime.now", "datetime.utcnow", "time.time", "time.monotonic", "time.perf_counter", "time.time_ns"}


def relative(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def calls(path: Path) -> Iterator[str]:
    """The dotted name of everything that is called."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func)


def files_where(holds: Callable[[str], bool]) -> set[str]:
    return {relative(path) for path in FILES if any(holds(call) for call in calls(path))}


def test_a_secret_is_opened_only_where_it_has_to_leave() -> None:
    assert files_where(lambda call: call.endswith(".reveal")) == set(OPENS_SECRETS)


def test_the_server_reads_the_clock_only_where_it_is_handed_down() -> None:
    """The job side and the demo are clients with a clock of their own."""
    found = files_where(lambda call: call in CLOCKS or call.removeprefix("time.") in ("monotonic", "perf_counter"))
    server = {name for name in found if not name.startswith(("broker/job/", "broker/demo/", "broker/cli/demo", "luigi_"))}
    assert server == set(READS_THE_CLOCK)


def test_a_target_is_made_only_where_its_limits_are_checked() -> None:
    """The upstreams ask for what a target says, without looking at it again."""
    assert files_where(lambda call: call in ("AwsTarget", "VaultTarget")) == {"broker/policy/templates.py"}


def test_sql_is_spoken_in_the_store_alone() -> None:
    importing = {relative(path) for path in FILES if "import sqlite3" in path.read_text()}
    assert all(name.startswith("broker/store/") for name in importing), importing


def test_no_exception_is_swallowed() -> None:
    """`except: pass` hides what went wrong; contextlib.suppress at least names it."""
    for path in FILES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ExceptHandler):
                broad = node.type is None or ast.unparse(node.type) in ("Exception", "BaseException")
                silent = all(isinstance(statement, ast.Pass) for statement in node.body)
                assert not (broad and silent), f"{relative(path)}:{node.lineno}"


@pytest.mark.parametrize("word", ["utils", "helpers", "common", "manager", "base"])
def test_no_module_is_called_after_nothing(word: str) -> None:
    assert not [relative(path) for path in FILES if path.stem == word]


def test_nothing_is_left_for_later() -> None:
    for path in FILES:
        text = path.read_text()
        for word in ("TODO", "FIXME", "XXX", "NotImplementedError"):
            assert word not in text, f"{relative(path)} has {word}"


def test_no_path_of_a_machine_and_no_registry_s_host_is_in_the_repository() -> None:
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False)
    if listed.returncode != 0:  # an archive without its history
        return
    hosts = ["pypi" + ".org", "python" + "hosted", "npm" + "js", "deb.debian" + ".org"]
    for name in listed.stdout.split("\0"):
        path = ROOT / name
        if not name or not path.is_file() or path.suffix in (".json", ".png"):
            continue
        text = path.read_text(errors="replace")
        for host in hosts:
            assert f"//{host}" not in text, f"{name} names {host}"
        assert str(ROOT) + "/" not in text, name


def test_help_starts_without_the_server_s_libraries() -> None:
    """Under 0.2 s is a benchmark; that nothing heavy is imported for it is the reason, and can be checked."""
    code = "import sys; sys.argv = ['credbroker', '--help']\nimport broker.cli as c\n"
    code += "try:\n    c.main()\nexcept SystemExit:\n    pass\n"
    code += (
        "print(sorted(m for m in ('rich', 'uvicorn', 'hvac', 'boto3', 'luigi', 'cryptography', 'asyncio') if m in sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.rstrip().endswith("[]"), done.stdout
