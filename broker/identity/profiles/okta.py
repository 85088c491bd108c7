"""Okta access tokens of a custom authorization server: a service that proves itself by client credentials, or acts for a person.

Source: developer.okta.com/docs/api/openapi/okta-oauth (access token payload) and the guides on validating access tokens and on
groups claims. Tokens of the org authorization server are opaque by contract and refused, and so are ID tokens, which the same
keys sign. `sub` is a person's login, which is left out, or the client itself (`sub` = `cid`): an environment for services alone
says `when.sub`.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any
from urllib.parse import urlsplit

from broker.errors import Code, Refused
from broker.identity.claims import ClaimSet, JobIdentity
from broker.identity.gate import VerifiedClaims
from broker.identity.profile import Assurance, Claim, ClaimKind, Profile
from broker.identity.replay import required_id
from broker.identity.rules import Advice
from broker.identity.typed import text_of, typed_claims

_TEXT, _TEXTS, _NUMBER = ClaimKind.TEXT, ClaimKind.TEXTS, ClaimKind.NUMBER

_CLAIMS = {
    "cid": Claim(kind=_TEXT, assurance=Assurance.ID, required=True),
    "uid": Claim(kind=_TEXT, assurance=Assurance.ID, sent_by="Okta, for a token that a person stands behind"),
    "sub": Claim(kind=_TEXT, assurance=Assurance.ID, sent_by="Okta, as an id, where no person is behind the token"),
    "scp": Claim(kind=_TEXTS, required=True),
    "groups": Claim(kind=_TEXTS, assurance=Assurance.NAME, one_or_more=True, sent_by="Okta, where the server has a groups claim"),
    "ver": Claim(kind=_NUMBER),
}
_REQUIRED = tuple(name for name, claim in _CLAIMS.items() if claim.required)
_UNTYPED = frozenset({"iss", "aud", "exp", "nbf", "iat", "jti", "auth_time"})
_PREFIX = "AT."
_OF_ID_TOKENS = ("nonce", "at_hash", "c_hash", "idp", "amr")
_OTHER_CLASS = "send the access token of a custom authorization server"
_SERVER_SEGMENTS = 2  # /oauth2/<id of the authorization server>


def identify(verified: VerifiedClaims, issuer_name: str) -> JobIdentity:
    """The client that Okta signed this access token for. One token is one job here: Okta knows of no others.

    Refuses with token_claims a claim that is missing or of another JSON type than Okta's.
    """
    claims = typed_claims(_CLAIMS, _REQUIRED, verified)
    token_id = required_id(verified, "Okta")
    if not token_id.startswith(_PREFIX):
        raise Refused(Code.TOKEN_CLASS, f"jti does not start with {_PREFIX}, as every access token of Okta does; {_OTHER_CLASS}")
    cid = text_of(claims, "cid")
    if "sub" not in claims:
        raise Refused(Code.TOKEN_CLAIMS, "sub is missing; every access token of Okta has one")
    if claims["sub"] != cid:
        del claims["sub"]
    return JobIdentity(
        issuer_name=issuer_name,
        profile="okta",
        issuer=verified.issuer,
        stable_id=cid,
        jti=token_id,
        kid=verified.kid,
        issued_at=verified.issued_at,
        expires_at=verified.expires_at,
        project_id=cid,
        project_path=cid,
        job_id=token_id,
        pipeline_id="",
        ref_path="",
        ref_protected=False,
        user_id=text_of(claims, "uid"),
        claims=ClaimSet(claims),
    )


def other_class(members: Mapping[str, Any]) -> str:
    """Okta's ID tokens have the issuer and the keys of its access tokens (gitlab-tokens.md 7)."""
    token_id = members.get("jti")
    if type(token_id) is str and token_id.startswith("ID."):
        return f"this is an Okta ID token (its jti starts with ID.); {_OTHER_CLASS}"
    for name in _OF_ID_TOKENS:
        if name in members:
            return f"this is an Okta ID token (it has {name}); {_OTHER_CLASS}"
    if not ("cid" in members and "scp" in members):
        return f"this is not an Okta access token (it has no cid and scp); {_OTHER_CLASS}"
    return ""


def issuer_problem(issuer: str) -> str:
    """Only a custom authorization server's tokens may be checked by anybody but Okta."""
    segments = urlsplit(issuer).path.strip("/").split("/")
    if len(segments) == _SERVER_SEGMENTS and segments[0] == "oauth2" and segments[1] not in ("", "v1"):
        return ""
    return "Okta's org authorization server makes tokens for Okta alone; name a custom one: https://ORG.okta.com/oauth2/default"


OKTA = Profile(
    name="okta",
    algorithms=frozenset({"RS256"}),
    # A custom server's access tokens have no `typ`; the org server's say application/okta-internal-at+jwt.
    types=frozenset({"JWT", None}),
    claims=MappingProxyType(_CLAIMS),
    untyped=_UNTYPED,
    stable_id="cid",
    pins=("cid",),
    lookalikes=MappingProxyType({"SSWS ": "this is an Okta API token; send an access token instead, and revoke this one"}),
    other_class=other_class,
    issuer_problem=issuer_problem,
    advice=Advice(
        audience="it is the audience of the authorization server, under Security > API",
        lifetime="lower it in the authorization server's access policy",
        expired="ask Okta for another with the client's credentials",
    ),
    identify=identify,
    # No job to name, and a token's id is too long for AWS: the session's own id, behind this, tells the sessions apart.
    label=lambda job: f"ok-{job.stable_id}",
)
