"""Every documented limit of an STS request, checked before the call: botocore checks neither lengths nor characters.

Sources: the STS service model that botocore ships, and `reference/aws.md` 1.2. A value that came from the job and does not fit is
Refused(template_value), never changed to fit: two jobs must not become one. A value that an operator wrote is
Misconfigured(upstream_config). Not checked here: the packed size of policy and tags, which only STS can compute.
"""

import json
import re
import unicodedata
from collections.abc import Mapping
from datetime import timedelta

from broker.errors import Code, Misconfigured, Refused
from broker.policy.model import AwsTarget
from broker.upstream import Order

SHORTEST = timedelta(minutes=15)
LONGEST = timedelta(hours=12)
TOKEN_CHARS = 20_000
POLICY_CHARS = 2048
POLICY_ARNS = 10
TAG_KEY_CHARS = 128
TAG_VALUE_CHARS = 256

_NAME = re.compile(r"[A-Za-z0-9_+=,.@-]{2,64}")
_ROLE_ARN = re.compile(r"arn:(aws[a-z-]*):iam::([0-9]{12}):role/([A-Za-z0-9_+=,.@/-]{1,512})")
_POLICY_ARN = re.compile(r"arn:aws[a-z-]*:iam::([0-9]{12}|aws):policy/[A-Za-z0-9_+=,.@/-]{1,512}")
_EXTERNAL_ID = re.compile(r"[A-Za-z0-9_+=,.@:/-]{2,1224}")
_REGION = re.compile(r"[a-z]{2}(-[a-z]+)+-[0-9]{1,2}")
_POLICY_TEXT = re.compile(r"[\t\n\r\u0020-\u00ff]+")


def session_seconds(wanted: timedelta, ttl: timedelta) -> int:
    """`DurationSeconds`: the shorter of what is wanted and what the grant gives, but no less than STS gives (900 s)."""
    return int(min(max(min(wanted, ttl), SHORTEST), LONGEST).total_seconds())


def session_tags(order: Order) -> dict[str, str]:
    """The six session tags of DESIGN 3.2, all transitive. The assertion carries the same when the broker is the issuer."""
    identity = order.identity
    return {
        "environment": order.environment,
        "grant": order.grant,
        "project_id": identity.project_id,
        "pipeline_id": identity.pipeline_id,
        "job_id": identity.job_id,
        "ref_protected": "true" if identity.ref_protected else "false",
    }


def account_of(role_arn: str) -> str:
    """The account that a checked role ARN names."""
    return role_arn.split(":")[4]


def check_target(target: AwsTarget, region: str) -> None:
    """The operator's side of a request. Raises Misconfigured(upstream_config) that names the setting."""
    role = _ROLE_ARN.fullmatch(target.role_arn)
    if role is None:
        raise _wrong(f"role_arn {target.role_arn!r} is not the ARN of an IAM role")
    if not _REGION.fullmatch(region):
        raise _wrong(f"region {region!r} is not the name of an AWS region")
    if target.ttl > LONGEST:
        raise _wrong("ttl is longer than the 12 hours that STS gives at most")
    if target.external_id is not None and not _EXTERNAL_ID.fullmatch(target.external_id):
        raise _wrong("external_id must have 2 to 1224 letters, digits or any of _+=,.@:/-")
    _check_policy_arns(target.policy_arns, account=role[2])
    if target.session_policy is not None:
        _check_policy(target.session_policy)
    plain = len(target.session_policy or "") + sum(map(len, target.policy_arns))
    if plain > POLICY_CHARS:
        raise _wrong(f"session_policy and policy_arns together have {plain} characters and STS takes {POLICY_CHARS}")


def check_job(session_name: str, source_identity: str, tags: Mapping[str, str]) -> None:
    """The job's side of a request. Raises Refused(template_value) that names what does not fit."""
    if not _NAME.fullmatch(session_name):
        raise _unfit("RoleSessionName", "2 to 64 letters, digits or any of _+=,.@-")
    if not _NAME.fullmatch(source_identity) or source_identity.startswith("aws:"):
        raise _unfit("SourceIdentity", "2 to 64 letters, digits or any of _+=,.@-")
    for key, value in tags.items():
        if len(value) > TAG_VALUE_CHARS or not all(map(_tag_character, value)):
            raise _unfit(f"session tag {key!r}", "at most 256 letters, digits, spaces or any of _.:/=+-@")


def check_assertion(assertion: str) -> None:
    """Raises Misconfigured: an assertion this long is made of names that an operator chose."""
    if len(assertion) > TOKEN_CHARS:
        raise _wrong(f"the broker's assertion has {len(assertion)} characters and STS takes {TOKEN_CHARS}")


def _check_policy_arns(arns: tuple[str, ...], *, account: str) -> None:
    if len(arns) > POLICY_ARNS:
        raise _wrong(f"policy_arns names {len(arns)} policies and STS takes {POLICY_ARNS}")
    for arn in arns:
        found = _POLICY_ARN.fullmatch(arn)
        if found is None:
            raise _wrong(f"policy_arns has {arn!r}, which is not the ARN of a managed policy")
        if found[1] not in (account, "aws"):
            raise _wrong(f"policy_arns has {arn!r}, which is in another account than the role")


def _check_policy(text: str) -> None:
    if not _POLICY_TEXT.fullmatch(text):
        raise _wrong("session_policy has a character outside U+0009, U+000A, U+000D and U+0020 to U+00FF")
    try:
        document = json.loads(text)
    except (ValueError, RecursionError):
        raise _wrong("session_policy is not JSON") from None
    if not isinstance(document, dict) or "Statement" not in document:
        raise _wrong("session_policy is not a policy document: it has no Statement")


def _tag_character(character: str) -> bool:
    # \p{L} letters, \p{Z} separators, \p{N} numbers, and eight more.
    return character in "_.:/=+-@" or unicodedata.category(character)[0] in "LZN"


def _wrong(what: str) -> Misconfigured:
    return Misconfigured(
        Code.UPSTREAM_CONFIG,
        "this grant cannot be issued as the broker's operators configured it; tell them the correlation id",
        detail=what,
    )


def _unfit(what: str, takes: str) -> Refused:
    return Refused(
        Code.TEMPLATE_VALUE,
        f"this job's ids do not fit into {what}, which takes {takes}; nothing is changed to make them fit",
    )
