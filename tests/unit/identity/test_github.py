"""GitHub's claims as types, and what GitHub has that looks like a job's token."""

from typing import Any

import pytest

from broker.demo.issuer import ABSENT
from broker.errors import Code, Refused
from broker.identity.claims import ClaimSet
from broker.identity.profiles import PROFILES
from tests.fakes.workloads import claims_of, workload

GITHUB = PROFILES["github"]


def refusal(**changes: Any) -> Refused:
    with pytest.raises(Refused) as caught:
        workload("github", **changes)
    return caught.value


def test_a_documented_token_is_the_job_of_its_check_run() -> None:
    """Every claim is a text at GitHub; `ref_protected` becomes a truth value, an empty `head_ref` stays empty."""
    job = workload("github")
    assert (job.stable_id, job.project_path) == ("74", "octo-org/octo-repo")
    assert (job.job_id, job.pipeline_id, job.user_id) == ("90000001", "22259804324", "12")
    assert (job.ref_path, job.ref_protected) == ("refs/heads/main", True)
    expected = {name: value for name, value in claims_of("github").items() if name in GITHUB.claims}
    assert dict(job.claims) == expected | {"ref_protected": True}


def test_before_there_was_a_check_run_the_attempt_is_the_job() -> None:
    """GitHub Enterprise Server, and tokens before November 2025."""
    assert workload("github", check_run_id=ABSENT).job_id == "22259804324-2"


def test_a_thumbprint_in_the_header_is_githubs_alone() -> None:
    """It names a certificate, brings none, and is not read; for any other issuer it is one member too many."""
    assert workload("github", header={"x5t": "AAAA"}) == workload("github")
    with pytest.raises(Refused, match="members other than") as caught:
        workload("generic", header={"x5t": "AAAA"})
    assert caught.value.code is Code.TOKEN_MALFORMED
    with pytest.raises(Refused, match="members other than"):
        workload("github", header={"x5c": ["AAAA"]})


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("repository_id", 74, "a number"),
        ("repository_id", "074", "decimal digits"),
        ("repository_id", "octo-org/octo-repo", "decimal digits"),
        ("repository_owner_id", "\uff16\uff15", "decimal digits"),
        ("run_id", "example-run-id", "decimal digits"),
        ("run_attempt", "2a", "decimal digits"),
        ("check_run_id", "x", "decimal digits"),
        ("ref_protected", True, "a JSON boolean"),
        ("ref_protected", "yes", "neither"),
        ("ref", "main", "not the kind of ref"),
        ("ref", "refs/tags/v1", "not the kind of ref"),
        ("ref_type", "merge_request", "not the kind of ref"),
        ("environment", "prod\nuction", "control characters"),
        ("jti", ABSENT, "jti is missing"),
    ],
)
def test_a_claim_of_another_type_or_spelling_is_refused(name: str, value: Any, words: str) -> None:
    refused = refusal(**{name: value})
    assert refused.code is Code.TOKEN_CLAIMS
    assert words in refused.public


def test_a_tag_and_a_pull_request_are_what_they_are() -> None:
    """GitHub calls the merge ref of a pull request a branch."""
    assert workload("github", ref="refs/tags/v1", ref_type="tag").ref_path == "refs/tags/v1"
    assert workload("github", ref="refs/pull/7/merge", event_name="pull_request").ref_path == "refs/pull/7/merge"


def test_both_shapes_of_sub_are_the_same_job() -> None:
    """Repositories from before 2026-07-15 have names without ids in it; a repository's owner can shape it besides."""
    shapes = ("repo:octo-org/octo-repo:ref:refs/heads/main", "repo:octo-org@65/octo-repo@74:pull_request", "custom")
    assert all(workload("github", sub=sub) == workload("github") for sub in shapes)


def test_a_token_without_a_job_is_of_another_class() -> None:
    refused = refusal(repository_id=ABSENT, run_id=ABSENT)
    assert refused.code is Code.TOKEN_CLASS
    assert "id-token: write" in refused.public


@pytest.mark.parametrize("prefix", ["ghs_", "ghp_", "github_pat_"])
def test_access_tokens_are_known_by_their_prefix(prefix: str) -> None:
    assert "access token" in GITHUB.lookalikes[prefix]


@pytest.mark.parametrize(
    ("event", "fork"),
    [
        ("push", False),
        ("schedule", False),
        ("workflow_dispatch", False),
        ("pull_request", True),
        ("pull_request_target", True),
        ("pull_request_review", True),
        ("workflow_run", True),
    ],
)
def test_what_may_run_somebody_elses_code_is_a_fork_and_in_no_open_list(event: str, fork: bool) -> None:
    """No claim says which repository a pull request came from."""
    assert GITHUB.is_fork(ClaimSet({"event_name": event})) is fork
    assert (event in GITHUB.open_sources) is not fork
