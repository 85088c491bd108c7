"""Grants with a job's values in them. A value that does not fit its target is refused, never changed to fit.

Changing it (`/` to `_`, as configure-aws-credentials does) would give two jobs the same role, path or tag. This is the only
place that makes a target, so every limit of one is checked here, at load with short ids and for each job with its own.
Sources: AWS STS and IAM API references as in aws.md 1.2; Vault API paths.
"""

import json
import re
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from broker.errors import Code, Refused
from broker.identity.claims import JobIdentity
from broker.policy.model import Grant
from broker.policy.placeholders import MisfitError, Values, filled, has_placeholder
from broker.policy.target import AwsGrant, AwsTarget, Rds, Target, VaultGrant, VaultTarget

# Inside the character set of every target: role names, policy variables, Vault roles and path segments. Without `*`, `?`, `$`,
# braces, quotes and slashes no value can mean more than itself in any of them.
_VALUE = re.compile(r"[A-Za-z0-9_-](?:[A-Za-z0-9_.-]*[A-Za-z0-9_-])?", re.ASCII)

# A name with its path: at most 512 characters.
_ROLE_ARN = re.compile(r"arn:aws(?:-[a-z]+)*:iam::([0-9]{12}):role/(?=.{1,512}\Z)(?:[\w+=,.@-]+/)*[\w+=,.@-]{1,64}", re.ASCII)
_POLICY_ARN = re.compile(
    r"arn:aws(?:-[a-z]+)*:iam::([0-9]{12}|aws):policy/(?=.{1,512}\Z)(?:[\w+=,.@-]+/)*[\w+=,.@-]{1,128}", re.ASCII
)
_MAX_POLICY_ARNS = 10
_MAX_SESSION_POLICY = 2048  # characters, of the inline policy and the managed policies' ARNs together
_EXTERNAL_ID = re.compile(r"[\w+=,.@:/-]{2,1224}", re.ASCII)
REGION = re.compile(r"[a-z]{2}(?:-[a-z]+)+-[0-9]{1,2}")
# In lower case: the host is signed as it is written, and the database knows its own name so.
_HOST = re.compile(r"(?=.{1,253}\Z)(?:[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?\.)+[a-z](?:[a-z0-9-]{0,61}[a-z0-9])?", re.ASCII)
_DATABASE_USER = re.compile(r"[A-Za-z0-9_.-]{1,63}", re.ASCII)

_VAULT_ROLE = re.compile(r"\w(?:[\w.-]{0,126}\w)?", re.ASCII)
_SEGMENT = re.compile(r"[A-Za-z0-9_.@+=:,~-]+", re.ASCII)
_MAX_PATH = 512


class Unfit(NamedTuple):
    """A key of a grant that cannot become what its upstream takes."""

    key: str
    what: str


def fill(grant: Grant, environment: str, identity: JobIdentity, subpath: str) -> Target:
    """What exactly is asked of the upstream for this job.

    Raises Refused(template_value) when one of the job's values does not fit, Refused(path_invalid) for a subpath that is not
    plain, and Refused(subpath_denied) for one that the grant does not admit.
    """
    values = _OfJob({"environment": environment, "project_id": identity.project_id, "job_id": identity.job_id})
    if subpath:
        _refuse_odd_subpath(subpath)
    try:
        if isinstance(grant.target, AwsGrant):
            if subpath:
                raise _no_subpath(grant)
            return _aws(grant.target, values)
        return _vault(grant, grant.target, values, subpath)
    except MisfitError as misfit:
        raise Refused(
            Code.TEMPLATE_VALUE,
            f"grant {grant.name!r} cannot be filled with this job's values; the policy's owner has to look at it",
            detail=f"grant {grant.name}: {misfit}",
        ) from None


class _OfJob(dict[str, str]):
    """The values that a job brings, each looked at when a template asks for it: not every issuer's ids fit a role or path."""

    def __getitem__(self, name: str) -> str:
        value = super().__getitem__(name)
        if not _VALUE.fullmatch(value):
            raise Refused(
                Code.TEMPLATE_VALUE,
                f"{name} is {value[:80]!r}, which cannot stand in a role or path; only letters, digits, '_', '-' and '.' can",
            )
        return value


