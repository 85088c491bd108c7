"""A strict STS on loopback: what AWS checks before it gives a session, checked here, with AWS's words for what is wrong.

For the demo and the tests. It verifies signatures, audiences, times, trust policies, tags and limits itself, because the emulator
behind it does not; then it has the session minted there (`Mint`), with the same session policy, tags and names, so that what
the session may do is enforced. Not checked: the packed size of policies, quotas, the caller's own identity policy.
"""

import sys
import threading
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Protocol, Self
from xml.sax.saxutils import escape

from broker.demo.iam import Account, Caller, Principal, Role, admits, tag_context
from broker.demo.sts_proof import ProviderKeys, prove_caller, prove_web_identity
from broker.demo.sts_request import StsError, Wanted, read_fields, read_request

_NAMESPACE = "https://sts.amazonaws.com/doc/2011-06-15/"
_BODY_BYTES = 256 * 1024
_CHAINED_SECONDS = 3600


@dataclass(frozen=True, slots=True, kw_only=True)
class MintOrder:
    """One session that this STS has admitted."""

    role_arn: str
    session_name: str
    seconds: int
    policy: str | None
    policy_arns: tuple[str, ...]
    tags: Mapping[str, str]
    transitive: tuple[str, ...]
    source_identity: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class RoleSession:
    access_key_id: str
    secret_access_key: str
    session_token: str
    role_id: str
    expires_at: datetime

    def __repr__(self) -> str:
        return f"RoleSession({self.access_key_id})"


class Mint(Protocol):
    def __call__(self, order: MintOrder) -> RoleSession:
        """A session that is enforced somewhere. Raises StsError with what that place says."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """What the next requests get instead of an answer. An empty code is an empty body with this status."""

    code: str = ""
    status: int = 400
    delay: float = 0.0


class StrictSts:
    """Serves until `stop`. A context manager. `url` is http on loopback."""

    def __init__(self, account: Account, mint: Mint, *, region: str = "eu-central-1", port: int = 0) -> None:
        self.account = account
        self.region = region
        self.requests = 0
        self._mint = mint
        self._keys = ProviderKeys()
        self._faults: list[Fault] = []
        self._lock = threading.Lock()
        self._server = _Server(("127.0.0.1", port), self)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), name="strict-sts", daemon=True)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def start(self) -> Self:
        self._thread.start()
        return self

    def stop(self) -> None:
        """No new request is answered; those under way end by themselves."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(5)
        self._keys.close()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *exc: object) -> None:
        self.stop()

    def fail(self, *faults: Fault) -> None:
        """The next requests, one for each fault, in this order."""
        with self._lock:
            self._faults.extend(faults)

    def answer(self, path: str, headers: Mapping[str, str], body: bytes) -> tuple[int, str]:
        """Status and XML of one POST."""
        request_id = str(uuid.uuid4())
        with self._lock:
            self.requests += 1
            fault = self._faults.pop(0) if self._faults else None
        if fault is not None:
            time.sleep(fault.delay)
            if not fault.code and fault.status != 200:  # noqa: PLR2004 - 200 is a fault that is only slow
                return fault.status, ""
            if fault.code:
                return fault.status, _error(StsError(fault.code, "injected", fault.status), request_id)
        try:
            fields = read_fields(body)
            if fields["Action"] == "AssumeRole":
                # Who asks comes first: a stranger learns nothing about parameters.
                caller = prove_caller(self.account, self.region, path, headers, body, datetime.now(UTC))
                return 200, self._assume_role(read_request(fields), caller, request_id)
            return 200, self._assume_with_web_identity(read_request(fields), request_id)
        except StsError as error:
            return error.status, _error(error, request_id)

    # --- the two actions --------------------------------------------------------------------------------------------

    def _assume_with_web_identity(self, wanted: Wanted, request_id: str) -> str:
        identity = prove_web_identity(wanted.token, self.account, self._keys)
        provider = identity.provider
        context: dict[str, str | Sequence[str]] = {
            f"{provider.host}:sub".lower(): identity.subject,
            f"{provider.host}:aud".lower(): identity.audience,
        }
        principal = Principal(kind="Federated", arn=self.account.provider_arn(provider))
        order = self._admit(
            wanted,
            principal,
            context,
            tags=identity.tags,
            transitive=identity.transitive,
            source_identity=identity.source_identity,
        )
        fields = [
            ("SubjectFromWebIdentityToken", identity.subject),
            ("Audience", identity.audience),
            # The model says `iss` here; what AWS sends is the ARN of the provider.
            ("Provider", principal.arn),
        ]
        return _success(wanted.action, fields, order, self._mint(order), request_id)

    def _assume_role(self, wanted: Wanted, caller: Caller, request_id: str) -> str:
        if ":assumed-role/" in caller.arn and wanted.seconds > _CHAINED_SECONDS:
            raise StsError(
                "ValidationError",
                "The requested DurationSeconds exceeds the 1 hour session limit for roles assumed by role chaining",
            )
        context: dict[str, str | Sequence[str]] = {} if wanted.external_id is None else {"sts:externalid": wanted.external_id}
        order = self._admit(
            wanted,
            Principal(kind="AWS", arn=caller.arn),
            context,
            tags=wanted.tags,
            transitive=wanted.transitive,
            source_identity=wanted.source_identity,
        )
        return _success(wanted.action, [], order, self._mint(order), request_id)

    def _admit(
        self,
        wanted: Wanted,
        principal: Principal,
        context: dict[str, str | Sequence[str]],
        *,
        tags: Mapping[str, str],
        transitive: tuple[str, ...],
        source_identity: str | None,
    ) -> MintOrder:
        """The role's trust policy has to admit the action, and tagging and naming the source where the request does."""
        context["sts:rolesessionname"] = wanted.session_name
        context |= tag_context(tags, transitive)
        if source_identity is not None:
            context["sts:sourceidentity"] = source_identity
        needed = [f"sts:{wanted.action}"]
        needed += ["sts:TagSession"] if tags else []
        needed += ["sts:SetSourceIdentity"] if source_identity is not None else []
        role: Role | None = self.account.role(wanted.role_arn)
        for action in needed:
            # A role that does not exist is answered like one that does not trust: existence is not told.
            if role is None or not admits(role.trust, action, principal, context):
                who = "" if principal.kind == "Federated" else f"User: {principal.arn} is "
                raise StsError("AccessDenied", f"{who}{'n' if who else 'N'}ot authorized to perform: {action}", 403)
        if role is not None and wanted.seconds > role.max_seconds:
            raise StsError("ValidationError", "The requested DurationSeconds exceeds the MaxSessionDuration set for this role.")
        return MintOrder(
            role_arn=wanted.role_arn,
            session_name=wanted.session_name,
            seconds=wanted.seconds,
            policy=wanted.policy,
            policy_arns=wanted.policy_arns,
            tags=tags,
            transitive=transitive,
            source_identity=source_identity,
        )


