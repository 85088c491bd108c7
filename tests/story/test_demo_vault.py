"""`credbroker demo` where `bao` or `vault` is on PATH: it joins in, on a real server when this machine has one."""

import os
import re
import shutil
import signal
import stat
import time
from pathlib import Path

import pytest

from broker.demo.vault import BINARIES, DevVault, VaultUnfit, find_binary
from tests.story.test_demo import _needs_ministack as _needs_ministack  # noqa: PLC0414 - a fixture is used where its name is
from tests.story.test_demo import nothing_left, short, start

__all__ = ["short"]

with_vault = pytest.mark.skipif(
    find_binary() is None, reason="the demo's Vault needs `bao` or `vault` on PATH; without, the demo leaves it out"
)


def a_path_without(*names: str) -> str:
    folders = os.environ["PATH"].split(os.pathsep)
    return os.pathsep.join(folder for folder in folders if not any(shutil.which(name, path=folder) for name in names))


def a_program(folder: Path, name: str, script: str) -> Path:
    folder.mkdir(exist_ok=True)
    program = folder / name
    program.write_text("#!/bin/sh\n" + script)
    program.chmod(stat.S_IRWXU)
    return program


@with_vault
def test_the_pipeline_signs_with_a_leased_key_and_the_lease_ends_with_the_job(short: Path) -> None:
    demo = start(short)
    text = demo.communicate(timeout=120)[0]
    assert demo.returncode == 0, text
    assert [int(n) for n in re.findall(r"^(\d)\. ", text, re.MULTILINE)] == [1, 2, 3, 4, 5]
    assert "grants lake and signing" in text
    assert re.search(
        r"a fifth task signed the report with a key that (OpenBao|Vault) leased to this job: leased/etl-production/", text
    )
    assert "lists one lease while a job runs and none when it has ended" in text
    assert re.search(r"\d revoked", text)
    assert "All of it held." in text
    nothing_left(short)


@with_vault
def test_ctrl_c_stops_the_vault_too(short: Path) -> None:
    demo = start(short)
    assert demo.stdout is not None
    for line in demo.stdout:
        if line.startswith("1. "):
            break
    time.sleep(0.5)
    os.kill(demo.pid, signal.SIGINT)
    rest = demo.communicate(timeout=60)[0]
    assert demo.returncode == 130, rest
    assert "nothing is left running" in rest
    nothing_left(short)


@with_vault
def test_a_dev_vault_leases_nothing_that_nobody_asked_for_and_ends_with_its_block() -> None:
    binary = find_binary()
    assert binary is not None
    with DevVault(binary) as vault:
        assert vault.leases() == []
        process = vault._process
        assert process is not None
        arguments = Path(f"/proc/{process.pid}/cmdline").read_text()
        assert "root-" not in arguments  # the token is not for everybody on this machine to read
    assert process.poll() is not None
    vault.stop()  # twice is fine


@pytest.mark.parametrize(
    ("script", "says"), [("echo no such flag >&2; exit 1\n", "no such flag"), ("exec /nonexistent\n", "/nonexistent")]
)
def test_a_binary_that_does_not_come_up_is_named_with_its_last_words(tmp_path: Path, script: str, says: str) -> None:
    """And how the demo goes without it."""
    binary = a_program(tmp_path / "bin", "vault", script)
    with pytest.raises(VaultUnfit) as raised, DevVault(binary):
        raise AssertionError("it started")
    assert str(binary) in str(raised.value)
    assert says in str(raised.value)
    assert "the demo goes without it when neither `bao` nor `vault` is on PATH" in str(raised.value)


def test_bao_comes_before_vault_and_neither_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    assert find_binary() is None
    vault = a_program(tmp_path / "bin", "vault", "exit 1\n")
    assert find_binary() == vault
    bao = a_program(tmp_path / "bin", "bao", "exit 1\n")
    assert find_binary() == bao
    assert BINARIES == ("bao", "vault")


def test_a_broken_vault_on_path_ends_the_demo_with_a_sentence_and_leaves_nothing(short: Path) -> None:
    """The refused twin of the first test; it runs everywhere."""
    elsewhere = short.with_name(short.name + " bin")
    a_program(elsewhere, "bao", "echo cannot start today >&2; exit 1\n")
    try:
        demo = start(short, path=f"{elsewhere}{os.pathsep}{a_path_without(*BINARIES)}")
        text = demo.communicate(timeout=60)[0]
    finally:
        shutil.rmtree(elsewhere)
    assert demo.returncode == 1
    assert "cannot start today" in text
    assert "Traceback" not in text
    assert "All of it held" not in text
    nothing_left(short)
