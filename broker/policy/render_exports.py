"""Deployed roles as the vendors' own tools export them, read into what they admit, and held against the policy.

What is not understood is said, never passed over.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from broker.policy.model import Policy
from broker.policy.render_aws import AwsSide
from broker.policy.render_check import Admission, Finding, Test, UnreadableError, compare, compare_upkeep
from broker.policy.render_roles import SESSIONS, Roles, aws_roles, vault_roles
from broker.policy.render_vault import VaultSide, job_role

_ASSUME = "sts:AssumeRoleWithWebIdentity"
_ALSO = ("sts:TagSession", "sts:SetSourceIdentity")
_TAG = "aws:requesttag/"
_TAGS = frozenset({"environment", "grant", "project_id", "pipeline_id", "job_id", "ref_protected"})


def check_vault(policy: Policy, side: VaultSide, exports: Mapping[str, Mapping[str, Any]]) -> list[Finding]:
    """Every deployed role (by name) against the policy. Raises Misconfigured and TooComplexError."""
    roles = vault_roles(policy, side.upstream)
    findings = _checked(roles, exports, lambda body: vault_role(body, side), side.maintenance_role)
    for name, served in roles.items():
        if name in exports:
            findings += _limits(name, _inner(exports[name]), job_role(name, served, side))
    return findings


def check_aws(policy: Policy, side: AwsSide, exports: Mapping[str, Mapping[str, Any]]) -> list[Finding]:
    """Every deployed role (by name) of the one account against the policy: who may be it, not what it may do."""
    roles = {arn.rsplit("/", 1)[-1]: served for arn, served in aws_roles(policy, side.upstream).items()}
    return _checked(roles, exports, lambda body: aws_role(body, side), side.revoke_role)


def _checked(
    roles: Roles,
    exports: Mapping[str, Mapping[str, Any]],
    read: Callable[[Mapping[str, Any]], list[Admission]],
    upkeep: str | None,
) -> list[Finding]:
    findings: list[Finding] = []
    for name in sorted({*roles, *exports}):
        if name not in exports:
            findings.append(Finding(name, "missing", "the policy names it, and it is not among the exported roles"))
            continue
        try:
            admissions = read(exports[name])
        except UnreadableError as unreadable:
            findings.append(Finding(name, "unknown", f"cannot be compared: {unreadable}"))
            continue
        findings += compare_upkeep(name, admissions) if name == upkeep else compare(name, admissions, roles.get(name, ()))
    return findings


def _limits(name: str, deployed: Mapping[str, Any], wanted: Mapping[str, Any]) -> Iterator[Finding]:
    """What makes a role's tokens more than the rendered ones, beside who gets them."""
    longest = deployed.get("token_explicit_max_ttl") or 0
    if not longest or longest > wanted["token_explicit_max_ttl"]:
        told = f"{longest} s" if longest else "no end"
        what = (
            f"its tokens may live for {told} (token_explicit_max_ttl), the policy's sessions {wanted['token_explicit_max_ttl']} s"
        )
        yield Finding(name, "wider", what)
    if (deployed.get("token_ttl") or 0) > wanted["token_ttl"] or deployed.get("token_period"):
        yield Finding(
            name, "wider", f"its tokens live more than {wanted['token_ttl']} s without the broker (token_ttl, token_period)"
        )
    more = sorted(set(deployed.get("token_policies") or []) - set(wanted["token_policies"]))
    if more:
        yield Finding(name, "wider", f"its tokens have policies that are not rendered: {', '.join(more)}")


def _inner(body: Mapping[str, Any]) -> Mapping[str, Any]:
    inner = body.get("data")
    return inner if isinstance(inner, Mapping) else body


def vault_role(body: Mapping[str, Any], side: VaultSide) -> list[Admission]:
    """What a JWT role admits, from `vault read -format=json` or the bare role. Raises UnreadableError."""
    role = _inner(body)
    if role.get("role_type") != "jwt":
        raise UnreadableError(f"role_type is {role.get('role_type')!r}: no assertion can log in with it")
    audiences = list(role.get("bound_audiences") or [])
    if side.audience not in audiences:
        return []  # nobody's assertion for this upstream
    if len(audiences) > 1:
        raise UnreadableError(f"it takes several audiences ({', '.join(map(str, audiences))}), of which one is this upstream's")
    tests = [Test("sub", (str(role["bound_subject"]),))] if role.get("bound_subject") else []
    like = role.get("bound_claims_type", "string") == "glob"
    for claim, wanted in (role.get("bound_claims") or {}).items():
        if claim.startswith("/"):
            raise UnreadableError(f"bound_claims has the JSON pointer {claim!r}")
        # A value of another type never equals a text (reference/vault.md 1.4).
        values = [value for value in (wanted if isinstance(wanted, list) else [wanted]) if isinstance(value, str)]
        tests.append(Test(claim, tuple(_pattern(value, like=like) for value in values)))
    return [Admission(tuple(tests))]


