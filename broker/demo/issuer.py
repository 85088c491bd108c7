"""A GitLab-like issuer of job tokens on loopback, for the demo and the tests.

Discovery, key document and claims are as GitLab 18 has them (gitlab-tokens.md 1 and 2): ids are strings, booleans are the strings
"true" and "false", `runner_id` alone is a number, and the key that signs OpenID logins is in the same document as the one that
signs job tokens. Shares no code with what verifies on the other side.
"""

import base64
import hashlib
import json
import tempfile
import threading
import uuid
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from enum import Enum
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Literal, Self, cast

import jwt
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey, generate_private_key
from jwt.algorithms import RSAAlgorithm

from broker.demo.certificates import LoopbackCa

DISCOVERY_PATH = "/.well-known/openid-configuration"
KEYS_PATH = "/oauth/discovery/keys"
AUDIENCE = "https://broker.example.com"
_LIFETIME = timedelta(hours=1)  # GitLab: the job's timeout
_REF_PREFIX = {"branch": "refs/heads/", "tag": "refs/tags/"}


class _Absence(Enum):
    """A value with one repr: test ids are made of it, in several processes."""

    ABSENT = "absent"


ABSENT: Any = _Absence.ABSENT
"""As a claim's value in `mint`: the token does not have it. None is JSON null, which is something else."""


@dataclass(frozen=True, slots=True)
class SigningKey:
    """One RSA key, named by its thumbprint (RFC 7638) as GitLab's are."""

    private: RSAPrivateKey = field(repr=False)
    jwk: Mapping[str, str]

    @classmethod
    def new(cls, bits: int = 2048) -> "SigningKey":
        private = generate_private_key(public_exponent=65537, key_size=bits)
        public = cast("dict[str, str]", RSAAlgorithm.to_jwk(private.public_key(), as_dict=True))
        members = {name: public[name] for name in ("e", "kty", "n")}
        digest = hashlib.sha256(json.dumps(members, separators=(",", ":")).encode()).digest()
        kid = base64.urlsafe_b64encode(digest).rstrip(b"=").decode()
        return cls(private, members | {"kid": kid, "use": "sig", "alg": "RS256"})

    @property
    def kid(self) -> str:
        return self.jwk["kid"]

    def sign(self, claims: Mapping[str, Any], header: Mapping[str, Any] | None = None) -> str:
        """A token with exactly these claims."""
        return jwt.encode(dict(claims), self.private, "RS256", headers={"kid": self.kid, **(header or {})})


