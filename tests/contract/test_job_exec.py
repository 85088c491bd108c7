"""`credbroker exec` and `get` as processes, against the strict double of the wire."""

import json
import os
import re
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.fakes.broker_wire import BrokerWire, FakeGrant, broker_wire

CREDBROKER = [sys.executable, "-m", "broker"]
SHOW_ENV = "import json,os; json.dump(dict(os.environ), open(os.environ['OUT'], 'w'))"


@dataclass
class Job:
    """One GitLab job on a machine with a broker."""

    wire: BrokerWire
    folder: Path
    environ: dict[str, str]
    running: list[subprocess.Popen[str]] = field(default_factory=list)

    def run(self, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
        process = self.start(*arguments, **variables)
        out, err = process.communicate(timeout=60)
        return subprocess.CompletedProcess(arguments, process.returncode, out, err)

    def start(self, *arguments: str, **variables: str) -> subprocess.Popen[str]:
        environ = {name: value for name, value in (self.environ | variables).items() if value}
        process = subprocess.Popen(
            [*CREDBROKER, *arguments],
            env=environ,
            text=True,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        self.running.append(process)
        return process

    def python(self, code: str, *options: str, **variables: str) -> subprocess.CompletedProcess[str]:
        """`credbroker exec` of a small Python program."""
        return self.run("exec", *options, "--", sys.executable, "-c", code, **variables)

    def shown(self, *options: str, **variables: str) -> dict[str, str]:
        """The environment of a command under `exec`."""
        out = self.folder / "environ.json"
        result = self.python(SHOW_ENV, *options, OUT=str(out), **variables)
        assert result.returncode == 0, result.stderr
        environ = json.loads(out.read_text())
        assert isinstance(environ, dict)
        return environ

    def another(self) -> None:
        """From here on it is another job, with a token of its own."""
        self.environ |= {"CREDBROKER_ID_TOKEN": self.wire.mint(), "CI_JOB_ID": str(time.monotonic_ns())}

    @property
    def session_file(self) -> Path:
        return self.folder / f"credbroker-{os.geteuid()}" / f"{self.environ['CI_JOB_ID']}.json"


def until(condition: Callable[[], bool], seconds: float = 15.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.01)


@pytest.fixture
def job(tmp_path: Path) -> Iterator[Job]:
    with broker_wire(tmp_path / "s") as wire:
        environ = {
            "PATH": os.environ["PATH"],
            "HOME": str(tmp_path),
            "XDG_RUNTIME_DIR": str(tmp_path),
            "CI_JOB_ID": "4242",
            "CREDBROKER_URL": wire.unix_url,
            "CREDBROKER_ID_TOKEN": wire.mint(),
            "COVERAGE_PROCESS_START": os.environ.get("COVERAGE_PROCESS_START", ""),
        }
        environ |= {name: value for name, value in os.environ.items() if name.startswith("COVERAGE_") or name == "PYTHONPATH"}
        one = Job(wire, tmp_path, environ)
        yield one
        for process in one.running:
            if process.poll() is None:
                process.kill()
                process.wait()
            for stream in (process.stdin, process.stdout, process.stderr):
                if stream is not None:
                    stream.close()


DATABASE = {"host": "db.example.eu-central-1.rds.amazonaws.com", "port": "5432"}


@pytest.mark.parametrize("options", [(), ("--grant", "warehouse-rds")])
def test_a_token_for_a_database_is_nothing_for_the_aws_sdks(job: Job, options: tuple[str, ...]) -> None:
    job.wire.grants["warehouse-rds"] = FakeGrant(kind="rds", data=DATABASE)
    if not options:
        del job.wire.grants["lake"]
    shown = job.shown(*options, "--env", "PGPASSWORD=secret://warehouse-rds#password", "--no-mask")
    assert shown["PGPASSWORD"] in job.wire.values
    assert not [name for name in shown if name.startswith(("AWS_CONTAINER", "AWS_REGION", "AWS_DEFAULT"))]


def test_a_token_for_a_database_is_read_as_any_other_and_is_no_aws_grant(job: Job) -> None:
    job.wire.grants["warehouse-rds"] = FakeGrant(kind="rds", data=DATABASE)
    document = json.loads(job.run("get", "warehouse-rds", "--format", "json").stdout)
    assert document["kind"] == "rds"
    assert document["data"].items() >= DATABASE.items()
    shown = job.run("get", "warehouse-rds", "--format", "env").stdout
    assert "export WAREHOUSE_RDS_PASSWORD=" in shown
    assert "AWS_" not in shown
    assert "is no AWS grant" in job.run("get", "warehouse-rds", "--format", "aws").stderr
    refused = job.run("exec", "--aws", "warehouse-rds", "--", "true")
    assert refused.returncode != 0
    assert "that grant is no AWS grant" in refused.stderr


# --- what the command gets --------------------------------------------------------------------------------------------


def test_the_command_finds_the_session_and_the_aws_endpoint_and_no_job_token(job: Job) -> None:
    """DESIGN section 6, variable by variable."""
    token = job.environ["CREDBROKER_ID_TOKEN"]
    shown = job.shown(SAME_TOKEN=token, CI_JOB_TOKEN="glcbt-kept", NO_PROXY="internal.example")

    assert shown["CREDBROKER_URL"] == job.wire.unix_url
    assert shown["CREDBROKER_SESSION_FILE"] == str(job.session_file)
    assert re.fullmatch(r"http://127\.0\.0\.1:\d+/v1/aws/lake", shown["AWS_CONTAINER_CREDENTIALS_FULL_URI"])
    assert shown["AWS_REGION"] == "eu-central-1"
    assert shown["AWS_EC2_METADATA_DISABLED"] == "true"
    assert shown["NO_PROXY"] == "internal.example,127.0.0.1,localhost"
    assert shown["CI_JOB_TOKEN"] == "glcbt-kept"
    assert token not in shown.values()
    assert "CREDBROKER_ID_TOKEN" not in shown


def test_what_would_shadow_the_endpoint_is_removed(job: Job) -> None:
    """A leftover key, profile or web identity would be asked first by every SDK."""
    shadows = {
        "AWS_ACCESS_KEY_ID": "AKIAOLD",
        "AWS_SECRET_ACCESS_KEY": "old",
        "AWS_SESSION_TOKEN": "old",
        "AWS_PROFILE": "old",
        "AWS_DEFAULT_PROFILE": "old",
        "AWS_WEB_IDENTITY_TOKEN_FILE": "/old",
        "AWS_ROLE_ARN": "old",
        "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI": "/old",
        "AWS_CONTAINER_AUTHORIZATION_TOKEN": "old",
    }
    shown = job.shown(**shadows)
    assert not shadows.keys() & shown.keys()


def test_without_an_aws_grant_aws_variables_stay(job: Job) -> None:
    """The twin: a command that gets no AWS grant, by --grant or by the policy, keeps what it brought along."""
    shown = job.shown("--grant", "warehouse", AWS_ACCESS_KEY_ID="AKIAOWN", AWS_PROFILE="own")
    assert shown["AWS_ACCESS_KEY_ID"] == "AKIAOWN"
    assert shown["AWS_PROFILE"] == "own"
    assert "AWS_CONTAINER_CREDENTIALS_FULL_URI" not in shown

    del job.wire.grants["lake"]
    job.another()
    shown = job.shown(AWS_ACCESS_KEY_ID="AKIAOWN", AWS_REGION="eu-north-1")
    assert (shown["AWS_ACCESS_KEY_ID"], shown["AWS_REGION"]) == ("AKIAOWN", "eu-north-1")
    assert "AWS_CONTAINER_CREDENTIALS_FULL_URI" not in shown


def test_nothing_is_minted_before_the_command_asks_for_it(job: Job) -> None:
    """DESIGN 3.8. The AWS grant and its region are known all the same, and a folder grant causes no denial."""
    job.wire.grants["kv"] = FakeGrant(subpath=True)
    shown = job.shown()
    assert (shown["AWS_REGION"], shown["AWS_DEFAULT_REGION"]) == ("eu-central-1", "eu-central-1")
    assert "AWS_CONTAINER_CREDENTIALS_FULL_URI" in shown
    assert job.wire.sessions[0].leases == {}
    assert job.wire.calls("GET", "/v1/credentials") == job.wire.calls("GET", "/v1/aws") == []


def test_the_first_request_of_an_sdk_mints_and_is_masked_and_reported(job: Job) -> None:
    """The allowed twin: what `exec` has not read itself."""
    code = (
        "import boto3; k=boto3.Session().get_credentials().get_frozen_credentials()\nprint(k.access_key, k.secret_key, k.token)"
    )
    result = job.python(code)
    (lease,) = job.wire.sessions[0].leases.values()
    assert result.stdout == f"{lease.data['access_key_id']} [MASKED] [MASKED]\n", result.stderr
    assert re.search(r"revoked; AWS credentials that the command had lapse by \d{4}-", result.stderr)


def test_a_value_that_the_command_reads_first_is_masked(job: Job) -> None:
    """Nothing was read before it, so `exec` learns of the lease from the broker."""
    result = job.run("exec", "--", *CREDBROKER, "get", "warehouse", "--field", "password")
    assert result.stdout == "[MASKED]\n", result.stderr


def test_the_files_of_the_command_are_private_and_gone_afterwards(job: Job) -> None:
    """Session file 0600 in a folder 0700; the token file has no newline, which botocore would refuse."""
    code = (
        "import os,stat,json\n"
        "s=os.environ['CREDBROKER_SESSION_FILE']; t=os.environ['AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE']\n"
        "m=lambda p: oct(stat.S_IMODE(os.stat(p).st_mode))\n"
        "print(m(s), m(os.path.dirname(s)), m(t), m(os.path.dirname(t)), open(t).read().endswith('\\n'))\n"
        "print(sorted(json.load(open(s))), os.path.dirname(t))\n"
    )
    result = job.python(code)
    assert result.stdout.splitlines()[0] == "0o600 0o700 0o600 0o700 False"
    assert "['environment', 'expires_at', 'handle', 'session_id', 'url']" in result.stdout
    assert not job.session_file.exists()
    assert not list(job.session_file.parent.glob("exec-*"))


def test_env_and_file_options_carry_one_value_each(job: Job) -> None:
    """For tools that know nothing of us; the file is 0600 and removed at the end."""
    job.wire.grants["warehouse"].data = {"password": "pass word's"}
    target = job.folder / "password"
    code = (
        "import os,stat,sys; p=sys.argv[1]\n"
        "print(os.environ['PW'] == open(p).read() == \"pass word's\", oct(stat.S_IMODE(os.stat(p).st_mode)))"
    )
    options = ("--env", "PW=secret://warehouse#password", "--file", f"{target}=secret://warehouse#password")
    result = job.run("exec", *options, "--", sys.executable, "-c", code, str(target))
    assert result.stdout == "True 0o600\n", result.stderr
    assert not target.exists()


def test_a_field_that_is_not_there_is_named_with_those_that_are(job: Job) -> None:
    result = job.python("print('ran')", "--env", "PW=secret://warehouse#passwort")
    assert (result.returncode, result.stdout) == (78, "")
    assert "has no field 'passwort'; it has: password, username [config_invalid]" in result.stderr
    assert job.wire.sessions[0].state == "closed"


def test_boto3_in_the_command_gets_and_refreshes_credentials(job: Job) -> None:
    """Real botocore through the endpoint: the second answer is the rotated one, and the chain's choice is the endpoint."""
    job.wire.grants["lake"] = FakeGrant(kind="aws", ttl=600)  # under botocore's 15 minutes: it asks at each use
    code = (
        "import boto3,subprocess,sys\n"
        "c=boto3.Session().get_credentials(); a=c.get_frozen_credentials()\n"
        "print(c.method, a.access_key, flush=True); input()\n"
        "print(c.get_frozen_credentials().access_key)\n"
    )
    process = job.start("exec", "--", sys.executable, "-c", code)
    assert process.stdout is not None
    method, first = process.stdout.readline().split()
    job.wire.rotate("lake")
    out, err = process.communicate("\n", timeout=60)
    assert method == "container-role"
    assert first.startswith("ASIA")
    assert out.strip().startswith("ASIA")
    assert out.strip() != first
    assert process.returncode == 0, err


def test_each_aws_grant_has_a_profile_and_the_default_must_be_chosen(job: Job) -> None:
    job.wire.grants["lake-two"] = FakeGrant(kind="aws", region="eu-west-1")
    refused = job.python("print('ran')")
    assert (refused.returncode, refused.stdout) == (78, "")
    assert "several AWS grants (lake, lake-two); say with --aws which one" in refused.stderr

    code = (
        "import boto3,os\n"
        "d=boto3.Session(); p=boto3.Session(profile_name='lake'); q=boto3.Session(profile_name='lake-two')\n"
        "print(d.get_credentials().method, d.region_name)\n"
        "print(p.get_credentials().method, p.get_credentials().access_key)\n"
        "print(q.get_credentials().method, q.get_credentials().access_key)\n"
    )
    job.another()
    result = job.python(code, "--aws", "lake-two", "--grant", "lake")
    lines = result.stdout.splitlines()
    assert lines[0] == "container-role eu-west-1", result.stderr
    leases = {name: lease.data["access_key_id"] for (name, _), lease in job.wire.sessions[-1].leases.items()}
    assert lines[1:] == [f"custom-process {leases['lake']}", f"custom-process {leases['lake-two']}"]


def test_naming_one_of_several_aws_grants_with_grant_chooses_it(job: Job) -> None:
    """Only that one gets a profile: the command asked for no other."""
    job.wire.grants["lake-two"] = FakeGrant(kind="aws", region="eu-west-1")
    shown = job.shown("--grant", "lake-two", "--grant", "warehouse")
    assert shown["AWS_CONTAINER_CREDENTIALS_FULL_URI"].endswith("/v1/aws/lake-two")
    assert shown["AWS_REGION"] == "eu-west-1"
    assert set(job.wire.sessions[0].leases) == {("lake-two", ""), ("warehouse", "")}


def test_aws_naming_another_kind_of_grant_is_refused(job: Job) -> None:
    """Before it is read: nothing is minted for a mistake."""
    result = job.python("print('ran')", "--aws", "warehouse")
    assert (result.returncode, result.stdout) == (78, "")
    assert "--aws warehouse: that grant is no AWS grant" in result.stderr
    assert job.wire.sessions[0].leases == {}


def test_aws_naming_a_grant_that_is_not_there_is_the_brokers_to_refuse(job: Job) -> None:
    """So that the denial is in its log."""
    result = job.python("print('ran')", "--aws", "nowhere")
    assert (result.returncode, result.stdout) == (77, "")
    assert "[grant_unknown]" in result.stderr
    assert len(job.wire.calls("GET", "/v1/credentials/nowhere")) == 1


def test_a_grant_that_needs_a_subpath_is_only_read_when_it_is_named_with_one(job: Job) -> None:
    job.wire.grants["kv"] = FakeGrant(subpath=True)
    assert job.python("print('ran')").stdout == "ran\n"
    job.another()
    result = job.python("import os; print(len(os.environ['V']) > 9)", "--env", "V=secret://kv/team/one#password")
    assert result.stdout == "True\n", result.stderr
    job.another()
    result = job.python("print('ran')", "--grant", "kv")
    assert result.returncode == 77
    assert "[subpath_denied]" in result.stderr


# --- denials, before the command --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("grant", "setup", "code"),
    [("warehouse", "upstream_denied", 77), ("nowhere", "", 77), ("lake", "upstream_config", 78)],
)
def test_a_denied_grant_stops_the_job_before_the_command(job: Job, grant: str, setup: str, code: int) -> None:
    """Exit code and `code` are the broker's, and the session that was opened is closed again."""
    if setup:
        job.wire.grants[grant].denied = setup
    result = job.python("print('ran')", "--grant", grant)
    assert (result.returncode, result.stdout) == (code, "")
    assert f"[{setup or 'grant_unknown'}] (correlation id " in result.stderr
    assert "Traceback" not in result.stderr
    assert [session.state for session in job.wire.sessions] == ["closed"]


def test_an_allowed_grant_runs_the_command(job: Job) -> None:
    """The twin of every denial here."""
    result = job.python("print('ran')", "--grant", "warehouse", "--environment", "production")
    assert (result.returncode, result.stdout) == (0, "ran\n")
    assert re.search(r"session \w+ \(production\): revoked", result.stderr)


def test_another_environment_than_the_required_is_refused(job: Job) -> None:
    result = job.python("print('ran')", "--environment", "review")
    assert (result.returncode, result.stdout) == (77, "")
    assert "[environment_mismatch]" in result.stderr


def test_a_job_without_a_token_is_told_the_lines_to_add(job: Job) -> None:
    result = job.python("print('ran')", CREDBROKER_ID_TOKEN="", CREDBROKER_URL="https://broker.example.com")
    assert (result.returncode, result.stdout) == (78, "")
    assert "id_tokens:\n    CREDBROKER_ID_TOKEN:\n      aud: https://broker.example.com" in result.stderr
    assert "[job_token_missing]" in result.stderr


def test_a_ci_job_token_is_told_apart_and_not_shown(job: Job) -> None:
    result = job.python("print('ran')", CREDBROKER_ID_TOKEN="glcbt-64_secret")
    assert result.returncode == 77
    assert "holds a CI_JOB_TOKEN, which is not an ID token" in result.stderr
    assert "64_secret" not in result.stderr


def test_an_expired_token_is_refused_by_the_broker(job: Job) -> None:
    result = job.python("print('ran')", CREDBROKER_ID_TOKEN=job.wire.mint(lifetime=-5))
    assert result.returncode == 77
    assert "[token_expired]" in result.stderr


def test_without_an_address_the_ways_to_give_one_are_named(job: Job) -> None:
    result = job.python("print('ran')", CREDBROKER_URL="")
    assert result.returncode == 78
    assert "Set CREDBROKER_URL or --url to https://" in result.stderr


def test_a_broker_that_is_not_running_is_a_69_and_a_sentence(job: Job) -> None:
    job.wire.vanish()
    result = job.python("print('ran')", "--wait", "1s")
    assert (result.returncode, result.stdout) == (69, "")
    assert "does not answer" in result.stderr
    assert "[broker_unreachable]" in result.stderr
    assert "Traceback" not in result.stderr


def test_a_broker_that_comes_back_in_time_is_waited_for(job: Job) -> None:
    """A restart of the broker does not fail the job."""
    job.wire.vanish()
    process = job.start("exec", "--", sys.executable, "-c", "print('ran')")
    assert process.stderr is not None
    assert "trying again for up to 120 s" in process.stderr.readline()
    job.wire.listen()
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (0, "ran\n"), err


def test_a_503_with_retry_after_and_a_429_are_waited_out(job: Job) -> None:
    job.wire.fail("/v1/token", "log_unavailable", retry_after=1)
    job.wire.fail("/v1/credentials/lake", "rate_limited", retry_after=0)
    started = time.monotonic()
    assert job.python("print('ran')", "--grant", "lake").stdout == "ran\n"
    assert time.monotonic() - started >= 1
    job.another()
    job.wire.fail("/v1/token", "log_unavailable", retry_after=60)
    result = job.python("print('ran')", "--wait", "2s")
    assert result.returncode == 69
    assert "[log_unavailable]" in result.stderr


def test_a_lost_answer_is_asked_for_again_with_the_same_resume_key(job: Job) -> None:
    """The session whose handle nobody got is replaced; the job does not lock itself out."""
    job.wire.lose_answer("/v1/token")
    assert job.python("print('ran')").stdout == "ran\n"
    assert [session.state for session in job.wire.sessions] == ["revoked", "closed"]


# --- where a token goes -----------------------------------------------------------------------------------------------


def test_a_token_goes_to_no_other_origin_than_its_audience_names(job: Job) -> None:
    """`CREDBROKER_URL` is a pipeline variable that others may set: not one byte reaches the other place (row 67)."""
    with socket.create_server(("127.0.0.1", 0)) as evil:
        evil.settimeout(0.2)
        url = f"http://127.0.0.1:{evil.getsockname()[1]}"
        result = job.python("print('ran')", CREDBROKER_URL=url)
        assert (result.returncode, result.stdout) == (77, "")
        assert f"the job token is for 'https://broker.example.com', and the broker's address is '{url}'" in result.stderr
        assert "[token_audience]" in result.stderr
        with pytest.raises(TimeoutError):
            evil.accept()


def test_a_token_goes_to_the_origin_that_its_audience_names(job: Job) -> None:
    """The twin, over loopback HTTP."""
    token = job.wire.mint(aud=job.wire.http_url + "/")
    assert job.python("print('ran')", CREDBROKER_URL=job.wire.http_url, CREDBROKER_ID_TOKEN=token).stdout == "ran\n"


def test_a_socket_in_a_folder_that_others_may_write_is_refused(job: Job) -> None:
    """Anybody could have put their own socket there; nothing is sent."""
    (job.folder / "s").chmod(0o777)
    result = job.python("print('ran')")
    assert (result.returncode, result.stdout) == (78, "")
    assert "is unsafe, others may write to it" in result.stderr
    assert job.wire.seen == []


def test_a_redirect_is_not_followed(job: Job) -> None:
    job.wire.answer_raw("/v1/token", b"HTTP/1.1 307 T\r\nLocation: http://127.0.0.1:1/\r\nContent-Length: 0\r\n\r\n")
    result = job.python("print('ran')")
    assert result.returncode == 78
    assert "redirect (HTTP 307)" in result.stderr


def test_a_session_file_that_is_a_symlink_is_refused(job: Job) -> None:
    job.session_file.parent.mkdir(mode=0o700)
    elsewhere = job.folder / "elsewhere"
    elsewhere.write_text("{}")
    job.session_file.symlink_to(elsewhere)
    result = job.python("print('ran')")
    assert (result.returncode, result.stdout) == (78, "")
    assert "a symbolic link is not followed" in result.stderr
    assert job.wire.seen == []


def test_a_session_folder_that_others_can_read_is_refused(job: Job) -> None:
    job.session_file.parent.mkdir(mode=0o755)
    result = job.python("print('ran')")
    assert result.returncode == 78
    assert "others may look into it (mode 0755, 0700 is needed)" in result.stderr


# --- the end of the command -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("code", "exit_code"),
    [("raise SystemExit(3)", 3), ("import os; os.kill(os.getpid(), 9)", 137), ("import os; os.abort()", 134)],
)
def test_the_exit_code_is_the_commands(job: Job, code: str, exit_code: int) -> None:
    assert job.python(code).returncode == exit_code
    assert job.wire.sessions[0].state == "closed"


