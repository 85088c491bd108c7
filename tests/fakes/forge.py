"""Tokens exactly as an attacker, or a careless issuer, would write them: any bytes in any part, signed with a real key.

Shares no code with the gate, and writes by hand what libraries would refuse to write.
"""

import base64
import functools
import json
from datetime import timedelta
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.hashes import SHA256

from broker.demo.issuer import SigningKey, TestIssuer
from broker.identity.profiles import PROFILES
from broker.identity.rules import Rules
from broker.identity.settings import IssuerSettings
from tests.strategies import NOON

ISSUER = "https://gitlab.com"
AUDIENCE = "https://broker.example"


@functools.cache
def gitlab_key() -> SigningKey:
    """The key that GitLab signs job tokens with; one for all tests, because making one takes a while."""
    return SigningKey.new()


@functools.cache
def stranger_key() -> SigningKey:
    """A key that no issuer of ours publishes."""
    return SigningKey.new()


@functools.cache
def _model() -> TestIssuer:
    return TestIssuer(clock=lambda: NOON)


def base_claims(**changes: Any) -> dict[str, Any]:
    """Base token B of gitlab-tokens.md section 5: project 20 of gitlab.com, a push to protected main, minted at noon."""
    fixed = {"iss": ISSUER, "aud": AUDIENCE, "jti": "0b1d9d6e-4b0e-4d3a-9a38-7f1f4e1c2a10"}
    return _model().job_claims(**(fixed | changes))


def b64(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def compact(value: Any) -> bytes:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode("utf-8", "surrogatepass")


def forge(claims: Any = None, header: Any = None, *, key: SigningKey | None = None, signature: bytes | None = None) -> str:
    """A signed token. Claims and header are values, or the very bytes to write."""
    key = key or gitlab_key()
    claims = base_claims() if claims is None else claims
    header = {"typ": "JWT", "kid": gitlab_key().kid, "alg": "RS256"} if header is None else header
    parts = [part if isinstance(part, bytes) else compact(part) for part in (header, claims)]
    signed = ".".join(b64(part) for part in parts)
    if signature is None:
        signature = key.private.sign(signed.encode(), PKCS1v15(), SHA256())
    return f"{signed}.{b64(signature)}"


def job_token(**changes: Any) -> str:
    """B with other claims."""
    return forge(base_claims(**changes))


def jwks(*keys: dict[str, Any]) -> bytes:
    """A key document; of GitLab's key alone, unless others are given."""
    return compact({"keys": list(keys) or [dict(gitlab_key().jwk)]})


def rules(**changes: Any) -> Rules:
    profile = PROFILES["gitlab"]
    plain: dict[str, Any] = {
        "issuer": ISSUER,
        "audience": (AUDIENCE,),
        "algorithms": profile.algorithms,
        "types": profile.types,
        "thumbprint": profile.thumbprint,
        "audience_list": profile.audience_list,
        "other_class": profile.other_class,
        "advice": profile.advice,
        "known": profile.known,
        "max_lifetime": timedelta(hours=24),
        "leeway": timedelta(seconds=30),
    }
    return Rules(**(plain | changes))


def settings(**changes: Any) -> IssuerSettings:
    plain: dict[str, Any] = {
        "name": "gitlab",
        "profile": "gitlab",
        "issuer": ISSUER,
        "audience": (AUDIENCE,),
        "max_lifetime": timedelta(hours=24),
        "leeway": timedelta(seconds=30),
        "jwks_url": None,
        "jwks_file": None,
        "discovery_url": None,
        "ca_file": None,
    }
    return IssuerSettings(**(plain | changes))


def jwks_file(folder: Path, document: bytes | None = None) -> Path:
    path = folder / "jwks.json"
    path.write_bytes(jwks() if document is None else document)
    path.chmod(0o644)
    return path
