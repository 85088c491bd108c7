"""Kubernetes service account tokens as `TokenRequest` and projected volumes give them (KEP-1205), of 1.21 and newer.

Source: kubernetes.io/docs/reference/access-authn-authz/service-accounts-admin and kubernetes/pkg/serviceaccount/claims.go. What
they say is inside one object, `kubernetes.io`; policy names its members by JSON pointer. `jti`, `node` and the pod's node came
with 1.30; before that a digest of the token's claims stands for its `jti`.
"""

import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from broker.errors import Code, Refused
from broker.identity.claims import ClaimSet, JobIdentity
from broker.identity.gate import VerifiedClaims
from broker.identity.pointer import refuse_resembling_inside, value_at
from broker.identity.profile import Assurance, Claim, ClaimKind, Profile
from broker.identity.replay import id_or_digest
from broker.identity.rules import Advice
from broker.identity.typed import text_of, typed_values

_TEXT = ClaimKind.TEXT
_ID, _NAME, _CHOSEN = Assurance.ID, Assurance.NAME, Assurance.CHOSEN
_POD = "Kubernetes, for a token that is bound to a pod"
_NODE = "Kubernetes 1.30 or newer, for a token that is bound to a pod"
_ACCOUNT = "/kubernetes.io/serviceaccount"
_UID = f"{_ACCOUNT}/uid"

_CLAIMS = {
    _UID: Claim(kind=_TEXT, assurance=_ID, required=True),
    f"{_ACCOUNT}/name": Claim(kind=_TEXT, assurance=_NAME, required=True),
    "/kubernetes.io/namespace": Claim(kind=_TEXT, assurance=_NAME, required=True),
    # Whoever may make pods in the namespace names them.
    "/kubernetes.io/pod/name": Claim(kind=_TEXT, assurance=_CHOSEN, sent_by=_POD),
    "/kubernetes.io/pod/uid": Claim(kind=_TEXT, assurance=_ID, sent_by=_POD),
    "/kubernetes.io/node/name": Claim(kind=_TEXT, assurance=_NAME, sent_by=_NODE),
    "/kubernetes.io/node/uid": Claim(kind=_TEXT, assurance=_ID, sent_by=_NODE),
}
_REQUIRED = tuple(name for name, claim in _CLAIMS.items() if claim.required)
_POINTERS = frozenset(_CLAIMS)
_UNTYPED = frozenset({"iss", "sub", "aud", "exp", "nbf", "iat", "jti", "kubernetes.io"})
_UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")
_LEGACY = "kubernetes.io/serviceaccount/"
_OTHER_CLASS = "send the token of a projected volume (`serviceAccountToken` with this broker as `audience`)"


def identify(verified: VerifiedClaims, issuer_name: str) -> JobIdentity:
    """The service account, and the pod it runs as where the token is bound to one.

    Refuses with token_claims a claim that is missing, of another JSON type than Kubernetes', or at odds with another one.
    """
    refuse_resembling_inside(verified.members, _POINTERS)
    claims = typed_values(_CLAIMS, _REQUIRED, {name: value_at(verified.members, name) for name in _CLAIMS})
    for name, value in claims.items():
        if name.endswith("/uid") and _UUID.fullmatch(str(value)) is None:
            raise Refused(Code.TOKEN_CLAIMS, f"{name} is {value!r}, which is not a uid that Kubernetes writes")
    namespace, account = text_of(claims, "/kubernetes.io/namespace"), text_of(claims, f"{_ACCOUNT}/name")
    # `sub` says the same in other words; a token in which it does not is not one of Kubernetes'.
    if verified.members.get("sub") != f"system:serviceaccount:{namespace}:{account}":
        raise Refused(Code.TOKEN_CLAIMS, "sub is not the service account that the token names in kubernetes.io")
    token_id = id_or_digest(verified)
    return JobIdentity(
        issuer_name=issuer_name,
        profile="kubernetes",
        issuer=verified.issuer,
        stable_id=text_of(claims, _UID),
        jti=token_id,
        kid=verified.kid,
        issued_at=verified.issued_at,
        expires_at=verified.expires_at,
        project_id=text_of(claims, _UID),
        project_path=f"{namespace}/{account}",
        job_id=text_of(claims, "/kubernetes.io/pod/uid") or token_id.replace(":", "-"),
        pipeline_id="",
        ref_path="",
        ref_protected=False,
        user_id="",
        claims=ClaimSet(claims),
    )


def other_class(members: Mapping[str, Any]) -> str:
    """What the same API server signs, or signed, for other purposes."""
    if any(name.startswith(_LEGACY) for name in members):
        return f"this is a token from a Secret of a service account, which never ends; {_OTHER_CLASS}"
    inside = members.get("kubernetes.io")
    if not isinstance(inside, Mapping):
        return f"this is not a service account's token (it has no kubernetes.io); {_OTHER_CLASS}"
    if inside.get("warnafter") is not None:
        # Extended to a year so that old clients go on working: the one at /var/run/secrets/kubernetes.io, for the API server.
        return f"this is the token that every pod has for the API server (it has warnafter); {_OTHER_CLASS}"
    return ""


KUBERNETES = Profile(
    name="kubernetes",
    algorithms=frozenset({"RS256", "ES256"}),  # as --service-account-signing-key-file has it
    types=frozenset({"JWT", None}),
    audience_list=True,
    claims=MappingProxyType(_CLAIMS),
    untyped=_UNTYPED,
    stable_id=_UID,
    pins=(_UID,),
    other_class=other_class,
    advice=Advice(
        audience="change `audience` of the `serviceAccountToken` volume, and name no other",
        lifetime="lower `expirationSeconds` of the `serviceAccountToken` volume",
        expired="the kubelet renews the file: read it right before it is sent",
    ),
    identify=identify,
    # A pod's uid beside the account's is too long for AWS: the session's own id, behind this, tells the sessions apart.
    label=lambda job: f"k8s-{job.stable_id}",
)