def test_a_command_that_does_not_exist_is_a_127_and_one_that_cannot_run_a_126(job: Job) -> None:
    result = job.run("exec", "--", "no-such-command-here")
    assert result.returncode == 127
    assert "there is no command 'no-such-command-here'" in result.stderr
    plain = job.folder / "plain"
    plain.write_text("x")
    assert job.run("exec", "--", str(plain)).returncode == 126
    assert {session.state for session in job.wire.sessions} == {"closed"}


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_signals_go_to_the_command_and_its_answer_comes_back(job: Job, number: signal.Signals) -> None:
    """The command cleans up and says how it ends; then the session is revoked."""
    code = (
        "import signal,sys,time\n"
        f"signal.signal({int(number)}, lambda *_: (print('cleaned up'), sys.exit(5)))\n"
        "print('ready', flush=True); time.sleep(60)\n"
    )
    process = job.start("exec", "--", sys.executable, "-c", code)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    process.send_signal(number)
    out, err = process.communicate(timeout=30)
    assert (process.returncode, out) == (5, "cleaned up\n"), err
    assert job.wire.sessions[0].state == "closed"


def test_a_signal_before_the_command_ends_exec_and_gives_back_the_session(job: Job) -> None:
    job.wire.slow("/v1/credentials/lake", 1.0)
    process = job.start("exec", "--grant", "lake", "--", sys.executable, "-c", "print('ran')")
    until(lambda: bool(job.wire.sessions))
    until(job.session_file.exists)
    time.sleep(0.3)
    process.terminate()
    out, _ = process.communicate(timeout=30)
    assert (process.returncode, out) == (143, "")
    assert [session.state for session in job.wire.sessions] == ["closed"]


