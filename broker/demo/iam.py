"""A little of IAM, for the demo's STS: roles, OIDC providers, callers, and what a trust policy admits.

A strict reading: a document with anything that is not evaluated here is refused when it is put in, so that no condition is ever
silently ignored. Source: IAM User Guide, "JSON policy element reference"; `reference/aws.md` section 6. Not here: identity
policies of callers (within one account a trust policy that names the caller is enough), permissions boundaries, SCPs.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

Document = Mapping[str, Any]
Context = Mapping[str, str | Sequence[str]]
"""Condition keys in lower case. A sequence is a multivalued key (`aws:tagkeys`)."""

ACTIONS = ("sts:AssumeRole", "sts:AssumeRoleWithWebIdentity", "sts:TagSession", "sts:SetSourceIdentity")
_OPERATORS = ("StringEquals", "StringNotEquals", "StringLike", "StringNotLike", "Null")
_SETS = ("ForAllValues", "ForAnyValue")
_MULTIVALUED = frozenset({"aws:tagkeys", "sts:transitivetagkeys"})
_SHORTEST_MAX, _LONGEST_MAX = 3600, 43200  # of MaxSessionDuration
# Of the token of an OIDC provider that AWS has no agreement with, only these two can be conditions (`reference/aws.md`, fact 6).
_KEY = re.compile(
    r"aws:requesttag/[^/]{1,128}|aws:tagkeys|sts:(transitivetagkeys|rolesessionname|sourceidentity|externalid)"
    r"|(?!aws:|sts:)[a-z0-9.:/_-]+:(sub|aud)"
)
_ROLE_NAME = re.compile(r"[A-Za-z0-9_+=,.@-]{1,64}")


class PolicyRefused(ValueError):
    """A document that IAM would refuse, or that this IAM could only half obey."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Role:
    """`trust` and `permissions` are IAM documents. `max_seconds` is MaxSessionDuration: an hour at least, twelve at most."""

    name: str
    trust: Document
    permissions: Document | None = None
    max_seconds: int = 3600


@dataclass(frozen=True, slots=True, kw_only=True)
class OidcProvider:
    """An IAM OIDC provider: whose tokens this account takes, and for which `aud`."""

    url: str
    client_ids: tuple[str, ...]

    @property
    def host(self) -> str:
        """How ARNs and condition keys name it: without the scheme."""
        return self.url.split("://", 1)[-1].rstrip("/")


@dataclass(frozen=True, slots=True, kw_only=True)
class Caller:
    """Somebody with an access key of this account."""

    arn: str
    access_key_id: str
    secret_access_key: str = field(repr=False)
    session_token: str | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Principal:
    kind: Literal["AWS", "Federated"]
    arn: str


class Account:
    """One AWS account. Put in before the STS is asked; a role that is put again replaces the older one."""

    def __init__(self, account_id: str) -> None:
        self.account_id = account_id
        self._roles: dict[str, Role] = {}
        self._providers: dict[str, OidcProvider] = {}
        self._callers: dict[str, Caller] = {}

    def put_role(self, role: Role) -> str:
        """The role's ARN. Raises PolicyRefused for a trust policy that is not obeyed to the letter here."""
        if not _ROLE_NAME.fullmatch(role.name) or not _SHORTEST_MAX <= role.max_seconds <= _LONGEST_MAX:
            raise PolicyRefused(f"role {role.name!r}: no such name or MaxSessionDuration in IAM")
        check_trust(role.trust)
        arn = f"arn:aws:iam::{self.account_id}:role/{role.name}"
        self._roles[arn] = role
        return arn

    def put_provider(self, provider: OidcProvider) -> str:
        """The provider's ARN."""
        self._providers[provider.url] = provider
        return self.provider_arn(provider)

    def put_caller(self, caller: Caller) -> None:
        self._callers[caller.access_key_id] = caller

    def provider_arn(self, provider: OidcProvider) -> str:
        return f"arn:aws:iam::{self.account_id}:oidc-provider/{provider.host}"

    def role(self, arn: str) -> Role | None:
        return self._roles.get(arn)

    def provider(self, url: str) -> OidcProvider | None:
        return self._providers.get(url)

    def caller(self, access_key_id: str) -> Caller | None:
        return self._callers.get(access_key_id)


def admits(trust: Document, action: str, principal: Principal, context: Context) -> bool:
    """Whether a checked trust policy lets this principal do this. A Deny that matches wins; nothing that matches is no."""
    allowed = False
    for statement in _list(trust["Statement"]):
        if action not in _list(statement["Action"]) or not _names(statement["Principal"], principal):
            continue
        if all(_holds(operator, tests, context) for operator, tests in statement.get("Condition", {}).items()):
            if statement["Effect"] == "Deny":
                return False
            allowed = True
    return allowed


