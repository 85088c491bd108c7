"""The session file: only one that nobody else can have written, and only a whole one."""

import json
import os
from pathlib import Path
from typing import Any

import pytest

from luigi_contrib_secrets import SecretMisconfigured, session_file
from tests.fakes.broker_wire import new_handle

GOOD: dict[str, Any] = {
    "url": "unix:///b.sock",
    "handle": new_handle(),
    "session_id": "s1",
    "environment": "production",
    "expires_at": "2026-11-23T09:00:00Z",
}


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "credbroker"
    folder.mkdir(mode=0o700)
    monkeypatch.setenv("CREDBROKER_SESSION_FILE", str(folder / "s.json"))
    monkeypatch.delenv("CI_JOB_ID", raising=False)
    return folder / "s.json"


def write(path: Path, content: object, mode: int = 0o600) -> None:
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    path.chmod(mode)


def test_a_whole_file_of_our_own_is_read(path: Path) -> None:
    write(path, GOOD)
    found = session_file.load()
    assert (found.url, found.handle, found.environment) == ("unix:///b.sock", GOOD["handle"], "production")
    assert found.expires_at.isoformat() == "2026-11-23T09:00:00+00:00"
    assert GOOD["handle"] not in repr(found)


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o602, 0o644])
def test_a_file_that_others_can_read_or_write_is_refused(path: Path, mode: int) -> None:
    write(path, GOOD, mode)
    with pytest.raises(SecretMisconfigured, match="must be a plain file of this user's with mode 0600"):
        session_file.load()


@pytest.mark.parametrize("mode", [0o750, 0o701, 0o777])
def test_a_folder_that_others_can_enter_is_refused(path: Path, mode: int) -> None:
    write(path, GOOD)
    path.parent.chmod(mode)
    with pytest.raises(SecretMisconfigured, match="must be a directory of this user's with mode 0700"):
        session_file.load()


def test_a_symlink_is_refused(path: Path) -> None:
    write(path.with_name("real.json"), GOOD)
    path.symlink_to("real.json")
    with pytest.raises(SecretMisconfigured, match="cannot be opened"):
        session_file.load()


def test_a_folder_that_is_a_symlink_is_refused(path: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    write(path, GOOD)
    (tmp_path / "link").symlink_to(path.parent)
    monkeypatch.setenv("CREDBROKER_SESSION_FILE", str(tmp_path / "link" / "s.json"))
    with pytest.raises(SecretMisconfigured, match="must be a directory"):
        session_file.load()


def test_a_pipe_is_refused_and_does_not_hang(path: Path) -> None:
    os.mkfifo(path, 0o600)
    with pytest.raises(SecretMisconfigured, match="must be a plain file"):
        session_file.load()


def test_another_users_file_is_refused(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(path, GOOD)
    owner = path.stat().st_uid
    monkeypatch.setattr(os, "geteuid", lambda: owner + 1)
    with pytest.raises(SecretMisconfigured, match="of this user's"):
        session_file.load()


@pytest.mark.parametrize(
    "content",
    [
        "",
        "{",
        "[]",
        {},
        {**GOOD, "handle": 5},
        {**GOOD, "handle": "cbs_short"},
        {**GOOD, "handle": GOOD["handle"] + "\r\nX-Evil: 1"},
        {**GOOD, "environment": None},
        {**GOOD, "expires_at": "tomorrow"},
        {**GOOD, "padding": "x" * 20000},
    ],
)
def test_half_a_file_is_none_and_the_handle_stays_out_of_the_error(path: Path, content: object) -> None:
    write(path, content)
    with pytest.raises(SecretMisconfigured, match=r"is not one that credbroker writes") as error:
        session_file.load()
    assert GOOD["handle"] not in str(error.value)
    assert error.value.__suppress_context__


def test_no_file_says_how_to_get_one(path: Path) -> None:
    with pytest.raises(SecretMisconfigured, match=r"credbroker exec -- luigi"):
        session_file.load()


@pytest.mark.parametrize("job_id", ["", "../../etc", "a/b", "4 2"])
def test_without_a_job_there_is_no_default_place(path: Path, monkeypatch: pytest.MonkeyPatch, job_id: str) -> None:
    monkeypatch.delenv("CREDBROKER_SESSION_FILE")
    monkeypatch.setenv("CI_JOB_ID", job_id)
    with pytest.raises(SecretMisconfigured, match="neither CREDBROKER_SESSION_FILE nor CI_JOB_ID"):
        session_file.load()


def test_the_default_place_is_the_jobs_own_in_the_runtime_folder(
    path: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("CREDBROKER_SESSION_FILE")
    monkeypatch.setenv("CI_JOB_ID", "4242")
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    folder = tmp_path / f"credbroker-{os.geteuid()}"
    folder.mkdir(mode=0o700)
    write(folder / "4242.json", GOOD)
    assert session_file.load().handle == GOOD["handle"]


def test_a_runtime_folder_that_is_not_there_is_passed_over(path: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("CREDBROKER_SESSION_FILE")
    monkeypatch.setenv("CI_JOB_ID", "no-such-job-here")
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / "none"))
    with pytest.raises(SecretMisconfigured, match=r"/(dev/shm|tmp)/credbroker-"):
        session_file.load()


def test_nowhere_to_write_is_said(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CREDBROKER_SESSION_FILE")
    monkeypatch.setenv("CI_JOB_ID", "4242")
    monkeypatch.setattr(os, "access", lambda *args: False)
    with pytest.raises(SecretMisconfigured, match="no folder for it can be written"):
        session_file.load()