def try_aws(grant: AwsGrant, environments: Sequence[str]) -> list[Unfit]:
    """Every key that does not become what AWS takes, tried in each environment with short ids."""
    return _tried(environments, lambda values: _aws_parts(grant, values))


def try_vault(grant: VaultGrant, environments: Sequence[str]) -> list[Unfit]:
    """Every key that does not become what Vault takes, tried in each environment with short ids."""
    return _tried(environments, lambda values: _vault_parts(grant, values))


def wildcard(path: str) -> str:
    """`"/*"`, `"/**"` or `""`: what a Vault path ends in."""
    return next((ending for ending in ("/**", "/*") if path.endswith(ending)), "")


_Parts = list[tuple[str, Callable[[], object]]]


def _tried(environments: Sequence[str], parts: Callable[[Values], _Parts]) -> list[Unfit]:
    found: dict[Unfit, None] = {}
    for environment in environments or ("environment",):
        for key, make in parts({"environment": environment, "project_id": "1", "job_id": "1"}):
            found |= dict.fromkeys(_unfit(key, make))
    return list(found)


def _unfit(key: str, make: Callable[[], object]) -> list[Unfit]:
    try:
        make()
    except MisfitError as misfit:
        return [Unfit(key, str(misfit))]
    return []


# --- AWS --------------------------------------------------------------------------------------------------------------


def _aws(grant: AwsGrant, values: Values) -> AwsTarget:
    return AwsTarget(
        role_arn=_role_arn(grant, values),
        session_policy=_session_policy(grant, values),
        policy_arns=_policy_arns(grant, values),
        external_id=_external_id(grant, values),
        region=_region(grant),
        ttl=grant.ttl,
        upstream=grant.upstream,
        rds=_rds(grant, values),
    )


def _aws_parts(grant: AwsGrant, values: Values) -> _Parts:
    return [
        ("role_arn", lambda: _role_arn(grant, values)),
        ("session_policy", lambda: _session_policy(grant, values)),
        ("policy_arns", lambda: _policy_arns(grant, values)),
        ("external_id", lambda: _external_id(grant, values)),
        ("region", lambda: _region(grant)),
        ("rds", lambda: _rds(grant, values)),
    ]


def _role_arn(grant: AwsGrant, values: Values) -> str:
    arn = filled(grant.role_arn, values)
    if not _ROLE_ARN.fullmatch(arn):
        raise MisfitError(f"{arn!r} is not the ARN of a role (arn:aws:iam::<12 digits>:role/<name of at most 64 characters>)")
    return arn


def _policy_arns(grant: AwsGrant, values: Values) -> tuple[str, ...]:
    arns = tuple(filled(arn, values) for arn in grant.policy_arns)
    if len(arns) > _MAX_POLICY_ARNS:
        raise MisfitError(f"{len(arns)} session policies are named, STS takes at most {_MAX_POLICY_ARNS}")
    role = _ROLE_ARN.fullmatch(filled(grant.role_arn, values))
    for arn in arns:
        found = _POLICY_ARN.fullmatch(arn)
        if not found:
            raise MisfitError(f"{arn!r} is not the ARN of a managed policy (arn:aws:iam::<account>:policy/<name>)")
        if role and found[1] not in (role[1], "aws"):
            raise MisfitError(f"{arn!r} is in another account than the role, and STS takes only the role's own")
    return arns


def _external_id(grant: AwsGrant, values: Values) -> str | None:
    if grant.external_id is None:
        return None
    value = filled(grant.external_id, values)
    if not _EXTERNAL_ID.fullmatch(value):
        raise MisfitError(f"{value!r} is no external id (2 to 1224 of letters, digits and +=,.@:/-_)")
    return value


def _region(grant: AwsGrant) -> str | None:
    if grant.region is not None and not REGION.fullmatch(grant.region):
        raise MisfitError(f"{grant.region!r} is not a region such as eu-central-1")
    return grant.region


def _rds(grant: AwsGrant, values: Values) -> Rds | None:
    if grant.rds is None:
        return None
    if not _HOST.fullmatch(grant.rds.host):
        raise MisfitError(f"host {grant.rds.host!r} is not a DNS name such as db.example.eu-central-1.rds.amazonaws.com")
    user = filled(grant.rds.user, values)
    if not _DATABASE_USER.fullmatch(user):
        raise MisfitError(f"user {user!r} is not a database user (1 to 63 of letters, digits, '_', '-' and '.')")
    return Rds(host=grant.rds.host, port=grant.rds.port, user=user)


