"""GitHub Actions ID tokens, of github.com, ghe.com and GitHub Enterprise Server.

Source: docs.github.com/actions/reference/security/oidc and the changelog of 2025-11-13 (`check_run_id`). Every claim of GitHub's
own is a text, the numbers and `ref_protected` too. A job may ask for any number of tokens; each has a `jti` of its own, opens one
session, and lives for minutes: a long job's session ends with the token it was opened with.
"""

from collections.abc import Mapping
from datetime import timedelta
from types import MappingProxyType
from typing import Any

from broker.errors import Code, Refused
from broker.identity.claims import ClaimSet, JobIdentity
from broker.identity.gate import VerifiedClaims
from broker.identity.profile import Assurance, Claim, ClaimKind, Profile
from broker.identity.replay import required_id
from broker.identity.rules import Advice
from broker.identity.typed import is_decimal_id, text_of, typed_claims

_TEXT, _BOOL = ClaimKind.TEXT, ClaimKind.BOOL
_ID, _NAME, _CHOSEN = Assurance.ID, Assurance.NAME, Assurance.CHOSEN
_ENVIRONMENT = "GitHub, for a job with `environment:`"
_REUSED = "GitHub, for a job of a reusable workflow"
_NEWER = "github.com, and GitHub Enterprise Server since 3.8"

_CLAIMS = {
    "repository_id": Claim(kind=_TEXT, assurance=_ID, required=True),
    "repository": Claim(kind=_TEXT, assurance=_NAME, path_like=True, required=True),
    "repository_owner_id": Claim(kind=_TEXT, assurance=_ID, required=True),
    "repository_owner": Claim(kind=_TEXT, assurance=_NAME, required=True),
    "repository_visibility": Claim(kind=_TEXT),
    "enterprise": Claim(kind=_TEXT, assurance=_NAME, sent_by="GitHub, for repositories of an enterprise"),
    "enterprise_id": Claim(kind=_TEXT, assurance=_ID, sent_by="GitHub, for repositories of an enterprise"),
    "actor_id": Claim(kind=_TEXT, assurance=_ID, required=True),
    "actor": Claim(kind=_TEXT, assurance=_CHOSEN, personal=True),
    "run_id": Claim(kind=_TEXT, assurance=_ID, required=True),
    "run_number": Claim(kind=_TEXT),
    "run_attempt": Claim(kind=_TEXT, required=True),
    "check_run_id": Claim(kind=_TEXT, assurance=_ID, sent_by="github.com since November 2025"),
    "event_name": Claim(kind=_TEXT, required=True),
    # The whole path: refs/heads/main, refs/tags/v1, refs/pull/7/merge.
    "ref": Claim(kind=_TEXT, assurance=_NAME, path_like=True, required=True),
    "ref_type": Claim(kind=_TEXT, required=True),
    "ref_protected": Claim(kind=_BOOL, sent_by=_NEWER),
    # Of a pull request: names of branches, in whichever repository it came from.
    "head_ref": Claim(kind=_TEXT, assurance=_CHOSEN, path_like=True),
    "base_ref": Claim(kind=_TEXT, assurance=_NAME, path_like=True),
    "sha": Claim(kind=_TEXT, assurance=_ID, required=True),
    "environment": Claim(kind=_TEXT, assurance=_CHOSEN, path_like=True, sent_by=_ENVIRONMENT),
    "environment_node_id": Claim(kind=_TEXT, assurance=_ID, sent_by=_ENVIRONMENT),
    "workflow": Claim(kind=_TEXT, assurance=_CHOSEN),
    "workflow_ref": Claim(kind=_TEXT, assurance=_NAME, path_like=True, sent_by=_NEWER),
    "workflow_sha": Claim(kind=_TEXT, assurance=_ID, sent_by=_NEWER),
    "job_workflow_ref": Claim(kind=_TEXT, assurance=_NAME, path_like=True, sent_by=_REUSED),
    "job_workflow_sha": Claim(kind=_TEXT, assurance=_ID, sent_by=_REUSED),
    "runner_environment": Claim(kind=_TEXT, sent_by=_NEWER),
}
_REQUIRED = tuple(name for name, claim in _CLAIMS.items() if claim.required)
_UNTYPED = frozenset({"iss", "sub", "aud", "exp", "nbf", "iat", "jti"})
_DECIMAL_IDS = (
    "repository_id", "repository_owner_id", "enterprise_id", "actor_id", "run_id", "run_attempt", "check_run_id",
)  # fmt: skip
# A pull request's job runs on refs/pull/…, which GitHub calls a branch.
_REF_PREFIXES = {"branch": ("refs/heads/", "refs/pull/"), "tag": ("refs/tags/",)}
_OTHER_CLASS = (
    "this is not the ID token of a GitHub Actions job (it has no repository_id and run_id); give the job `permissions: id-token: "
    "write` and send what the ID token endpoint answers"
)
_NOT_AN_ID_TOKEN = "this is a GitHub access token; send the job's ID token (`permissions: id-token: write`) instead"  # noqa: S105 - a sentence


