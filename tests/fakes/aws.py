"""AWS for tests: an OIDC provider written from the specification, made-up sessions, and a running MiniStack."""

import json
import os
import secrets
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from jwt.algorithms import ECAlgorithm, RSAAlgorithm

from broker.demo.iam import Account, Caller, OidcProvider, Role
from broker.demo.ministack import MiniStack, MiniStackMissing
from broker.demo.sts import Mint, MintOrder, RoleSession

ACCOUNT = "111122223333"
REGION = "eu-central-1"
AUDIENCE = "sts.amazonaws.com"
SUBJECT = "environment:production:grant:lake:issuer:gitlab:project:4711"
TAGS = {
    "environment": "production",
    "grant": "lake",
    "project_id": "4711",
    "pipeline_id": "900",
    "job_id": "987654321",
    "ref_protected": "true",
}
BROKER = Caller(
    arn=f"arn:aws:iam::{ACCOUNT}:user/credbroker", access_key_id="AKIABROKERBROKERBROK", secret_access_key="of-the-broker-alone"
)


class Publication:
    """Serves an issuer's two documents on loopback. `broken`: whatever is asked is answered 500."""

    def __init__(self, documents: Callable[[str], Mapping[str, Any]] | None = None) -> None:
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                found = outer.document(self.path)
                self.send_response(500 if outer.broken else 200 if found else 404)
                self.send_header("Content-Type", "application/json")
                self.end_headers()
                self.wfile.write(json.dumps(found or {}).encode())

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's name
                """Quiet."""

        self.broken = False
        self.fetched = 0
        self._documents = documents
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    def document(self, path: str) -> Mapping[str, Any] | None:
        self.fetched += 1
        assert self._documents is not None
        return self._documents(path)

    def serve(self, documents: Callable[[str], Mapping[str, Any]]) -> None:
        self._documents = documents

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(5)


class Issuer(Publication):
    """An OIDC issuer for AWS, with an EC and an RSA key. `token` signs whatever it is told to."""

    def __init__(self) -> None:
        super().__init__(self._serve)
        self.keys: dict[str, Any] = {}
        self.add_key("ec", ec.generate_private_key(ec.SECP256R1()))
        self.add_key("rsa", rsa.generate_private_key(65537, 2048))
        self.published_issuer = self.url

    def add_key(self, kid: str, key: Any) -> None:
        self.keys[kid] = key

    def claims(self) -> dict[str, Any]:
        now = int(time.time())
        return {
            "iss": self.url,
            "sub": SUBJECT,
            "aud": AUDIENCE,
            "iat": now,
            "nbf": now - 30,
            "exp": now + 60,
            "jti": secrets.token_hex(8),
            "https://aws.amazon.com/tags": {
                "principal_tags": {key: [value] for key, value in TAGS.items()},
                "transitive_tag_keys": list(TAGS),
            },
            "https://aws.amazon.com/source_identity": "gl-4711-987654321",
        }

    def token(self, *, kid: str = "ec", key: Any = None, algorithm: str = "", drop: tuple[str, ...] = (), **claims: Any) -> str:
        body = {name: value for name, value in (self.claims() | claims).items() if name not in drop}
        algorithm = algorithm or ("RS256" if kid == "rsa" else "ES256")
        return jwt.encode(body, self.keys[kid] if key is None else key, algorithm=algorithm, headers={"kid": kid})

    def _serve(self, path: str) -> Mapping[str, Any]:
        if path == "/.well-known/openid-configuration":
            return {"issuer": self.published_issuer, "jwks_uri": self.url + "/jwks"}
        if path == "/jwks":
            return {"keys": [self._jwk(kid, key.public_key()) for kid, key in self.keys.items()]}
        return {}

    @staticmethod
    def _jwk(kid: str, key: Any) -> dict[str, Any]:
        maker = RSAAlgorithm if isinstance(key, rsa.RSAPublicKey) else ECAlgorithm
        return dict(maker.to_jwk(key, as_dict=True)) | {"kid": kid, "use": "sig"}