def check_trust(trust: Document) -> None:
    """Raises PolicyRefused unless every element of the document is one that `admits` obeys."""
    if trust.get("Version") != "2012-10-17" or not trust.get("Statement"):
        raise PolicyRefused("a trust policy has Version 2012-10-17 and a Statement")
    for statement in _list(trust["Statement"]):
        unknown = set(statement) - {"Sid", "Effect", "Principal", "Action", "Condition"}
        if unknown or statement.get("Effect") not in ("Allow", "Deny"):
            raise PolicyRefused(f"a statement with {sorted(unknown) or 'no Effect'} is not obeyed here")
        for action in _list(statement.get("Action", ())) or ("nothing",):
            if action not in ACTIONS:
                raise PolicyRefused(f"action {action!r} is none of {', '.join(ACTIONS)}")
        named = statement.get("Principal")
        if not isinstance(named, Mapping) or len(named) != 1 or next(iter(named)) not in ("AWS", "Federated"):
            raise PolicyRefused("a Principal is {'AWS': …} or {'Federated': …}; everybody is nobody here")
        if "*" in "".join(_list(next(iter(named.values())))):
            raise PolicyRefused("a Principal has no wildcard in a trust policy")
        for operator, tests in statement.get("Condition", {}).items():
            _check_condition(operator, tests)


def _check_condition(operator: str, tests: Mapping[str, Any]) -> None:
    prefix, _, bare = operator.rpartition(":")
    bare = bare.removesuffix("IfExists")
    if bare not in _OPERATORS or prefix not in ("", *_SETS) or (bare == "Null" and operator != "Null"):
        raise PolicyRefused(f"condition operator {operator!r} is not obeyed here")
    for key, values in tests.items():
        if not _KEY.fullmatch(key.lower()):
            raise PolicyRefused(f"condition key {key!r} is not known when a role is assumed")
        if (key.lower() in _MULTIVALUED) != bool(prefix) and bare != "Null":
            raise PolicyRefused(f"{operator} on {key}: a set operator belongs to a multivalued key, and only to it")
        if not all(isinstance(value, str) for value in _list(values)):
            raise PolicyRefused(f"{operator} on {key}: values are strings")


def _names(statement: Mapping[str, Any], principal: Principal) -> bool:
    named = _list(statement.get(principal.kind, ()))
    if principal.arn in named:
        return True
    if principal.kind == "Federated":
        return False
    account = principal.arn.split(":")[4]
    if account in named or f"arn:aws:iam::{account}:root" in named:
        return True
    # A session is its role: arn:aws:sts::A:assumed-role/NAME/SESSION is arn:aws:iam::A:role/NAME.
    session = re.fullmatch(r"arn:aws:sts::(\d{12}):assumed-role/([^/]+)/[^/]+", principal.arn)
    return session is not None and f"arn:aws:iam::{session[1]}:role/{session[2]}" in named


def _holds(operator: str, tests: Mapping[str, Any], context: Context) -> bool:
    return all(_test(operator, context.get(key.lower()), _list(wanted)) for key, wanted in tests.items())


def _test(operator: str, actual: str | Sequence[str] | None, wanted: Sequence[str]) -> bool:
    prefix, _, bare = operator.rpartition(":")
    if bare == "Null":
        return (actual is None or len(actual) == 0) == (wanted[0].lower() == "true")
    if bare.endswith("IfExists"):
        if actual is None:
            return True
        bare = bare.removesuffix("IfExists")
    negated = "Not" in bare
    present = [] if actual is None else [actual] if isinstance(actual, str) else list(actual)

    def one(value: str) -> bool:
        found = any(_same(value, pattern, like=bare.endswith("Like")) for pattern in wanted)
        return found != negated

    if prefix == "ForAllValues":
        return all(map(one, present))  # true of nothing at all, as in IAM
    if prefix == "ForAnyValue":
        return any(map(one, present))
    return one(present[0]) if present else negated


def _same(value: str, pattern: str, *, like: bool) -> bool:
    if not like:
        return value == pattern
    parts = ({"*": ".*", "?": "."}.get(character) or re.escape(character) for character in pattern)
    return re.fullmatch("".join(parts), value, re.DOTALL) is not None


def _list(value: Any) -> Sequence[Any]:
    return value if isinstance(value, (list, tuple)) else tuple(value) if isinstance(value, set) else (value,)


def tag_context(tags: Mapping[str, str], transitive: Iterable[str]) -> dict[str, str | Sequence[str]]:
    """The condition keys that session tags make."""
    if not tags:
        return {}
    keys: dict[str, str | Sequence[str]] = {f"aws:requesttag/{key}".lower(): value for key, value in tags.items()}
    return keys | {"aws:tagkeys": tuple(tags), "sts:transitivetagkeys": tuple(transitive)}
