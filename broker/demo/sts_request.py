"""A request to the demo's STS, from form fields to a value whose every limit holds; and what STS says when one does not.

Written from the STS service model (shapes, lengths, patterns) and `reference/aws.md` 1.2, not from the client in `upstreams/`.
"""

import json
import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from urllib.parse import parse_qsl

VERSION = "2011-06-15"
_WORD = re.compile(r"[\w+=,.@-]*", re.ASCII)
_EXTERNAL = re.compile(r"[\w+=,.@:/-]*", re.ASCII)
_DOCUMENT = re.compile(r"[\t\n\r\u0020-\u00ff]+")
_ROLE = re.compile(r"arn:aws:iam::(\d{12}):role/[\w+=,.@/-]{1,512}", re.ASCII)


class StsError(Exception):
    """What STS answers instead of a credential: code and status as on the wire."""

    def __init__(self, code: str, message: str, status: int = 400) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.status = status


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """One AssumeRole or AssumeRoleWithWebIdentity whose parameters are well formed. Nothing is proven by it."""

    action: str
    role_arn: str
    session_name: str
    seconds: int
    policy: str | None
    policy_arns: tuple[str, ...]
    # AssumeRole; with a web identity these are claims of the token instead
    tags: Mapping[str, str]
    transitive: tuple[str, ...]
    source_identity: str | None
    external_id: str | None
    # AssumeRoleWithWebIdentity
    token: str


_COMMON = frozenset({"Action", "Version", "RoleArn", "RoleSessionName", "DurationSeconds", "Policy"})
_SIGNED = frozenset({"SourceIdentity", "ExternalId"})


def read_fields(body: bytes) -> dict[str, str]:
    """The form of an action that there is. Raises StsError: MissingAction, InvalidAction, MalformedQueryString."""
    try:
        pairs = parse_qsl(body.decode("utf-8"), keep_blank_values=True, strict_parsing=True)
    except ValueError:
        raise StsError("MalformedQueryString", "The query string contains a syntax error", 404) from None
    fields = dict(pairs)
    if len(fields) != len(pairs):
        raise StsError("MalformedQueryString", "A parameter was given twice", 404)
    action = fields.get("Action", "")
    if not action:
        raise StsError("MissingAction", "Missing Action")
    if action not in ("AssumeRole", "AssumeRoleWithWebIdentity") or fields.get("Version") != VERSION:
        raise StsError("InvalidAction", f"Could not find operation {action} for version {fields.get('Version')}")
    return fields


def read_request(fields: Mapping[str, str]) -> Wanted:
    """Raises StsError: ValidationError, MalformedPolicyDocument, PackedPolicyTooLarge, InvalidParameterValue."""
    action = fields["Action"]
    tags = _members(fields, "Tags", ("Key", "Value"))
    arns = tuple(arn for (arn,) in _members(fields, "PolicyArns", ("arn",)))
    transitive = tuple(key for (key,) in _members(fields, "TransitiveTagKeys", ("",)))
    signed = action == "AssumeRole"
    if not signed and (tags or transitive or _SIGNED & set(fields)):
        raise StsError("ValidationError", "AssumeRoleWithWebIdentity takes tags and source identity from the token alone")
    known = _COMMON | (_SIGNED if signed else {"WebIdentityToken"})
    odd = [name for name in fields if name not in known and not name.startswith(("Tags.", "PolicyArns.", "TransitiveTagKeys."))]
    if odd:
        raise StsError("ValidationError", f"unknown parameter {odd[0]}")

    role_arn = _text(fields, "RoleArn", 20, 2048)
    role = _ROLE.fullmatch(role_arn)
    if role is None:
        raise StsError("ValidationError", f"{role_arn} is invalid")
    policy = fields.get("Policy")
    if policy is not None:
        _check_policy(policy)
    _check_policy_arns(arns, role[1], policy)
    tag_map = check_tags(tags, transitive)
    source_identity = check_source_identity(fields["SourceIdentity"]) if "SourceIdentity" in fields else None
    external = _text(fields, "ExternalId", 2, 1224, _EXTERNAL) if "ExternalId" in fields else None
    return Wanted(
        action=action,
        role_arn=role_arn,
        session_name=_text(fields, "RoleSessionName", 2, 64, _WORD),
        seconds=_seconds(fields.get("DurationSeconds", "3600")),
        policy=policy,
        policy_arns=arns,
        tags=tag_map,
        transitive=transitive,
        source_identity=source_identity,
        external_id=external,
        token="" if signed else _text(fields, "WebIdentityToken", 4, 20_000, shown=False),
    )


