"""What is allowed in a policy and still deserves a second look. A policy with warnings is taken; each says what it risks."""

from collections.abc import Iterator, Mapping
from difflib import get_close_matches

from broker.identity.profile import Assurance
from broker.identity.profiles import PROFILES
from broker.policy.glob import Glob
from broker.policy.model import Condition, Environment, Grant, Policy
from broker.policy.overlap import TooComplexError, can_meet, find_job
from broker.policy.rds_host import region_in
from broker.policy.target import AwsGrant, VaultGrant
from broker.toml_lines import KeyPath
from broker.toml_source import Place, Problem

_MIN_KV_SEGMENTS = 2

_Remark = tuple[Place, KeyPath, str, str]


def warnings(policy: Policy) -> tuple[Problem, ...]:
    """Everything worth a second look, in the order of files and lines."""
    remarks = [remark for environment in policy.environments for remark in _of_environment(policy, environment)]
    unreachable = {environment.order for environment in policy.environments if not _reachable(environment)}
    remarks += [remark for grant in policy.grants for remark in _of_grant(policy, grant, unreachable)]
    remarks += _of_guards(policy)
    return tuple(sorted({policy.problem(*remark) for remark in remarks}))


def shared(policy: Policy) -> Mapping[str, tuple[str, ...]]:
    """Who reaches each shared grant: `environment (file: pin …)`, every one of them."""
    return {
        grant.name: tuple(
            f"{e.name} ({e.file}: {e.pinned_by} {', '.join(sorted(e.pinned_to))})" for e in policy.reached_by(grant)
        )
        for grant in policy.grants
        if grant.shared
    }


def _reachable(environment: Environment) -> bool:
    try:
        return find_job([environment]) is not None
    except TooComplexError:
        return True  # not known to be unreachable


def _of_environment(policy: Policy, environment: Environment) -> Iterator[_Remark]:
    name, here = environment.name, environment.place
    if not _reachable(environment):
        yield here, (), f"no job can ever be in environment {name!r}: its conditions exclude each other", "loosen one of them"
    if not policy.granted(environment):
        yield here, (), f"environment {name!r} has no grant", f"name {name!r} in the `environments` of a grant"
    if environment.allow_forks:
        what = f"environment {name!r} takes merge requests of forks: whoever can fork the project runs code in it"
        yield here, ("allow_forks",), what, "give it nothing that a stranger may not have"
        if any(condition.clause == "pipeline-source" for condition in environment.conditions):
            what = "allow_forks changes nothing: an environment that does not list its sources takes no merge request"
            yield here, ("allow_forks",), what, f"list them in when.{PROFILES[environment.profile].source}"
    yield from _rests_on(environment)
    for condition in environment.conditions:
        if condition.clause in ("when", "unless") and condition.place is not None:
            place = condition.place
            yield from ((place, (), what, instead) for what, instead in _of_condition(environment, condition))


def _rests_on(environment: Environment) -> Iterator[_Remark]:
    """What an environment rests on: a name that anybody can write into `.gitlab-ci.yml` is not enough."""
    profile = PROFILES[environment.profile]
    here = environment.place
    asked = {c.claim: c for c in environment.conditions if c.clause in ("when", "file")}
    guarded = "ref_protected" in asked and True in asked["ref_protected"].exact
    if profile.refs and not profile.refs & asked.keys():
        what = f"environment {environment.name!r} does not look at the ref: a job on any branch gets it"
        yield here, (), what, f"add when.{'ref_path' if 'ref_path' in profile.refs else 'ref'} or when.ref_protected"
    if "ref" in asked and "ref_path" in profile.refs and not {"ref_type", "ref_path"} & asked.keys():
        what = "a branch and a tag of the same name have the same `ref`"
        yield asked["ref"].place or here, (), what, "use when.ref_path, as in refs/heads/main"
    for claim, condition in asked.items() if profile.refs else ():
        if profile.claims[claim].assurance is Assurance.CHOSEN and not guarded:
            what = f"{claim} is what the writer of the pipeline says it is, and the ref need not be protected"
            yield condition.place or here, (), what, "add when.ref_protected = true"
    if environment.pinned_by != profile.stable_id:
        group = f"{environment.pinned_by} {', '.join(sorted(environment.pinned_to))}"
        what = f"environment {environment.name!r} takes every project of {group}, later ones too"
        yield here, (), what, f"pin when.{profile.stable_id} if it is meant for some"