def aws_role(body: Mapping[str, Any], side: AwsSide) -> list[Admission]:
    """What a trust policy admits, from `aws iam get-role` or the bare document. Raises UnreadableError."""
    role = body["Role"] if isinstance(body.get("Role"), Mapping) else body
    document = role.get("AssumeRolePolicyDocument", role)
    if not isinstance(document, Mapping) or "Statement" not in document:
        raise UnreadableError("it has no trust policy")
    return list(_admissions(_list(document["Statement"]), side))


def _admissions(statements: Sequence[Any], side: AwsSide) -> Iterator[Admission]:
    for statement in statements:
        name = statement.get("Sid", "a statement")
        if statement.get("Effect") != "Allow" or set(statement) - {"Sid", "Effect", "Principal", "Action", "Condition"}:
            raise UnreadableError(f"{name} is no plain Allow")
        principal = statement.get("Principal")
        named = _list(principal.get("Federated", [])) if isinstance(principal, Mapping) and len(principal) == 1 else []
        if len(named) != 1 or not str(named[0]).endswith(f":oidc-provider/{side.host}"):
            raise UnreadableError(f"{name} trusts {principal!r}, which is not the broker's provider alone")
        actions = _list(statement.get("Action", []))
        if any("*" in str(action) for action in actions):
            raise UnreadableError(f"{name} allows {', '.join(map(str, actions))}")
        if _ASSUME not in actions:
            continue
        tests = list(_tests(statement.get("Condition", {}), side))
        if None in tests:
            continue  # of another audience
        tagged = all(action in actions for action in _ALSO)
        said = [test for test in tests if test is not None and test.claim != "session_name"]
        upkeep = all(test.claim == "sub" and not _for_jobs(test) for test in said) and bool(said)
        if tagged or upkeep:
            yield Admission(tuple(test for test in tests if test is not None))


def _for_jobs(test: Test) -> bool:
    return any("*" in pattern or pattern.startswith("environment:") for pattern in test.patterns)


def _tests(condition: Mapping[str, Any], side: AwsSide) -> Iterator[Test | None]:
    """One for each key that says something; None for an audience that is not this upstream's."""
    for operator, keys in condition.items():
        for key, wanted in keys.items():
            values = [str(value) for value in _list(wanted)]
            if operator == "ForAllValues:StringEquals" and key.lower() == "aws:tagkeys":
                if not set(values) >= _TAGS:
                    raise UnreadableError("aws:TagKeys leaves out tags that the broker sends")
            elif operator in ("StringEquals", "StringLike"):
                yield from _test(key, values, side, like=operator == "StringLike")
            else:
                raise UnreadableError(f"the operator {operator} on {key}")


def _test(key: str, values: list[str], side: AwsSide, *, like: bool) -> Iterator[Test | None]:
    plain, host = key.lower(), side.host.lower()
    if plain == f"{host}:aud":
        if like or len(values) > 1:
            raise UnreadableError(f"the audiences {', '.join(values)}")
        yield from () if values == [side.audience] else (None,)
    elif plain == f"{host}:sub":
        yield Test("sub", tuple(_pattern(value, like=like) for value in values))
    elif plain.startswith(_TAG) and plain.removeprefix(_TAG) in _TAGS:
        yield Test(plain.removeprefix(_TAG), tuple(_pattern(value, like=like) for value in values))
    elif plain == "sts:rolesessionname" and like and set(values) <= {"*", *(f"{start}*" for start in SESSIONS.values())}:
        yield Test("session_name", tuple(_pattern(value, like=True) for value in values))
    else:
        raise UnreadableError(f"the condition on {key}")


def _pattern(value: str, *, like: bool) -> str:
    """In our spelling, where `**` is any text. A star that is one in the value itself is nothing that the broker ever signs."""
    if not like:
        return value if "*" not in value else "\x00"
    if any(sign in value for sign in "?[{"):
        raise UnreadableError(f"the pattern {value!r}")
    while "**" in value:
        value = value.replace("**", "*")
    return value.replace("*", "**")


def _list(value: Any) -> list[Any]:
    return list(value) if isinstance(value, (list, tuple)) else [value]
