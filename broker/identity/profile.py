"""What an issuer profile is: which claims its tokens carry, of which type, and how far each can be relied on.

The policy language asks the profile and holds no knowledge of any issuer of its own.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from enum import Enum
from typing import Any

from broker.identity.claims import ClaimSet, JobIdentity
from broker.identity.gate import VerifiedClaims
from broker.identity.rules import Advice


class ClaimKind(Enum):
    """The type of a claim once it is typed."""

    TEXT = "text"
    BOOL = "true or false"  # GitLab sends the strings "true" and "false"; here they are booleans
    NUMBER = "a whole number"
    TEXTS = "a list of texts"


class Assurance(Enum):
    """How far a claim can be relied on."""

    ID = "never reassigned"  # decides; compared exactly, never by a glob
    STATED = "stated by the issuer"
    NAME = "can be renamed, or taken by somebody else later"
    CHOSEN = "chosen by whoever writes the pipeline"  # counts only beside something that is not


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """One row of a profile's table."""

    kind: ClaimKind
    assurance: Assurance = Assurance.STATED
    path_like: bool = False  # has segments between slashes: globs are allowed on it
    required: bool = False  # a token without it is refused
    personal: bool = False  # about a person: never in a log entry (DESIGN 3.16)
    sent_by: str = ""  # "GitLab 16.0 or newer"; "" when every version in use sends it
    one_or_more: bool = False  # of TEXTS: a single text is a list of one (Okta's groups)


def _never(_: ClaimSet) -> bool:
    return False


def _no_problem(_: str) -> str:
    return ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """One kind of issuer. `identify` makes the identity from claims whose signature, issuer, hours and audience hold.

    A claim inside an object is named by its JSON pointer (RFC 6901): `/kubernetes.io/namespace`.
    """

    name: str
    algorithms: frozenset[str]
    types: frozenset[str | None]  # what the header's `typ` may say
    thumbprint: bool = False  # whether the header may have `x5t`
    audience_list: bool = False  # `aud` is a list of texts, all of them ours; otherwise one text
    longest: timedelta = timedelta(days=1)  # a token's lifetime, unless the operator says otherwise
    claims: Mapping[str, Claim]
    untyped: frozenset[str]  # known names that nothing decides on
    stable_id: str  # the claim that an assertion's `sub` names the project by
    pins: tuple[str, ...]  # every environment pins one of these exactly
    refs: frozenset[str] = frozenset()  # claims that tell which branch or tag a job runs on; none where there are no refs
    source: str = ""  # the claim that says what started the pipeline; "" where none does
    open_sources: frozenset[str] = frozenset()  # its values that match without being listed in `when`; all others have to be
    is_fork: Callable[[ClaimSet], bool] = _never  # may run another project's code in this one's name; "cannot tell" is yes
    lookalikes: Mapping[str, str] = field(default_factory=dict)  # prefix of another credential of this issuer -> what to send
    other_class: Callable[[Mapping[str, Any]], str]  # of a token signed for another purpose, what to send instead; "" for none
    issuer_problem: Callable[[str], str] = _no_problem  # why tokens of that `iss` cannot be taken at all; "" when they can
    advice: Advice
    identify: Callable[[VerifiedClaims, str], JobIdentity]  # (claims, issuer name)
    label: Callable[[JobIdentity], str]  # which job, in the names of AWS sessions: at most 55 of [A-Za-z0-9_+=,.@-]

    @property
    def known(self) -> frozenset[str]:
        return self.untyped | {name for name in self.claims if not name.startswith("/")}