def _success(action: str, fields: list[tuple[str, str]], order: MintOrder, session: RoleSession, request_id: str) -> str:
    account, role = order.role_arn.split(":")[4], order.role_arn.rsplit("/", 1)[-1]
    expires = session.expires_at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    if order.source_identity is not None:
        fields = [*fields, ("SourceIdentity", order.source_identity)]
    return (
        f'<{action}Response xmlns="{_NAMESPACE}"><{action}Result>'
        + "".join(f"<{name}>{escape(value)}</{name}>" for name, value in fields)
        + f"<AssumedRoleUser><Arn>arn:aws:sts::{account}:assumed-role/{escape(role)}/{escape(order.session_name)}</Arn>"
        f"<AssumedRoleId>{escape(session.role_id)}:{escape(order.session_name)}</AssumedRoleId></AssumedRoleUser>"
        f"<Credentials><AccessKeyId>{escape(session.access_key_id)}</AccessKeyId>"
        f"<SecretAccessKey>{escape(session.secret_access_key)}</SecretAccessKey>"
        f"<SessionToken>{escape(session.session_token)}</SessionToken><Expiration>{expires}</Expiration></Credentials>"
        f"</{action}Result><ResponseMetadata><RequestId>{request_id}</RequestId></ResponseMetadata></{action}Response>"
    )


def _error(error: StsError, request_id: str) -> str:
    fault = "Receiver" if error.status >= 500 else "Sender"  # noqa: PLR2004 - HTTP's own boundary
    return (
        f'<ErrorResponse xmlns="{_NAMESPACE}"><Error><Type>{fault}</Type><Code>{escape(error.code)}</Code>'
        f"<Message>{escape(error.message)}</Message></Error><RequestId>{request_id}</RequestId></ErrorResponse>"
    )


# --- HTTP -----------------------------------------------------------------------------------------------------------


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, address: tuple[str, int], sts: StrictSts) -> None:
        super().__init__(address, _Handler)
        self.sts = sts

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that went away is no news; anything else is a bug here and is shown."""
        if not isinstance(sys.exception(), (ConnectionError, TimeoutError)):
            super().handle_error(request, client_address)  # type: ignore[arg-type]  # as the base class was given them


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = 30
    disable_nagle_algorithm = True  # headers and body are two writes here
    server: _Server

    def do_POST(self) -> None:
        length = self.headers.get("Content-Length", "")
        if not length.isdecimal() or int(length) > _BODY_BYTES:
            self.close_connection = True
            self._send(413, "")
            return
        headers = {name.lower(): value for name, value in self.headers.items()}
        self._send(*self.server.sts.answer(self.path, headers, self.rfile.read(int(length))))

    def _send(self, status: int, text: str) -> None:
        body = text.encode()
        self.send_response(status)
        self.send_header("Content-Type", "text/xml")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's name
        """Quiet."""
