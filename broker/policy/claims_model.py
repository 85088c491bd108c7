"""What a job's claims can be, as the proofs take it: one row a claim, presence apart from value.

A claim is absent or has a value; it is never absent where the profile requires it (a token without it is refused). Booleans are
true or false. Claims are independent of each other, but for the ties that are written here. What is said here is what the
broker itself checks (`identity.profiles`) or git and the issuer enforce; where that is in doubt the grammar is the wider one.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from types import MappingProxyType

from broker.identity.profile import Profile
from broker.identity.profiles import PROFILES
from broker.policy.automata import Grammar, Shape, Spelling
from broker.policy.glob import Glob, compile_glob

# `typed_claims` refuses no sign, so a name that nothing constrains may hold any but a control character.
_ANY = Grammar(signs=re.compile(r"[^\x00-\x1f\x7f-\x9f]"), empty=True)
_ID = Grammar(signs=re.compile(r"[0-9]"), zero=False)
# git check-ref-format: no control character, space, ~ ^ : ? * [ \, and what `dots` and `segments` say.
# Wider than git: `@{` and a segment that ends in `.lock` are let through.
_REF = Grammar(signs=re.compile(r"[^\x00-\x20\x7f~^:?*\[\\]"), segments=True, dots=False)
_PROJECT = Grammar(signs=re.compile(r"[A-Za-z0-9_./-]"), segments=True)
_SHA = Grammar(signs=re.compile(r"[0-9a-f]"))
_SAID = Grammar(signs=_ANY.signs)  # a token in which a claim that is always there is empty is refused


@dataclass(frozen=True, slots=True, kw_only=True)
class Spelled:
    """One claim is another one behind a prefix that a third one chooses: `ref_path` is `refs/heads/` and `ref`, for a branch.

    Without `rest`, what stands behind the prefix is no claim of its own.
    """

    whole: str
    rest: str = ""
    kind: str
    prefixes: Mapping[str, tuple[str, ...]]  # value of `kind` -> the prefixes that there are


@dataclass(frozen=True, slots=True, kw_only=True)
class ForkRule:
    """`Profile.is_fork` in words: `source`, which is never absent, is one of `proposals`. Where there is `own`: it differs from
    `pinned`; or it is absent and `source` is one of `proposals`.
    """

    own: str = ""
    pinned: str = ""
    source: str
    proposals: frozenset[str]
    alike: tuple[Glob, ...] = ()  # further proposals


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """The claims of one kind of issuer."""

    grammars: Mapping[str, Spelling]
    total: frozenset[str]  # never absent
    spelled: Spelled | None
    forks: ForkRule | None  # None: nothing of this issuer is a fork's
    twins: Mapping[str, str]  # claim -> the one, never absent, that it equals wherever it is there

    def grammar(self, claim: str) -> Spelling:
        return self.grammars.get(claim) or (_SAID if claim in self.total else _ANY)


_GITLAB_GRAMMARS: Mapping[str, Spelling] = MappingProxyType(
    {
        "project_id": _ID,
        "namespace_id": _ID,
        "job_project_id": _ID,
        "job_namespace_id": _ID,
        "pipeline_id": _ID,
        "job_id": _ID,
        "user_id": Grammar(signs=_ID.signs, zero=False, empty=True),  # "" when the pipeline has no user
        "project_path": _PROJECT,
        "namespace_path": _PROJECT,
        "job_project_path": _PROJECT,
        "job_namespace_path": _PROJECT,
        "groups_direct": _PROJECT,
        "ref": _REF,
        "ref_path": _REF,
        "ref_type": _ANY,
        "pipeline_source": _ANY,
        "environment": _ANY,
        "deployment_tier": _ANY,
        "environment_action": _ANY,
        "runner_environment": _ANY,
        "ci_config_ref_uri": _ANY,
        "sha": _SHA,
        "ci_config_sha": _SHA,
    }
)
_UUID = Shape(places=tuple(re.compile("-" if n in (8, 13, 18, 23) else "[0-9a-f]") for n in range(36)))
_LABEL = Grammar(signs=re.compile(r"[a-z0-9-]"))  # RFC 1123, and wider
_SUBDOMAIN = Grammar(signs=re.compile(r"[a-z0-9.-]"))
_GITHUB_GRAMMARS: Mapping[str, Spelling] = MappingProxyType(
    {
        "repository_id": _ID,
        "repository_owner_id": _ID,
        "enterprise_id": _ID,
        "actor_id": _ID,
        "run_id": _ID,
        "run_attempt": _ID,
        "check_run_id": _ID,
        "repository": _PROJECT,
        "ref": _REF,
        "sha": _SHA,
        "workflow_sha": _SHA,
        "job_workflow_sha": _SHA,
    }
)
_KUBERNETES_GRAMMARS: Mapping[str, Spelling] = MappingProxyType(
    {
        "/kubernetes.io/serviceaccount/uid": _UUID,
        "/kubernetes.io/serviceaccount/name": _SUBDOMAIN,
        "/kubernetes.io/namespace": _LABEL,
        "/kubernetes.io/pod/name": _SUBDOMAIN,
        "/kubernetes.io/pod/uid": _UUID,
        "/kubernetes.io/node/name": _SUBDOMAIN,
        "/kubernetes.io/node/uid": _UUID,
    }
)
_SPELLED = {
    "gitlab": Spelled(
        whole="ref_path",
        rest="ref",
        kind="ref_type",
        prefixes=MappingProxyType({"branch": ("refs/heads/",), "tag": ("refs/tags/",)}),
    ),
    # A pull request's ref is a branch to GitHub.
    "github": Spelled(
        whole="ref",
        kind="ref_type",
        prefixes=MappingProxyType({"branch": ("refs/heads/", "refs/pull/"), "tag": ("refs/tags/",)}),
    ),
}
_FORKS = {
    "gitlab": ForkRule(
        own="job_project_id",
        pinned="project_id",
        source="pipeline_source",
        proposals=frozenset({"merge_request_event", "external_pull_request_event"}),
    ),
    "github": ForkRule(
        source="event_name",
        proposals=frozenset({"workflow_run"}),
        alike=(compile_glob("pull_request**"),),
    ),
}
_TWINS: Mapping[str, Mapping[str, str]] = {"okta": MappingProxyType({"sub": "cid"})}  # a person's `sub` is left out
_GRAMMARS: Mapping[str, Mapping[str, Spelling]] = {
    "gitlab": _GITLAB_GRAMMARS,
    "github": _GITHUB_GRAMMARS,
    "kubernetes": _KUBERNETES_GRAMMARS,
    "okta": MappingProxyType({"scp": _ANY}),  # of its elements
}


@lru_cache(maxsize=64)
def model_of(profile: str) -> Model:
    """The model of that profile; of what has no row here, what the profile itself says."""
    claims: Profile = PROFILES[profile]
    return Model(
        grammars=_GRAMMARS.get(profile, {}),
        total=frozenset(name for name, claim in claims.claims.items() if claim.required),
        spelled=_SPELLED.get(profile),
        forks=_FORKS.get(profile),
        twins=_TWINS.get(profile, {}),
    )
