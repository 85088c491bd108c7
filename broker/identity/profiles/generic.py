"""Any other OpenID issuer whose tokens are for workloads: CircleCI, Buildkite, Bitbucket, HCP Terraform, a cloud.

Nothing is known of what it means by its claims, so `sub` names the project, and policy compares texts exactly. Known lists are
matched by their elements; a claim inside an object is named by JSON pointer. Numbers and truth values decide nothing.
"""

import hashlib
from collections.abc import Iterator, Mapping
from typing import Any

from broker.errors import Code, Refused
from broker.identity.claims import ClaimSet, JobIdentity
from broker.identity.gate import VerifiedClaims
from broker.identity.pointer import flattened, parts_of
from broker.identity.profile import Assurance, Claim, ClaimKind, Profile
from broker.identity.replay import id_or_digest
from broker.identity.rules import Advice
from broker.identity.typed import text_of, typed_values

_TEXT, _TEXTS = ClaimKind.TEXT, ClaimKind.TEXTS
_UNTYPED = frozenset(
    {
        "iss", "aud", "exp", "nbf", "iat", "jti",
        # Of a person (OpenID Connect Core 1.0 section 5.1): nobody's job is decided by them, and no entry keeps them.
        "name", "given_name", "family_name", "middle_name", "nickname", "preferred_username", "profile", "picture", "website",
        "email", "gender", "birthdate", "zoneinfo", "locale", "phone_number", "address", "upn", "unique_name",
    }
)  # fmt: skip
_CLAIMS = {
    "sub": Claim(kind=_TEXT, assurance=Assurance.ID, required=True),
    "azp": Claim(kind=_TEXT),
    "client_id": Claim(kind=_TEXT),
    "groups": Claim(kind=_TEXTS, assurance=Assurance.NAME, one_or_more=True),
    "roles": Claim(kind=_TEXTS, assurance=Assurance.NAME, one_or_more=True),
    "scp": Claim(kind=_TEXTS, one_or_more=True),
}
_OTHER = Claim(kind=_TEXT, assurance=Assurance.NAME)
_MAX_NAME = 255
_LABEL_DIGITS = 40
# Of the tokens that a person's login leaves behind (OpenID Connect Core 1.0 sections 2 and 3), in a browser or elsewhere.
_OF_LOGINS = ("nonce", "at_hash", "c_hash", "s_hash", "auth_time")
_OTHER_CLASS = "send the token that the issuer gives to the job itself"


class _AnyText(Mapping[str, Claim]):
    """The known claims, and every other name as a text. Walks through the known ones."""

    def __getitem__(self, name: str) -> Claim:
        if name in _CLAIMS:
            return _CLAIMS[name]
        if name in _UNTYPED or not 0 < len(name) <= _MAX_NAME or not name.isprintable():
            raise KeyError(name)
        return _OTHER

    def __iter__(self) -> Iterator[str]:
        return iter(_CLAIMS)

    def __len__(self) -> int:
        return len(_CLAIMS)


def identify(verified: VerifiedClaims, issuer_name: str) -> JobIdentity:
    """The subject that the issuer signed this token for.

    Refuses with token_claims a missing `sub`, a known claim of another type, and any text with control characters in it.
    """
    values = {name: value for name, value in flattened(verified.members).items() if _is_told(name, value)}
    known = {name: verified.members[name] for name in _CLAIMS if name in verified.members}
    claims = typed_values(ANY_TEXT, ("sub",), values | known)
    subject = text_of(claims, "sub")
    token_id = id_or_digest(verified)
    if subject != subject.strip():
        raise Refused(Code.TOKEN_CLAIMS, "sub has blanks at its ends")
    return JobIdentity(
        issuer_name=issuer_name,
        profile="generic",
        issuer=verified.issuer,
        stable_id=subject,
        jti=token_id,
        kid=verified.kid,
        issued_at=verified.issued_at,
        expires_at=verified.expires_at,
        project_id=subject,
        project_path=subject,
        job_id=token_id.replace(":", "-"),
        pipeline_id="",
        ref_path="",
        ref_protected=False,
        user_id="",
        claims=ClaimSet(claims),
    )


def other_class(members: Mapping[str, Any]) -> str:
    """A person's login is no job, whatever issuer it is of."""
    for name in _OF_LOGINS:
        if name in members:
            return f"this token is of a person's login (it has {name}); {_OTHER_CLASS}"
    return ""


def label(job: JobIdentity) -> str:
    """Of a subject that may have any length and any characters: a digest, too long to be another's."""
    return "oidc-" + hashlib.sha256(job.stable_id.encode()).hexdigest()[:_LABEL_DIGITS]


def _is_told(name: str, value: Any) -> bool:
    if name.startswith("/"):
        return type(value) is str and parts_of(name)[0] not in _UNTYPED
    return type(value) is str and name in ANY_TEXT


ANY_TEXT = _AnyText()

GENERIC = Profile(
    name="generic",
    algorithms=frozenset({"RS256", "ES256"}),
    types=frozenset({"JWT", None}),
    claims=ANY_TEXT,
    untyped=_UNTYPED,
    stable_id="sub",
    pins=("sub",),
    other_class=other_class,
    advice=Advice(
        audience="ask the issuer for a token with this audience and no other",
        lifetime="ask the issuer for a shorter one, or raise `max_lifetime` of this issuer in the broker's configuration",
        expired="ask the issuer for another right before it is sent",
    ),
    identify=identify,
    label=label,
)
