"""The gate: token text -> strict parts -> verified claims. Pure: keys and time are parameters.

    text --parse--> UnverifiedToken --check_signature(key, rules)--> SignedClaims --check_claims(rules, now)--> VerifiedClaims

Every token has exactly one spelling here. What libraries read generously (padding, a byte order mark, UTF-16, duplicate members,
names that differ in case) is refused, so that no two readers of one token can see two different jobs. Sources: RFC 7515, 7519,
8725; the attack list of gitlab-tokens.md section 5.
"""

from datetime import UTC, datetime
from functools import lru_cache
from types import MappingProxyType
from typing import Any, NoReturn, final

import msgspec

from broker.errors import Code, Refused
from broker.identity import base64url
from broker.identity.keyset import VerificationKey
from broker.identity.rules import Names, Rules, check_audience, check_hours, names_of
from broker.identity.strict_json import NotStrictError, is_plain, strict_object

_SEGMENTS = 3
MAX_CHARS = 20_000  # what AWS STS takes, too
_MAX_NAME = 128  # kid, jti
_HEADER_MEMBERS = frozenset({"alg", "kid", "typ"})
_MORE_IN_HEADER = "its header has members other than alg, kid and typ"
_THUMBPRINT = "x5t"  # names a certificate and brings none; GitHub writes it, and whoever reads GitHub's tokens ignores it
_HEADER_MEMBERS_AND_THUMBPRINT = _HEADER_MEMBERS | {_THUMBPRINT}

_HEADERS_KEPT = 64
_LONGEST_HEADER_KEPT = 512


class _Header(msgspec.Struct, frozen=True, kw_only=True):
    alg: str
    kid: str
    typ: str | None
    thumbprint: bool  # whether it has `x5t`, which nothing reads


class UnverifiedToken(msgspec.Struct, frozen=True, kw_only=True):
    """A token whose form is right and of which nothing else is known. No member of it may be told or logged as a fact."""

    unverified_alg: str
    unverified_kid: str
    unverified_typ: str | None
    unverified_thumbprint: bool  # whether the header has `x5t`, which nothing reads
    unverified_issuer: str
    unverified_members: dict[str, Any]
    unverified_plain: bool  # every text in it is printable ASCII
    signed: bytes
    signature: bytes


_GATE = object()


@final
class SignedClaims:
    """The members of a token exactly as its issuer signed them: they are its issuer's word, and may be for somebody else, past
    their hours, or of another kind of token. Only `check_signature` makes these.
    """

    __slots__ = ("issuer", "kid", "members", "plain")

    def __init__(self, made_by: object, token: UnverifiedToken) -> None:
        if made_by is not _GATE:
            raise TypeError("signed claims come from the gate")
        self.issuer = token.unverified_issuer
        self.kid = token.unverified_kid
        self.members = MappingProxyType(token.unverified_members)
        self.plain = token.unverified_plain

    def __repr__(self) -> str:
        return f"SignedClaims(issuer={self.issuer!r}, kid={self.kid!r})"

    def __reduce__(self) -> NoReturn:
        raise TypeError("signed claims are not pickled or copied")


@final
class VerifiedClaims:
    """The members of a token whose signature, issuer, hours and audience hold. Only `check_claims` makes these."""

    __slots__ = ("expires_at", "issued_at", "issuer", "kid", "members", "names", "plain", "token_id", "unknown")

    def __init__(self, made_by: object, signed: SignedClaims, names: Names, token_id: str, iat: int, exp: int) -> None:
        if made_by is not _GATE:
            raise TypeError("verified claims come from the gate")
        self.issuer = signed.issuer
        self.kid = signed.kid
        self.token_id = token_id
        self.issued_at = datetime.fromtimestamp(iat, UTC)
        self.expires_at = datetime.fromtimestamp(exp, UTC)
        self.members = signed.members
        self.names = names
        self.plain = signed.plain
        self.unknown = names.unknown

    def __repr__(self) -> str:
        return f"VerifiedClaims(issuer={self.issuer!r}, jti={self.token_id!r})"

    def __reduce__(self) -> NoReturn:
        raise TypeError("verified claims are not pickled or copied")


def parse(unverified_text: str) -> UnverifiedToken:
    """The parts of a token, if it has the one form that is accepted. Checks no signature and no claim but that `iss` is a text.

    Raises Refused(token_malformed), and nothing else whatever the text is. The message quotes nothing of it.
    """
    if len(unverified_text) > MAX_CHARS:
        raise _malformed(f"it has more than {MAX_CHARS} characters")
    try:
        text = unverified_text.encode("ascii")
    except UnicodeEncodeError:
        raise _malformed("it has characters that no token has") from None
    segments = text.split(b".")
    if len(segments) != _SEGMENTS:
        raise _malformed(f"it has {len(segments)} parts between dots where a signed token has three")
    # A few headers come again and again, one for each key of an issuer: what was found about them is found again by their bytes.
    header = _read_header(segments[0]) if len(segments[0]) <= _LONGEST_HEADER_KEPT else _header(segments[0])
    payload = _decoded(segments[1], "payload")
    members = _object(payload, "payload")
    issuer = members.get("iss")
    if type(issuer) is not str:
        raise _malformed("it has no claim `iss`, or one that is not a text")
    return UnverifiedToken(
        unverified_alg=header.alg,
        unverified_kid=header.kid,
        unverified_typ=header.typ,
        unverified_thumbprint=header.thumbprint,
        unverified_issuer=issuer,
        unverified_members=members,
        unverified_plain=is_plain(payload),
        signed=text[: len(segments[0]) + 1 + len(segments[1])],
        signature=_decoded(segments[2], "signature"),
    )


