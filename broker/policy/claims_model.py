"""What a job's claims can be, as the proofs take it: one row a claim, presence apart from value.

A claim is absent or has a value; it is never absent where the profile requires it (a token without it is refused). Booleans are
true or false. Claims are independent of each other, but for the two ties that are written here. What is said here is what the
broker itself checks (`identity.profiles`) or git and GitLab enforce; where that is in doubt the grammar is the wider one.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from types import MappingProxyType

from broker.identity.profile import Profile
from broker.identity.profiles import PROFILES
from broker.policy.automata import Grammar

# `typed_claims` refuses no sign, so a name that nothing constrains may hold any but a control character.
_ANY = Grammar(signs=re.compile(r"[^\x00-\x1f\x7f-\x9f]"), empty=True)
_ID = Grammar(signs=re.compile(r"[0-9]"), zero=False)
# git check-ref-format: no control character, space, ~ ^ : ? * [ \, and what `dots` and `segments` say.
# Wider than git: `@{` and a segment that ends in `.lock` are let through.
_REF = Grammar(signs=re.compile(r"[^\x00-\x20\x7f~^:?*\[\\]"), segments=True, dots=False)
_PROJECT = Grammar(signs=re.compile(r"[A-Za-z0-9_./-]"), segments=True)
_SHA = Grammar(signs=re.compile(r"[0-9a-f]"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Spelled:
    """One claim is another one behind a prefix that a third one chooses: `ref_path` is `refs/heads/` and `ref`, for a branch."""

    whole: str
    rest: str
    kind: str
    prefixes: Mapping[str, str]  # value of `kind` -> the prefix


@dataclass(frozen=True, slots=True, kw_only=True)
class ForkRule:
    """`Profile.is_fork` in words: `own` differs from `pinned`; or `own` is absent and `source` is one of `proposals`."""

    own: str
    pinned: str
    source: str
    proposals: frozenset[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """The claims of one kind of issuer."""

    grammars: Mapping[str, Grammar]
    total: frozenset[str]  # never absent
    spelled: Spelled | None
    forks: ForkRule | None  # None: the profile's rule is only asked with real values

    def grammar(self, claim: str) -> Grammar:
        return self.grammars.get(claim, _ANY)


_GITLAB_GRAMMARS: Mapping[str, Grammar] = MappingProxyType(
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
_SPELLED = {
    "gitlab": Spelled(
        whole="ref_path",
        rest="ref",
        kind="ref_type",
        prefixes=MappingProxyType({"branch": "refs/heads/", "tag": "refs/tags/"}),
    )
}
_FORKS = {
    "gitlab": ForkRule(
        own="job_project_id",
        pinned="project_id",
        source="pipeline_source",
        proposals=frozenset({"merge_request_event", "external_pull_request_event"}),
    )
}
_GRAMMARS = {"gitlab": _GITLAB_GRAMMARS}


@lru_cache(maxsize=64)
def model_of(profile: str) -> Model:
    """The model of that profile; of one without a row of its own, what the profile itself says."""
    claims: Profile = PROFILES[profile]
    return Model(
        grammars=_GRAMMARS.get(profile, {}),
        total=frozenset(name for name, claim in claims.claims.items() if claim.required),
        spelled=_SPELLED.get(profile),
        forks=_FORKS.get(profile),
    )
