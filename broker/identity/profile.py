"""What an issuer profile is: which claims its tokens carry, of which type, and how far each can be relied on.

The policy language asks the profile and holds no knowledge of any issuer of its own.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum

from broker.identity.claims import ClaimSet, JobIdentity
from broker.identity.gate import VerifiedClaims


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


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """One kind of issuer. `identify` makes the identity from claims whose signature, issuer, hours and audience hold."""

    name: str
    algorithms: frozenset[str]
    types: frozenset[str | None]  # what the header's `typ` may say
    claims: Mapping[str, Claim]
    untyped: frozenset[str]  # known names that nothing decides on
    stable_id: str  # the claim that an assertion's `sub` names the project by
    pins: tuple[str, ...]  # every environment pins one of these exactly
    source: str  # the claim that says what started the pipeline
    open_sources: frozenset[str]  # its values that match without being listed in `when`; all others have to be listed
    is_fork: Callable[[ClaimSet], bool]  # may run another project's code in this one's name; "cannot tell" is yes
    lookalikes: Mapping[str, str]  # prefix of another credential of this issuer -> what to send instead
    identify: Callable[[VerifiedClaims, str], JobIdentity]  # (claims, issuer name)

    @property
    def known(self) -> frozenset[str]:
        return self.untyped | self.claims.keys()
