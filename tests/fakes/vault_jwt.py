"""The JWT auth method of the OpenBao double: its checks, in their order, with the recorded texts (reference/vault.md 1.4)."""

import base64
import ipaddress
import json
import operator
import re
import urllib.error
import urllib.request
from typing import Any

import jwt
from cryptography.hazmat.primitives.serialization import load_pem_public_key
from jwt.algorithms import get_default_algorithms

from tests.fakes.vault_parts import PERMISSION_DENIED, Clock, RefusedError, Request, Response, answer, empty, seconds_of

_ALGORITHMS = {f"{kind}{bits}" for kind in ("ES", "RS", "PS") for bits in (256, 384, 512)} | {"EdDSA"}
_LEEWAY = 60
_FILL = 150
_VERIFYING = "error validating token: error verifying token signature: "


class JwtAuth:
    """One mount. `login` returns what a token is made of; the core makes the token."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._config: dict[str, Any] | None = None
        self._roles: dict[str, dict[str, Any]] = {}
        self._fetched: list[Any] = []  # JWKS keys; no time to live: a withdrawn key stays until a refetch

    def handle(self, request: Request, rest: str) -> Response:
        if rest == "config":
            return self._read_config() if request.method == "GET" else self._write_config(request.body)
        if rest.startswith("role/"):
            name = rest.removeprefix("role/").lower()
            return self._read_role(name) if request.method == "GET" else self._write_role(name, request.body)
        raise RefusedError(404)

    def _write_config(self, body: dict[str, Any]) -> Response:
        sources = [name for name in ("jwt_validation_pubkeys", "jwks_url", "oidc_discovery_url") if body.get(name)]
        if len(sources) != 1:
            raise RefusedError(
                400,
                "exactly one of 'jwt_validation_pubkeys', 'jwks_url', 'jwks_pairs', 'oidc_discovery_url', or 'provider_config' "
                "must be set",
            )
        if body.get("jwks_url"):
            try:
                self._fetched = _fetch(body["jwks_url"])
            except ConnectionError:
                raise RefusedError(400, "error checking jwks URL") from None
        self._config = dict(body)
        return empty()

    def _read_config(self) -> Response:
        config = self._config or {}
        keys = [key.strip() for key in config.get("jwt_validation_pubkeys", [])]
        return answer(
            {
                "bound_issuer": config.get("bound_issuer", ""),
                "default_role": config.get("default_role", ""),
                "jwks_ca_pem": "",
                "jwks_url": config.get("jwks_url", ""),
                "jwt_supported_algs": [],
                "jwt_validation_pubkeys": keys,
                "namespace_in_state": True,
                "oidc_client_id": "",
                "oidc_discovery_ca_pem": "",
                "oidc_discovery_url": "",
                "oidc_response_mode": "",
                "oidc_response_types": [],
                "override_allowed_server_names": [],
                "provider_config": {},
                "status": "valid",
            }
        )

    def _write_role(self, name: str, body: dict[str, Any]) -> Response:
        role = {"role_type": "oidc", **body}
        if not role.get("user_claim"):
            raise RefusedError(400, "a user claim must be defined on the role")
        bound = ("bound_audiences", "bound_subject", "bound_claims", "token_bound_cidrs")
        if role["role_type"] == "jwt" and not any(role.get(key) for key in bound):
            raise RefusedError(400, "must have at least one bound constraint when creating/updating a role")
        self._roles[name] = role
        return empty()

    def _read_role(self, name: str) -> Response:
        role = self._roles.get(name)
        if role is None:
            raise RefusedError(404)
        texts = {key: role.get(key, default) for key, default in (("bound_claims_type", "string"), ("bound_subject", ""))}
        nulls = dict.fromkeys(("allowed_redirect_uris", "oauth2_metadata", "oidc_scopes"))
        flags = dict.fromkeys(
            (
                "oidc_disable_confirmation",
                "token_no_default_policy",
                "token_policies_template_claims",
                "token_strictly_bind_ip",
                "user_claim_json_pointer",
                "verbose_oidc_logging",
            ),
            False,
        )
        numbers = {
            key: seconds_of(role.get(key, 0))
            for key in (
                "clock_skew_leeway",
                "expiration_leeway",
                "max_age",
                "not_before_leeway",
                "token_explicit_max_ttl",
                "token_max_ttl",
                "token_num_uses",
                "token_period",
                "token_ttl",
            )
        }
        return answer(
            {
                **nulls,
                **texts,
                **flags,
                **numbers,
                "bound_audiences": role.get("bound_audiences"),
                "bound_claims": role.get("bound_claims"),
                "callback_mode": "client",
                "claim_mappings": role.get("claim_mappings"),
                "groups_claim": "",
                "role_type": role["role_type"],
                "token_bound_cidrs": role.get("token_bound_cidrs", []),
                "token_policies": role.get("token_policies", []),
                "token_type": role.get("token_type", "default"),
                "user_claim": role["user_claim"],
            }
        )

    def login(self, request: Request) -> tuple[str, dict[str, Any], str, dict[str, str]]:
        """Role name, role, alias name and metadata; or the recorded refusal."""
        if self._config is None:
            raise RefusedError(400, "could not load configuration")
        name = str(request.body.get("role") or self._config.get("default_role") or "").lower()
        if not name:
            raise RefusedError(400, "missing role")
        role = self._roles.get(name)
        if role is None:
            raise RefusedError(400, f'role "{name}" could not be found')
        if role["role_type"] == "oidc":
            raise RefusedError(400, "role with oidc role_type is not allowed")
        token = request.body.get("jwt")
        if not token:
            raise RefusedError(400, "missing token")
        cidrs = role.get("token_bound_cidrs") or []
        if cidrs and not any(ipaddress.ip_address(request.remote) in ipaddress.ip_network(c) for c in cidrs):
            raise RefusedError(403, PERMISSION_DENIED)
        claims = self._verified(token)
        self._registered(claims, role)
        return (name, role, *_mapped(claims, role, name))

    def _verified(self, token: str) -> dict[str, Any]:
        parts = token.split(".")
        if len(parts) != 3:
            raise RefusedError(400, _VERIFYING + "go-jose/go-jose: compact JWS format must have three parts")
        try:
            head, body, signature = (base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)) for part in parts)
            header, claims = json.loads(head), json.loads(body)
        except ValueError:
            raise RefusedError(400, _VERIFYING + "illegal base64 data at input byte 0") from None
        signed = ".".join(parts[:2]).encode()
        algorithm = get_default_algorithms().get(str(header.get("alg"))) if header.get("alg") != "none" else None

        def fits(key: Any) -> bool:
            try:
                return algorithm is not None and algorithm.verify(signed, key, signature)
            except (TypeError, ValueError, AttributeError):
                return False

        assert self._config is not None
        if self._config.get("jwt_validation_pubkeys"):
            keys = [load_pem_public_key(pem.encode()) for pem in self._config["jwt_validation_pubkeys"]]
            if not any(fits(key) for key in keys):
                raise RefusedError(400, _VERIFYING + "no known key successfully validated the token signature")
        elif not any(fits(key) for key in self._fetched):
            try:
                self._fetched = _fetch(self._config["jwks_url"])
            except ConnectionError as error:
                raise RefusedError(400, _VERIFYING + f"fetching keys oidc: get keys failed: {error}") from None
            if not any(fits(key) for key in self._fetched):
                raise RefusedError(400, _VERIFYING + "failed to verify id token signature")
        if header["alg"] not in _ALGORITHMS:
            raise RefusedError(
                400,
                "error validating token: invalid algorithm (alg) header parameter: token signed with unexpected algorithm",
            )
        assert isinstance(claims, dict)
        return claims

    def _registered(self, claims: dict[str, Any], role: dict[str, Any]) -> None:
        def refuse(text: str) -> RefusedError:
            return RefusedError(400, "error validating token: " + text)

        assert self._config is not None
        if self._config.get("bound_issuer") and claims.get("iss") != self._config["bound_issuer"]:
            raise refuse("invalid issuer (iss) claim")
        if role.get("bound_subject") and claims.get("sub") != role["bound_subject"]:
            raise refuse("invalid subject (sub) claim")
        audience = claims.get("aud", [])
        audiences = [audience] if isinstance(audience, str) else audience
        bound = role.get("bound_audiences") or []
        if bound and not set(bound) & set(audiences):
            raise refuse("invalid audience (aud) claim: audience claim does not match any expected audience")
        issued, starts, ends = (claims.get(name, 0) for name in ("iat", "nbf", "exp"))
        if not (issued or starts or ends):
            raise refuse("no issued at (iat), not before (nbf), or expiration time (exp) claims in token")
        ends = ends or max(issued, starts) + _FILL
        starts = starts or issued or ends - _FILL
        now = self._clock.now()
        if now + _LEEWAY < starts:
            raise refuse("invalid not before (nbf) claim: token not yet valid")
        if now - _LEEWAY > ends:
            raise refuse("invalid expiration time (exp) claim: token is expired")
        if issued and now + _LEEWAY < issued:
            raise refuse("invalid issued at (iat) claim: token issued in the future")
        if audiences and not bound:
            raise RefusedError(400, "audience claim found in JWT but no audiences bound to the role")


def _mapped(claims: dict[str, Any], role: dict[str, Any], name: str) -> tuple[str, dict[str, str]]:
    user_claim = role["user_claim"]
    if user_claim not in claims:
        raise RefusedError(400, f'claim "{user_claim}" not found in token')
    user = claims[user_claim]
    if not isinstance(user, str):
        raise RefusedError(400, f'claim "{user_claim}" could not be converted to string')
    metadata = {"role": name}
    for claim, key in (role.get("claim_mappings") or {}).items():
        if claim in claims:
            if not isinstance(claims[claim], str):
                raise RefusedError(400, f"error converting claim '{claim}' to string")
            metadata[key] = claims[claim]
    for claim, wanted in (role.get("bound_claims") or {}).items():
        if claim not in claims:
            raise RefusedError(400, f'error validating claims: claim "{claim}" is missing')
        allowed = wanted if isinstance(wanted, list) else [wanted]
        had = claims[claim] if isinstance(claims[claim], list) else [claims[claim]]
        like = _glob if role.get("bound_claims_type") == "glob" else operator.eq
        if not any(type(one) is type(other) and like(one, other) for one in had for other in allowed):
            raise RefusedError(400, f'error validating claims: claim "{claim}" does not match any associated bound claim values')
    if not user:
        raise RefusedError(500, "missing name in alias")
    return user, metadata


def _glob(value: str, pattern: str) -> bool:
    """ryanuber/go-glob: `*` is any text, nothing else is special."""
    return re.fullmatch(".*".join(map(re.escape, pattern.split("*"))), value, re.DOTALL) is not None


def _fetch(url: str) -> list[Any]:
    try:
        with urllib.request.urlopen(url, timeout=5) as response:
            keys = json.load(response)["keys"]
    except urllib.error.HTTPError as error:
        with error:
            raise ConnectionError(f"{error.code} {error.reason} {error.read().decode()}") from None
    except (OSError, ValueError, KeyError) as error:
        raise ConnectionError(str(error)) from None
    return [jwt.PyJWK(key).key for key in keys]