def test_a_revocation_that_fails_is_said_and_the_next_exec_joins(job: Job) -> None:
    """The broker goes away before the end: the exit code stays the command's, and the job is not locked out."""
    code = "import sys; print('up', flush=True); input(); sys.exit(4)"
    process = job.start("exec", "--wait", "0s", "--", sys.executable, "-c", code)
    assert process.stdout is not None
    assert process.stdout.readline() == "up\n"
    job.wire.vanish()
    _, err = process.communicate("\n", timeout=30)
    assert process.returncode == 4
    assert "not revoked; the broker is away" in err
    job.wire.listen()
    assert job.python("print('ran')").stdout == "ran\n"
    assert [session.state for session in job.wire.sessions] == ["closed"]


def test_the_broker_going_away_leaves_the_sdk_its_last_answer(job: Job) -> None:
    """200 with the last, still valid credential; a refusal on the other hand is passed on at once."""
    code = (
        "import boto3\n"
        "get=lambda: boto3.Session().get_credentials().get_frozen_credentials().access_key\n"
        "print(get(), flush=True); input(); print(get(), flush=True); input()\n"
        "try: print(get())\n"
        "except Exception as e: print(type(e).__name__, e)\n"
    )
    process = job.start("exec", "--wait", "0s", "--", sys.executable, "-c", code)
    assert process.stdout is not None
    assert process.stdin is not None
    first = process.stdout.readline()
    job.wire.vanish()
    process.stdin.write("\n")
    process.stdin.flush()
    assert process.stdout.readline() == first
    job.wire.listen()
    job.wire.end("revoked")
    time.sleep(2.1)  # the endpoint leaves a broker that was away alone for two seconds
    out, _ = process.communicate("\n", timeout=60)
    assert "CredentialRetrievalError" in out
    assert "session_revoked" in out


