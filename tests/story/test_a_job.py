"""One job's whole way, through real processes: rotation, the end, a broker that is restarted or killed under it."""

import json
import os
import signal
import subprocess
import sys
import time
from typing import Any

from tests.story.conftest import Town
from tests.story.test_bad_input import entries


def start(town: Town, job: str, *arguments: str, token: str) -> "subprocess.Popen[str]":
    environment = town.world.job_environment(token, job)
    return subprocess.Popen(
        [sys.executable, "-m", "broker", "exec", *arguments],
        env=environment,
        cwd=environment["HOME"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def of_session(town: Town, session_id: str) -> list[dict[str, Any]]:
    return [entry["unmapped"] for entry in entries(town, "--session", session_id)]


def session_id(done: Any) -> str:
    """As `exec` reports it."""
    word = str(done).partition("session ")[2].split(" ", 1)[0]
    assert len(word) == 26, done
    return word


def test_a_vault_lease_lives_as_long_as_the_command_and_no_longer(town: Town) -> None:
    """Read through the broker, known to Vault while the command runs, gone from Vault when `exec` is back."""
    show = "import os; print(os.environ['USERNAME_OF_WAREHOUSE'])"
    done = town.run(
        *("exec", "--grant", "warehouse", "--env", "USERNAME_OF_WAREHOUSE=secret://warehouse#username", "--no-mask"),
        *("--", sys.executable, "-c", show),
        token=town.world.token(),
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()
    said = of_session(town, session_id(done.stderr))
    assert [entry["kind"] for entry in said] == ["session_opened", "intent", "issued", "session_closed", "revoked"]
    ids = said[2]["upstream_ids"]
    assert ids["lease_id"].startswith("database/creds/etl-production/")
    assert not town.vault.knows_lease(ids["lease_id"])
    assert not town.vault.knows_accessor(ids["accessor"])


def test_a_lease_is_known_to_vault_while_the_command_runs(town: Town) -> None:
    """The allowed twin of the test above."""
    token = town.world.token()
    process = start(town, "7001", "--grant", "warehouse", "--", "sleep", "60", token=token)
    try:
        deadline = time.monotonic() + 20
        issued: list[dict[str, Any]] = []
        while not issued and time.monotonic() < deadline:
            found = [entry["unmapped"] for entry in entries(town, "--kind", "issued", "--grant", "warehouse")]
            issued = [entry for entry in found if town.vault.knows_lease(entry["upstream_ids"]["lease_id"])]
            time.sleep(0.2)
        assert issued
    finally:
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=30)
    assert process.returncode == 128 + signal.SIGTERM
    assert not town.vault.knows_lease(issued[0]["upstream_ids"]["lease_id"])


def test_an_exec_that_is_killed_does_not_lock_the_job_out(town: Town) -> None:
    """At moments from before the exchange to after the command's start; the next `exec` of the job succeeds each time."""
    for number, delay in enumerate((0.05, 0.15, 0.25, 0.35, 0.5, 0.8)):
        token, job = town.world.token(), str(7100 + number)
        process = start(town, job, "--grant", "lake", "--", "sleep", "30", token=token)
        time.sleep(delay)
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        again = town.run("exec", "--grant", "lake", "--", "true", token=token, job=job)
        assert again.returncode == 0, (delay, again.stderr)


def test_ten_in_a_row_two_in_parallel_and_get_twice_in_one_job(town: Town) -> None:
    token = town.world.token()
    for _ in range(2):
        assert town.run("exec", "--grant", "lake", "--", "true", token=token, job="7200").returncode == 0
    both = [start(town, "7200", "--grant", "lake", "--", "sleep", "1", token=token) for _ in range(2)]
    for process in both:
        said = process.communicate(timeout=60)
        assert process.returncode == 0, said
    for _ in range(2):
        got = town.run("get", "lake", "--field", "access_key_id", token=token, job="7200")
        assert got.stdout.startswith("ASIA"), got.stderr
    for _ in range(8):
        assert town.run("exec", "--grant", "lake", "--", "true", token=token, job="7200").returncode == 0


def test_of_twenty_in_a_row_every_session_but_the_last_is_revoked_at_once(town: Town) -> None:
    """The one that stays falls silent; nothing is open beyond the token's end."""
    token = town.world.token()
    ids = list[str]()
    for _ in range(20):
        done = town.run("exec", "--", "true", token=token, job="7250")
        assert done.returncode == 0, done.stderr
        ids.append(session_id(done.stderr))
    distinct = list(dict.fromkeys(ids))
    assert [ids.count(one) for one in distinct] == [1] * 6 + [14]
    ends = [[entry["kind"] for entry in of_session(town, one)] for one in distinct]
    assert ends == [["session_opened", "session_closed"]] * 6 + [["session_opened"]]
    assert "its token may open one more; revoked after five minutes without one" in done.stderr


def test_nothing_is_issued_or_denied_before_the_command_asks(town: Town) -> None:
    """Of three grants one is AWS's, which the SDKs find, and one is a folder, which nobody can read without a subpath."""
    show = "import os; print(os.environ['AWS_REGION'], 'AWS_CONTAINER_CREDENTIALS_FULL_URI' in os.environ)"
    done = town.run("exec", "--", sys.executable, "-c", show, token=town.world.token())
    assert done.stdout.split()[1:] == ["True"], done.stderr
    assert [entry["kind"] for entry in of_session(town, session_id(done.stderr))] == ["session_opened", "session_closed"]

    ask = "import boto3; print(boto3.Session().get_credentials().get_frozen_credentials().access_key)"
    done = town.run("exec", "--", sys.executable, "-c", ask, token=town.world.token())
    assert done.stdout.startswith("ASIA"), done.stderr
    kinds = [entry["kind"] for entry in of_session(town, session_id(done.stderr))]
    assert kinds[:4] == ["session_opened", "intent", "issued", "session_closed"]


def test_a_session_and_its_lease_survive_a_restart_and_a_kill_of_the_broker(town: Town) -> None:
    """Cold until the handle comes back; then the same credential again, and it ends as if nothing had been."""
    token = town.world.token()
    reads = []
    for stop in (None, signal.SIGTERM, signal.SIGKILL):
        if stop is not None:
            broker = town.world._broker
            assert broker is not None
            broker.send_signal(stop)
            broker.wait(15)
            town.world.start_broker()
        got = town.run("get", "warehouse", "--format", "json", token=token, job="7300")
        assert got.returncode == 0, got.stderr
        reads.append(json.loads(got.stdout))
    assert len({read["lease_id"] for read in reads}) == 1
    assert len({read["data"]["password"] for read in reads}) == 1


def test_the_log_verifies_after_kills_and_restarts(town: Town) -> None:
    done = town.run("audit", "verify", str(town.world.database), "--key", town.world.log_key)
    assert done.returncode == 0, done.stdout + done.stderr
