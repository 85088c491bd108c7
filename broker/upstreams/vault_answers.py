"""What Vault or OpenBao answered, as one of ours. Pure.

The status alone misleads: a JWKS outage and a database outage are 400s, and a 403 is a denial or a dead token. The texts are
those of OpenBao 2.6.2 as recorded in `vectors/openbao`, and of HashiCorp Vault as `reference/vault.md` 1.5 and 2.4 give them.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Annotated

import msgspec

from broker.errors import BrokerError, Code, Misconfigured, Refused, Unavailable

_DETAIL_CHARS = 600
LONGEST = 10**10  # seconds; Go's longest duration is 292 years, and what is longer does not fit into our calendar
Seconds = Annotated[int, msgspec.Meta(ge=-LONGEST, le=LONGEST)]
UNREADABLE = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)
"""What msgspec raises for bytes from a server that is not Vault, or is not well."""
_LEASE_GONE = ("lease not found", "lease expired", "invalid lease", "lease is expired and has failed previous revocation")


class Doing(Enum):
    """What was asked, for texts that mean different things at different doors."""

    LOGIN = "log in"
    READ = "read"
    RENEW = "renew"
    REVOKE = "revoke"
    LOOKUP = "look up"


class Auth(msgspec.Struct, frozen=True, kw_only=True):
    """The `auth` block of a login or of a token renewal."""

    client_token: str
    accessor: str
    lease_duration: Seconds
    renewable: bool = False
    token_type: str = "service"  # noqa: S105 - a kind of token
    num_uses: int = 0

    def __repr__(self) -> str:
        return f"Auth(accessor={self.accessor!r})"


class _Body(msgspec.Struct, frozen=True, kw_only=True):
    errors: tuple[str, ...] | None = None
    warnings: tuple[str, ...] | None = None
    request_id: str = ""
    lease_id: str = ""
    lease_duration: Seconds = 0
    renewable: bool = False
    data: msgspec.Raw = msgspec.Raw(b"null")
    auth: Auth | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """One answer, whatever its status. `data` stays JSON text: secrets in it are parsed once, where they become Secret."""

    status: int
    shaped: bool = True  # the body was Vault's JSON, or empty
    errors: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    retry_after: float | None = None
    location: str = ""
    request_id: str = ""
    lease_id: str = ""
    lease_duration: int = 0
    renewable: bool = False
    data: bytes = b"null"
    auth: Auth | None = None

    def __repr__(self) -> str:
        return f"Answer(status={self.status}, errors={self.errors!r})"

    @property
    def fine(self) -> bool:
        return 200 <= self.status < 300 and self.shaped  # noqa: PLR2004 - HTTP

    @property
    def may_mean_dead_token(self) -> bool:
        """A hint only, for `lookup-self` to settle: OpenBao's bare text, or the words that newer Vault adds."""
        bare = self.errors == ("permission denied",)
        return self.status == _FORBIDDEN and (bare or "invalid token" in " ".join(self.errors))

    @property
    def lease_is_gone(self) -> bool:
        return self.status == _BAD_REQUEST and any(text in error for error in self.errors for text in _LEASE_GONE)

    @property
    def accessor_is_gone(self) -> bool:
        unknown = any("No token found with this accessor" in warning for warning in self.warnings)
        return unknown or any("invalid accessor" in error for error in self.errors)


def read_answer(status: int, headers: Mapping[str, str], content: bytes) -> Answer:
    """An answer from its parts. Never raises: a body that is not Vault's is an answer that is not `shaped`."""
    retry_after = _seconds(headers.get("Retry-After", ""))
    location = headers.get("Location", "")
    try:
        content.decode()  # `data` is not looked into here, and has to be text where it is
        body = msgspec.json.decode(content, type=_Body) if content.strip() else _Body()
    except UNREADABLE:
        return Answer(status=status, shaped=False, retry_after=retry_after, location=location)
    return Answer(
        status=status,
        errors=body.errors or (),
        warnings=body.warnings or (),
        retry_after=retry_after,
        location=location,
        request_id=body.request_id,
        lease_id=body.lease_id,
        lease_duration=body.lease_duration,
        renewable=body.renewable,
        data=bytes(body.data) or b"null",
        auth=body.auth,
    )


_BAD_REQUEST = 400
_FORBIDDEN = 403
_NOT_FOUND = 404

_OUTAGE = "{upstream} cannot serve {what} at the moment; try again"
_DENIED = "{upstream} refuses {what}; whoever keeps its roles and policies can see why under the correlation id"
_NOTHING = "{upstream} has nothing at the place {what} points to; it has to be written there, or the grant's path corrected"
_ROLE = "{upstream} is not set up for {what}: the Vault role or the auth method has to be corrected by an operator"
_TRUST = "{upstream} does not accept the broker's assertion; its auth method must trust the broker's current issuer and keys"
_CLOCK = "{upstream} finds the broker's fresh assertion expired or not yet valid; the clocks of the two have to agree"
_SERVER = "{upstream} cannot answer as configured; an operator has to look at its address, mount and state"
_ENDED = "the credential of {what} cannot be renewed any more; a new one has to be issued"


@dataclass(frozen=True, slots=True)
class _Verdict:
    kind: type[Refused] | type[Unavailable] | type[Misconfigured]
    code: Code
    public: str


