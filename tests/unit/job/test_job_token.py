"""Finding the job token, and where it may go."""

import base64
import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from broker.errors import Code, Misconfigured, Refused
from broker.job.address import parse_address
from broker.job.job_token import JobToken, find_job_token
from broker.job.settings import JobSettings
from broker.job.trust import check_folder, check_origin, check_peer


def jwt(**claims: Any) -> str:
    body = {"aud": "https://broker.example.com", "exp": 2_000_000_000, "jti": "j", "job_id": "7"} | claims
    body = {name: value for name, value in body.items() if value is not None}
    return ".".join(base64.urlsafe_b64encode(part).decode().rstrip("=") for part in (b"{}", json.dumps(body).encode(), b"sig"))


def found(text: str, **settings: Any) -> JobToken:
    return find_job_token(JobSettings.read({}, **settings), {"CREDBROKER_ID_TOKEN": text, "OTHER": text})


def test_the_claims_that_steer_the_client_are_read() -> None:
    token = found(jwt() + "\n")
    assert (token.audiences, token.expires_at, token.jti, token.job_id) == (("https://broker.example.com",), 2e9, "j", "7")
    assert found(jwt(aud=["a", "b"], job_id=None), token_env="OTHER").audiences == ("a", "b")
    assert "eyJ" not in repr(token)


def test_a_token_file_goes_before_the_variable(tmp_path: Path) -> None:
    path = tmp_path / "token"
    path.write_text(jwt(jti="from-file") + "\n")
    assert found("nonsense", token_file=path).jti == "from-file"


def test_a_missing_token_names_the_lines_to_add_with_the_variable_that_was_asked_for() -> None:
    with pytest.raises(Misconfigured) as caught:
        find_job_token(JobSettings.read({}, token_env="MY_TOKEN", url="https://b.example"), {})
    assert caught.value.code is Code.JOB_TOKEN_MISSING
    assert "id_tokens:\n    MY_TOKEN:\n      aud: https://b.example" in caught.value.public
    with pytest.raises(Misconfigured, match="# the broker's public_url"):
        find_job_token(JobSettings.read({}), {"CREDBROKER_ID_TOKEN": "  "})


def test_a_token_file_that_is_not_there_is_a_missing_token(tmp_path: Path) -> None:
    with pytest.raises(Misconfigured, match="No such file") as caught:
        found("", token_file=tmp_path / "none")
    assert caught.value.code is Code.JOB_TOKEN_MISSING


def test_a_ci_job_token_is_told_apart() -> None:
    with pytest.raises(Refused, match="CI_JOB_TOKEN, which is not an ID token") as caught:
        found("glcbt-64_abc")
    assert caught.value.code is Code.TOKEN_CLASS


@pytest.mark.parametrize(
    "text",
    [
        "not-a-jwt",
        "a.b",
        "a..c",
        "a.!!!!.c",
        "a." + base64.urlsafe_b64encode(b"[1]").decode().rstrip("=") + ".c",
        "x" * 20_001,
        jwt(aud=None),
        jwt(aud=[]),
        jwt(aud=[1]),
        jwt(exp="soon"),
        jwt(exp=True),
        jwt(jti=5),
    ],
)
def test_what_is_no_id_token_is_malformed_and_not_quoted(text: str) -> None:
    with pytest.raises(Refused) as caught:
        found(text)
    assert caught.value.code is Code.TOKEN_MALFORMED
    assert text[:40] not in caught.value.public


def test_a_token_that_names_no_job_or_has_no_id_is_known_by_what_it_says() -> None:
    """Only GitLab's name a job, and Kubernetes gave no `jti` before 1.30. Another token is another."""
    one, again, other = (
        found(jwt(jti=None, job_id=None)),
        found(jwt(jti=None, job_id=None)),
        found(jwt(job_id=None, jti=None, exp=9)),
    )
    assert (one.jti, one.job_id) == (again.jti, again.job_id)
    assert one.jti not in (other.jti, "")
    assert one.job_id == one.jti
    assert found(jwt(job_id=None)).jti == "j"


@pytest.mark.parametrize("aud", ["https://broker.example.com", ["x", "https://broker.example.com:443/"]])
def test_a_token_goes_to_the_origin_of_its_audience(aud: Any) -> None:
    check_origin(found(jwt(aud=aud)), parse_address("https://broker.example.com"))


