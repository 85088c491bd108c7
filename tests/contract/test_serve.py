"""The broker as a process of its own: `credbroker serve`, from its files to its end."""

import json
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlencode

import pytest

from broker.demo.issuer import TestIssuer
from broker.errors import Code
from tests.contract.test_wire import EXCHANGE, FORM, body_of, refused
from tests.fakes.running_broker import Wire

CONFIG = """\
public_url = "https://broker.example.com"
policy = "policy.toml"
[listen]
unix = "run/broker.sock"
http = "127.0.0.1:0"
admin = "admin/admin.sock"
[store]
url = "sqlite:///broker.db"
[keys]
issuer = "keys/issuer"
log = "keys/log.pem"
store = "keys/store.key"
[log]
origin = "broker.example.com/log"
[[issuer]]
name = "gitlab"
profile = "gitlab"
issuer = "{issuer}"
[[upstream]]
name = "aws"
kind = "aws"
region = "eu-central-1"
"""

POLICY = """\
version = 1
[[environment]]
name = "production"
when.issuer = "gitlab"
when.project_id = "{project}"
when.ref_path = "refs/heads/main"
when.pipeline_source = ["push", "web", "schedule"]
[[grant]]
name = "lake"
environments = ["production"]
[grant.aws]
role_arn = "arn:aws:iam::111122223333:role/etl-{{environment}}"
ttl = "1h"
"""


def credbroker(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "broker", *arguments], cwd=cwd, capture_output=True, text=True, timeout=60, check=False
    )


@pytest.fixture(scope="module")
def issuer() -> Iterator[TestIssuer]:
    with TestIssuer() as started:
        yield started


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `keygen` makes, and beside it the log's public key that it printed."""
    folder = tmp_path_factory.mktemp("keygen")
    made = credbroker("keygen", "keys", "--origin", "broker.example.com/log", cwd=folder)
    assert made.returncode == 0, made.stderr
    (folder / "keys" / "log.vkey").write_text(made.stdout)
    return folder / "keys"


@pytest.fixture
def home(tmp_path: Path, issuer: TestIssuer, keys: Path) -> Path:
    """A folder with all that a broker needs."""
    (tmp_path / "run").mkdir(mode=0o755)
    shutil.copytree(keys, tmp_path / "keys")
    project = str(issuer.job_claims()["project_id"])
    (tmp_path / "broker.toml").write_text(CONFIG.format(issuer=issuer.url))
    (tmp_path / "policy.toml").write_text(POLICY.format(project=project))
    return tmp_path


class Serving:
    """`serve` in that folder, with its stderr in a file."""

    def __init__(self, home: Path) -> None:
        self.socket = home / "run" / "broker.sock"
        self._log = home / "stderr.jsonl"
        with self._log.open("w") as stderr:
            command = [sys.executable, "-m", "broker", "serve", "--config", "broker.toml"]
            self.process = subprocess.Popen(command, cwd=home, stderr=stderr)
        deadline = time.monotonic() + 30
        while "broker.listening" not in self.log():
            assert self.process.poll() is None, self.log()
            assert time.monotonic() < deadline, self.log()
            time.sleep(0.02)

    def log(self) -> str:
        return self._log.read_text()

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        if self.process.poll() is None:
            self.process.send_signal(number)
        return self.process.wait(30)


@pytest.fixture
def serving(home: Path) -> Iterator[Serving]:
    started = Serving(home)
    yield started
    started.stop()


def test_check_says_ok_and_starts_nothing(home: Path) -> None:
    """Policy and keys are read, too; no socket, no database."""
    result = credbroker("serve", "--config", "broker.toml", "--check", cwd=home)
    assert (result.returncode, result.stdout) == (0, "ok\n"), result.stderr
    assert not (home / "run" / "broker.sock").exists()
    assert not (home / "broker.db").exists()


def test_check_prints_warnings_and_is_still_ok(home: Path) -> None:
    """On stderr: stdout is the answer."""
    with (home / "broker.toml").open("a") as config:
        config.write('[[upstream]]\nname = "vault"\nkind = "vault"\nurl = "https://vault.example.com"\n')
    result = credbroker("serve", "--config", "broker.toml", "--check", cwd=home)
    assert (result.returncode, result.stdout) == (0, "ok\n")
    assert result.stderr.startswith("warning: upstream 'vault' has no maintenance_role")


