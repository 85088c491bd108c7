"""The AWS side of a policy: the OIDC provider that trusts the broker, each role's trust and permissions, the role that revokes.

For `via = "issuer"`. A trust policy admits exact subjects, so that the pairs of environment and grant are those of the policy.
Permissions come from the grant's session policy, which is a ceiling already: what stands there for a job's own project becomes
a variable of IAM that its session tag fills.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from broker.errors import Code, Misconfigured
from broker.policy.model import Policy
from broker.policy.placeholders import filled
from broker.policy.rds_host import region_in
from broker.policy.render_roles import MAINTENANCE_SUBJECT, SESSIONS, Roles, Served, aws_roles, fits_one_role, longest
from broker.policy.target import AwsGrant, Rds

_ACTIONS = ["sts:AssumeRoleWithWebIdentity", "sts:TagSession", "sts:SetSourceIdentity"]
_TAGS = ("environment", "grant", "project_id", "pipeline_id", "job_id", "ref_protected")
_MAX_TRUST = 4096  # AWS's, once raised from 2048 (reference/aws.md 1.2)
_SHORTEST, _LONGEST = 3600, 43200  # of MaxSessionDuration
_ESCALATION = {
    "Sid": "DenyEscalation",
    "Effect": "Deny",
    "Action": ["iam:*", "sts:AssumeRole", "sts:GetFederationToken", "organizations:*"],
    "Resource": "*",
}

Document = Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class AwsSide:
    """What is not in the policy: `[[upstream]]` of kind aws, and the broker's `issuer_url`."""

    issuer_url: str
    audience: str = "sts.amazonaws.com"
    revoke_role: str | None = "credbroker-revoke"
    upstream: str | None = None

    @property
    def host(self) -> str:
        """How ARNs and condition keys name the provider."""
        return self.issuer_url.split("://", 1)[-1].rstrip("/")


@dataclass(frozen=True, slots=True, kw_only=True)
class AwsRole:
    arn: str
    trust: Document
    permissions: Document
    max_seconds: int

    @property
    def name(self) -> str:
        return self.arn.rsplit("/", 1)[-1]


@dataclass(frozen=True, slots=True)
class AwsAccount:
    """One account's share."""

    account: str
    provider: Document  # CreateOpenIDConnectProvider
    roles: tuple[AwsRole, ...]
    revoke: AwsRole | None


def aws(policy: Policy, side: AwsSide) -> tuple[AwsAccount, ...]:
    """Everything that this policy needs, account by account.

    Raises Misconfigured for a role that cannot be written down, or whose trust policy IAM would not take.
    """
    roles = aws_roles(policy, side.upstream)
    accounts = sorted({_account(arn) for arn in roles})
    return tuple(_of_account(account, {a: s for a, s in roles.items() if _account(a) == account}, side) for account in accounts)


def _of_account(account: tuple[str, str], roles: Roles, side: AwsSide) -> AwsAccount:
    partition, number = account
    made = tuple(
        AwsRole(
            arn=arn,
            trust=job_trust(arn, served, side),
            permissions=_permissions(served),
            max_seconds=min(max(_SHORTEST, int(max(_wanted(one) for one in served))), _LONGEST),
        )
        for arn, served in roles.items()
    )
    revoke = None
    if side.revoke_role:
        revoke = AwsRole(
            arn=f"arn:{partition}:iam::{number}:role/{side.revoke_role}",
            trust=_statement_alone(_admission("BrokerRevokes", account, side, [MAINTENANCE_SUBJECT], _ACTIONS[:1])),
            permissions=_statement_alone(
                {
                    "Sid": "WriteDenyStatements",
                    "Effect": "Allow",
                    "Action": ["iam:GetRolePolicy", "iam:ListRolePolicies", "iam:PutRolePolicy", "iam:DeleteRolePolicy"],
                    "Resource": sorted(roles),
                }
            ),
            max_seconds=_SHORTEST,
        )
    provider = {"Url": side.issuer_url, "ClientIDList": [side.audience]}
    return AwsAccount(number, provider, made, revoke)