# --- one job, many commands -------------------------------------------------------------------------------------------


def test_ten_execs_in_a_row_work_in_one_job(job: Job) -> None:
    """More than the eight sessions that a token may open: the last ones share one, which falls silent after them."""
    for _ in range(10):
        result = job.python("print('ran')", "--grant", "warehouse")
        assert (result.returncode, result.stdout) == (0, "ran\n"), result.stderr
    assert [session.state for session in job.wire.sessions] == ["closed"] * 6 + ["live"]
    assert "its token may open one more; revoked after five minutes without one" in result.stderr
    assert job.wire.sessions[-1].heartbeat

    job.wire.end_silent()
    result = job.python("print('ran')", "--grant", "warehouse")
    assert (result.returncode, result.stdout) == (0, "ran\n"), result.stderr
    assert re.search(r"its token may open no other; it ends at \d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", result.stderr)
    assert [session.state for session in job.wire.sessions] == ["closed"] * 6 + ["idle", "live"]


def test_two_execs_in_parallel_share_a_session_that_the_last_one_revokes(job: Job) -> None:
    """The opener must not pull it away under the other."""
    code = "import time,os,sys; print('up', flush=True)\nwhile not os.path.exists(sys.argv[1]): time.sleep(0.01)"
    flags = [job.folder / "first", job.folder / "second"]
    both = []
    for flag in flags:
        both.append(job.start("exec", "--", sys.executable, "-c", code, str(flag)))
        stdout = both[-1].stdout
        assert stdout is not None
        assert stdout.readline() == "up\n"
    assert len(job.wire.sessions) == 1
    flags[0].touch()
    _, err = both[0].communicate(timeout=30)
    assert "still used by another exec of this job" in err
    assert job.wire.sessions[0].state == "live"
    flags[1].touch()
    _, err = both[1].communicate(timeout=30)
    assert "revoked" in err
    assert job.wire.sessions[0].state == "closed"


