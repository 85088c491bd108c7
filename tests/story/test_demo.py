"""`credbroker demo` as a user runs it: it tells the story, checks it, and leaves nothing behind."""

import contextlib
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from broker.demo.ministack_process import find_python
from tests.fakes.aws import needs_ministack


@pytest.fixture(autouse=True)
def _needs_ministack() -> None:
    with needs_ministack():
        find_python()


def start(temporary: Path, *arguments: str, path: str | None = None) -> "subprocess.Popen[str]":
    """The demo, with its files in a folder of ours whose name has a space."""
    variables = {"TMPDIR": str(temporary), "NO_COLOR": "1", "COLUMNS": "200", "PYTHONUNBUFFERED": "1"}
    variables |= {"http_proxy": "http://127.0.0.1:9", "https_proxy": "http://127.0.0.1:9"}  # not for loopback, whatever it is
    return subprocess.Popen(
        [sys.executable, "-m", "broker", "demo", *arguments],
        env=os.environ | variables | ({} if path is None else {"PATH": path}),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


@pytest.fixture
def short(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Short enough for a socket in it, with a space."""
    folder = Path("/tmp") / f"cb {os.getpid()} {time.monotonic_ns() % 10**6}"
    folder.mkdir(mode=0o700)
    return folder


def left_running(folder: Path) -> list[str]:
    """Command lines and environments of processes that still name the folder."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            told = (process / "cmdline").read_bytes() + (process / "environ").read_bytes()
            if str(folder).encode() in told and int(process.name) != os.getpid():
                found.append(told.replace(b"\0", b" ").decode(errors="replace")[:200])
    return found


def nothing_left(folder: Path) -> None:
    until = time.monotonic() + 10
    while left_running(folder) and time.monotonic() < until:
        time.sleep(0.1)
    assert left_running(folder) == []
    assert list(folder.iterdir()) == []
    folder.rmdir()


def test_two_demos_at_once_tell_the_whole_story_and_leave_nothing(short: Path) -> None:
    """Each in under 90 seconds, side by side on two cores."""
    began = time.monotonic()
    demos = [start(short), start(short)]
    told = [demo.communicate(timeout=120)[0] for demo in demos]
    assert [demo.returncode for demo in demos] == [0, 0], told
    assert time.monotonic() - began < 90
    for text in told:
        assert [int(n) for n in re.findall(r"^(\d)\. ", text, re.MULTILINE)] == [1, 2, 3, 4, 5]
        assert "signed with ASIA" in text
        assert "environment_mismatch" in text
        assert "AccessDenied" in text
        assert "session_exists" in text
        assert "verified with the public key alone" in text
        assert "All of it held." in text
        assert "\x1b[" not in text  # colour only on a terminal
    nothing_left(short)


@pytest.mark.parametrize("after", ["starting", "1. "])
def test_ctrl_c_stops_everything_and_removes_it(short: Path, after: str) -> None:
    demo = start(short)
    assert demo.stdout is not None
    for line in demo.stdout:
        if after in line:
            break
    time.sleep(1.5)
    os.kill(demo.pid, signal.SIGINT)
    rest = demo.communicate(timeout=60)[0]
    assert demo.returncode == 130, rest
    assert "nothing is left running" in rest
    assert "Traceback" not in rest
    nothing_left(short)


def test_keep_leaves_it_running_and_its_three_commands_work(short: Path) -> None:
    demo = start(short, "--keep")
    assert demo.stdout is not None
    shown: list[str] = []
    for line in demo.stdout:
        shown.append(line)
        if "Ctrl-C stops" in line:
            break
    commands = [line.strip() for line in shown if line.startswith("  ") and " -m broker " in line]
    assert len(commands) == 3, shown
    try:
        for command in commands:
            done = subprocess.run(
                ["/bin/sh", "-c", command],
                capture_output=True,
                text=True,
                check=False,
                env={"PATH": os.environ["PATH"], "HOME": str(short)},
            )
            assert done.returncode == 0, (command, done.stderr)
            assert done.stdout
    finally:
        os.kill(demo.pid, signal.SIGINT)
        demo.communicate(timeout=60)
    nothing_left(short)


def test_a_demo_whose_s3_enforces_nothing_does_not_say_that_all_held(short: Path) -> None:
    """The refused twin: without MiniStack the demo fails and names what is missing."""
    demo = subprocess.run(
        [sys.executable, "-m", "broker", "demo"],
        env={**os.environ, "TMPDIR": str(short), "CREDBROKER_MINISTACK_VENV": str(short / "nowhere")},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert demo.returncode == 1
    assert "All of it held" not in demo.stdout
    assert "make demo" in demo.stdout + demo.stderr
    nothing_left(short)