def check_tags(tags: Sequence[tuple[str, ...]], transitive: Sequence[str]) -> dict[str, str]:
    """Session tags as one map. Raises StsError for more than 50, a key or value out of bounds, a key given twice."""
    if len(tags) > 50 or len(transitive) > 50:  # noqa: PLR2004 - the model's own bound
        raise StsError("ValidationError", "Member must have length less than or equal to 50")
    for key, value in tags:
        if not 1 <= len(key) <= 128 or not _tag_text(key) or key.lower().startswith("aws:"):  # noqa: PLR2004 - as above
            raise StsError("ValidationError", f"tag key {key!r} failed to satisfy constraint")
        if len(value) > 256 or not _tag_text(value):  # noqa: PLR2004 - as above
            raise StsError("ValidationError", f"value of tag {key!r} failed to satisfy constraint")
    found = dict((key, value) for key, value in tags)  # noqa: C402 - the pairs are typed as tuples of any length
    if len({key.lower() for key in found}) != len(tags):
        raise StsError("InvalidParameterValue", "Duplicate tag keys found. Please note that Tag keys are case insensitive.")
    if not set(transitive) <= set(found):
        raise StsError("InvalidParameterValue", "One or more of the specified transitive tag keys is not a tag of the request")
    return found


def check_source_identity(value: str) -> str:
    if not 2 <= len(value) <= 64 or not _WORD.fullmatch(value):  # noqa: PLR2004 - the model's own bounds
        raise StsError("ValidationError", f"Value '{value}' at 'sourceIdentity' failed to satisfy constraint")
    return value


def _text(
    fields: Mapping[str, str], name: str, least: int, most: int, pattern: re.Pattern[str] | None = None, *, shown: bool = True
) -> str:
    value = fields.get(name)
    where = name[0].lower() + name[1:]
    if value is None:
        raise StsError("ValidationError", f"Value null at '{where}' failed to satisfy constraint: Member must not be null")
    if not least <= len(value) <= most or (pattern and not pattern.fullmatch(value)):
        # STS repeats the value, and so does this; a token's it shows as asterisks (the model marks it sensitive).
        said = value if shown else "***"
        raise StsError(
            "ValidationError", f"1 validation error detected: Value '{said}' at '{where}' failed to satisfy constraint"
        )
    return value


def _seconds(value: str) -> int:
    if not re.fullmatch(r"[0-9]{1,9}", value) or not 900 <= int(value) <= 43200:  # noqa: PLR2004 - the model's own bounds
        raise StsError("ValidationError", f"Value '{value}' at 'durationSeconds' failed to satisfy constraint: 900 to 43200")
    return int(value)


def _check_policy(policy: str) -> None:
    if not 1 <= len(policy) <= 2048 or not _DOCUMENT.fullmatch(policy):  # noqa: PLR2004 - the model's own bound
        raise StsError("ValidationError", "Value at 'policy' failed to satisfy constraint: Member must have length … 2048")
    try:
        document = json.loads(policy)
    except ValueError:
        raise StsError("MalformedPolicyDocument", "This policy contains invalid Json") from None
    statements = document.get("Statement") if isinstance(document, dict) else None
    for statement in statements if isinstance(statements, list) and statements else [statements]:
        if not isinstance(statement, dict) or statement.get("Effect") not in ("Allow", "Deny"):
            raise StsError("MalformedPolicyDocument", "Syntax errors in policy.")
        if "Principal" in statement or not (statement.keys() & {"Action", "NotAction"}):
            raise StsError("MalformedPolicyDocument", "Syntax errors in policy.")


def _check_policy_arns(arns: Sequence[str], account: str, policy: str | None) -> None:
    if len(arns) > 10:  # noqa: PLR2004 - the model's own bound
        raise StsError("ValidationError", "Member must have length less than or equal to 10 at 'policyArns'")
    for arn in arns:
        if not re.fullmatch(rf"arn:aws:iam::({account}|aws):policy/[\w+=,.@/-]+", arn, re.ASCII):
            raise StsError("ValidationError", f"Invalid ARN in PolicyArns: {arn}")
    if len(policy or "") + sum(map(len, arns)) > 2048:  # noqa: PLR2004 - the documented bound of both together
        raise StsError("PackedPolicyTooLarge", "Session policies are larger than 2048 characters in plain text")


def _members(fields: Mapping[str, str], name: str, parts: Sequence[str]) -> list[tuple[str, ...]]:
    """`Name.member.1.Part`, numbered from 1 without a gap (the query protocol's lists)."""
    found: list[tuple[str, ...]] = []
    used: set[str] = set()
    while True:
        keys = [f"{name}.member.{len(found) + 1}" + (f".{part}" if part else "") for part in parts]
        if not all(key in fields for key in keys):
            break
        used.update(keys)
        found.append(tuple(fields[key] for key in keys))
    if {key for key in fields if key.startswith(name + ".")} != used:
        raise StsError("ValidationError", f"{name} is not a whole list")
    return found


def _tag_text(text: str) -> bool:
    return all(c in "_.:/=+-@" or unicodedata.category(c)[0] in "LZN" for c in text)
