"""The wire of DESIGN section 5, byte by byte, on every listener: real sockets, real TLS, raw clients, a desk in memory."""

import asyncio
import json
import os
import ssl
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest
import uvloop
from jsonschema import Draft202012Validator

from broker.errors import Broken, BrokerError, Code, Misconfigured, Refused, Unavailable
from broker.web.endpoints import SCHEMAS
from broker.web.sockets import AdminAt, HttpsAt, Listener, LoopbackAt, UnixAt
from tests.fakes.memory_desk import VALUES
from tests.fakes.pki import Pki
from tests.fakes.running_broker import PUBLIC_URL, Answer, RunningBroker, Wire

EXCHANGE = {
    "grant_type": "urn:ietf:params:oauth:grant-type:token-exchange",
    "subject_token": "good-token",
    "subject_token_type": "urn:ietf:params:oauth:token-type:id_token",
}
FORM = "Content-Type: application/x-www-form-urlencoded"

Connect = Callable[[], Wire]


@pytest.fixture(scope="session")
def pki(tmp_path_factory: pytest.TempPathFactory) -> Pki:
    return Pki(tmp_path_factory.mktemp("pki"))


@pytest.fixture(scope="module", params=["asyncio", "uvloop"])
def running(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, pki: Pki) -> Iterator[RunningBroker]:
    """One process with every listener: unix, http, https, admin."""
    folder = tmp_path_factory.mktemp("broker")
    listeners: list[Listener] = [
        UnixAt(path=folder / "broker.sock"),
        LoopbackAt(host="127.0.0.1", port=0),
        HttpsAt(host="127.0.0.1", port=0, cert=pki.server_cert, key=pki.server_key, client_ca=pki.ca_cert),
        AdminAt(path=folder / "admin" / "admin.sock", uids=frozenset({os.getuid()})),
    ]
    loop_factory = uvloop.new_event_loop if request.param == "uvloop" else asyncio.new_event_loop
    with RunningBroker(listeners, loop_factory=loop_factory) as broker:
        yield broker


@pytest.fixture
def broker(running: RunningBroker) -> RunningBroker:
    """The same process for all tests, with a desk that knows nothing of the others."""
    running.desk.forget()
    running.problems = ()
    return running


@pytest.fixture(params=["unix", "http", "https"])
def connect(request: pytest.FixtureRequest, broker: RunningBroker, pki: Pki) -> Connect:
    url = broker.urls[["unix", "http", "https"].index(request.param)]
    return lambda: Wire(url, pki.client() if request.param == "https" else None)


@pytest.fixture
def wire(broker: RunningBroker) -> Iterator[Wire]:
    """The Unix socket, for what does not depend on the listener."""
    with Wire(broker.urls[0]) as opened:
        yield opened


def exchange(wire: Wire, **changes: str | None) -> Answer:
    fields = {name: value for name, value in (EXCHANGE | changes).items() if value is not None}
    return wire.request("POST", "/v1/token", [FORM], urlencode(fields).encode())


def body_of(answer: Answer, schema: str, status: int = 200) -> dict[str, Any]:
    """The body, once it is what the OpenAPI document says it is, and what no cache may keep."""
    assert answer.status == status, answer.raw
    assert answer.headers["content-type"] == "application/json"
    body = json.loads(answer.body)
    Draft202012Validator(SCHEMAS[schema]).validate(body)
    assert isinstance(body, dict)
    return body


def refused(answer: Answer, code: Code, words: str = "") -> dict[str, Any]:
    body = body_of(answer, "Error", code.http_status)
    assert body["code"] == code.word
    assert body["error"] == code.oauth_error
    assert words in body["error_description"]
    assert body["correlation_id"] == answer.headers["x-correlation-id"]
    assert answer.headers["cache-control"] == "no-store"
    return body


def opened(wire: Wire) -> str:
    """The Authorization line of a fresh session."""
    return f"Authorization: Bearer {body_of(exchange(wire), 'Token')['access_token']}"


# --- the whole way, on every listener ---------------------------------------------------------------------------------


