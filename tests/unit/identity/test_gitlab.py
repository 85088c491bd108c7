"""GitLab's claims as types, and the tokens of GitLab that are no job's."""

import contextlib
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.demo.issuer import ABSENT
from broker.errors import Code, Refused
from broker.identity.claims import ClaimSet, JobIdentity
from broker.identity.gate import parse, verify
from broker.identity.keyset import parse_jwks
from broker.identity.profiles import PROFILES, Assurance, ClaimKind
from tests.fakes.forge import base_claims, forge, gitlab_key, jwks, rules
from tests.strategies import NOON

GITLAB = PROFILES["gitlab"]
_KEY = parse_jwks(jwks(), GITLAB.algorithms).keys[gitlab_key().kid]


def identify(**changes: Any) -> JobIdentity:
    claims = base_claims(**changes)
    return GITLAB.identify(verify(parse(forge(claims)), _KEY, rules(), NOON), "gitlab")


def refusal(**changes: Any) -> Refused:
    with pytest.raises(Refused) as caught:
        identify(**changes)
    return caught.value


def test_a_gitlab_18_token_is_a_job_identity() -> None:
    """Every claim of the documented set, each in its type."""
    job = identify()
    assert job == JobIdentity(
        issuer_name="gitlab",
        profile="gitlab",
        issuer="https://gitlab.com",
        stable_id="20",
        jti=base_claims()["jti"],
        kid=gitlab_key().kid,
        issued_at=NOON,
        expires_at=NOON + timedelta(hours=1),
        project_id="20",
        project_path="acme/data",
        job_id="302",
        pipeline_id="574",
        ref_path="refs/heads/main",
        ref_protected=True,
        user_id="1",
        claims=job.claims,
    )
    expected = {name: value for name, value in base_claims().items() if name in GITLAB.claims}
    assert dict(job.claims) == expected | {"ref_protected": True, "environment_protected": False}
    assert job == JobIdentity.from_record(job.to_record())


@pytest.mark.parametrize("name", [*(n for n, claim in GITLAB.claims.items() if claim.required), "jti"])
def test_a_required_claim_that_is_missing_is_named(name: str) -> None:
    """Absent, null and empty are one for it."""
    for gone in (ABSENT, "") if name == "jti" else (ABSENT, None, ""):
        refused = refusal(**{name: gone})
        assert refused.code is Code.TOKEN_CLAIMS
        assert name in refused.public


@pytest.mark.parametrize("sub", [ABSENT, None, 5, ["x"]])
def test_sub_has_to_be_there_though_nothing_reads_it(sub: Any) -> None:
    """GitLab always sends one; a token without it is not GitLab's."""
    refused = refusal(sub=sub)
    assert refused.code is Code.TOKEN_CLAIMS
    assert "sub" in refused.public


def test_a_claim_of_a_newer_gitlab_says_so_when_it_is_missing() -> None:
    """The author cannot know which release added it; we do."""
    assert refusal(ref_path=None).public == "ref_path is missing: GitLab 16.0 or newer sends it"


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("ref_protected", True, "a JSON boolean"),
        ("ref_protected", "True", "neither"),
        ("ref_protected", 1, "a number"),
        ("environment_protected", "yes", "neither"),
        ("project_id", 20, "a number"),
        ("project_id", "020", "not an id"),
        ("project_id", " 20", "not an id"),
        ("project_id", "20 ", "not an id"),
        ("project_id", "\uff12\uff10", "not an id"),
        ("project_id", "0", "not an id"),
        ("project_id", "-1", "not an id"),
        ("project_id", "9" * 21, "not an id"),
        ("namespace_id", ["72"], "a list"),
        ("job_id", "302a", "not an id"),
        ("user_id", "me", "not an id"),
        ("job_project_id", "x", "not an id"),
        ("runner_id", "12", "a text"),
        ("runner_id", True, "a JSON boolean"),
        ("groups_direct", "acme", "a text"),
        ("groups_direct", ["acme", 5], "element"),
        ("environment", {"name": "production"}, "an object"),
        ("ref", "x" * 2049, "longer than"),
        ("environment", "prod\nuction", "control characters"),
        ("environment", "prod\x1b[31muction", "control characters"),
        ("user_login", "a\u202eb", "direction marks"),
        ("user_login", "a\u2028b", "line breaks"),
        ("groups_direct", ["a\x07"], "control characters"),
    ],
)
def test_a_claim_of_another_type_or_spelling_is_refused(name: str, value: Any, words: str) -> None:
    """GitLab's types are exact: ids are texts, booleans the texts "true" and "false", one number."""
    refused = refusal(**{name: value})
    assert refused.code is Code.TOKEN_CLAIMS
    assert name in refused.public
    assert words in refused.public
    assert refused.public.isprintable()


def test_null_is_absent_and_never_a_text() -> None:
    """GitLab sends null for what it does not know."""
    job = identify(user_login=None, user_access_level=None, ci_config_ref_uri=None, environment=None, user_id=None)
    assert not {"user_login", "user_access_level", "ci_config_ref_uri", "environment", "user_id"} & set(job.claims)
    assert job.user_id == ""
    assert identify(user_id="").user_id == ""


@pytest.mark.parametrize(
    "text", ["Jos\u00e9", "\u4f1a\u793e/data", "\U0001f468\u200d\U0001f469\u200d\U0001f467", "a b", "a'\"b", "feature/x#1"]
)
def test_unusual_names_of_people_and_branches_are_fine(text: str) -> None:
    """Only what a terminal or a log line would obey is refused."""
    job = identify(ref=text, user_login=text)
    assert job.ref_path == f"refs/heads/{text}"
    assert job.claims["user_login"] == text


