"""How the demo's STS learns who is calling: a web identity token against its provider's published keys, or a SigV4 signature.

Sources: AWS's "AssumeRoleWithWebIdentity" and "Using tags with OIDC" pages, RFC 7519, and "Create a signed AWS API request".
Shares no code with what signs on the other side.
"""

import hashlib
import hmac
import json
import re
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import urlsplit

import jwt
import urllib3
from jwt.algorithms import ECAlgorithm, RSAAlgorithm

from broker.demo.iam import Account, Caller, OidcProvider
from broker.demo.sts_request import StsError, check_source_identity, check_tags

TAGS_CLAIM = "https://aws.amazon.com/tags"
SOURCE_CLAIM = "https://aws.amazon.com/source_identity"
_ALGORITHMS = {"RSA": ("RS256", "RS384", "RS512"), "EC": ("ES256", "ES384", "ES512")}
_SUBJECT_CHARS = 255
_SIGNATURE_LIFE = timedelta(minutes=15)


@dataclass(frozen=True, slots=True, kw_only=True)
class WebIdentity:
    """A token whose signature, issuer, audience and times hold, and what it says for AWS."""

    provider: OidcProvider
    subject: str
    audience: str
    tags: Mapping[str, str]
    transitive: tuple[str, ...]
    source_identity: str | None


class ProviderKeys:
    """The published keys of OIDC providers, by discovery. Fetched when a `kid` is not known, so a rotation is followed."""

    def __init__(self) -> None:
        self._http = urllib3.PoolManager(timeout=urllib3.Timeout(5), retries=False)
        self._keys: dict[tuple[str, str], Mapping[str, Any]] = {}
        self._lock = threading.Lock()

    def key(self, provider: OidcProvider, kid: str) -> Mapping[str, Any]:
        """Raises StsError(InvalidIdentityToken), as AWS does when it cannot get at the keys."""
        with self._lock:
            if (provider.url, kid) not in self._keys:
                self._fetch(provider)
            found = self._keys.get((provider.url, kid))
        if found is None:
            raise StsError("InvalidIdentityToken", "No key of the identity provider has the kid of the token")
        return found

    def close(self) -> None:
        self._http.clear()

    def _fetch(self, provider: OidcProvider) -> None:
        try:
            keys = self._document(self._jwks_address(provider))["keys"]
        except (urllib3.exceptions.HTTPError, ValueError, KeyError, TypeError):
            raise StsError(
                "InvalidIdentityToken",
                "Couldn't retrieve verification key from your identity provider, please reference "
                "AssumeRoleWithWebIdentity documentation for requirements",
            ) from None
        self._keys = {place: key for place, key in self._keys.items() if place[0] != provider.url}
        self._keys |= {(provider.url, key["kid"]): key for key in keys if key.get("use", "sig") == "sig" and "kid" in key}

    def _jwks_address(self, provider: OidcProvider) -> str:
        discovery = self._document(provider.url.rstrip("/") + "/.well-known/openid-configuration")
        if discovery.get("issuer") != provider.url:
            raise ValueError("the discovery document is of another issuer, and names no keys of this one")
        return str(discovery["jwks_uri"])

    def _document(self, url: str) -> dict[str, Any]:
        answer = self._http.request("GET", url, redirect=False)
        if answer.status != 200:  # noqa: PLR2004 - OK
            raise ValueError(f"{url} answered {answer.status}")
        document = json.loads(answer.data)
        if not isinstance(document, dict):
            raise TypeError(f"{url} is no JSON object")
        return document


def prove_web_identity(token: str, account: Account, keys: ProviderKeys) -> WebIdentity:
    """Raises StsError: InvalidIdentityToken, ExpiredTokenException, or what is wrong with the AWS claims."""
    try:
        header = jwt.get_unverified_header(token)
        unverified = jwt.decode(token, options={"verify_signature": False})
    except jwt.InvalidTokenError:
        raise _invalid("The ID Token provided is not a valid JWT. (You may see this error if you sent an Access Token)") from None
    provider = account.provider(str(unverified.get("iss")))
    if provider is None:
        raise _invalid(f"No OpenIDConnect provider found in your account for {unverified.get('iss')}")
    claims = _verified(token, header, provider, keys)

    for name in ("exp", "iat", "nbf"):
        if name in claims and type(claims[name]) is not int:
            raise _invalid(f"{name} is not an integer")
    subject, audience = claims["sub"], claims["aud"]
    if not isinstance(subject, str) or not 1 <= len(subject) <= _SUBJECT_CHARS:
        raise _invalid("sub is not a text of 1 to 255 characters")
    if not isinstance(audience, str) or audience not in provider.client_ids:
        raise _invalid("Incorrect token audience")
    tags, transitive = _tags(claims.get(TAGS_CLAIM, {}))
    source = claims.get(SOURCE_CLAIM)
    if source is not None and not isinstance(source, str):
        raise _invalid("the source identity of the token is not a text")
    return WebIdentity(
        provider=provider,
        subject=subject,
        audience=audience,
        tags=tags,
        transitive=transitive,
        source_identity=None if source is None else check_source_identity(source),
    )