def test_a_token_becomes_a_session_that_reads_and_ends(connect: Connect, broker: RunningBroker) -> None:
    """Exchange, read, view, heartbeat, revoke: every shape is the documented one."""
    with connect() as wire:
        answer = exchange(wire, heartbeat="1", scope="warehouse lake")
        token = body_of(answer, "Token")
        assert answer.headers["cache-control"] == "no-store"
        assert token["expires_in"] == 3600
        assert token["scope"] == "warehouse lake"
        assert token["receipt"].startswith("/v1/receipts/")
        bearer = f"Authorization: Bearer {token['access_token']}"

        answer = wire.request("GET", "/v1/credentials/warehouse/eu/1?min_ttl=60", [bearer, "X-Luigi-Task: Load_x_1"])
        credential = body_of(answer, "Credential")
        assert credential["data"] == VALUES["warehouse"]
        assert credential["issued_at"] == "2026-11-23T01:00:00Z"
        assert credential["expires_at"] == "2026-11-23T02:00:00Z"
        assert answer.headers["cache-control"] == "no-store"

        view = body_of(wire.request("GET", "/v1/session", [bearer]), "Session")
        assert view["grants"] == ["warehouse", "lake"]
        assert view["leases"][0]["subpath"] == "eu/1"
        assert view["leases"][0]["version"] == 1

        body_of(wire.request("POST", "/v1/session/heartbeat", [bearer]), "Nothing")
        revoke = urlencode({"token": token["access_token"]}).encode()
        body_of(wire.request("POST", "/v1/revoke", [FORM], revoke), "Nothing")
        body_of(wire.request("POST", "/v1/revoke", [FORM], revoke), "Nothing")
        refused(wire.request("GET", "/v1/credentials/warehouse", [bearer]), Code.SESSION_REVOKED)

    desk = broker.desk
    assert desk.heartbeats == 1
    assert desk.exchanges[0].wants == ("warehouse", "lake")
    assert desk.exchanges[0].heartbeat
    read = desk.reads[0]
    assert (read.grant, read.subpath, read.luigi_task) == ("warehouse", "eu/1", "Load_x_1")
    assert read.min_ttl is not None
    assert read.min_ttl.total_seconds() == 60
    assert read.patience is None


@pytest.mark.parametrize("scheme", ["", "Bearer ", "bearer "])
def test_the_aws_endpoint_speaks_the_container_protocol(connect: Connect, broker: RunningBroker, scheme: str) -> None:
    """Bare handle or Bearer, exactly `application/json`, times with a Z, and no longer than the SDKs wait."""
    with connect() as wire:
        handle = body_of(exchange(wire), "Token")["access_token"]
        answer = wire.request("GET", "/v1/aws/lake", [f"Authorization: {scheme}{handle}"])
        assert body_of(answer, "ContainerCredential") == {
            "AccessKeyId": "ASIAEXAMPLE",
            "SecretAccessKey": "wJalr+/=",
            "Token": "FwoG",
            "Expiration": "2026-11-23T02:00:00Z",
            "AccountId": "111122223333",
        }
        assert answer.headers["cache-control"] == "no-store"
    patience = broker.desk.reads[0].patience
    assert patience is not None
    assert patience.total_seconds() == 0.8


def test_aws_errors_carry_both_spellings(wire: Wire) -> None:
    """Go and Java read `code` and `message`, JavaScript `Code` and `Message`."""
    handle = body_of(exchange(wire), "Token")["access_token"]
    for grant, code in (("nothing", Code.GRANT_UNKNOWN), ("warehouse", Code.GRANT_UNKNOWN), ("Not-A-Name", Code.GRANT_UNKNOWN)):
        body = refused(wire.request("GET", f"/v1/aws/{grant}", [f"Authorization: {handle}"]), code)
        assert body["Code"] == body["code"]
        assert body["Message"] == body["message"] == body["error_description"]
    refused(wire.request("GET", "/v1/aws/lake/x", [f"Authorization: {handle}"]), Code.PATH_INVALID, "no subpath")
    refused(wire.request("GET", "/v1/aws/lake", []), Code.HANDLE_INVALID, "no Authorization header")


