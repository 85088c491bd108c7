"""Tokens of the other kinds of issuer, in the shapes that their makers document. Signed by hand, with none of the profiles' code.

GitHub: docs.github.com/actions/reference/security/oidc. Okta: developer.okta.com, access token payload of a custom authorization
server, and its client-credentials guide. Kubernetes: service-accounts-admin, "Schema for service account private claims".
"""

import functools
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256
from jwt.algorithms import ECAlgorithm

from broker.demo.issuer import ABSENT
from broker.identity.claims import JobIdentity
from broker.identity.gate import parse, verify
from broker.identity.keyset import parse_jwks
from broker.identity.profiles import PROFILES
from broker.identity.rules import Rules
from broker.identity.settings import IssuerSettings
from tests.fakes.forge import AUDIENCE, b64, compact, forge, gitlab_key, jwks, settings
from tests.strategies import NOON

_NOW = int(NOON.timestamp())
ISSUERS = {
    "github": "https://token.actions.githubusercontent.com",
    "okta": "https://acme.okta.com/oauth2/aus1a2b3c4d5e6f7g8h9",
    "kubernetes": "https://kubernetes.default.svc",
    "generic": "https://agent.buildkite.com",
}
ACCOUNT_UID = "14ee3fa4-a7e2-420f-9f9a-dbc4507c3798"
POD_UID = "5e0bd49b-f040-43b0-99b7-22765a53f7f3"


def _github() -> dict[str, Any]:
    return {
        "jti": "7f1c0f0e-9a1d-4d6c-8d11-3f0e3c1d2b4a",
        "sub": "repo:octo-org@65/octo-repo@74:environment:production",
        "environment": "production",
        "aud": AUDIENCE,
        "ref": "refs/heads/main",
        "sha": "714a629c0b401fdce83e847fc9589983fc6f46bc",
        "repository": "octo-org/octo-repo",
        "repository_owner": "octo-org",
        "actor_id": "12",
        "repository_visibility": "private",
        "repository_id": "74",
        "repository_owner_id": "65",
        "run_id": "22259804324",
        "run_number": "10",
        "run_attempt": "2",
        "check_run_id": "90000001",
        "runner_environment": "github-hosted",
        "actor": "octocat",
        "workflow": "etl",
        "workflow_ref": "octo-org/octo-repo/.github/workflows/etl.yml@refs/heads/main",
        "workflow_sha": "714a629c0b401fdce83e847fc9589983fc6f46bc",
        "head_ref": "",
        "base_ref": "",
        "event_name": "workflow_dispatch",
        "enterprise": "avocado-corp",
        "enterprise_id": "2",
        "ref_type": "branch",
        "ref_protected": "true",
        "job_workflow_ref": "octo-org/octo-automation/.github/workflows/oidc.yml@refs/heads/main",
        "job_workflow_sha": "c040cae0f0dc81641728557b80f09cfa23b83fe5",
        "nbf": _NOW - 600,
        "exp": _NOW + 300,
        "iat": _NOW,
    }


def _okta() -> dict[str, Any]:
    """By client credentials."""
    return {
        "ver": 1,
        "jti": "AT.0mP4JKAZX1iACIT4vbEDF7LpvDVjxypPMf0D7uX39RE",
        "aud": AUDIENCE,
        "iat": _NOW,
        "exp": _NOW + 3600,
        "cid": "0oa2hl2inow5Uqc6c357",
        "scp": ["etl.read", "etl.run"],
        "sub": "0oa2hl2inow5Uqc6c357",
    }


def _kubernetes() -> dict[str, Any]:
    return {
        "aud": [AUDIENCE],
        "exp": _NOW + 3600,
        "iat": _NOW,
        "jti": "ea28ed49-2e11-4280-9ec5-bc3d1d84661a",
        "kubernetes.io": {
            "namespace": "etl",
            "node": {"name": "my-node", "uid": "646e7c5e-32d6-4d42-9dbd-e504e6cbe6b1"},
            "pod": {"name": "orders-28391", "uid": POD_UID},
            "serviceaccount": {"name": "orders", "uid": ACCOUNT_UID},
        },
        "nbf": _NOW,
        "sub": "system:serviceaccount:etl:orders",
    }


