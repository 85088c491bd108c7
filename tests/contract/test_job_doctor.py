"""`credbroker doctor` as a real process in a job: every check, when it fails or warns and when it does not."""

import base64
import json
import os
import re
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from tests.fakes.broker_wire import BrokerWire, broker_wire
from tests.fakes.pki import Pki

OPENS = "environment production, grants lake, warehouse"


@pytest.fixture
def wire(tmp_path: Path) -> Iterator[BrokerWire]:
    with broker_wire(tmp_path / "s") as running:
        yield running


@dataclass
class Answer:
    exit_code: int
    stdout: str
    stderr: str

    @property
    def document(self) -> dict[str, Any]:
        document: dict[str, Any] = json.loads(self.stdout)
        assert document["exit_code"] == self.exit_code
        return document

    def __getitem__(self, check: str) -> dict[str, str]:
        checks: list[dict[str, str]] = self.document["checks"]
        (found,) = [found for found in checks if found["check"] == check]
        assert found["says"]
        assert found["status"] == "ok" or found["do"], "what is not right comes with what to do"
        return found


class Job:
    """One job's variables, and its own folder for the session."""

    def __init__(self, folder: Path, wire: BrokerWire) -> None:
        self.home = folder / "home"
        self.home.mkdir(mode=0o700)
        self.token = wire.mint(job_id="4242")
        self.environ = {
            "PATH": os.environ["PATH"],
            "HOME": str(self.home),
            "XDG_RUNTIME_DIR": str(self.home),
            "CI_JOB_ID": "4242",
            "CREDBROKER_URL": wire.unix_url,
            "CREDBROKER_ID_TOKEN": self.token,
        }

    def run(self, *arguments: str, without: str = "", **environ: str) -> "subprocess.CompletedProcess[str]":
        variables = {name: value for name, value in (self.environ | environ).items() if name != without}
        done = subprocess.run(
            [sys.executable, "-m", "broker", *arguments],
            env=variables,
            cwd=self.home,
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
        assert "Traceback" not in done.stdout + done.stderr, done.stderr
        for secret in (self.token, *self.token.split(".")[1:], environ.get("CREDBROKER_ID_TOKEN", self.token)):
            assert secret not in done.stdout + done.stderr, "the token was printed"
        return done

    def doctor(self, *arguments: str, without: str = "", **environ: str) -> Answer:
        done = self.run("doctor", "--json", *arguments, without=without, **environ)
        return Answer(done.returncode, done.stdout, done.stderr)


@pytest.fixture
def job(tmp_path: Path, wire: BrokerWire) -> Job:
    return Job(tmp_path, wire)


def unsigned(**claims: Any) -> str:
    """A token's text with these claims; its signature is nobody's."""
    parts = [{"alg": "RS256", "kid": "k", "typ": "JWT"}, claims]
    encoded = [base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=").decode() for part in parts]
    return ".".join([*encoded, "c2lnbmF0dXJl"])


# --- all is well ----------------------------------------------------------------------------------------------------


def test_a_job_that_has_everything_is_told_what_it_would_get_and_leaves_nothing_open(job: Job, wire: BrokerWire) -> None:
    answer = job.doctor()
    assert answer.exit_code == 0
    assert [check["check"] for check in answer.document["checks"]] == [
        "token",
        "token_kind",
        "token_hours",
        "address",
        "audience",
        "broker",
        "clock",
        "session",
        "aws_chain",
        "shared_uid",
    ]
    assert answer["token"]["says"] == "the job token is in variable CREDBROKER_ID_TOKEN"
    assert answer["token_kind"]["status"] == "ok"
    assert re.search(r"good for 59 min \d+ s, issued \d s ago", answer["token_hours"]["says"])
    assert answer["session"]["says"] == f"the broker takes the token: {OPENS}"
    assert answer.document["not_checked"] == []
    assert wire.live == []
    assert wire.calls("GET", "/v1/credentials") == []  # nothing was minted


def test_people_get_lines_and_a_summary(job: Job) -> None:
    done = job.run("doctor")
    assert done.returncode == 0
    assert re.search(r"^ok    session       the broker takes the token", done.stdout, re.MULTILINE)
    assert "\x1b" not in done.stdout  # no colour but on a terminal


def test_a_token_in_a_file_or_another_variable_is_found_when_told(job: Job, tmp_path: Path) -> None:
    path = tmp_path / "token"
    path.write_text(job.token + "\n")
    assert str(path) in job.doctor("--token-file", str(path), without="CREDBROKER_ID_TOKEN")["token"]["says"]
    named = job.doctor("--token-env", "MINE", without="CREDBROKER_ID_TOKEN", MINE=job.token)
    assert (named.exit_code, named["token"]["says"]) == (0, "the job token is in variable MINE")


# --- the token ------------------------------------------------------------------------------------------------------


def test_no_token_is_a_configuration_error_with_the_lines_that_are_missing(job: Job) -> None:
    answer = job.doctor(without="CREDBROKER_ID_TOKEN")
    assert answer.exit_code == 78
    assert answer["token"]["code"] == "job_token_missing"
    assert "id_tokens:" in answer["token"]["says"]
    assert answer.document["not_checked"] == ["token_kind", "token_hours", "audience", "session"]
    assert answer["broker"]["status"] == "ok"  # what can be looked at is


def test_a_token_under_another_name_is_pointed_at(job: Job) -> None:
    answer = job.doctor(without="CREDBROKER_ID_TOKEN", VAULT_ID_TOKEN=job.token)
    assert "--token-env VAULT_ID_TOKEN" in answer["token"]["do"]


def test_the_token_of_an_older_gitlab_is_named(job: Job) -> None:
    answer = job.doctor(without="CREDBROKER_ID_TOKEN", CI_JOB_JWT_V2=job.token)
    assert "CI_JOB_JWT_V2" in answer["token"]["do"]


def test_a_ci_job_token_is_named_for_what_it_is(job: Job, wire: BrokerWire) -> None:
    answer = job.doctor(CREDBROKER_ID_TOKEN="glcbt-64_abcdefghij")
    assert answer.exit_code == 77
    assert answer["token"]["code"] == "token_class"
    assert "CI_JOB_TOKEN" in answer["token"]["says"]
    assert wire.calls("POST", "/v1/token") == []


@pytest.mark.parametrize("text", ["no token", "a.b", "eyJ.eyJ.x", "x" * 30_000])
def test_what_is_no_token_at_all_is_to_be_set_right(job: Job, text: str) -> None:
    answer = job.doctor(CREDBROKER_ID_TOKEN=text)
    assert (answer.exit_code, answer["token"]["code"]) == (78, "token_malformed")


def test_a_login_token_is_not_a_job_s(job: Job, wire: BrokerWire) -> None:
    login = unsigned(
        iss="https://gitlab.example.com", sub="123", aud="https://broker.example.com", exp=2**32, jti="x", auth_time=1
    )
    answer = job.doctor(CREDBROKER_ID_TOKEN=login)
    assert answer["token_kind"]["code"] == "token_class"
    assert answer.exit_code == 77


def test_another_job_s_token_is_a_warning(job: Job) -> None:
    answer = job.doctor(CI_JOB_ID="5555")
    assert answer["token_kind"]["status"] == "warn"
    assert "of job '4242', and this is job '5555'" in answer["token_kind"]["says"]


def test_a_token_that_ended_is_said_to_have(job: Job, wire: BrokerWire) -> None:
    answer = job.doctor(CREDBROKER_ID_TOKEN=wire.mint(lifetime=-90, iat=int(time.time()) - 900))
    assert answer["token_hours"]["code"] == "token_expired"
    assert "ended 1 min 3" in answer["token_hours"]["says"]
    assert answer["session"]["code"] == "token_expired"
    assert "correlation id" in answer["session"]["says"]
    assert answer.exit_code == 77


def test_a_token_that_soon_ends_is_a_warning(job: Job, wire: BrokerWire) -> None:
    answer = job.doctor(CREDBROKER_ID_TOKEN=wire.mint(lifetime=100))
    assert answer["token_hours"]["status"] == "warn"
    assert answer.exit_code == 0


def test_a_token_from_the_future_points_at_the_clock(job: Job, wire: BrokerWire) -> None:
    answer = job.doctor(CREDBROKER_ID_TOKEN=wire.mint(iat=int(time.time()) + 300))
    assert answer["token_hours"]["status"] == "warn"
    assert "clock is behind its issuer's" in answer["token_hours"]["says"]


# --- the way there --------------------------------------------------------------------------------------------------


def test_without_an_address_nothing_is_asked(job: Job) -> None:
    answer = job.doctor(without="CREDBROKER_URL")
    assert (answer.exit_code, answer["address"]["code"]) == (78, "config_invalid")
    assert answer.document["not_checked"] == ["audience", "broker", "session", "shared_uid"]


@pytest.mark.parametrize("url", ["http://broker.example.com", "ftp://x", "unix://relative", "https://user@x"])
def test_an_address_that_cannot_be_safe_is_refused(job: Job, url: str) -> None:
    answer = job.doctor("--url", url)
    assert (answer.exit_code, answer["address"]["status"]) == (78, "fail")


def test_a_token_for_another_audience_is_not_sent(job: Job, wire: BrokerWire) -> None:
    """Over TCP the audience is the way; the twin is a token for this very address."""
    wrong = job.doctor("--url", wire.http_url)
    assert (wrong.exit_code, wrong["audience"]["code"]) == (77, "token_audience")
    assert "'https://broker.example.com'" in wrong["audience"]["says"]
    assert wire.calls("POST", "/v1/token") == []
    right = job.doctor("--url", wire.http_url, CREDBROKER_ID_TOKEN=wire.mint(aud=wire.http_url))
    assert (right.exit_code, right["audience"]["status"], right["session"]["status"]) == (0, "ok", "ok")


def test_a_token_for_several_services_is_refused_before_it_is_sent(job: Job, wire: BrokerWire) -> None:
    several = wire.mint(aud=["https://broker.example.com", "https://vault.example.com"])
    answer = job.doctor(CREDBROKER_ID_TOKEN=several)
    assert (answer.exit_code, answer["audience"]["code"]) == (77, "token_audience")
    assert wire.calls("POST", "/v1/token") == []


def test_a_broker_that_is_away_is_69_and_the_rest_is_still_looked_at(job: Job, wire: BrokerWire) -> None:
    wire.vanish()
    answer = job.doctor()
    assert (answer.exit_code, answer["broker"]["code"]) == (69, "broker_unreachable")
    assert answer.document["not_checked"] == ["clock", "session"]
    assert answer["audience"]["status"] == "ok"


def test_a_socket_in_a_folder_of_everybody_is_not_spoken_to(job: Job, wire: BrokerWire, tmp_path: Path) -> None:
    (tmp_path / "s").chmod(0o777)
    answer = job.doctor()
    assert (answer.exit_code, answer["broker"]["code"]) == (78, "config_invalid")
    assert "others may write to it" in answer["broker"]["says"]
    assert wire.seen == []
    (tmp_path / "s").chmod(0o700)
    assert job.doctor()["broker"]["status"] == "ok"


def test_something_else_at_the_address_is_not_taken_for_a_broker(job: Job, wire: BrokerWire) -> None:
    wire.answer_raw("/healthz", b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello")
    answer = job.doctor()
    assert (answer.exit_code, answer["broker"]["code"]) == (69, "broker_unreachable")
    assert "does not speak as a broker does" in answer["broker"]["says"]


def test_a_broker_that_is_not_ready_is_a_warning(job: Job, wire: BrokerWire) -> None:
    wire.fail("/readyz", "log_unavailable")
    assert job.doctor()["broker"]["status"] == "warn"
    assert job.doctor()["broker"]["status"] == "ok"


def test_over_tls_the_certificate_is_checked_and_its_authority_can_be_named(job: Job, tmp_path: Path) -> None:
    """A real HTTPS server with its own authority, which says only that it is healthy."""

    class Healthy(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = b'{"status":"ok"}'
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            """Nothing on the test's terminal."""

    authority = Pki(tmp_path)
    server = HTTPServer(("127.0.0.1", 0), Healthy)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(authority.server_cert, authority.server_key)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    url = f"https://localhost:{server.server_port}"
    try:
        unknown = job.doctor("--url", url)
        assert (unknown.exit_code, unknown["broker"]["code"]) == (78, "config_invalid")
        assert "is not trusted" in unknown["broker"]["says"]
        known = job.doctor("--url", url, CREDBROKER_CA_FILE=str(authority.ca_cert))
        assert known["broker"]["status"] == "ok"
    finally:
        server.shutdown()
        server.server_close()
        thread.join(10)


@pytest.mark.parametrize(("ahead", "status", "says"), [(0, "ok", "agree"), (45, "warn", "behind"), (-90, "warn", "ahead of")])
def test_clocks_that_differ_are_a_warning(job: Job, wire: BrokerWire, ahead: float, status: str, says: str) -> None:
    wire.clock_ahead = ahead
    answer = job.doctor()
    assert (answer["clock"]["status"], answer.exit_code) == (status, 0)
    assert says in answer["clock"]["says"]


# --- what the broker says -------------------------------------------------------------------------------------------


def test_a_denial_is_told_in_the_broker_s_words_with_its_correlation_id(job: Job, wire: BrokerWire) -> None:
    wire.fail("/v1/token", "no_environment")
    answer = job.doctor()
    assert (answer.exit_code, answer["session"]["code"]) == (77, "no_environment")
    assert "no_environment, as the test asked (correlation id " in answer["session"]["says"]
    assert "docs/errors.md" in answer["session"]["do"]


def test_another_environment_than_the_expected_one_is_said(job: Job) -> None:
    assert job.doctor("--environment", "production").exit_code == 0
    wrong = job.doctor("--environment", "review")
    assert (wrong.exit_code, wrong["session"]["code"]) == (77, "environment_mismatch")


def test_a_live_session_is_looked_at_and_left_alone(job: Job, wire: BrokerWire) -> None:
    """A second exchange would be taken for theft; inside `exec` there is no token at all."""
    assert job.run("get", "lake", "--field", "access_key_id").returncode == 0
    exchanges = len(wire.calls("POST", "/v1/token"))
    for without in ("", "CREDBROKER_ID_TOKEN"):
        answer = job.doctor(without=without)
        assert (answer.exit_code, answer["session"]["says"]) == (0, f"this job has a live session: {OPENS}")
    assert len(wire.calls("POST", "/v1/token")) == exchanges
    assert len(wire.live) == 1


def test_a_session_that_is_over_is_replaced_where_there_is_a_token(job: Job, wire: BrokerWire) -> None:
    job.run("get", "lake", "--field", "access_key_id")
    wire.end("revoked")
    assert job.doctor(without="CREDBROKER_ID_TOKEN")["session"]["code"] == "job_token_missing"
    assert job.doctor()["session"]["says"] == f"the broker takes the token: {OPENS}"
    assert wire.live == []


def test_somebody_else_s_session_for_this_token_is_a_denial(job: Job, wire: BrokerWire, tmp_path: Path) -> None:
    thief = tmp_path / "thief"
    thief.mkdir(mode=0o700)
    assert job.run("get", "lake", "--field", "access_key_id", XDG_RUNTIME_DIR=str(thief)).returncode == 0
    answer = job.doctor()
    assert (answer.exit_code, answer["session"]["code"]) == (77, "session_exists")


def test_a_session_that_nobody_can_resume_is_not_waited_for(job: Job, wire: BrokerWire) -> None:
    job.doctor()  # makes the folder and the state
    (state,) = (job.home / f"credbroker-{os.geteuid()}").glob("*.state")
    state.write_text(json.dumps(json.loads(state.read_text()) | {"resume_key": "r" * 43, "asked_at": time.time() - 200}))
    exchanges = len(wire.calls("POST", "/v1/token"))
    answer = job.doctor()
    assert (answer.exit_code, answer["session"]["status"]) == (0, "warn")
    assert len(wire.calls("POST", "/v1/token")) == exchanges


def test_a_session_that_cannot_be_closed_is_said(job: Job, wire: BrokerWire) -> None:
    wire.fail("/v1/revoke", "upstream_unavailable", times=100)
    answer = job.doctor()
    assert (answer.exit_code, answer["session"]["status"]) == (0, "warn")
    assert "closing the session failed" in answer["session"]["says"]


def test_a_folder_that_others_may_look_into_is_not_used(job: Job, tmp_path: Path) -> None:
    folder = tmp_path / "open"
    folder.mkdir(mode=0o755)
    folder.chmod(0o755)
    answer = job.doctor(CREDBROKER_SESSION_FILE=str(folder / "s.json"))
    assert (answer.exit_code, answer["session_file"]["code"]) == (78, "config_invalid")


# --- what is around the job -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    ["AWS_ACCESS_KEY_ID", "AWS_PROFILE", "AWS_WEB_IDENTITY_TOKEN_FILE", "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI"],
)
def test_what_shadows_the_aws_chain_is_named_and_not_shown(job: Job, name: str) -> None:
    answer = job.doctor(**{name: "the-value"})
    assert answer["aws_chain"]["status"] == "warn"
    assert name in answer["aws_chain"]["says"]
    assert "the-value" not in answer.stdout
    assert answer.exit_code == 0


def test_a_credentials_file_at_home_shadows_it_too(job: Job) -> None:
    (job.home / ".aws").mkdir()
    (job.home / ".aws" / "credentials").write_text("[default]\naws_access_key_id = AKIAEXAMPLE\n")
    answer = job.doctor()
    assert ".aws/credentials" in answer["aws_chain"]["says"]
    assert "AKIA" not in answer.stdout


def test_inside_exec_its_own_set_up_is_no_shadow_and_anything_else_is(job: Job) -> None:
    """As a real command under a real `exec`."""
    inside = [sys.executable, "-m", "broker", "doctor", "--json"]
    done = job.run("exec", "--no-mask", "--", *inside, AWS_PROFILE="taken-away")
    answer = Answer(done.returncode, done.stdout, done.stderr)
    assert (answer.exit_code, answer["aws_chain"]["status"]) == (0, "ok")
    assert answer["token"]["status"] == "ok"
    assert "live session" in answer["session"]["says"]
    done = job.run("exec", "--no-mask", "--", "env", "AWS_PROFILE=mine", *inside)
    answer = Answer(done.returncode, done.stdout, done.stderr)
    assert answer["aws_chain"]["status"] == "warn"
    assert "AWS_PROFILE" in answer["aws_chain"]["says"]


def test_root_over_a_socket_is_a_warning_and_over_tcp_is_none(job: Job, wire: BrokerWire) -> None:
    over_tcp = job.doctor("--url", wire.http_url, CREDBROKER_ID_TOKEN=wire.mint(aud=wire.http_url))
    assert over_tcp["shared_uid"]["status"] == "ok"
    over_socket = job.doctor()["shared_uid"]
    assert over_socket["status"] == ("warn" if os.geteuid() == 0 else "ok")
    assert f"uid {os.geteuid()}" in over_socket["says"]


def test_a_wrong_setting_comes_before_what_follows_from_it(job: Job, wire: BrokerWire) -> None:
    """78 before 77 before 69."""
    wire.vanish()
    assert job.doctor(CREDBROKER_ID_TOKEN="glcbt-64_abcdefghij").exit_code == 77
    assert job.doctor(CREDBROKER_ID_TOKEN="nonsense").exit_code == 78


def test_a_setting_that_cannot_be_read_is_a_configuration_error(job: Job) -> None:
    done = job.run("doctor", CREDBROKER_SERVER_UID="nobody")
    assert done.returncode == 78
    assert "CREDBROKER_SERVER_UID" in done.stderr