# --- errors -----------------------------------------------------------------------------------------------------------

TRAVELLING = [code for code in Code if code.http_status]


def an_error(code: Code) -> BrokerError:
    if code is Code.INTERNAL:
        return Broken("inner workings")
    if code.http_status in {429, 503}:
        return Unavailable(code, "it is away", detail="inner workings", retry_after=6.2)
    return (Misconfigured if code.http_status == 502 else Refused)(code, "it is refused", detail="inner workings")


@pytest.mark.parametrize("code", TRAVELLING, ids=lambda code: code.word)
def test_every_error_has_its_shape(wire: Wire, broker: RunningBroker, code: Code) -> None:
    """Status, OAuth word, our word, sentence, correlation id; never the detail."""
    for target in ("/v1/credentials/lake", "/v1/aws/lake", "/v1/session"):
        broker.desk.trouble = an_error(code)
        answer = wire.request("GET", target, ["Authorization: Bearer x"])
        refused(answer, code)
        assert b"inner workings" not in answer.raw
        assert ("www-authenticate" in answer.headers) == (code.http_status == 401)
        assert answer.headers.get("retry-after") == ("7" if code.http_status in {429, 503} else None)


@pytest.mark.parametrize("code", TRAVELLING, ids=lambda code: code.word)
def test_every_error_has_its_shape_at_the_token_endpoint(wire: Wire, broker: RunningBroker, code: Code) -> None:
    """The same, but that an unknown grant is an invalid scope there."""
    broker.desk.trouble = an_error(code)
    answer = exchange(wire)
    if code is Code.GRANT_UNKNOWN:
        body = body_of(answer, "Error", 400)
        assert (body["error"], body["code"]) == ("invalid_scope", "grant_unknown")
    else:
        refused(answer, code)


@pytest.mark.parametrize("code", [code for code in Code if not code.http_status], ids=lambda code: code.word)
def test_a_code_that_never_travels_is_an_internal_error(wire: Wire, broker: RunningBroker, code: Code) -> None:
    """It would have no status; that it came up is a bug of ours."""
    broker.desk.trouble = Misconfigured(code, "an operator's sentence")
    answer = exchange(wire)
    refused(answer, Code.INTERNAL)
    assert b"operator" not in answer.body


def test_an_unexpected_exception_tells_the_caller_nothing(
    wire: Wire, broker: RunningBroker, caplog: pytest.LogCaptureFixture
) -> None:
    """The traceback is in our log under the correlation id; the caller gets the id."""
    broker.desk.trouble = ZeroDivisionError("inner workings")
    answer = exchange(wire)
    body = refused(answer, Code.INTERNAL)
    assert b"inner workings" not in answer.raw
    record = next(r for r in caplog.records if r.getMessage() == "request.failed")
    assert record.__dict__["correlation_id"] == body["correlation_id"]
    assert record.exc_info is not None
    assert "good-token" not in caplog.text


def test_every_answer_has_a_correlation_id_of_ours(wire: Wire) -> None:
    """A client's own is not taken over: ids in our log are ours."""
    answers = [wire.request("GET", "/healthz", ["X-Correlation-Id: mine"]) for _ in range(2)]
    ids = {answer.headers["x-correlation-id"] for answer in answers}
    assert len(ids) == 2
    assert "mine" not in ids


# --- bad requests -----------------------------------------------------------------------------------------------------