_Outage = _Verdict(Unavailable, Code.UPSTREAM_UNAVAILABLE, _OUTAGE)
_Denied = _Verdict(Refused, Code.UPSTREAM_DENIED, _DENIED)
_Nothing = _Verdict(Refused, Code.UPSTREAM_DENIED, _NOTHING)
_Ended = _Verdict(Refused, Code.UPSTREAM_DENIED, _ENDED)
_Role = _Verdict(Misconfigured, Code.UPSTREAM_CONFIG, _ROLE)
_Trust = _Verdict(Misconfigured, Code.UPSTREAM_CONFIG, _TRUST)
_Clock = _Verdict(Unavailable, Code.CLOCK_UNSAFE, _CLOCK)
_Server = _Verdict(Misconfigured, Code.UPSTREAM_CONFIG, _SERVER)

# In this order, the first that is found in the errors or warnings. An outage inside a longer text comes before what wraps it.
_BY_TEXT: tuple[tuple[str, _Verdict], ...] = (
    ("fetching keys", _Outage),  # the broker's JWKS could not be reached by Vault
    ("failed to renew entry", _Outage),  # the database behind the lease
    ("failed to revoke entry", _Outage),
    ("no issued at (iat)", _Trust),
    ("(exp) claim", _Clock),
    ("(nbf) claim", _Clock),
    ("(iat) claim", _Clock),
    ("invalid issuer", _Trust),
    ("invalid audience", _Trust),
    ("verifying token signature", _Trust),
    ("invalid algorithm", _Trust),
    ("ambiguous claim", _Trust),
    ("failed to verify id token signature", _Trust),
    ("error validating claims", _Denied),  # the role's bound claims do not fit this job
    ("invalid subject", _Denied),
    ("no audiences bound to the role", _Role),
    ("could not load configuration", _Role),
    ("error configuring token validator", _Role),
    ("could not be converted to string", _Role),
    ("error converting claim", _Role),
    ("not found in token", _Role),
    ("missing name in alias", _Role),  # an empty user_claim; a 500
    ("missing role", _Role),
    ("missing token", _Role),
    ("oidc role_type", _Role),
    ("token had one use left", _Role),
    ("batch tokens", _Role),
    ("inline authentication", _Role),
    ("failed to decode JSON input", _Server),
    ("lease not found", _Ended),
    ("lease expired", _Ended),
    ("invalid lease", _Ended),
    ("lease is not renewable", _Ended),
    ("lease is expired", _Ended),
    ("tokens cannot be renewed", _Ended),
    ("invalid accessor", _Ended),
    ("unknown role", _Nothing),  # of a secrets engine
    ("namespace not found", _Server),
    ("no handler for route", _Server),
    ("unsupported path", _Server),
    ("Invalid path for a versioned K/V", _Server),  # a KV v2 mount read as v1
    ('missing "X-Vault-Request"', _Server),
)
_UNKNOWN_LOGIN_ROLE = re.compile(r'role "[^"]*" could not be found')

_BY_STATUS: dict[int, _Verdict] = {
    307: _Outage,  # a standby that names the active node: a fail-over. Never followed: the token would go along
    308: _Outage,
    400: _Denied,
    403: _Denied,
    404: _Nothing,
    408: _Outage,
    412: _Outage,  # Enterprise: a replica that is behind
    425: _Outage,
    429: _Outage,
    472: _Outage,  # standby of a disaster recovery cluster
    473: _Outage,  # performance standby
    501: _Server,  # not initialised
    505: _Server,
}


def judge(answer: Answer, *, doing: Doing, upstream: str, what: str, asked: str) -> BrokerError | None:
    """What an answer means: None when it is a success, else the error to raise.

    `what` is what the caller knows it by (`grant 'warehouse'`), `asked` the request line for our log. Refused is final,
    Unavailable may pass by itself, Misconfigured needs an operator. Whether a 403 means a dead token is not decided here.
    """
    if answer.fine:
        return None
    verdict = _verdict(answer, doing)
    said = " | ".join((*answer.errors, *answer.warnings)) or (f"redirect to {answer.location}" if answer.location else "")
    detail = f"{asked}: {answer.status} {said}" + ("" if answer.shaped else " (a body that is not Vault's)")
    return verdict.kind(
        verdict.code,
        verdict.public.format(upstream=f"upstream {upstream!r}", what=what),
        detail=_printable(detail),
        retry_after=answer.retry_after if verdict.kind is Unavailable else None,
    )


def _verdict(answer: Answer, doing: Doing) -> _Verdict:
    texts = (*answer.errors, *answer.warnings)
    for fragment, verdict in _BY_TEXT:
        if any(fragment in text for text in texts):
            return verdict
    if any(_UNKNOWN_LOGIN_ROLE.search(text) for text in texts):
        return _Role
    if doing is Doing.LOGIN and answer.status == _NOT_FOUND:
        return _Server
    if not answer.shaped and answer.status < 500:  # noqa: PLR2004 - HTTP
        # A success or a refusal in somebody else's words: a proxy, a login page, another server.
        return _BY_STATUS[answer.status] if answer.status in (307, 308, 408, 429) else _Server
    return _BY_STATUS.get(answer.status) or (_Outage if answer.status >= 500 else _Server)  # noqa: PLR2004 - HTTP


def _seconds(value: str) -> float | None:
    """`Retry-After` in seconds, bounded; its date form is not used by Vault and is ignored."""
    return min(float(value), 300.0) if value.isascii() and value.isdigit() and len(value) <= 9 else None  # noqa: PLR2004


def _printable(text: str) -> str:
    """For one line of our log: an upstream echoes what a JWKS server said, and that is anybody's text."""
    return re.sub(r"[^\x20-\x7e]+", " ", text)[:_DETAIL_CHARS]
