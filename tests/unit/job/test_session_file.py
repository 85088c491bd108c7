"""The session file and its neighbours."""

import json
import os
import stat
import time
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pytest

from broker.errors import Code, Misconfigured, Unavailable
from broker.job.retry import Patience
from broker.job.session_file import KeptSession, SessionPlace, State, find_session_file
from broker.job.settings import JobSettings
from broker.secret import Secret

SESSION = KeptSession(
    url="unix:///run/b.sock",
    handle=Secret("cbs_handle"),
    session_id="s1",
    environment="production",
    expires_at=datetime(2026, 1, 1, tzinfo=timezone.utc),
)


def patience(wait: float = 0) -> Patience:
    return Patience(wait=wait, told=lambda _: None)


@pytest.fixture
def place(tmp_path: Path) -> SessionPlace:
    return SessionPlace(tmp_path / "credbroker-me" / "4242.json")


def found(job_id: str | None = None, **variables: str) -> Path:
    return find_session_file(JobSettings.read(variables), lambda: job_id)


def test_the_first_writable_folder_is_taken(tmp_path: Path) -> None:
    own = f"credbroker-{os.geteuid()}"
    assert found(XDG_RUNTIME_DIR=str(tmp_path), CI_JOB_ID="7") == tmp_path / own / "7.json"
    assert found(XDG_RUNTIME_DIR=str(tmp_path / "none"), CI_JOB_ID="7") in (
        Path("/dev/shm") / own / "7.json",
        Path("/tmp") / own / "7.json",
    )


def test_a_named_file_wins_and_without_a_job_id_the_tokens_is_used(tmp_path: Path) -> None:
    assert found(CREDBROKER_SESSION_FILE=str(tmp_path / "x.json"), CI_JOB_ID="7") == tmp_path / "x.json"
    assert found("99", XDG_RUNTIME_DIR=str(tmp_path)).name == "99.json"


@pytest.mark.parametrize("job_id", [None, "", "../../etc/x", "a b", "x" * 65])
def test_a_job_id_that_is_no_name_is_refused(job_id: str | None) -> None:
    with pytest.raises(Misconfigured, match="neither CI_JOB_ID nor CREDBROKER_SESSION_FILE") as caught:
        found(job_id)
    assert caught.value.code is Code.CONFIG_INVALID


def test_what_was_written_is_read_and_only_ours(place: SessionPlace) -> None:
    assert place.read() is None
    place.write(SESSION)
    kept = place.read()
    assert kept is not None
    assert kept.handle.reveal() == "cbs_handle"
    assert (kept.url, kept.session_id, kept.environment, kept.expires_at) == (
        "unix:///run/b.sock",
        "s1",
        "production",
        SESSION.expires_at,
    )
    assert json.loads(place.path.read_text()) == {
        "url": "unix:///run/b.sock",
        "handle": "cbs_handle",
        "session_id": "s1",
        "environment": "production",
        "expires_at": "2026-01-01T00:00:00Z",
    }
    assert stat.S_IMODE(place.path.stat().st_mode) == 0o600
    assert stat.S_IMODE(place.folder.stat().st_mode) == 0o700
    assert "cbs_handle" not in repr(kept)
    place.remove()
    place.remove()
    assert place.read() is None


@pytest.mark.parametrize("content", ["", "[]", "{}", "not json", '{"url": 1}'])
def test_a_file_that_is_none_of_ours_is_refused(place: SessionPlace, content: str) -> None:
    place.path.write_text(content)
    place.path.chmod(0o600)
    with pytest.raises(Misconfigured, match="not a session file of credbroker; remove it"):
        place.read()


def test_a_file_that_others_can_read_is_refused(place: SessionPlace) -> None:
    place.write(SESSION)
    place.path.chmod(0o644)
    with pytest.raises(Misconfigured, match="must be a regular file of this user with mode 0600"):
        place.read()


def test_a_pipe_in_its_place_does_not_hang_us(place: SessionPlace) -> None:
    os.mkfifo(place.path, 0o600)
    with pytest.raises(Misconfigured, match="regular file"):
        place.read()


@pytest.mark.parametrize("which", ["", ".lock", ".state", ".users"])
def test_no_symlink_is_followed(place: SessionPlace, tmp_path: Path, which: str) -> None:
    place.path.with_name(place.path.name + which).symlink_to(tmp_path / "elsewhere")

    def use() -> None:
        with place.locked(patience()):
            place.read()
            place.state()
            place.join_users().release()

    with pytest.raises(Misconfigured, match="a symbolic link is not followed"):
        use()
    assert not (tmp_path / "elsewhere").exists()


def test_a_folder_that_is_a_symlink_or_open_or_no_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir(mode=0o700)
    (tmp_path / "link").symlink_to(tmp_path / "real")
    (tmp_path / "open").mkdir(mode=0o750)
    (tmp_path / "file").touch()
    for name, why in [("link", "symbolic link"), ("file", "not a folder"), ("open", "mode 0750, 0700 is needed")]:
        with pytest.raises(Misconfigured, match=why):
            SessionPlace(tmp_path / name / "7.json")
    with pytest.raises(Misconfigured, match="the folder cannot be made: No such file"):
        SessionPlace(tmp_path / "none" / "none" / "7.json")


def test_a_folder_of_another_user_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "theirs").mkdir(mode=0o700)
    uid = os.geteuid()
    monkeypatch.setattr(os, "geteuid", lambda: uid + 1)
    with pytest.raises(Misconfigured, match=f"it belongs to user {uid}"):
        SessionPlace(tmp_path / "theirs" / "7.json")


def test_the_state_survives_and_garbage_is_a_fresh_one(place: SessionPlace) -> None:
    assert place.state() == State()
    state = State(jti="j", resume_key="k", asked_at=1.5, opener="get", left=3, heartbeat=False)
    place.write_state(state)
    assert place.state() == state
    beside: list[Any] = ["{", "[1]", '{"unknown": 1}']
    for garbage in beside:
        (place.folder / "4242.json.state").write_text(garbage)
        assert place.state() == State()


def test_only_one_holds_the_lock_and_the_other_gives_up_in_time(place: SessionPlace) -> None:
    def hold_twice() -> None:
        with place.locked(patience()), place.locked(patience(0.1)):
            pytest.fail("held twice")

    with pytest.raises(Unavailable, match="another credbroker command of this job is still busy"):
        hold_twice()
    with place.locked(patience()):
        pass


def test_what_jobs_of_long_ago_left_is_swept_away_and_nothing_else(tmp_path: Path) -> None:
    """A shell runner's folder is memory that nobody else frees."""
    ours, named = tmp_path / f"credbroker-{os.geteuid()}", tmp_path / "named"
    for folder in (ours, named):
        (folder / "exec-old").mkdir(parents=True)
        (folder / "exec-old" / "aws-token").touch()
        (folder / "old.json.state").touch()
        (folder / "new.json.state").touch()
        folder.chmod(0o700)
        for old in (folder / "exec-old", folder / "old.json.state"):
            os.utime(old, (1000, 1000))
        SessionPlace(folder / "7.json").sweep(time.time())
    assert [path.name for path in ours.iterdir()] == ["new.json.state"]
    assert len(list(named.iterdir())) == 3


def test_the_last_user_is_known(place: SessionPlace) -> None:
    first, second = place.join_users(), place.join_users()
    assert not first.is_last()
    first.release()
    assert second.is_last()
    second.release()