class TestIssuer:
    """Serves and signs while it is started; a context manager. `url` is the `iss` of its tokens."""

    __test__ = False  # pytest: the name is no test's

    def __init__(
        self,
        *,
        scheme: Literal["http", "https"] = "http",
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
        ca: LoopbackCa | None = None,
    ) -> None:
        """With https, by the authority `ca`; without one, by an authority of its own from each `start` to its `stop`."""
        self._scheme = scheme
        self._ca = ca
        self._clock = clock
        self._parts = ExitStack()
        self.ca_file: Path | None = None  # with https: who is to be trusted
        self.requests: list[str] = []  # the paths that were asked for, in order
        self.login_key = SigningKey.new()
        self.key = SigningKey.new()
        self._published: tuple[SigningKey, ...] = (self.login_key, self.key)
        self._address = ("127.0.0.1", 0)

    @property
    def url(self) -> str:
        host, port = self._address
        return f"{self._scheme}://{host}:{port}"

    def start(self) -> Self:
        """Serves on a free port, or on the one it had before."""
        server = _Server(self._address, _Handler)
        self._parts.callback(server.server_close)
        server.issuer = self
        if self._scheme == "https":
            ca = self._ca or LoopbackCa(Path(self._parts.enter_context(tempfile.TemporaryDirectory(prefix="credbroker-issuer-"))))
            self.ca_file = ca.ca_file
            server.socket = ca.server_context().wrap_socket(server.socket, server_side=True)
        self._address = ("127.0.0.1", server.server_port)
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        thread.start()
        self._parts.callback(thread.join)
        self._parts.callback(server.shutdown)
        return self

    def stop(self) -> None:
        """Nothing listens any more. Safe to call twice."""
        self._parts.close()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *exc: object) -> None:
        self.stop()

    def mint(self, *, header: Mapping[str, Any] | None = None, key: SigningKey | None = None, **claims: Any) -> str:
        """The ID token of a job on protected main in production, unless `claims` say otherwise."""
        return (key or self.key).sign(self.job_claims(**claims), header)

    def job_claims(self, **changed: Any) -> dict[str, Any]:
        """What GitLab would put into that token; what follows from a changed claim follows it."""
        now = int(self._clock().timestamp())
        claims = _JOB | {"iss": self.url, "jti": str(uuid.uuid4()), "iat": now, "nbf": now - 5}
        claims["exp"] = now + int(_LIFETIME.total_seconds())
        claims |= changed
        for name in ("project_id", "project_path", "namespace_id", "namespace_path"):
            claims.setdefault(f"job_{name}", claims[name])
        claims.setdefault("ref_path", f"{_REF_PREFIX.get(claims['ref_type'], '')}{claims['ref']}")
        claims.setdefault("sub", f"project_path:{claims['project_path']}:ref_type:{claims['ref_type']}:ref:{claims['ref']}")
        config = f"{self.url.partition('://')[2]}/{claims['project_path']}//.gitlab-ci.yml@{claims['ref_path']}"
        claims.setdefault("ci_config_ref_uri", config)
        return {name: value for name, value in claims.items() if value is not ABSENT}

    def mint_login(self, audience: str = AUDIENCE) -> str:
        """What the same GitLab signs when a person logs in somewhere with it: same issuer, same key document, no job."""
        now = int(self._clock().timestamp())
        claims = {
            "iss": self.url, "sub": "1", "aud": audience, "exp": now + 120, "iat": now, "auth_time": now - 60,
            "sub_legacy": "0" * 64, "name": "A Person", "nickname": "person", "preferred_username": "person",
            "email": "person@example.com", "email_verified": True, "groups_direct": ["acme"],
        }  # fmt: skip
        return self.login_key.sign(claims)

    def rotate(self) -> None:
        """A new key in place of the old one, with no overlap: that is how GitLab does it."""
        self.key = SigningKey.new()
        self._published = (self.login_key, self.key)

    def withdraw(self) -> None:
        """The job key is not published any more, and no other takes its place."""
        self._published = (self.login_key,)

    def answer(self, path: str) -> Mapping[str, Any] | None:
        if path == DISCOVERY_PATH:
            return _DISCOVERY | {
                "issuer": self.url,
                "authorization_endpoint": f"{self.url}/oauth/authorize",
                "token_endpoint": f"{self.url}/oauth/token",
                "jwks_uri": self.url + KEYS_PATH,
            }
        if path in (KEYS_PATH, "/-/jwks"):
            return {"keys": [dict(key.jwk) for key in self._published]}
        return None


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    issuer: TestIssuer

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that hangs up, or does not trust our CA, is no news."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = 10
    server: _Server

    def do_GET(self) -> None:
        self.server.issuer.requests.append(self.path)
        document = self.server.issuer.answer(self.path)
        body = json.dumps(document if document is not None else {"error": "404 Not Found"}).encode()
        self.send_response(404 if document is None else 200)
        self.send_header("Content-Type", "application/json; charset=utf-8")
        self.send_header("Cache-Control", "public, max-age=86400, must-revalidate, no-transform")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the standard library's name
        """Says nothing: the demo's output is its story."""


# A job on protected main with an environment, as GitLab 18 describes it. `ref_path`, `sub`, `job_*` follow from these.
_JOB: dict[str, Any] = {
    "aud": AUDIENCE,
    "project_id": "20",
    "project_path": "acme/data",
    "namespace_id": "72",
    "namespace_path": "acme",
    "project_visibility": "private",
    "user_id": "1",
    "user_login": "sample-user",
    "user_email": "sample-user@example.com",
    "user_access_level": "developer",
    "pipeline_id": "574",
    "pipeline_source": "push",
    "job_id": "302",
    "ref": "main",
    "ref_type": "branch",
    "ref_protected": "true",
    "environment": "production",
    "environment_protected": "false",
    "deployment_tier": "production",
    "environment_action": "start",
    "runner_id": 12270807,
    "runner_environment": "self-hosted",
    "sha": "714a629c0b401fdce83e847fc9589983fc6f46bc",
    "ci_config_sha": "714a629c0b401fdce83e847fc9589983fc6f46bc",
}
_DISCOVERY: dict[str, Any] = {
    "response_types_supported": ["code"],
    "response_modes_supported": ["query", "fragment", "form_post"],
    "scopes_supported": ["openid", "profile", "email"],
    "subject_types_supported": ["public"],
    "id_token_signing_alg_values_supported": ["RS256"],
    "claim_types_supported": ["normal"],
    "claims_supported": [
        "iss",
        "sub",
        "aud",
        "exp",
        "iat",
        "project_path",
        "ci_config_ref_uri",
        "ref_path",
        "sha",
        "environment",
        "jti",
    ],
}