@pytest.mark.parametrize(
    "url",
    ["https://evil.example", "https://broker.example.com:8443", "http://127.0.0.1", "https://broker.example.com.evil.example"],
)
def test_a_token_goes_nowhere_else(url: str) -> None:
    with pytest.raises(Refused, match="it was not sent there") as caught:
        check_origin(found(jwt()), parse_address(url))
    assert caught.value.code is Code.TOKEN_AUDIENCE


def test_over_a_unix_socket_the_audience_says_nothing() -> None:
    check_origin(found(jwt(aud="anything")), parse_address("unix:///run/broker.sock"))


# --- the socket's folder and peer ---------------------------------------------------------------------------------------------


def test_a_folder_of_our_own_is_trusted(tmp_path: Path) -> None:
    check_folder(tmp_path / "broker.sock", None)
    check_folder(tmp_path / "nothing" / "here" / "broker.sock", None)


@pytest.mark.parametrize("mode", [0o777, 0o1777, 0o770, 0o702])
def test_a_folder_that_others_may_write_is_not(tmp_path: Path, mode: int) -> None:
    folder = tmp_path / "open"
    folder.mkdir()
    folder.chmod(mode)
    with pytest.raises(Misconfigured, match="others may write to it") as caught:
        check_folder(folder / "broker.sock", None)
    assert caught.value.code is Code.CONFIG_INVALID


def test_a_folder_above_that_others_may_write_is_not_unless_it_is_sticky(tmp_path: Path) -> None:
    """They could move our folder away and put theirs in its place; in a sticky one they cannot."""
    inner = tmp_path / "open" / "own"
    inner.mkdir(parents=True)
    inner.parent.chmod(0o777)
    with pytest.raises(Misconfigured, match="open' is unsafe"):
        check_folder(inner / "broker.sock", None)
    inner.parent.chmod(0o1777)
    check_folder(inner / "broker.sock", None)


def test_a_symlink_is_followed_before_it_is_judged(tmp_path: Path) -> None:
    (tmp_path / "open").mkdir()
    (tmp_path / "open").chmod(0o777)
    (tmp_path / "link").symlink_to(tmp_path / "open")
    with pytest.raises(Misconfigured, match="others may write to it"):
        check_folder(tmp_path / "link" / "broker.sock", None)


def test_a_folder_of_another_user_is_trusted_only_when_it_is_the_brokers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "theirs"
    folder.mkdir()
    owner = become_another(monkeypatch, folder)
    with pytest.raises(Misconfigured, match=f"it belongs to user {owner}"):
        check_folder(folder / "broker.sock", None)
    check_folder(folder / "broker.sock", owner)


def become_another(monkeypatch: pytest.MonkeyPatch, path: Path) -> int:
    """The owner of `path`, who is now neither this user nor root: it is given away as root, else we pretend to be another."""
    if os.geteuid() == 0:
        os.chown(path, 4711, -1)
        return 4711
    owner = os.geteuid()
    monkeypatch.setattr(os, "geteuid", lambda: owner + 1)
    return owner


def test_a_peer_of_our_own_is_trusted(tmp_path: Path) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        check_peer(ours, tmp_path, None)


def test_a_peer_of_another_user_is_trusted_only_when_it_is_the_brokers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel's answer is real: a process of another user listens, or it is we who pretend to be somebody else."""
    path = tmp_path / "broker.sock"
    listener = (
        "import os,socket,sys\n"
        "s=socket.socket(socket.AF_UNIX); s.bind(sys.argv[1])\n"
        "os.geteuid() or os.setuid(4711)\n"
        "s.listen(); print('up', flush=True); sys.stdin.read()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", listener, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "up\n"
        if os.geteuid() == 0:
            uid = 4711
        else:
            uid = os.geteuid()
            monkeypatch.setattr(os, "geteuid", lambda: uid + 1)
        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(str(path))
            with pytest.raises(Misconfigured, match=f"user {uid} listens"):
                check_peer(connection, path, None)
            check_peer(connection, path, uid)
        process.communicate(timeout=10)


def test_settings_come_from_variables_and_options_win() -> None:
    settings = JobSettings.read(
        {"CREDBROKER_URL": "u", "CREDBROKER_SERVER_UID": "12", "CREDBROKER_CA_FILE": "/ca", "CI_JOB_ID": ""}, url="o"
    )
    assert (settings.url, settings.server_uid, settings.ca_file, settings.ci_job_id) == ("o", 12, Path("/ca"), None)
    with pytest.raises(Misconfigured, match="CREDBROKER_SERVER_UID must be the number"):
        JobSettings.read({"CREDBROKER_SERVER_UID": "root"})