def test_two_execs_at_the_same_instant_open_one_session(job: Job) -> None:
    code = "import time; time.sleep(1)"
    both = [job.start("exec", "--grant", grant, "--", sys.executable, "-c", code) for grant in ("lake", "warehouse")]
    for process in both:
        _, err = process.communicate(timeout=60)
        assert process.returncode == 0, err
    assert {session.state for session in job.wire.sessions} == {"closed"}
    assert len(job.wire.calls("POST", "/v1/token")) <= 2  # one, unless the first was done before the second came


def test_get_twice_prints_the_same_lease_and_leaves_it_alive(job: Job) -> None:
    """What was printed must live; an exec that comes later joins and does not revoke it."""
    first = job.run("get", "warehouse", "--field", "password")
    second = job.run("get", "warehouse", "--field", "password")
    assert first.stdout == second.stdout != ""
    assert first.stdout.rstrip("\n") in job.wire.values
    result = job.python("print('ran')")
    assert "kept for the rest of the job" in result.stderr
    assert [session.state for session in job.wire.sessions] == ["live"]


def test_get_inside_exec_joins_its_session_without_a_token(job: Job) -> None:
    result = job.run("exec", "--no-mask", "--", *CREDBROKER, "get", "warehouse", "--format", "json")
    document = json.loads(result.stdout)
    assert document["grant"] == "warehouse"
    assert document["data"]["password"] in job.wire.values
    assert len(job.wire.sessions) == 1


