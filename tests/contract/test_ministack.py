"""MiniStack as the demo starts it: it refuses, it is alone, and it is gone afterwards, whatever ends us."""

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import boto3
import pytest
from botocore import UNSIGNED
from botocore.config import Config
from botocore.exceptions import ClientError

from broker.demo import ministack
from broker.demo.iam import Role
from broker.demo.ministack import Keys, MiniStack, MiniStackMissing, MiniStackUnfit
from broker.demo.ministack_process import ENVIRONMENT_VARIABLE, MiniStackProcess, find_python
from broker.demo.sts import MintOrder
from broker.demo.sts_request import StsError
from tests.fakes.aws import ACCOUNT, REGION, Issuer, running_ministack

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def stack() -> Iterator[MiniStack]:
    with running_ministack() as stack:
        yield stack


@pytest.fixture(scope="module")
def venv(stack: MiniStack) -> Path:
    """Where MiniStack is installed; asking for it says first that it is."""
    return find_python().parent.parent


def an_order(role_arn: str) -> MintOrder:
    return MintOrder(
        role_arn=role_arn,
        session_name="gl-1-2-abcdefgh",
        seconds=900,
        policy=None,
        policy_arns=(),
        tags={"environment": "production"},
        transitive=("environment",),
        source_identity="gl-1-2",
    )


def alive(pid: int) -> bool:
    """A zombie is not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def within(seconds: float, holds: Callable[[], bool]) -> bool:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        if holds():
            return True
        time.sleep(0.02)
    return holds()


def test_only_the_minter_may_assume_a_role(stack: MiniStack) -> None:
    """The strict STS has its key. Not even a well signed web identity gets past it: nobody here would check the signature."""
    arn = stack.put_role(Role(name="guarded", trust={}))
    assert stack.mint(an_order(arn)).access_key_id
    with Issuer() as issuer:
        anyone = boto3.Session().client(
            "sts", region_name=REGION, endpoint_url=stack.url, config=Config(signature_version=UNSIGNED, proxies={})
        )
        with pytest.raises(ClientError) as caught:
            anyone.assume_role_with_web_identity(RoleArn=arn, RoleSessionName="gl-1", WebIdentityToken=issuer.token())
        anyone.close()
    assert caught.value.response["Error"]["Code"] == "AccessDenied"


def test_a_session_without_rights_reaches_nothing(stack: MiniStack) -> None:
    """What the canary proves at each start, and its twin with rights."""
    stack.create_bucket("canary-twin")
    stack.put_object("canary-twin", "a", b"a")
    may = {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "s3:GetObject", "Resource": "*"}]}
    without = stack.mint(an_order(stack.put_role(Role(name="without", trust={}))))
    having = stack.mint(an_order(stack.put_role(Role(name="having", trust={}, permissions=may))))
    for session, expected in ((having, ""), (without, "AccessDenied")):
        keys = Keys(
            access_key_id=session.access_key_id,
            secret_access_key=session.secret_access_key,
            session_token=session.session_token,
        )
        client = stack.client("s3", keys)
        got = ""
        try:
            client.get_object(Bucket="canary-twin", Key="a")["Body"].close()
        except ClientError as error:
            got = error.response["Error"]["Code"]
        client.close()
        assert got == expected
        assert session.secret_access_key not in repr(session) + repr(keys)


def test_what_the_emulator_refuses_is_said_in_its_words(stack: MiniStack) -> None:
    with pytest.raises(StsError) as caught:
        stack.mint(an_order(f"arn:aws:iam::{ACCOUNT}:role/nobody"))
    assert (caught.value.code, caught.value.status) == ("AccessDenied", 403)


def test_it_listens_on_loopback_alone(stack: MiniStack) -> None:
    """Its default is every address."""
    port = int(stack.url.rsplit(":", 1)[1])
    listening = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:] if line.split()[3] == "0A"]
    addresses = {fields[1].split(":")[0] for fields in listening if int(fields[1].split(":")[1], 16) == port}
    assert addresses == {f"{int.from_bytes(socket.inet_aton('127.0.0.1'), sys.byteorder):08X}"}


def test_two_at_once_know_nothing_of_each_other(stack: MiniStack, venv: Path) -> None:
    with MiniStack(account_id=ACCOUNT, venv=venv) as other:
        assert other.url != stack.url
        other.create_bucket("mine")
        stack.create_bucket("mine")
        other.put_object("mine", "a", b"a")
        assert stack.client("s3").list_objects_v2(Bucket="mine")["KeyCount"] == 0


def test_paths_with_spaces_are_paths(venv: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The environment's and the temporary folder's."""
    spaced, scratch = tmp_path / "my venvs", tmp_path / "my temp"
    spaced.mkdir()
    scratch.mkdir()
    (spaced / "mini stack").symlink_to(venv)
    monkeypatch.setattr(tempfile, "tempdir", str(scratch))
    monkeypatch.setenv(ENVIRONMENT_VARIABLE, str(spaced / "mini stack"))
    with MiniStack() as stack:
        folder = stack.process.folder
        assert folder is not None
        assert folder.is_relative_to(scratch)
        pid = stack.process.pid
        assert pid is not None
        assert alive(pid)
    assert not alive(pid)
    assert list(scratch.iterdir()) == []
    stack.stop()  # again: nothing happens