BAD_FORMS: list[tuple[dict[str, str | None], Code, str]] = [
    ({"grant_type": None}, Code.REQUEST_INVALID, "grant_type is not"),
    ({"grant_type": "password"}, Code.REQUEST_INVALID, "grant_type is not"),
    ({"subject_token": None}, Code.TOKEN_MISSING, "id_tokens:"),
    ({"subject_token": ""}, Code.TOKEN_MISSING, "id_tokens:"),
    ({"subject_token": "x" * 20_001}, Code.TOKEN_MALFORMED, "the limit is 20000"),
    ({"subject_token_type": None}, Code.REQUEST_INVALID, "subject_token_type"),
    ({"subject_token_type": "urn:ietf:params:oauth:token-type:access_token"}, Code.REQUEST_INVALID, "subject_token_type"),
    ({"scope": ""}, Code.REQUEST_INVALID, "scope is not"),
    ({"scope": "lake  warehouse"}, Code.REQUEST_INVALID, "scope is not"),
    ({"resume_key": "short"}, Code.REQUEST_INVALID, "43 base64url"),
    ({"heartbeat": "yes"}, Code.REQUEST_INVALID, "heartbeat is not"),
    ({"environment": "Prod!"}, Code.REQUEST_INVALID, "environment is not a name"),
    ({"audience": "x"}, Code.REQUEST_INVALID, "'audience' is not known"),
    ({"sub\x00ject": "x"}, Code.REQUEST_INVALID, "parameter is not known"),
    ({"subject_token": "stranger"}, Code.TOKEN_SIGNATURE, "signature"),
]


@pytest.mark.parametrize(("changes", "code", "words"), BAD_FORMS)
def test_a_bad_exchange_is_refused_and_names_its_fault(
    wire: Wire, changes: dict[str, str | None], code: Code, words: str
) -> None:
    """And the same connection then takes a good one."""
    refused(exchange(wire, **changes), code, words)
    body_of(exchange(wire, resume_key="k" * 43, environment="production", scope="lake lake"), "Token")


def test_a_scope_that_cannot_be_a_grant_is_an_invalid_scope(wire: Wire) -> None:
    """The name's shape alone says that no policy has it."""
    body = body_of(exchange(wire, scope="lake ../x"), "Error", 400)
    assert (body["error"], body["code"]) == ("invalid_scope", "grant_unknown")


def test_a_form_is_read_strictly(wire: Wire) -> None:
    """Two readers of an ambiguous form would disagree, so there is none."""
    good = urlencode(EXCHANGE).encode()
    bad = [
        ([FORM], good + b"&subject_token=other", "stands there twice"),
        ([FORM], good + b"&heartbeat", "not form-encoded"),
        ([FORM], good + b"&scope=\xff", "not form-encoded"),
        ([FORM], good + b"&scope=%ff", "not form-encoded"),
        ([FORM], good + b"".join(b"&a%d=" % i for i in range(20)), "not form-encoded"),
        ([], good, "not application/x-www-form-urlencoded"),
        (["Content-Type: application/json"], good, "not application/x-www-form-urlencoded"),
        ([FORM, "Content-Type: text/plain"], good, "2 content-type headers"),
        ([FORM], b"", "grant_type is not"),
    ]
    for headers, body, words in bad:
        refused(wire.request("POST", "/v1/token", headers, body), Code.REQUEST_INVALID, words)
    answer = wire.request("POST", "/v1/token", [FORM + "; charset=utf-8"], good)
    body_of(answer, "Token")


def test_no_token_travels_in_a_url(wire: Wire) -> None:
    """URLs end up in other people's logs."""
    bearer = opened(wire)
    handle = bearer.rpartition(" ")[2]
    for method, target in (
        ("POST", "/v1/token?subject_token=x"),
        ("POST", "/v1/session/heartbeat?a=b"),
        ("GET", f"/v1/credentials/lake?access_token={handle}"),
        ("GET", f"/v1/aws/lake?token={handle}"),
        ("GET", f"/v1/session?token={handle}"),
    ):
        answer = wire.request(method, target, [bearer, FORM])
        refused(answer, Code.REQUEST_INVALID, "in the URL")
        assert handle.encode() not in answer.raw
    twice = wire.request("GET", "/v1/credentials/lake?min_ttl=1&min_ttl=2", [bearer])
    refused(twice, Code.REQUEST_INVALID, "stands there twice")