def test_get_prints_what_each_format_promises(job: Job) -> None:
    aws = json.loads(job.run("get", "lake", "--format", "aws").stdout)
    assert aws["Version"] == 1
    assert set(aws) == {"Version", "AccessKeyId", "SecretAccessKey", "SessionToken", "Expiration", "AccountId"}
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", aws["Expiration"])

    job.wire.grants["odd"] = FakeGrant(data={"password": "a'b $c", "port": 5432})
    job.another()
    exported = job.run("get", "odd", "--format", "env").stdout
    shell = subprocess.run(
        ["/bin/sh", "-c", exported + 'printf %s "$ODD_PASSWORD:$ODD_PORT"'], capture_output=True, text=True, check=True
    )
    assert shell.stdout == "a'b $c:5432"

    refused = job.run("get", "odd", "--format", "aws")
    assert refused.returncode == 78
    assert "is no AWS grant" in refused.stderr
    assert job.run("get", "odd", "--format", "env", "--field", "port").returncode == 64
    assert job.run("get", "odd", "--min-ttl", "soon").returncode == 64


def test_get_names_the_fields_that_there_are(job: Job) -> None:
    result = job.run("get", "warehouse", "--field", "passwort")
    assert (result.returncode, result.stdout) == (78, "")
    assert "has no field 'passwort'; it has: password, username [config_invalid]" in result.stderr