def _generic() -> dict[str, Any]:
    return {
        "sub": "pipeline/0183a2e1/main",
        "aud": AUDIENCE,
        "iat": _NOW,
        "nbf": _NOW,
        "exp": _NOW + 300,
        "jti": "0184990a-477b-4fa8-9968-496074483cee",
        "organization_slug": "acme",
        "build_branch": "main",
        "build_number": 7,
        "groups": ["etl", "etl-prod"],
        "agent": {"tags": {"queue": "deploy"}, "id": "0184990a-4782"},
    }


_SHAPES = {"github": _github, "okta": _okta, "kubernetes": _kubernetes, "generic": _generic}
_HEADERS: dict[str, Mapping[str, Any]] = {
    "github": {"typ": "JWT", "x5t": "eBZ_cn3sXYAd0ch4THBKHIgOwOE"},
    "okta": {},
    "kubernetes": {},
    "generic": {"typ": "JWT"},
}


def claims_of(kind: str, **changes: Any) -> dict[str, Any]:
    """The claims of a token that this kind of issuer documents, at noon; ABSENT takes one away."""
    claims = {"iss": ISSUERS[kind]} | _SHAPES[kind]() | changes
    return {name: value for name, value in claims.items() if value is not ABSENT}


def inside(**changes: Any) -> dict[str, Any]:
    """What is in `kubernetes.io`, changed."""
    members = _kubernetes()["kubernetes.io"] | changes
    return {name: value for name, value in members.items() if value is not ABSENT}


def workload_token(kind: str, *, header: Any = None, **changes: Any) -> str:
    """A token of that kind, signed with the key that every issuer here publishes."""
    own = {"alg": "RS256", "kid": gitlab_key().kid} | dict(_HEADERS[kind]) | dict(header or {})
    return forge(claims_of(kind, **changes), own)


def workload_rules(kind: str, **changes: Any) -> Rules:
    profile = PROFILES[kind]
    plain: dict[str, Any] = {
        "issuer": ISSUERS[kind],
        "audience": (AUDIENCE,),
        "algorithms": profile.algorithms,
        "types": profile.types,
        "thumbprint": profile.thumbprint,
        "audience_list": profile.audience_list,
        "other_class": profile.other_class,
        "advice": profile.advice,
        "known": profile.known,
        "max_lifetime": profile.longest,
        "leeway": timedelta(seconds=30),
    }
    return Rules(**(plain | changes))


def workload(kind: str, *, header: Any = None, **changes: Any) -> JobIdentity:
    """What the token check makes of such a token."""
    key = parse_jwks(jwks(), PROFILES[kind].algorithms).keys[gitlab_key().kid]
    token = workload_token(kind, header=header, **changes)
    return PROFILES[kind].identify(verify(parse(token), key, workload_rules(kind), NOON), f"our-{kind}")


def workload_settings(kind: str, jwks_file: Path, **changes: Any) -> IssuerSettings:
    plain = {"name": f"our-{kind}", "profile": kind, "issuer": ISSUERS[kind], "jwks_file": jwks_file}
    return settings(**(plain | {"max_lifetime": PROFILES[kind].longest} | changes))


@functools.cache
def ec_key() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


def ec_jwk(kid: str = "ec") -> dict[str, Any]:
    return dict(ECAlgorithm.to_jwk(ec_key().public_key(), as_dict=True)) | {"kid": kid, "use": "sig", "alg": "ES256"}


def ec_token(claims: Mapping[str, Any], kid: str = "ec") -> str:
    """Signed with ES256: r and s, 32 bytes each (RFC 7518 section 3.4)."""
    signed = f"{b64(compact({'alg': 'ES256', 'kid': kid}))}.{b64(compact(dict(claims)))}"
    r, s = decode_dss_signature(ec_key().sign(signed.encode(), ec.ECDSA(SHA256())))
    return f"{signed}.{b64(r.to_bytes(32, 'big') + s.to_bytes(32, 'big'))}"