def test_an_emulator_that_does_not_refuse_is_not_used(venv: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """As MiniStack does by default, and as an older one does always."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))

    class Lax(MiniStackProcess):
        def __init__(self, settings: dict[str, str], venv: Path | None = None) -> None:
            super().__init__(settings | {"AUTH": "false"}, venv)

    monkeypatch.setattr(ministack, "MiniStackProcess", Lax)
    with pytest.raises(MiniStackUnfit, match="a role without rights could read"):
        MiniStack(venv=venv).start()
    assert list(tmp_path.iterdir()) == []


def test_a_missing_environment_says_how_it_gets_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(MiniStackMissing, match=r"requirements/ministack\.txt"):
        MiniStack(venv=tmp_path)
    monkeypatch.setenv(ENVIRONMENT_VARIABLE, str(tmp_path / "elsewhere"))
    with pytest.raises(MiniStackMissing, match="elsewhere"):
        find_python()


@pytest.mark.parametrize(("ci", "outcome"), [("true", pytest.fail.Exception), ("", pytest.skip.Exception)])
def test_a_missing_emulator_fails_in_ci_and_is_skipped_aloud_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ci: str, outcome: type[BaseException]
) -> None:
    monkeypatch.setenv("CI", ci)
    monkeypatch.setenv(ENVIRONMENT_VARIABLE, str(tmp_path))
    with pytest.raises(outcome, match="is not installed"), running_ministack():
        pass  # pragma: no cover


def test_a_process_that_ends_at_once_shows_its_last_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scratch = tmp_path / "scratch"
    (tmp_path / "bin").mkdir()
    scratch.mkdir()
    broken = tmp_path / "bin" / "python"
    broken.write_text("#!/bin/sh\necho no module named ministack\nexit 1\n")
    broken.chmod(0o755)
    monkeypatch.setattr(tempfile, "tempdir", str(scratch))
    with pytest.raises(MiniStackUnfit, match="no module named ministack"):
        MiniStack(venv=tmp_path).start()
    assert list(scratch.iterdir()) == []


SCRIPT = """
import sys, time
from broker.demo.ministack import MiniStack
with MiniStack() as stack:
    print(stack.process.pid, stack.process.folder, flush=True)
    time.sleep(60)
"""


@pytest.mark.parametrize("sign", [signal.SIGINT, signal.SIGKILL])
def test_it_does_not_outlive_us(venv: Path, sign: signal.Signals, tmp_path: Path) -> None:
    """Ctrl-C stops it and removes its folder. After a kill nobody can remove, but it is gone too."""
    environment = os.environ | {"TMPDIR": str(tmp_path), ENVIRONMENT_VARIABLE: str(venv)}
    with subprocess.Popen(
        [sys.executable, "-c", SCRIPT], cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as parent:
        assert parent.stdout is not None
        pid, folder = parent.stdout.readline().split(maxsplit=1)
        assert alive(int(pid))
        parent.send_signal(sign)
        parent.wait(20)
    assert within(5, lambda: not alive(int(pid)))
    assert Path(folder.strip()).exists() is (sign is signal.SIGKILL)