def test_get_exports_aws_keys_under_the_names_that_sdks_read(job: Job) -> None:
    names = re.findall(r"^export (\w+)=", job.run("get", "lake", "--format", "env").stdout, re.MULTILINE)
    assert names == ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_REGION"]


def test_options_after_the_command_are_the_commands_own(job: Job) -> None:
    """Also without the two dashes."""
    result = job.run("exec", "--grant", "warehouse", sys.executable, "-c", "import sys; print(sys.argv[1:])", "--grant", "-x")
    assert result.stdout == "['--grant', '-x']\n"


def test_get_asks_for_a_credential_that_lasts_long_enough(job: Job) -> None:
    assert job.run("get", "warehouse", "--min-ttl", "30m", "--field", "username").returncode == 0
    refused = job.run("get", "warehouse", "--min-ttl", "3h", "--field", "username")
    assert (refused.returncode, refused.stdout) == (77, "")
    assert "[ttl_unavailable]" in refused.stderr


# --- a kill at any moment ---------------------------------------------------------------------------------------------


def test_an_exec_killed_during_the_exchange_does_not_lock_the_job_out(job: Job) -> None:
    """The exchange goes on without its client; the next exec has its resume key and replaces that session."""
    job.wire.slow("/v1/token", 0.5)
    process = job.start("exec", "--", sys.executable, "-c", "print('ran')")
    until(lambda: job.wire._faults[-1].times == 0)  # the request is there, and is being answered slowly
    process.kill()
    process.wait()
    until(lambda: len(job.wire.sessions) == 1)
    assert job.python("print('ran')").stdout == "ran\n"
    assert [session.state for session in job.wire.sessions] == ["revoked", "closed"]


def test_an_exec_killed_beside_its_command_takes_it_along_and_its_session_is_adopted(job: Job) -> None:
    code = "import os,time; print(os.getpid(), flush=True); time.sleep(60)"
    process = job.start("exec", "--", sys.executable, "-c", code)
    assert process.stdout is not None
    child = int(process.stdout.readline())
    process.kill()
    process.wait()
    until(lambda: not _alive(child))
    assert job.session_file.exists()
    result = job.python("print('ran')")
    assert result.stdout == "ran\n"
    assert [session.state for session in job.wire.sessions] == ["closed"], "adopted, and revoked at the end"


def test_an_exec_killed_at_any_moment_does_not_lock_the_job_out(job: Job) -> None:
    for moment in range(12):
        job.another()
        process = job.start("exec", "--", sys.executable, "-c", "import time; time.sleep(60)")
        time.sleep(0.03 + moment * 0.035)
        process.kill()
        process.communicate()
        result = job.python("print('ran')", "--grant", "warehouse")
        assert (result.returncode, result.stdout) == (0, "ran\n"), (moment, result.stderr)
        assert not job.wire.live, moment


def _alive(pid: int) -> bool:
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except FileNotFoundError:
        return False


# --- masking ----------------------------------------------------------------------------------------------------------