@pytest.mark.parametrize("value", ["soon", "-1", "1.5", "", "99999999", "1e3"])
def test_min_ttl_is_whole_seconds(wire: Wire, value: str) -> None:
    """A number that is read differently by two sides would be a lease that is shorter than its reader thinks."""
    bearer = opened(wire)
    refused(wire.request("GET", f"/v1/credentials/lake?min_ttl={value}", [bearer]), Code.REQUEST_INVALID)
    body_of(wire.request("GET", "/v1/credentials/lake?min_ttl=3600", [bearer]), "Credential")
    refused(wire.request("GET", "/v1/credentials/lake?min_ttl=3601", [bearer]), Code.TTL_UNAVAILABLE)


def test_exactly_one_authorization_header(wire: Wire) -> None:
    """A proxy in front might look at the other one."""
    bearer = opened(wire)
    two = [bearer, "Authorization: Bearer other"]
    for target in ("/v1/credentials/lake", "/v1/aws/lake", "/v1/session"):
        refused(wire.request("GET", target, two), Code.REQUEST_INVALID, "2 authorization headers")
        answer = wire.request("GET", target, [])
        refused(answer, Code.HANDLE_INVALID, "no Authorization header")
        assert answer.headers["www-authenticate"].startswith("Bearer ")
    for line in ("Authorization: Basic eDp5", "Authorization: " + bearer.rpartition(" ")[2], "Authorization: Bearer\xff\xfe"):
        refused(wire.request("GET", "/v1/credentials/lake", [line]), Code.HANDLE_INVALID)
    body_of(wire.request("GET", "/v1/credentials/lake", [bearer]), "Credential")


@pytest.mark.parametrize("task", ["x" * 513, "a\tb", "ä", ""])
def test_a_task_is_a_luigi_task_id(wire: Wire, task: str) -> None:
    """It is written in the log, as the caller's word, so its shape is bounded."""
    bearer = opened(wire)
    refused(wire.request("GET", "/v1/credentials/lake", [bearer, f"X-Luigi-Task: {task}"]), Code.REQUEST_INVALID, "X-Luigi-Task")
    body_of(wire.request("GET", "/v1/credentials/lake", [bearer, f"X-Luigi-Task: ns.{'x' * 500} (1)"]), "Credential")


@pytest.mark.parametrize(
    "path",
    [
        "/v1/credentials/warehouse/..",
        "/v1/credentials/warehouse/../../token",
        "/v1/credentials/warehouse/%2e%2e/x",
        "/v1/credentials/warehouse//x",
        "//v1/credentials/warehouse",
        "/v1/credentials/warehouse/",
        "/v1/credentials/warehouse/a%2fb",
        "/v1/credentials/warehouse/a%5cb",
        "/v1/credentials/warehouse/a%00",
        "/v1/credentials/warehouse/a%0a",
        "/v1/credentials/warehouse/a%252fb",
        "/v1/credentials/warehouse/a%",
        "/v1/credentials/warehouse/a%zz",
        "/v1/credentials/warehouse/%ff",
        "/v1/credentials/warehouse/a%3fb",
        "/v1/credentials/warehouse/.",
    ],
)
def test_a_path_that_could_be_read_twice_is_refused(wire: Wire, path: str) -> None:
    """Decoded once, and nothing in it may still mean something to the next reader."""
    bearer = opened(wire)
    refused(wire.request("GET", path, [bearer]), Code.PATH_INVALID)


def test_a_plain_subpath_arrives_decoded(wire: Wire, broker: RunningBroker) -> None:
    """The allowed twin: letters of any script, and a space."""
    bearer = opened(wire)
    body_of(wire.request("GET", "/v1/credentials/warehouse/a%20b/%C3%A4", [bearer]), "Credential")
    assert broker.desk.reads[-1].subpath == "a b/ä"


def test_unknown_endpoints_and_methods_are_refused_in_our_shape(wire: Wire) -> None:
    """No plain text of a framework."""
    for target in (
        "/",
        "/v1",
        "/v1/credentials",
        "/v1/aws",
        "/v1/nothing",
        "/v1/token/x",
        "/healthz/",
        "/console",
        "/v1/receipts/x",
    ):
        refused(wire.request("GET", target), Code.PATH_INVALID)
    refused(wire.request("GET", "/v1/token"), Code.REQUEST_INVALID, "takes POST")
    refused(wire.request("DELETE", "/v1/credentials/lake"), Code.REQUEST_INVALID, "takes GET")
    refused(wire.request("POST", "/v1/aws/lake"), Code.REQUEST_INVALID, "takes GET")
    refused(wire.request("GET", "/v1/revoke"), Code.REQUEST_INVALID, "takes POST")
    assert wire.request("GET", "/healthz").status == 200


