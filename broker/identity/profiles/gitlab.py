"""GitLab CI ID tokens: the claims of `id_tokens:`, as GitLab 16.0 to 19 mint them.

Source: gitlab-org/gitlab `lib/gitlab/ci/jwt_v2.rb`, `lib/json_web_token/user_project_token_claims.rb` and the page
docs.gitlab.com/ci/secrets/id_token_authentication.
"""

import re
from collections.abc import Mapping
from operator import itemgetter
from types import MappingProxyType
from typing import Any

from broker.errors import Code, Refused
from broker.identity.claims import ClaimSet, JobIdentity
from broker.identity.gate import VerifiedClaims
from broker.identity.profile import Assurance, Claim, ClaimKind, Profile
from broker.identity.reader import Reader
from broker.identity.replay import required_id
from broker.identity.rules import Advice
from broker.identity.typed import is_decimal_id

_TEXT, _BOOL, _NUMBER, _TEXTS = ClaimKind.TEXT, ClaimKind.BOOL, ClaimKind.NUMBER, ClaimKind.TEXTS
_ID, _NAME, _CHOSEN = Assurance.ID, Assurance.NAME, Assurance.CHOSEN

# Sent by default since 18.4; 18.2 and 18.3 have it by backport.
_JOB_PROJECT = "GitLab 18.4 or newer"

_CLAIMS = {
    "project_id": Claim(kind=_TEXT, assurance=_ID, required=True),
    "project_path": Claim(kind=_TEXT, assurance=_NAME, path_like=True, required=True),
    "namespace_id": Claim(kind=_TEXT, assurance=_ID, required=True),
    "namespace_path": Claim(kind=_TEXT, assurance=_NAME, path_like=True),
    # Where the job really runs. Differs from project_* only in a merge-request pipeline of a fork.
    "job_project_id": Claim(kind=_TEXT, assurance=_ID, sent_by=_JOB_PROJECT),
    "job_project_path": Claim(kind=_TEXT, assurance=_NAME, path_like=True, sent_by=_JOB_PROJECT),
    "job_namespace_id": Claim(kind=_TEXT, assurance=_ID, sent_by=_JOB_PROJECT),
    "job_namespace_path": Claim(kind=_TEXT, assurance=_NAME, path_like=True, sent_by=_JOB_PROJECT),
    "project_visibility": Claim(kind=_TEXT),
    "user_id": Claim(kind=_TEXT, assurance=_ID),  # "" when the pipeline has no user
    "user_login": Claim(kind=_TEXT, assurance=_CHOSEN, personal=True),
    "user_email": Claim(kind=_TEXT, assurance=_CHOSEN, personal=True),
    # On the *source* project: the author of a fork is its owner. Never proof of anything about the pinned project.
    "user_access_level": Claim(kind=_TEXT, assurance=_CHOSEN, sent_by="GitLab 16.9 or newer"),
    "groups_direct": Claim(
        kind=_TEXTS, assurance=_NAME, sent_by="GitLab with ci_jwt_groups_direct on, for users of at most 200 groups"
    ),
    "pipeline_id": Claim(kind=_TEXT, assurance=_ID, required=True),
    "pipeline_source": Claim(kind=_TEXT, required=True),
    "job_id": Claim(kind=_TEXT, assurance=_ID, required=True),
    "job_source": Claim(kind=_TEXT, sent_by="GitLab 18.9 or newer"),
    "ref": Claim(kind=_TEXT, assurance=_NAME, path_like=True, required=True),
    "ref_type": Claim(kind=_TEXT, required=True),
    "ref_path": Claim(kind=_TEXT, assurance=_NAME, path_like=True, required=True, sent_by="GitLab 16.0 or newer"),
    "ref_protected": Claim(kind=_BOOL, required=True),
    "environment": Claim(kind=_TEXT, assurance=_CHOSEN, path_like=True, sent_by="GitLab, for a job with `environment:`"),
    "environment_protected": Claim(kind=_BOOL, sent_by="GitLab, for a job with `environment:`"),  # always false on Free
    "deployment_tier": Claim(kind=_TEXT, assurance=_CHOSEN, sent_by="GitLab 15.2 or newer, for a job with `environment:`"),
    "environment_action": Claim(kind=_TEXT, assurance=_CHOSEN, sent_by="GitLab 16.5 or newer, for a job with `environment:`"),
    "runner_id": Claim(kind=_NUMBER, assurance=_ID, sent_by="GitLab 16.0 or newer"),
    "runner_environment": Claim(kind=_TEXT, sent_by="GitLab 16.0 or newer"),
    "sha": Claim(kind=_TEXT, assurance=_ID, required=True, sent_by="GitLab 16.0 or newer"),
    "ci_config_ref_uri": Claim(kind=_TEXT, assurance=_NAME, path_like=True, sent_by="GitLab 16.2 or newer"),
    "ci_config_sha": Claim(kind=_TEXT, assurance=_ID, sent_by="GitLab 16.2 or newer"),
}
_READER = Reader(_CLAIMS)

# `source_*` is in no release that is confirmed (merge request 258245); it is typed as soon as one is.
_UNTYPED = frozenset(
    {
        "iss", "sub", "aud", "exp", "nbf", "iat", "jti", "user_identities", "job_config",
        "source_project_id", "source_project_path", "source_namespace_id", "source_namespace_path",
    }
)  # fmt: skip