def test_values_are_masked_on_both_streams_also_when_split_and_encoded(job: Job) -> None:
    job.wire.grants["warehouse"].data = {"password": 'p"ä/ss:wörd+x'}
    code = (
        "import os,sys,time,base64,json,urllib.parse\n"
        "v=os.environ['PW']; b=v.encode()\n"
        "o=sys.stdout.buffer; e=sys.stderr.buffer\n"
        "o.write(b'[' + b[:4]); o.flush(); time.sleep(0.4); o.write(b[4:] + b']\\n'); o.flush()\n"
        "e.write(b'err ' + b + b'\\xff\\x00\\n'); e.flush()\n"
        "print(urllib.parse.quote(v, safe=''), json.dumps(v), base64.b64encode(b).decode(), v.encode().hex()[:0])\n"
    )
    process = subprocess.Popen(
        [*CREDBROKER, "exec", "--env", "PW=secret://warehouse#password", "--", sys.executable, "-c", code],
        env={name: value for name, value in job.environ.items() if value} | {"PYTHONIOENCODING": "utf-8"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    out, err = process.communicate(timeout=60)
    assert out == b'[[MASKED]]\n[MASKED] "[MASKED]" [MASKED] \n', (out, err)
    assert err.startswith(b"err [MASKED]\xff\x00\n")


def test_no_mask_hands_the_streams_over_untouched(job: Job) -> None:
    """The twin."""
    result = job.python("import os; print(os.environ['PW'])", "--no-mask", "--env", "PW=secret://warehouse#password")
    assert result.stdout.rstrip("\n") in job.wire.values


def test_a_value_that_the_command_fetched_itself_after_a_rotation_is_masked_too(job: Job) -> None:
    """`exec` has never seen it; it asks what there is before it lets output go."""
    go = job.folder / "go"
    code = (
        "import os,subprocess,sys,time\n"
        "print('up', flush=True)\n"
        "while not os.path.exists(sys.argv[1]): time.sleep(0.01)\n"
        "subprocess.run([sys.executable,'-m','broker','get','warehouse','--field','password'], check=True)\n"
    )
    process = job.start("exec", "--grant", "warehouse", "--", sys.executable, "-c", code, str(go))
    assert process.stdout is not None
    assert process.stdout.readline() == "up\n"
    job.wire.rotate("warehouse")
    go.touch()
    out, err = process.communicate(timeout=30)
    assert out == "[MASKED]\n", err


def test_much_binary_output_passes_unharmed_and_in_order(job: Job) -> None:
    code = "import os,sys\nfor i in range(400): sys.stdout.buffer.write(bytes(range(256)) * 40)"
    process = subprocess.Popen(
        [*CREDBROKER, "exec", "--", sys.executable, "-c", code],
        env={name: value for name, value in job.environ.items() if value},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    out, _ = process.communicate(timeout=60)
    assert out == bytes(range(256)) * 16000


def test_a_process_left_behind_does_not_hold_exec_up(job: Job) -> None:
    started = time.monotonic()
    code = "import subprocess,sys; subprocess.Popen(['sleep', '20']); print('done')"
    result = subprocess.run(
        [*CREDBROKER, "exec", "--", sys.executable, "-c", code],
        env={name: value for name, value in job.environ.items() if value},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        check=False,
        timeout=60,
    )
    assert result.stdout == b"done\n"
    assert time.monotonic() - started < 15


def test_a_session_that_ends_under_the_command_leaves_the_command_running(job: Job) -> None:
    """Its credentials end; the command's own errors say so."""
    code = "import sys; print('up', flush=True); input(); sys.exit(0)"
    process = job.start("exec", "--", sys.executable, "-c", code)
    assert process.stdout is not None
    process.stdout.readline()
    job.wire.end("revoked")
    _, err = process.communicate("\n", timeout=30)
    assert process.returncode == 0, err


def test_the_session_file_is_not_world_readable_for_a_moment(job: Job) -> None:
    job.run("get", "warehouse", "--field", "username")
    assert stat.S_IMODE(job.session_file.stat().st_mode) == 0o600


# As root too, without what lets root read everything: a process without the capabilities that its uid could have.
POWERLESS = """
import ctypes, os, sys
for capability in range(64):
    ctypes.CDLL(None).prctl(24, capability, 0, 0, 0)
os.execv(sys.executable, [sys.executable, *sys.argv[1:]])
"""
PRY = """
import ctypes, os
try:
    found = b"CREDBROKER_ID_TOKEN" in open(f"/proc/{os.getppid()}/environ", "rb").read()
except PermissionError:
    found = "denied"
print(found, "dumpable", ctypes.CDLL(None).prctl(3, 0, 0, 0, 0))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="it is about Linux's /proc")
@pytest.mark.parametrize("arguments", [["broker", "exec", "--"], ["broker", "exec", "--no-mask", "--"]])
def test_the_environment_of_exec_is_not_the_commands_to_read(job: Job, arguments: list[str]) -> None:
    """The job token is taken out of the command's environment; exec's own has it, under the same uid. The command is as usual."""
    pry = [sys.executable, "-c", PRY]
    run = [sys.executable, "-c", POWERLESS, "-m", *arguments, *pry]
    result = subprocess.run(run, env=job.environ, text=True, capture_output=True, timeout=60, check=False)
    assert result.stdout == "denied dumpable 1\n", result.stderr
    beside = [sys.executable, "-c", POWERLESS, "-c", "import subprocess,sys; sys.exit(subprocess.run(sys.argv[1:]).returncode)"]
    result = subprocess.run([*beside, *pry], env=job.environ, text=True, capture_output=True, timeout=60, check=False)
    assert result.stdout == "True dumpable 1\n", result.stderr