@pytest.mark.parametrize(
    "changes",
    [
        {"ref_path": "refs/tags/main"},  # a branch's ref_type with a tag's path
        {"ref_type": "tag", "ref_path": "refs/heads/main"},
        {"ref_path": "refs/heads/other"},
        {"ref_path": "refs/merge-requests/1/head"},
        {"ref_path": "refs/workloads/abc", "ref": "refs/workloads/abc"},
        {"ref_type": "merge_request"},
        {"ref_path": "main"},
    ],
)
def test_ref_ref_type_and_ref_path_tell_one_story(changes: dict[str, Any]) -> None:
    """Otherwise a rule on one of them could be met by another ref."""
    refused = refusal(**changes)
    assert refused.code is Code.TOKEN_CLAIMS
    assert "ref_path is" in refused.public


def test_a_tag_and_an_oddly_named_branch_are_what_they_are() -> None:
    """The allowed twins of the above."""
    assert identify(ref="v1", ref_type="tag").ref_path == "refs/tags/v1"
    assert identify(ref="refs/heads/main").ref_path == "refs/heads/refs/heads/main"


def test_the_shape_of_sub_changes_nothing() -> None:
    """A maintainer of the project chooses it."""
    shapes = (
        "project_path:acme/data",
        "project_id:20:ref_type:branch:ref:main",
        "project_path:acme/data:deployment_tier:production",
    )
    assert all(identify(sub=sub) == identify() for sub in shapes)


def test_a_login_token_of_the_same_issuer_is_of_another_class() -> None:
    """Same issuer, same key document, even our audience: no job."""
    login = {"sub": "123", "auth_time": 1, "email": "a@example.com"}
    claims = {name: base_claims()[name] for name in ("iss", "aud", "exp", "iat")} | login
    for claims_ in (
        claims,
        claims | {"project_id": "20", "job_id": "302"},
        {k: v for k, v in claims.items() if k != "auth_time"},
    ):
        with pytest.raises(Refused, match="id_tokens") as caught:
            GITLAB.identify(verify(parse(forge(claims_)), _KEY, rules(), NOON), "gitlab")
        assert caught.value.code is Code.TOKEN_CLASS


def test_a_token_for_google_is_of_another_class() -> None:
    """`target_audience` says that it was made for another service."""
    refused = refusal(target_audience="//iam.googleapis.com/x")
    assert refused.code is Code.TOKEN_CLASS
    assert "target_audience" in refused.public


@pytest.mark.parametrize(
    ("claims", "fork"),
    [
        ({"project_id": "20", "job_project_id": "20", "pipeline_source": "merge_request_event"}, False),
        ({"project_id": "666", "job_project_id": "20", "pipeline_source": "merge_request_event"}, True),
        ({"project_id": "666", "job_project_id": "20", "pipeline_source": "parent_pipeline"}, True),
        ({"project_id": "20", "pipeline_source": "merge_request_event"}, True),
        ({"project_id": "20", "pipeline_source": "external_pull_request_event"}, True),
        ({"project_id": "20", "pipeline_source": "push"}, False),
    ],
)
def test_a_fork_is_seen_and_not_knowing_is_one(claims: dict[str, str], fork: bool) -> None:
    """Before 18.2.2 GitLab showed a fork's job as the target's (gitlab#548165)."""
    assert GITLAB.is_fork(ClaimSet(claims)) is fork


def test_what_a_token_has_to_have_is_what_every_gitlab_sends() -> None:
    """gitlab-tokens.md 1.4; the gate sees to iss, aud, exp and iat."""
    assert {name for name, claim in GITLAB.claims.items() if claim.required} == {
        "project_id", "project_path", "namespace_id", "ref", "ref_type", "ref_path", "ref_protected", "pipeline_id",
        "pipeline_source", "job_id", "sha",
    }  # fmt: skip


def test_the_table_is_what_policy_may_rely_on() -> None:
    """Ids are compared exactly, globs are for what has segments, and what pins an environment is an id."""
    for name, claim in GITLAB.claims.items():
        assert not (claim.assurance is Assurance.ID and claim.path_like), name
        assert claim.kind is ClaimKind.TEXT or not claim.path_like, name
        assert (claim.assurance is Assurance.ID) == (name.endswith("_id") or name in {"sha", "ci_config_sha"}), name
    assert all(GITLAB.claims[pin].assurance is Assurance.ID for pin in GITLAB.pins)
    assert {n for n, c in GITLAB.claims.items() if c.kind is ClaimKind.BOOL} == {"ref_protected", "environment_protected"}
    assert {n for n, c in GITLAB.claims.items() if c.kind is ClaimKind.NUMBER} == {"runner_id"}
    assert {n for n, c in GITLAB.claims.items() if c.personal} == {"user_login", "user_email"}
    assert not GITLAB.open_sources & {"merge_request_event", "external_pull_request_event", "parent_pipeline"}


@given(
    st.dictionaries(
        st.sampled_from(sorted(GITLAB.known)), st.none() | st.booleans() | st.integers(-5, 5) | st.text(max_size=4), max_size=4
    )
)
def test_whatever_the_claims_are_the_answer_is_an_identity_or_a_refusal(changes: dict[str, Any]) -> None:
    """No other exception, and an identity only of the project that is in it."""
    with contextlib.suppress(Refused):
        job = identify(**changes)
        assert job.stable_id == job.project_id == job.claims["project_id"]