def identify(verified: VerifiedClaims, issuer_name: str) -> JobIdentity:
    """The job that GitHub signed this token for.

    Refuses with token_claims a claim that is missing, of another JSON type than GitHub's, or at odds with another one. `sub` is
    not read: a repository's owner shapes it, and two grammars of it live side by side. Says nothing about what the job may do.
    """
    claims = typed_claims(_CLAIMS, _REQUIRED, verified)
    token_id = required_id(verified, "GitHub")
    for name in _DECIMAL_IDS:
        if name in claims and not is_decimal_id(claims[name]):
            raise Refused(Code.TOKEN_CLAIMS, f"{name} is {claims[name]!r}, which GitHub does not write (decimal digits)")
    ref = text_of(claims, "ref")
    if not ref.startswith(_REF_PREFIXES.get(text_of(claims, "ref_type"), ())):
        raise Refused(Code.TOKEN_CLAIMS, f"ref is {ref!r}, which is not the kind of ref that ref_type names")
    run_id = text_of(claims, "run_id")
    return JobIdentity(
        issuer_name=issuer_name,
        profile="github",
        issuer=verified.issuer,
        stable_id=text_of(claims, "repository_id"),
        jti=token_id,
        kid=verified.kid,
        issued_at=verified.issued_at,
        expires_at=verified.expires_at,
        project_id=text_of(claims, "repository_id"),
        project_path=text_of(claims, "repository"),
        # The check run is the job; before there was such a claim, the attempt of the whole run is the nearest.
        job_id=text_of(claims, "check_run_id") or f"{run_id}-{text_of(claims, 'run_attempt')}",
        pipeline_id=run_id,
        ref_path=ref,
        ref_protected=claims.get("ref_protected") is True,
        user_id=text_of(claims, "actor_id"),
        claims=ClaimSet(claims),
    )


def is_fork(claims: ClaimSet) -> bool:
    """Whether somebody else's code may run: no claim says which repository a pull request came from, so each may be a fork's.

    `workflow_run` is what a pull request's own run can set off.
    """
    event = str(claims.get("event_name", ""))
    return event.startswith("pull_request") or event == "workflow_run"


def other_class(members: Mapping[str, Any]) -> str:
    return "" if "repository_id" in members or "run_id" in members else _OTHER_CLASS


GITHUB = Profile(
    name="github",
    algorithms=frozenset({"RS256"}),
    types=frozenset({"JWT", None}),
    thumbprint=True,
    longest=timedelta(hours=1),
    claims=MappingProxyType(_CLAIMS),
    untyped=_UNTYPED,
    stable_id="repository_id",
    pins=("repository_id", "repository_owner_id"),
    refs=frozenset({"ref", "ref_protected"}),
    source="event_name",
    # What only somebody with write access to the repository can set off.
    open_sources=frozenset({"push", "schedule", "workflow_dispatch", "repository_dispatch", "release"}),
    is_fork=is_fork,
    lookalikes=MappingProxyType(dict.fromkeys(("ghs_", "ghp_", "gho_", "ghu_", "github_pat_"), _NOT_AN_ID_TOKEN)),
    other_class=other_class,
    advice=Advice(
        audience="ask for it with `core.getIDToken(audience)` or `&audience=` in the request",
        lifetime="GitHub's live for minutes: this is not one of its own",
        expired="a GitHub job can ask for another: fetch the ID token right before it is sent",
    ),
    identify=identify,
    label=lambda job: f"gh-{job.stable_id}-{job.job_id}",
)