def _header(segment: bytes) -> _Header:
    header = _object(_decoded(segment, "header"), "header")
    thumbprint = _THUMBPRINT in header
    if not (_HEADER_MEMBERS_AND_THUMBPRINT if thumbprint else _HEADER_MEMBERS).issuperset(header):
        # jku, jwk, x5u, x5c would let the token bring its own key; crit and b64 change how it is read.
        raise _malformed(_MORE_IN_HEADER)
    alg, kid, typ = header.get("alg"), header.get("kid"), header.get("typ")
    if type(alg) is not str or type(kid) is not str or not 0 < len(kid) <= _MAX_NAME:
        raise _malformed("its header has no `alg`, or no `kid` of at most 128 characters")
    if "typ" in header and type(typ) is not str:
        raise _malformed("its header's `typ` is not a text")
    return _Header(alg=alg, kid=kid, typ=typ, thumbprint=thumbprint)


_read_header = lru_cache(_HEADERS_KEPT)(_header)


def refuse_wrong_header(token: UnverifiedToken, rules: Rules) -> None:
    """Refuses a token that no key of this issuer could have signed, before a key is looked for (and perhaps fetched)."""
    if token.unverified_thumbprint and not rules.thumbprint:
        raise _malformed(_MORE_IN_HEADER)
    if token.unverified_alg not in rules.algorithms:
        raise Refused(Code.TOKEN_SIGNATURE, "the job token is not signed with an algorithm that its issuer uses")
    if token.unverified_typ not in rules.types:
        raise Refused(Code.TOKEN_CLASS, "the token's header says that it is not an ID token; send the ID token of the job")


def verify(token: UnverifiedToken, key: VerificationKey, rules: Rules, now: datetime) -> VerifiedClaims:
    """`check_signature`, then `check_claims`."""
    return check_claims(check_signature(token, key, rules), rules, now)


def check_signature(token: UnverifiedToken, key: VerificationKey, rules: Rules) -> SignedClaims:
    """The claims, once this key of this issuer has signed them. Until then no refusal tells a value of the token.

    Raises Refused(token_signature, token_class for the header's `typ`, token_issuer). Says nothing about when and for whom.
    """
    refuse_wrong_header(token, rules)
    if token.unverified_issuer != rules.issuer:
        raise Refused(Code.TOKEN_ISSUER, UNKNOWN_ISSUER)
    if (
        key.kid != token.unverified_kid
        or key.algorithm != token.unverified_alg
        or not key.verifies(token.signed, token.signature)
    ):
        raise Refused(
            Code.TOKEN_SIGNATURE, "the job token's signature does not hold: it was not signed by its issuer, or was changed"
        )
    return SignedClaims(_GATE, token)


def check_claims(signed: SignedClaims, rules: Rules, now: datetime) -> VerifiedClaims:
    """The claims, once they are for one of our audiences and within their hours.

    A refusal tells the caller its own token's values; another kind of token is named as that, before the hours and the audience
    that it has of its own. Boundaries: `exp` plus leeway is the first moment refused, `iat` and `nbf` minus leeway the first
    accepted. Not checked: the types of the issuer's own claims.
    Raises Refused(token_class, token_expired, token_audience or token_claims).
    """
    members = signed.members
    names = names_of(tuple(members), rules.known)
    other_class = rules.other_class(members)
    if other_class:
        raise Refused(Code.TOKEN_CLASS, other_class)
    iat, exp = check_hours(members, rules, now)
    check_audience(members.get("aud"), rules)
    token_id = members.get("jti", "")  # whether it may be missing is the profile's to say
    if type(token_id) is not str or len(token_id) > _MAX_NAME or not token_id.isprintable():
        raise Refused(Code.TOKEN_CLAIMS, "jti is not a text of at most 128 characters")
    return VerifiedClaims(_GATE, signed, names, token_id, iat, exp)


UNKNOWN_ISSUER = "the token's issuer is none that this broker trusts; the token has to come from an issuer in its configuration"


def _object(text: bytes, part: str) -> dict[str, Any]:
    try:
        return strict_object(text)
    except NotStrictError as error:
        raise _malformed(f"its {part} is refused: {error}") from None


def _decoded(segment: bytes, part: str) -> bytes:
    try:
        return base64url.decode(segment)
    except ValueError:
        raise _malformed(f"its {part} is not base64url in its one spelling") from None


def _malformed(why: str) -> Refused:
    return Refused(
        Code.TOKEN_MALFORMED,
        f"the job token cannot be read: {why}; send the job's ID token unchanged (in GitLab the variable under `id_tokens:`)",
    )