def _session_policy(grant: AwsGrant, values: Values) -> str | None:
    """Decoded, filled text by text, encoded again: a value cannot leave the string that it stands in."""
    if grant.session_policy is None:
        return None
    try:
        document = json.loads(grant.session_policy, object_pairs_hook=_once, parse_constant=_no_constant)
        whole = _filled(document, values)
    except MisfitError:
        raise
    except (ValueError, RecursionError) as error:
        raise MisfitError(f"the file is not JSON: {error}") from None
    if not isinstance(whole, dict) or not whole.get("Statement"):
        raise MisfitError('the file is no IAM policy: it has no "Statement"')
    text = json.dumps(whole, separators=(",", ":"))  # ASCII: inside the set that STS takes
    arns = sum(len(filled(arn, values)) for arn in grant.policy_arns)
    if len(text) + arns > _MAX_SESSION_POLICY:
        raise MisfitError(f"filled, the session policies have {len(text) + arns} characters, STS takes {_MAX_SESSION_POLICY}")
    return text


def _filled(value: Any, values: Values) -> Any:
    if isinstance(value, str):
        return filled(value, values, iam=True)
    if isinstance(value, list):
        return [_filled(element, values) for element in value]
    if isinstance(value, dict):
        if odd := next((key for key in value if has_placeholder(key)), None):
            raise MisfitError(f"a placeholder in the member name {odd!r}; only values are filled")
        return {key: _filled(element, values) for key, element in value.items()}
    return value


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise MisfitError("a member stands twice in one object of the file")
    return members


def _no_constant(name: str) -> Any:
    raise MisfitError(f"{name} is not JSON")


# --- Vault ------------------------------------------------------------------------------------------------------------


def _vault(grant: Grant, target: VaultGrant, values: Values, subpath: str) -> VaultTarget:
    ending = wildcard(target.path)
    if not ending and subpath:
        raise _no_subpath(grant)
    if ending and not subpath:
        raise Refused(
            Code.SUBPATH_DENIED, f"grant {grant.name!r} is a folder; name what is wanted in it, as in {grant.name}/<name>"
        )
    if ending == "/*" and "/" in subpath:
        raise Refused(Code.SUBPATH_DENIED, f"grant {grant.name!r} admits one segment after its name, and this has several")
    path = _vault_path(target, values) + (f"/{subpath}" if subpath else "")
    return VaultTarget(role=_vault_role(target, values), path=path, engine=target.engine, upstream=target.upstream)


def _vault_parts(grant: VaultGrant, values: Values) -> _Parts:
    return [("role", lambda: _vault_role(grant, values)), ("path", lambda: _vault_path(grant, values))]


def _vault_role(grant: VaultGrant, values: Values) -> str:
    role = filled(grant.role, values)
    if not _VAULT_ROLE.fullmatch(role):
        raise MisfitError(f"{role!r} is not a role name (letters, digits, '_', '-' and '.')")
    return role


def _vault_path(grant: VaultGrant, values: Values) -> str:
    """Without its wildcard."""
    path = filled(grant.path.removesuffix(wildcard(grant.path)), values)
    if "*" in path:
        raise MisfitError(f"{grant.path!r} has a wildcard that is not its last segment; it ends in /* or /**, or has none")
    segments = path.split("/")
    if len(segments) == 1 or not all(map(_plain, segments)) or len(path) > _MAX_PATH:
        raise MisfitError(f"{path!r} is not a path from a mount on (plain segments between slashes, as in database/creds/etl)")
    return path


def _refuse_odd_subpath(subpath: str) -> None:
    if len(subpath) > _MAX_PATH or not all(map(_plain, subpath.split("/"))):
        raise Refused(
            Code.PATH_INVALID,
            "the path after the grant's name is not plain: segments of letters, digits and _.@+=:,~- between single slashes, "
            "none of them '.' or '..', nothing percent-encoded",
        )


def _plain(segment: str) -> bool:
    return _SEGMENT.fullmatch(segment) is not None and segment.strip(".") != ""


def _no_subpath(grant: Grant) -> Refused:
    return Refused(Code.SUBPATH_DENIED, f"grant {grant.name!r} is one credential and has nothing after its name")