@pytest.mark.parametrize("check", [["--check"], []])
def test_a_bad_policy_and_an_open_key_keep_it_from_starting(home: Path, check: list[str]) -> None:
    """Exit 78, the file and the line, no traceback."""
    policy = home / "policy.toml"
    good = policy.read_text()
    policy.write_text(good.replace("role_arn", "role_arm"))
    result = credbroker("serve", "--config", "broker.toml", *check, cwd=home)
    assert result.returncode == 78
    assert "policy.toml:11: " in result.stderr
    assert "role_arn" in result.stderr
    policy.write_text(good)
    (home / "keys" / "log.pem").chmod(0o644)
    result = credbroker("serve", "--config", "broker.toml", *check, cwd=home)
    assert result.returncode == 78
    assert "log.pem" in result.stderr
    assert "Traceback" not in result.stderr


def test_a_job_gets_in_and_the_broker_stops_gracefully(serving: Serving, issuer: TestIssuer, home: Path) -> None:
    """A session over the Unix socket; a stop; and the same session after the restart, since the store has it."""
    token = issuer.mint(aud="https://broker.example.com")
    with Wire(f"unix://{serving.socket}") as wire:
        assert wire.request("GET", "/readyz").status == 200
        form = urlencode(EXCHANGE | {"subject_token": token}).encode()
        body = body_of(wire.request("POST", "/v1/token", [FORM], form), "Token")
        assert (body["environment"], body["scope"]) == ("production", "lake")
        refused(wire.request("POST", "/v1/token", [FORM], form), Code.SESSION_EXISTS)
        bearer = f"Authorization: Bearer {body['access_token']}"
        view = body_of(wire.request("GET", "/v1/session", [bearer]), "Session")
        assert view["offers"] == [{"grant": "lake", "kind": "aws", "subpath": False, "region": "eu-central-1"}]
        assert view["leases"] == []
    with Wire(f"unix://{home / 'admin' / 'admin.sock'}") as admin:
        metrics = admin.request("GET", "/metrics").body.decode()
        assert 'credbroker_exchanges_total{outcome="opened"} 1.0' in metrics
        assert "credbroker_live_sessions 1.0" in metrics

    assert serving.stop() == 0
    assert not serving.socket.exists()
    verified = credbroker("audit", "verify", "broker.db", "--key", "keys/log.vkey", cwd=home)
    assert verified.returncode == 0, verified.stderr

    again = Serving(home)
    try:
        with Wire(f"unix://{serving.socket}") as wire:
            assert body_of(wire.request("GET", "/v1/session", [bearer]), "Session")["session_id"] == body["session_id"]
            revoke = urlencode({"token": body["access_token"]}).encode()
            body_of(wire.request("POST", "/v1/revoke", [FORM], revoke), "Nothing")
            refused(wire.request("GET", "/v1/session", [bearer]), Code.SESSION_REVOKED)
    finally:
        assert again.stop(signal.SIGINT) == 0

    log = serving.log() + again.log()
    assert "Traceback" not in log
    assert all(isinstance(json.loads(line), dict) for line in log.splitlines())
    assert token not in log
    assert not re.search(r"eyJ|cbs_", log)


def test_two_brokers_cannot_have_one_socket(serving: Serving, home: Path) -> None:
    """The second says so and ends with 78; the first goes on."""
    (home / "second.toml").write_text((home / "broker.toml").read_text().replace("broker.db", "second.db"))
    result = credbroker("serve", "--config", "second.toml", cwd=home)
    assert result.returncode == 78, result.stderr
    assert "another broker listens on" in result.stderr
    assert "Traceback" not in result.stderr
    with Wire(f"unix://{serving.socket}") as wire:
        assert wire.request("GET", "/healthz").status == 200


def test_a_store_that_cannot_be_opened_keeps_it_from_starting(home: Path) -> None:
    """One clear sentence. (A folder in the file's place, which stops root too.)"""
    (home / "broker.db").mkdir()
    result = credbroker("serve", "--config", "broker.toml", cwd=home)
    assert result.returncode in {69, 78}
    assert "broker.db" in result.stderr
    assert "Traceback" not in result.stderr