def test_revoke_takes_any_handle_that_holds_nothing(wire: Wire, broker: RunningBroker) -> None:
    """RFC 7009: what is not valid any more is revoked. What could not be revoked now is an error."""
    body_of(wire.request("POST", "/v1/revoke", [FORM], b"token=never-was&token_type_hint=access_token"), "Nothing")
    refused(wire.request("POST", "/v1/revoke", [FORM], b""), Code.REQUEST_INVALID, "token is missing")
    refused(wire.request("POST", "/v1/revoke", [FORM], b"token=x&handle=y"), Code.REQUEST_INVALID, "not known")
    broker.desk.trouble = Unavailable(Code.UPSTREAM_UNAVAILABLE, "Vault does not answer")
    refused(wire.request("POST", "/v1/revoke", [FORM], b"token=x"), Code.UPSTREAM_UNAVAILABLE)
    broker.desk.trouble = Refused(Code.HANDLE_PEER, "another user's")
    refused(wire.request("POST", "/v1/revoke", [FORM], b"token=x"), Code.HANDLE_PEER)


# --- listeners --------------------------------------------------------------------------------------------------------


def test_the_kernel_says_who_is_there(broker: RunningBroker, pki: Pki, tmp_path: Path) -> None:
    """Uid and pid on the Unix socket, the address on TCP, the certificate's name on TLS: nothing that a request says."""
    with Wire(broker.urls[0]) as wire:
        exchange(wire)
    with Wire(broker.urls[1]) as wire:
        wire.request(
            "POST", "/v1/token", [FORM, "X-Forwarded-For: 10.0.0.9", "X-Forwarded-Proto: https"], urlencode(EXCHANGE).encode()
        )
    for client in (pki.client(), pki.client(with_certificate=True)):
        with Wire(broker.urls[2], client) as wire:
            exchange(wire)
    unix, http, tls, mutual = (request.peer for request in broker.desk.exchanges)
    assert (unix.transport, unix.uid, unix.pid, unix.address) == ("unix", os.getuid(), os.getpid(), "")
    assert (http.transport, http.uid, http.pid, http.address) == ("http", None, None, "127.0.0.1")
    assert (tls.transport, tls.uid, tls.certificate) == ("https", None, None)
    assert (mutual.transport, mutual.certificate) == ("https", "spiffe://example.com/job")


def test_a_certificate_of_another_authority_gets_no_connection(broker: RunningBroker, pki: Pki, tmp_path: Path) -> None:
    """Optional, and checked when it is sent."""
    (tmp_path / "other").mkdir()
    other = Pki(tmp_path / "other")
    stranger = pki.client()
    stranger.load_cert_chain(other.client_cert, other.client_key)
    with pytest.raises((ssl.SSLError, ConnectionError)), Wire(broker.urls[2], stranger) as wire:
        wire.request("GET", "/healthz")


def test_what_tcp_and_the_socket_may_not_see_is_on_the_admin_socket(broker: RunningBroker, pki: Pki) -> None:
    """Metrics and the reasons behind readiness; and sessions are not handed out there."""
    broker.problems = ("the log cannot be written",)
    for index in range(3):
        with Wire(broker.urls[index], pki.client() if index == 2 else None) as wire:
            refused(wire.request("GET", "/metrics"), Code.PATH_INVALID)
            assert body_of(wire.request("GET", "/readyz"), "Status", 503) == {"status": "not ready"}
    with Wire(broker.urls[3]) as wire:
        answer = wire.request("GET", "/metrics")
        assert answer.status == 200
        assert answer.headers["content-type"].startswith("text/plain")
        assert b'credbroker_requests_total{listener="http",outcome="path_invalid",route="none"}' in answer.body
        assert body_of(wire.request("GET", "/readyz"), "Status", 503)["problems"] == ["the log cannot be written"]
        for method, target in (
            ("POST", "/v1/token"),
            ("GET", "/v1/credentials/lake"),
            ("GET", "/v1/session"),
            ("POST", "/v1/revoke"),
        ):
            refused(wire.request(method, target), Code.PATH_INVALID)
        broker.problems = ()
        assert body_of(wire.request("GET", "/readyz"), "Status") == {"status": "ready", "problems": []}