def job_trust(arn: str, served: tuple[Served, ...], side: AwsSide) -> Document:
    """Who may be this role: the broker's word for these subjects, with the tags that say the same."""
    protected = fits_one_role(arn, served)
    exact = sorted({s for one in served for s in one.subjects if not s.endswith("*")})
    wide = sorted({s for one in served for s in one.subjects if s.endswith("*")})
    environments = sorted({one.rule.name for one in served})
    tags = {"aws:RequestTag/environment": environments, "aws:RequestTag/ref_protected": sorted(protected)}
    names = sorted({f"{SESSIONS[one.rule.profile]}*" for one in served})
    statements = []
    if exact:
        statements.append(_admission("BrokerMintsForAJob", _account(arn), side, exact, _ACTIONS, tags, names))
    if wide:
        statements.append(_admission("BrokerMintsForANamespace", _account(arn), side, wide, _ACTIONS, tags, names, like=True))
    document = {"Version": "2012-10-17", "Statement": statements}
    if len(json.dumps(document, separators=(",", ":"))) > _MAX_TRUST:
        raise Misconfigured(
            Code.CONFIG_INVALID,
            f"the trust policy of {arn} would be longer than IAM's {_MAX_TRUST} characters: {len(exact)} subjects; "
            "give groups of projects roles of their own, as in role/etl-{project_id}",
        )
    return document


def _admission(
    sid: str,
    account: tuple[str, str],
    side: AwsSide,
    subjects: list[str],
    actions: list[str],
    tags: Mapping[str, list[str]] | None = None,
    names: Sequence[str] = (),
    *,
    like: bool = False,
) -> dict[str, Any]:
    equals: dict[str, Any] = {f"{side.host}:aud": side.audience, **(tags or {})}
    patterns: dict[str, Any] = {f"{side.host}:sub": subjects} if like else {}
    if not like:
        equals[f"{side.host}:sub"] = subjects
    condition: dict[str, Any] = {"StringEquals": equals}
    if tags:
        patterns["sts:RoleSessionName"] = names[0] if len(names) == 1 else list(names)
        # A ceiling beside keys that are required: alone it would be true of no tags at all.
        condition["ForAllValues:StringEquals"] = {"aws:TagKeys": list(_TAGS)}
    if patterns:
        condition["StringLike"] = patterns
    return {
        "Sid": sid,
        "Effect": "Allow",
        "Principal": {"Federated": f"arn:{account[0]}:iam::{account[1]}:oidc-provider/{side.host}"},
        "Action": actions,
        "Condition": condition,
    }


def _permissions(served: tuple[Served, ...]) -> Document:
    """What the grants' session policies allow, and never a way to more. Without one the rights are the owner's to write."""
    statements: list[Any] = []
    for one in served:
        target = one.grant.target
        assert isinstance(target, AwsGrant)
        if target.rds is not None and target.session_policy is None:
            connect = _filled(_connect(target, target.rds), one.rule.name)
            statements += [connect] if connect not in statements else []
        if target.session_policy is not None:
            whole = _filled(json.loads(target.session_policy), one.rule.name)
            more = whole["Statement"] if isinstance(whole["Statement"], list) else [whole["Statement"]]
            statements += [statement for statement in more if statement not in statements]
    return {"Version": "2012-10-17", "Statement": [*statements, _ESCALATION]}


def _connect(target: AwsGrant, database: Rds) -> dict[str, Any]:
    """The right to log in as that user. No policy knows a database's resource id, so it is of every one in account and region."""
    partition, account = _account(target.role_arn)
    region = target.region or region_in(database.host) or "*"
    resource = f"arn:{partition}:rds-db:{region}:{account}:dbuser:*/{database.user}"
    return {"Effect": "Allow", "Action": "rds-db:connect", "Resource": resource}