# --- the policy, while it runs ----------------------------------------------------------------------------------------


def entries(home: Path, kind: str) -> list[dict[str, object]]:
    asked = credbroker("audit", "query", "broker.db", "--kind", kind, "--json", cwd=home)
    assert asked.returncode == 0, asked.stderr
    return [json.loads(line)["entry"]["unmapped"] for line in asked.stdout.splitlines()]


def wait_for(home: Path, kind: str, count: int) -> list[dict[str, object]]:
    deadline = time.monotonic() + 30
    while len(found := entries(home, kind)) < count:
        assert time.monotonic() < deadline, (kind, found)
        time.sleep(0.1)
    return found


def opened(serving: Serving, issuer: TestIssuer) -> str:
    """The header of a fresh session."""
    token = issuer.mint(aud="https://broker.example.com")
    with Wire(f"unix://{serving.socket}") as wire:
        form = urlencode(EXCHANGE | {"subject_token": token}).encode()
        return f"Authorization: Bearer {body_of(wire.request('POST', '/v1/token', [FORM], form), 'Token')['access_token']}"


def test_a_policy_that_is_written_anew_is_taken_and_ends_what_it_no_longer_allows(
    serving: Serving, issuer: TestIssuer, home: Path
) -> None:
    """By itself, within seconds: a bad one changes nothing, a good one is in force, and both are in the log with their hash."""
    policy = home / "policy.toml"
    good = policy.read_text()
    bearer = opened(serving, issuer)
    (first,) = entries(home, "policy_loaded")

    policy.write_text(good.replace("version = 1", "version = 9"))
    (refused_entry,) = wait_for(home, "policy_refused", 1)
    assert refused_entry["policy_hash"] == first["policy_hash"]
    assert str(refused_entry["refused_hash"]).startswith("sha256:")
    assert refused_entry["problems"] == ["policy.toml:1: version is 9; write version = 1"]
    with Wire(f"unix://{serving.socket}") as wire:
        assert wire.request("GET", "/v1/session", [bearer]).status == 200
    opened(serving, issuer)

    policy.write_text(good.replace("refs/heads/main", "refs/heads/trunk"))
    second = wait_for(home, "policy_loaded", 2)[1]
    closed = wait_for(home, "session_closed", 2)
    assert {entry["state"] for entry in closed} == {"revoked"}
    assert {entry["policy_hash"] for entry in entries(home, "denied")} == {second["policy_hash"]}
    with Wire(f"unix://{serving.socket}") as wire:
        refused(wire.request("GET", "/v1/session", [bearer]), Code.SESSION_REVOKED)
        token = issuer.mint(aud="https://broker.example.com")
        form = urlencode(EXCHANGE | {"subject_token": token}).encode()
        refused(wire.request("POST", "/v1/token", [FORM], form), Code.NO_ENVIRONMENT)
    assert serving.stop() == 0
    verified = credbroker("audit", "verify", "broker.db", "--key", "keys/log.vkey", cwd=home)
    assert verified.returncode == 0, verified.stderr


def test_a_hangup_reads_a_folder_of_policies_again_and_a_session_that_is_still_allowed_lives_on(
    home: Path, issuer: TestIssuer
) -> None:
    """The allowed twin. A second project's file is added; nothing else is touched."""
    folder = home / "policy"
    folder.mkdir()
    (home / "policy.toml").rename(folder / "data.toml")
    (home / "broker.toml").write_text((home / "broker.toml").read_text().replace('"policy.toml"', '"policy"'))
    serving = Serving(home)
    try:
        bearer = opened(serving, issuer)
        other = (folder / "data.toml").read_text().replace(str(issuer.job_claims()["project_id"]), "41")
        (folder / "forty-one.toml").write_text(other)
        serving.process.send_signal(signal.SIGHUP)
        assert len({entry["policy_hash"] for entry in wait_for(home, "policy_loaded", 2)}) == 2
        with Wire(f"unix://{serving.socket}") as wire:
            assert wire.request("GET", "/v1/session", [bearer]).status == 200
        serving.process.send_signal(signal.SIGHUP)
        opened(serving, issuer)
        assert entries(home, "session_closed") == entries(home, "policy_refused") == []
    finally:
        assert serving.stop() == 0
    assert "Traceback" not in serving.log()