def test_the_admin_socket_is_for_admins(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Another uid gets no byte. (Ours is not on the list here.)"""
    with RunningBroker([AdminAt(path=tmp_path / "admin" / "a.sock", uids=frozenset({4_000_000}))]) as broker:
        assert (tmp_path / "admin").stat().st_mode & 0o777 == 0o700
        with Wire(broker.urls[0]) as wire:
            assert wire.ended()
    assert "admin.stranger" in caplog.text


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1:9", "[::1]:9", "broker.example.com", "BROKER.example.com:8400"])
def test_loopback_answers_to_its_own_names(broker: RunningBroker, host: str) -> None:
    """And to the public one, for who forwards it."""
    with Wire(broker.urls[1]) as wire:
        wire.host = host
        assert wire.request("GET", "/healthz").status == 200


@pytest.mark.parametrize("host", ["evil.example.com", "127.0.0.1.evil.example.com", "localhost.evil", "[::2]"])
def test_a_name_that_was_rebound_to_loopback_is_refused(broker: RunningBroker, host: str) -> None:
    """A page in a browser on this host can make its own name point here; it cannot change the Host header."""
    with Wire(broker.urls[1]) as wire:
        wire.host = host
        refused(wire.request("GET", "/healthz"), Code.REQUEST_INVALID, "neither loopback nor")


def test_a_browser_is_refused_on_loopback(broker: RunningBroker) -> None:
    """Only browsers send Origin."""
    with Wire(broker.urls[1]) as wire:
        refused(wire.request("GET", "/healthz", ["Origin: https://evil.example.com"]), Code.REQUEST_INVALID, "not for browsers")
        assert wire.request("GET", "/healthz").status == 200


def test_a_request_has_one_host(connect: Connect) -> None:
    """Two, or none, and whoever routes by it has been lied to."""
    with connect() as wire:
        refused(wire.request("GET", "/healthz", ["Host: other"]), Code.REQUEST_INVALID, "2 host headers")
        wire.send(b"GET /healthz HTTP/1.1\r\n\r\n")
        refused(wire.answer(), Code.REQUEST_INVALID, "no Host header")


# --- what anybody may read --------------------------------------------------------------------------------------------


def test_what_is_public_is_public(connect: Connect) -> None:
    """Without a handle: metadata, keys, health, the description of all this."""
    with connect() as wire:
        for target in ("/.well-known/openid-configuration", "/jwks", "/.well-known/oauth-authorization-server", "/openapi.json"):
            answer = wire.request("GET", target)
            body_of(answer, "Document")
            assert answer.headers["cache-control"] == "public, max-age=300"
        assert body_of(wire.request("GET", "/healthz"), "Status") == {"status": "ok"}
        metadata = json.loads(wire.request("GET", "/.well-known/oauth-authorization-server").body)
        assert metadata["issuer"] == PUBLIC_URL
        assert metadata["token_endpoint"] == f"{PUBLIC_URL}/v1/token"
        assert metadata["revocation_endpoint"] == f"{PUBLIC_URL}/v1/revoke"


def test_head_has_no_body(wire: Wire) -> None:
    """Some probes ask so. The length is the one that GET would have."""
    wire.send(b"HEAD /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
    raw = b""
    while not raw.endswith(b"\r\n\r\n"):
        raw += wire.sock.recv(4096)
    assert raw.startswith(b"HTTP/1.1 200 OK")
    assert wire.request("GET", "/healthz").status == 200