_DECIMAL_IDS = (
    "project_id", "namespace_id", "job_project_id", "job_namespace_id", "user_id", "pipeline_id", "job_id",
)  # fmt: skip
_ALL_DECIMAL = re.compile(r"[1-9][0-9]{0,19}(?:,[1-9][0-9]{0,19})*")  # as `is_decimal_id` has it, for all of them at once
_read_ids = itemgetter(*_DECIMAL_IDS)
_MERGE_SOURCES = ("merge_request_event", "external_pull_request_event")
_REF_PREFIX = {"branch": "refs/heads/", "tag": "refs/tags/"}

_OTHER_CLASS = (
    "this is a GitLab token, but not the ID token of a CI job; send the variable that the job declares under `id_tokens:`"
)


def identify(verified: VerifiedClaims, issuer_name: str) -> JobIdentity:
    """The job that GitLab signed this token for.

    Refuses with token_claims a claim that is missing, of another JSON type than GitLab's, or at odds with another one. `sub` is
    not read: a project's maintainer shapes it (gitlab-tokens.md 1.3). Says nothing about what the job may do.
    """
    token_id = required_id(verified, "GitLab")
    if type(verified.members.get("sub")) is not str:
        raise Refused(Code.TOKEN_CLAIMS, "sub is missing, or is not a text")
    claims: dict[str, Any] = _READER.read(verified)
    _check_ids(claims)
    ref_path: str = claims["ref_path"]
    # A branch may be called `refs/tags/v1`, a tag `main`: the three have to tell one story before any of them is compared.
    if ref_path != _REF_PREFIX.get(claims["ref_type"], "?") + claims["ref"]:
        raise Refused(
            Code.TOKEN_CLAIMS,
            f"ref_path is {ref_path!r}, which is not the branch or tag that ref and ref_type name; "
            "jobs on other kinds of ref get no credentials",
        )
    return JobIdentity(
        issuer_name=issuer_name,
        profile="gitlab",
        issuer=verified.issuer,
        stable_id=claims["project_id"],
        jti=token_id,
        kid=verified.kid,
        issued_at=verified.issued_at,
        expires_at=verified.expires_at,
        project_id=claims["project_id"],
        project_path=claims["project_path"],
        job_id=claims["job_id"],
        pipeline_id=claims["pipeline_id"],
        ref_path=ref_path,
        ref_protected=claims["ref_protected"] is True,
        user_id=claims.get("user_id", ""),
        claims=ClaimSet(claims),
    )


def _check_ids(claims: Mapping[str, Any]) -> None:
    """Each id is decimal digits in one spelling; `user_id` may be empty."""
    try:
        if _ALL_DECIMAL.fullmatch(",".join(_read_ids(claims))):
            return
    except KeyError:  # an older GitLab, which does not send all of them
        pass
    for name in _DECIMAL_IDS:
        value = claims.get(name)
        if value is not None and not is_decimal_id(value) and not (name == "user_id" and value == ""):
            raise Refused(Code.TOKEN_CLAIMS, f"{name} is {value!r}, which is not an id that GitLab writes (decimal digits)")


def is_fork(claims: ClaimSet) -> bool:
    """Whether the job may run a fork's code in the name of another project.

    Before 18.2.2 GitLab showed a fork's merge-request job with the *target's* project_id and without job_project_id
    (gitlab#548165), so a merge-request pipeline without that claim counts as one.
    """
    if "job_project_id" in claims:
        return claims["job_project_id"] != claims.get("project_id")
    return claims.get("pipeline_source") in _MERGE_SOURCES


def other_class(members: Mapping[str, Any]) -> str:
    """What GitLab signs with the same keys: logins with OpenID, tokens for Google (gitlab-tokens.md 1.4)."""
    if "target_audience" in members:
        return f"{_OTHER_CLASS} (it has target_audience: it was made for another service)"
    if "auth_time" in members or not ("project_id" in members or "job_id" in members):
        return f"{_OTHER_CLASS} (it has no project_id and job_id, or has auth_time, as login tokens do)"
    return ""


GITLAB = Profile(
    name="gitlab",
    algorithms=frozenset({"RS256"}),
    types=frozenset({"JWT", None}),
    claims=MappingProxyType(_CLAIMS),
    untyped=_UNTYPED,
    stable_id="project_id",
    pins=("project_id", "namespace_id"),
    refs=frozenset({"ref_path", "ref", "ref_protected"}),
    source="pipeline_source",
    # A source that GitLab adds later is not in this list, and has to be listed by the environment that wants it.
    open_sources=frozenset({"push", "web", "trigger", "schedule", "api", "pipeline", "chat", "webide"}),
    is_fork=is_fork,
    lookalikes=MappingProxyType(
        {
            "glcbt-": "this is CI_JOB_TOKEN; send the ID token that the job declares under `id_tokens:` instead",
            "glpat-": "this is a personal access token; send the job's ID token instead, and revoke this one",
        }
    ),
    other_class=other_class,
    advice=Advice(
        audience="change `aud:` under `id_tokens:`",
        lifetime="lower the job's `timeout:`",
        expired="GitLab makes one token per job, valid as long as the job's timeout: start the job again, or raise its timeout",
    ),
    identify=identify,
    label=lambda job: f"gl-{job.stable_id}-{job.job_id}",
)