def _of_guards(policy: Policy) -> Iterator[_Remark]:
    used = {c.place.path[1] for e in policy.environments for c in e.conditions if c.guard and c.place is not None}
    for file, source in policy.sources.items():
        for name in source.data.get("guards", {}):
            if name not in used:
                yield (
                    Place(file, ("guards", name)),
                    (),
                    f"guard {name!r} guards nothing",
                    "name it in the `use` of an environment",
                )


def _of_condition(environment: Environment, condition: Condition) -> Iterator[tuple[str, str]]:
    for glob in condition.globs:
        yield from _of_glob(glob, condition)
    if condition.negated and not condition.guard:  # a guard is for many: here it may well be the second lock
        asked = [c for c in environment.conditions if c.claim == condition.claim and not c.negated]
        if asked and not _keeps_out(asked, condition, environment.profile):
            yield f"unless.{condition.claim} keeps nobody out: when.{condition.claim} takes nothing of it", "leave it out"
    profile = PROFILES[environment.profile]
    if profile.claims[condition.claim].personal:
        instead = "use actor_id" if condition.claim == "actor" else "use user_id"
        yield f"{condition.claim} names a person, who can change it, and a policy is kept with the log", instead
    if condition.claim == profile.source:
        for value in sorted(map(str, condition.exact - profile.open_sources)):
            # Strict: `parent_pipeline` is no slip of `pipeline`.
            for meant in get_close_matches(value, sorted(profile.open_sources), n=1, cutoff=0.85):
                yield f"nothing is known to start a pipeline as {value!r}", f"did you mean {meant!r}?"


def _of_glob(glob: Glob, condition: Condition) -> Iterator[tuple[str, str]]:
    head = glob.text.partition("*")[0]
    if not head:
        yield f"{glob.text!r} starts with a wildcard", "say what the value starts with"
    elif not head.endswith("/") and not condition.negated:
        yield f"{glob.text!r} takes every name that starts like it, {head + '-evil'!r} too", "let the wildcard follow a slash"
    elif head == "refs/" and not condition.negated:
        yield f"{glob.text!r} takes tags as well as branches", "write refs/heads/… or refs/tags/…"
    for value in sorted(str(value) for value in condition.exact if glob.matches(str(value))):
        yield f"{value!r} is hidden: {glob.text!r} matches it already", "leave one of them out"


def _keeps_out(asked: list[Condition], unless: Condition, profile: str) -> bool:
    try:
        return can_meet(asked, unless, profile)
    except TooComplexError:
        return True


def _of_grant(policy: Policy, grant: Grant, unreachable: set[int]) -> Iterator[_Remark]:
    reached = policy.reached_by(grant)
    if all(environment.order in unreachable for environment in reached):
        what = f"grant {grant.name!r} cannot be had: no job can be in any of its environments"
        yield grant.place, (), what, "name another environment"
    if grant.shared and len({environment.file for environment in reached}) == 1:
        what = f"grant {grant.name!r} is shared and only {reached[0].file} has an environment that it names"
        yield grant.place, ("shared",), what, "leave `shared` out until another file needs it"
    if isinstance(grant.target, AwsGrant):
        yield from ((grant.place, ("aws", key), what, instead) for key, what, instead in _of_rds(grant.target))
    if isinstance(grant.target, VaultGrant) and grant.target.engine == "kv2":
        segments = grant.target.path.split("/")
        if len(segments) > _MIN_KV_SEGMENTS and segments[1] == "data":
            written = "/".join([segments[0], *segments[2:]])
            what = "the path of a kv2 secret is written without data/, which is added"
            yield grant.place, ("vault", "path"), what, f"write {written}"


def _of_rds(target: AwsGrant) -> Iterator[tuple[str, str, str]]:
    """What a database would answer with "access denied", and no more."""
    if target.rds is None:
        return
    region = region_in(target.rds.host)
    if region is None:
        what = f"{target.rds.host!r} is not named as RDS names its endpoints, and a token for another name is refused"
        yield "rds", what, "write the endpoint itself, as in db.example.eu-central-1.rds.amazonaws.com"
    elif target.region not in (None, region):
        yield "region", f"the database is in {region}, and a token signed for {target.region} is refused there", "leave it out"
    if target.session_policy is not None and not target.policy_arns and "rds-db:" not in target.session_policy.lower():
        yield "session_policy", "the session policy does not allow rds-db:connect, so no token is good", "allow it there"