def _verified(token: str, header: Mapping[str, Any], provider: OidcProvider, keys: ProviderKeys) -> dict[str, Any]:
    key = keys.key(provider, str(header.get("kid", "")))
    kind = str(key.get("kty"))
    algorithm = header.get("alg")
    # The algorithm has to be one of the key's own kind: a public key is never a shared secret.
    if algorithm not in _ALGORITHMS.get(kind, ()) or key.get("alg", algorithm) != algorithm:
        raise _invalid("the token's algorithm is not one of its key")
    loader = RSAAlgorithm if kind == "RSA" else ECAlgorithm
    try:
        public: Any = loader.from_jwk(dict(key))
        return jwt.decode(
            token,
            public,
            algorithms=[algorithm],
            issuer=provider.url,
            options={"require": ["exp", "iat", "iss", "sub", "aud"], "verify_aud": False},
        )
    except jwt.ExpiredSignatureError:
        raise StsError(
            "ExpiredTokenException", "Token expired: current date/time must be before the expiration date/time"
        ) from None
    except jwt.InvalidSignatureError:
        raise _invalid("The signature of the ID token is invalid") from None
    except jwt.PyJWTError:
        raise _invalid("The ID token is not acceptable: a claim is missing, or it is not valid yet") from None


def _tags(claim: Any) -> tuple[dict[str, str], tuple[str, ...]]:
    """`{"principal_tags": {KEY: [VALUE]}, "transitive_tag_keys": [KEY]}`: one value in a list, per key."""
    if not isinstance(claim, dict) or set(claim) - {"principal_tags", "transitive_tag_keys"}:
        raise _invalid("the tags claim is not of the documented shape")
    principal, transitive = claim.get("principal_tags", {}), claim.get("transitive_tag_keys", [])
    if not isinstance(principal, dict) or not isinstance(transitive, list):
        raise _invalid("the tags claim is not of the documented shape")
    pairs: list[tuple[str, ...]] = []
    for key, values in principal.items():
        if not isinstance(values, list) or len(values) != 1 or not isinstance(values[0], str):
            raise _invalid(f"tag {key!r} is not a list of one text")
        pairs.append((key, values[0]))
    if not all(isinstance(key, str) for key in transitive):
        raise _invalid("a transitive tag key is not a text")
    return check_tags(pairs, transitive), tuple(transitive)


def _invalid(message: str) -> StsError:
    return StsError("InvalidIdentityToken", message)


# --- SigV4 ----------------------------------------------------------------------------------------------------------

_AUTHORIZATION = re.compile(
    r"AWS4-HMAC-SHA256 Credential=(\w{16,128})/(\d{8})/([a-z0-9-]+)/([a-z0-9]+)/aws4_request, ?"
    r"SignedHeaders=([a-z0-9;-]+), ?Signature=([0-9a-f]{64})",
    re.ASCII,
)


def prove_caller(account: Account, region: str, path: str, headers: Mapping[str, str], body: bytes, now: datetime) -> Caller:
    """Who signed this POST. `headers` by lower-case name. Raises StsError, 403, with AWS's codes."""
    found = _AUTHORIZATION.fullmatch(headers.get("authorization", ""))
    if found is None:
        code = "IncompleteSignature" if "authorization" in headers else "MissingAuthenticationToken"
        raise StsError(code, "Request is missing Authentication Token", 403)
    key_id, day, scope_region, service, signed_names, signature = found.groups()
    caller = account.caller(key_id)
    if caller is None or headers.get("x-amz-security-token") != caller.session_token:
        raise StsError("InvalidClientTokenId", "The security token included in the request is invalid.", 403)
    stamp = headers.get("x-amz-date", "")
    if not re.fullmatch(r"\d{8}T\d{6}Z", stamp, re.ASCII) or not stamp.startswith(day):
        raise StsError("IncompleteSignature", "Date in Credential scope does not match the request's", 403)
    if (scope_region, service) != (region, "sts"):
        raise StsError("SignatureDoesNotMatch", f"Credential should be scoped to a valid region, '{region}', service 'sts'", 403)
    names = signed_names.split(";")
    needed = {"host", "x-amz-date"} | ({"x-amz-security-token"} if caller.session_token else set())
    if not needed <= set(names):
        raise StsError("IncompleteSignature", "a header that has to be signed is not", 403)
    expected = _signature(caller, path, headers, names, body, (day, region, stamp))
    if not hmac.compare_digest(expected, signature):
        raise StsError("SignatureDoesNotMatch", "The request signature we calculated does not match the one you provided.", 403)
    signed_at = datetime.strptime(stamp, "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
    if abs(now - signed_at) > _SIGNATURE_LIFE:
        raise StsError("SignatureDoesNotMatch", "Signature expired", 403)
    return caller


def _signature(
    caller: Caller, path: str, headers: Mapping[str, str], names: list[str], body: bytes, scope: tuple[str, str, str]
) -> str:
    day, region, stamp = scope
    parts = urlsplit(path)
    canonical = "\n".join(
        [
            "POST",
            parts.path or "/",
            parts.query,
            *(f"{name}:{' '.join(headers.get(name, '').split())}" for name in names),
            "",
            ";".join(names),
            hashlib.sha256(body).hexdigest(),
        ]
    )
    place = f"{day}/{region}/sts/aws4_request"
    to_sign = "\n".join(["AWS4-HMAC-SHA256", stamp, place, hashlib.sha256(canonical.encode()).hexdigest()])
    key = f"AWS4{caller.secret_access_key}".encode()
    for part in (day, region, "sts", "aws4_request"):
        key = hmac.digest(key, part.encode(), "sha256")
    return hmac.new(key, to_sign.encode(), "sha256").hexdigest()