class MadeUp:
    """Sessions that nothing enforces, for what an STS says before it gives one. Keeps what it was asked."""

    def __init__(self) -> None:
        self.orders: list[MintOrder] = []
        self.life: timedelta | None = None  # otherwise what was asked

    def __call__(self, order: MintOrder) -> RoleSession:
        self.orders.append(order)
        return RoleSession(
            access_key_id="ASIA" + secrets.token_hex(8).upper(),
            secret_access_key=secrets.token_urlsafe(30),
            session_token=secrets.token_urlsafe(200),
            role_id="AROAMADEUPMADEUPMADEU",
            expires_at=datetime.now(UTC) + (timedelta(seconds=order.seconds) if self.life is None else self.life),
        )


def federated_trust(issuer_url: str, environment: str, *, protected: str = "true") -> dict[str, Any]:
    """What `policy render` will write for a role: pins `sub` and `aud`, requires the tags, allows tags and source identity."""
    host = issuer_url.split("://", 1)[1]
    provider = f"arn:aws:iam::{ACCOUNT}:oidc-provider/{host}"
    return {
        "Version": "2012-10-17",
        "Statement": [
            {
                "Sid": "BrokerSaysSo",
                "Effect": "Allow",
                "Principal": {"Federated": provider},
                "Action": ["sts:AssumeRoleWithWebIdentity", "sts:TagSession", "sts:SetSourceIdentity"],
                "Condition": {
                    "StringEquals": {
                        f"{host}:aud": AUDIENCE,
                        "aws:RequestTag/environment": environment,
                        "aws:RequestTag/ref_protected": protected,
                    },
                    "StringLike": {
                        f"{host}:sub": f"environment:{environment}:grant:*:issuer:gitlab:project:4711",
                        "sts:RoleSessionName": "gl-*",
                    },
                    "ForAllValues:StringEquals": {"aws:TagKeys": list(TAGS)},
                },
            }
        ],
    }


def signed_trust(environment: str) -> dict[str, Any]:
    """The same for a broker that signs with its own key."""
    return {
        "Version": "2012-10-17",
        "Statement": [
            {
                "Effect": "Allow",
                "Principal": {"AWS": BROKER.arn},
                "Action": ["sts:AssumeRole", "sts:TagSession", "sts:SetSourceIdentity"],
                "Condition": {
                    "StringEquals": {"aws:RequestTag/environment": [environment]},
                    "StringLike": {"sts:RoleSessionName": "gl-*", "sts:SourceIdentity": "gl-*"},
                    "ForAllValues:StringEquals": {"aws:TagKeys": list(TAGS)},
                },
            }
        ],
    }


def lake_permissions(environment: str, bucket: str) -> dict[str, Any]:
    """Read and write under the environment's own prefix, and list it."""
    return {
        "Version": "2012-10-17",
        "Statement": [
            {"Effect": "Allow", "Action": ["s3:GetObject", "s3:PutObject"], "Resource": f"arn:aws:s3:::{bucket}/{environment}/*"},
            {
                "Effect": "Allow",
                "Action": "s3:ListBucket",
                "Resource": f"arn:aws:s3:::{bucket}",
                "Condition": {"StringLike": {"s3:prefix": f"{environment}/*"}},
            },
        ],
    }


def an_account(issuer_url: str, *roles: Role) -> Account:
    account = Account(ACCOUNT)
    account.put_provider(OidcProvider(url=issuer_url, client_ids=(AUDIENCE,)))
    account.put_caller(BROKER)
    for role in roles:
        account.put_role(role)
    return account


@contextmanager
def needs_ministack() -> Iterator[None]:
    """Around what starts MiniStack. With CI=true a missing one is a failure; elsewhere the tests are skipped, saying so."""
    try:
        yield
    except MiniStackMissing as missing:
        if os.environ.get("CI") == "true":
            pytest.fail(str(missing))
        pytest.skip(str(missing))


@contextmanager
def running_ministack() -> Iterator[MiniStack]:
    """One for the asking test process."""
    with needs_ministack(), MiniStack(account_id=ACCOUNT, region=REGION) as stack:
        yield stack


__all__ = [
    "Issuer",
    "MadeUp",
    "Mint",
    "Publication",
    "an_account",
    "federated_trust",
    "needs_ministack",
    "running_ministack",
    "signed_trust",
]
