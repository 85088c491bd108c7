"""The broker as an OIDC issuer: fresh assertions for upstream calls, and the documents that let others check them (DESIGN 3.2).

Whoever holds one of its keys can be any job in any environment upstream.
"""

import base64
import json
import re
import secrets
from collections.abc import Mapping
from datetime import timedelta
from typing import Any

from broker.errors import Code, Refused
from broker.identity.claims import JobIdentity
from broker.identity.profiles import PROFILES
from broker.moment import Clock
from broker.secret import Secret
from broker.signing import Keyring

MAINTENANCE = "broker:maintenance"
_BACKDATED = timedelta(seconds=30)  # for upstreams whose clock is behind ours
_LIFETIME = timedelta(seconds=60)
_MAX_SUBJECT = 255  # AWS's

# aws.md 1.2: session names and SourceIdentity; tag values. ASCII alone: what AWS takes beyond it is no id of ours.
_AWS_NAME = re.compile(r"[A-Za-z0-9_+=,.@-]{2,64}")
_AWS_TAG = re.compile(r"[A-Za-z0-9_.:/=+@ -]{0,256}")
_SUBJECT_PART = re.compile(r"[A-Za-z0-9_.@/+=-]+")  # no `:`, which separates the parts
_SESSION_CHARS = 8


class AssertionIssuer:
    """Signs what the broker says about a job. May be used from any thread."""

    def __init__(self, issuer_url: str, keyring: Keyring, clock: Clock) -> None:
        self._issuer_url = issuer_url
        self._keyring = keyring
        self._clock = clock

    def for_job(
        self, identity: JobIdentity, environment: str, grant: str, audience: str, *, session_id: str, aws: bool
    ) -> Secret:
        """A minute's proof to `audience` that this job may have this grant in this environment; with AWS's own claims if `aws`.

        The caller has decided that: nothing is decided here. Raises Refused(template_value) for an identity that does not fit
        into the claims, and Misconfigured when no key signs yet.
        """
        claims: dict[str, Any] = {**_facts(identity, environment, grant)}
        if aws:
            tags = session_tags(identity, environment, grant)
            principal_tags = {name: [value] for name, value in tags.items()}
            claims["https://aws.amazon.com/tags"] = {"principal_tags": principal_tags, "transitive_tag_keys": list(tags)}
            claims["https://aws.amazon.com/source_identity"] = source_identity(identity)
        # The session's id in front joins an upstream's audit line to ours.
        return self._signed(_subject(environment, grant, identity), audience, f"{session_id}-{secrets.token_hex(8)}", claims)

    def maintenance(self, audience: str) -> Secret:
        """A minute's proof that this is the broker itself, for the upkeep role: renew and revoke, nothing else (DESIGN 3.10)."""
        return self._signed(MAINTENANCE, audience, secrets.token_hex(16), {})

    def discovery(self) -> dict[str, Any]:
        """The OpenID provider configuration (OpenID Connect Discovery 1.0 section 3). There is nothing to log in at."""
        published = self._keyring.published(self._clock().wall)
        return {
            "issuer": self._issuer_url,
            "jwks_uri": self._issuer_url.rstrip("/") + "/jwks",
            "response_types_supported": ["id_token"],
            "subject_types_supported": ["public"],
            "id_token_signing_alg_values_supported": sorted({signer.algorithm for signer in published}),
            "scopes_supported": ["openid"],
            "claims_supported": ["iss", "sub", "aud", "iat", "nbf", "exp", "jti", *_FACTS],
        }

    def jwks(self) -> dict[str, Any]:
        """The public keys (RFC 7517): those that sign, will sign, or signed within the hour."""
        return {"keys": [dict(signer.public_jwk) for signer in self._keyring.published(self._clock().wall)]}

    def _signed(self, subject: str, audience: str, token_id: str, more: Mapping[str, Any]) -> Secret:
        now = self._clock().wall
        signer = self._keyring.signer(now)
        issued = int(now.timestamp())
        claims = {
            "iss": self._issuer_url,
            "sub": subject,
            "aud": audience,
            "iat": issued,
            "nbf": issued - int(_BACKDATED.total_seconds()),
            "exp": issued + int(_LIFETIME.total_seconds()),
            "jti": token_id,
            **more,
        }
        signed = _segment({"alg": signer.algorithm, "kid": signer.kid, "typ": "JWT"}) + b"." + _segment(claims)
        return Secret((signed + b"." + _base64url(signer.sign(signed))).decode())


_FACTS = ("environment", "grant", "issuer_name", "stable_id", "project_id", "ref_path", "ref_protected", "job_id", "pipeline_id")
_TAGS = ("environment", "grant", "project_id", "pipeline_id", "job_id", "ref_protected")


def role_session_name(identity: JobIdentity, session_id: str) -> str:
    """The name that CloudTrail shows on every call: which job, and which of its sessions. Raises Refused(template_value)."""
    name = f"{_label(identity)}-{session_id[:_SESSION_CHARS]}"
    return _fitting(_AWS_NAME, name, "AWS session name")


def source_identity(identity: JobIdentity) -> str:
    """The name that survives role chaining: which job. Raises Refused(template_value)."""
    return _fitting(_AWS_NAME, _label(identity), "AWS SourceIdentity")


def _label(identity: JobIdentity) -> str:
    """`gl-<project>-<job>` for GitLab; other issuers' jobs have a prefix of their own, so that no two kinds share a name."""
    return PROFILES[identity.profile].label(identity)


def session_tags(identity: JobIdentity, environment: str, grant: str) -> dict[str, str]:
    """The six session tags of DESIGN 3.2, all of them transitive. Raises Refused(template_value)."""
    facts = _facts(identity, environment, grant)
    return {name: _fitting(_AWS_TAG, facts[name], f"AWS session tag {name}") for name in _TAGS}


def _facts(identity: JobIdentity, environment: str, grant: str) -> dict[str, str]:
    return {
        "environment": environment,
        "grant": grant,
        "issuer_name": identity.issuer_name,
        "stable_id": identity.stable_id,
        "project_id": identity.project_id,
        "ref_path": identity.ref_path,
        "ref_protected": "true" if identity.ref_protected else "false",
        "job_id": identity.job_id,
        "pipeline_id": identity.pipeline_id,
    }


def _subject(environment: str, grant: str, identity: JobIdentity) -> str:
    parts = (environment, grant, identity.issuer_name, identity.stable_id)
    if any(_SUBJECT_PART.fullmatch(part) is None for part in parts):
        raise Refused(Code.TEMPLATE_VALUE, "this job's stable id has characters that the broker's assertion cannot carry")
    subject = f"environment:{environment}:grant:{grant}:issuer:{identity.issuer_name}:project:{identity.stable_id}"
    if len(subject) > _MAX_SUBJECT:
        raise Refused(Code.TEMPLATE_VALUE, "this job's stable id is too long for the broker's assertion")
    return subject


def _fitting(pattern: re.Pattern[str], value: str, place: str) -> str:
    """The value, or a refusal: one that were replaced could become another job's (aws.md 1.2)."""
    if pattern.fullmatch(value) is None:
        raise Refused(Code.TEMPLATE_VALUE, f"{value!a} does not fit into an {place}, and a changed one could be another job's")
    return value


def _segment(members: Mapping[str, Any]) -> bytes:
    return _base64url(json.dumps(members, separators=(",", ":")).encode())


def _base64url(raw: bytes) -> bytes:
    return base64.urlsafe_b64encode(raw).rstrip(b"=")