def _filled(value: Any, environment: str) -> Any:
    if isinstance(value, str):
        values = {
            "environment": environment,
            "project_id": "${aws:PrincipalTag/project_id}",
            "job_id": "${aws:PrincipalTag/job_id}",
        }
        return filled(value, values, iam=True)
    if isinstance(value, list):
        return [_filled(element, environment) for element in value]
    if isinstance(value, dict):
        return {key: _filled(element, environment) for key, element in value.items()}
    return value


def _wanted(one: Served) -> float:
    """How long a session of this grant may be asked for."""
    target = one.grant.target
    assert isinstance(target, AwsGrant)
    return min(target.ttl, longest((one,))).total_seconds()


def _statement_alone(statement: Mapping[str, Any]) -> Document:
    return {"Version": "2012-10-17", "Statement": [statement]}


def _account(arn: str) -> tuple[str, str]:
    """Partition and account."""
    parts = arn.split(":")
    return parts[1], parts[4]


# --- files ------------------------------------------------------------------------------------------------------------


def files(accounts: tuple[AwsAccount, ...]) -> dict[str, str]:
    """File name -> text; a folder for each account."""
    out: dict[str, str] = {}
    for account in accounts:
        folder = f"{account.account}/"
        out[folder + "provider.json"] = _json(account.provider)
        for role in _every(account):
            out[f"{folder}{role.name}.trust.json"] = _json(role.trust)
            out[f"{folder}{role.name}.permissions.json"] = _json(role.permissions)
        out[folder + "credbroker.tf"] = _terraform(account)
    return out


def _every(account: AwsAccount) -> tuple[AwsRole, ...]:
    return (*account.roles, *([account.revoke] if account.revoke else []))


def _terraform(account: AwsAccount) -> str:
    ids = json.dumps(account.provider["ClientIDList"])
    provider = f'  url            = "{account.provider["Url"]}"\n  client_id_list = {ids}\n'
    blocks = [f'resource "aws_iam_openid_connect_provider" "credbroker" {{\n{provider}}}\n']
    for role in _every(account):
        label = "".join(c if c.isalnum() else "_" for c in role.name)
        path = role.arn.split(":role", 1)[1].removesuffix(role.name)
        blocks.append(
            f'resource "aws_iam_role" "{label}" {{\n  name                 = "{role.name}"\n  path                 = "{path}"\n'
            f'  assume_role_policy   = file("${{path.module}}/{role.name}.trust.json")\n'
            f"  max_session_duration = {role.max_seconds}\n}}\n"
        )
        blocks.append(
            f'resource "aws_iam_role_policy" "{label}" {{\n  name   = "credbroker"\n  role   = aws_iam_role.{label}.id\n'
            f'  policy = file("${{path.module}}/{role.name}.permissions.json")\n}}\n'
        )
    return "\n".join(blocks)


def _json(value: object) -> str:
    return json.dumps(value, indent=2) + "\n"


# --- without the broker -----------------------------------------------------------------------------------------------


def stop(policy: Policy, side: AwsSide) -> list[str]:
    """Commands that end everything here: sessions that there are lose all rights, and no new one is made."""
    lines = []
    deny = (
        '{"Version":"2012-10-17","Statement":[{"Effect":"Deny","Action":"*","Resource":"*",'
        '"Condition":{"DateLessThan":{"aws:TokenIssueTime":"$NOW"}}}]}'
    )
    for account in aws(policy, side):
        provider = f"arn:{account.roles[0].arn.split(':')[1]}:iam::{account.account}:oidc-provider/{side.host}"
        lines.append(f"aws iam delete-open-id-connect-provider --open-id-connect-provider-arn {provider}")
        lines.append('NOW="$(date -u +%Y-%m-%dT%H:%M:%SZ)"')
        quoted = deny.replace('"', '\\"')
        lines += [
            f'aws iam put-role-policy --role-name {role.name} --policy-name AWSRevokeOlderSessions --policy-document "{quoted}"'
            for role in _every(account)
        ]
    return lines
