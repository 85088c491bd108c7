"""What all kinds of issuer have in common: the tables that policy relies on, and names that stay within their targets."""

import contextlib
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.assertions import role_session_name, source_identity
from broker.audit.record import PERSONAL_CLAIMS
from broker.errors import Code, Refused
from broker.identity.claims import ClaimSet, JobIdentity
from broker.identity.profiles import PROFILES, Assurance, ClaimKind
from tests.fakes.workloads import ISSUERS, claims_of, workload
from tests.strategies import identity

KINDS = sorted(ISSUERS)


def refusal(kind: str, **changes: Any) -> Refused:
    with pytest.raises(Refused) as caught:
        workload(kind, **changes)
    return caught.value


def test_the_profiles_are_those_of_the_design() -> None:
    assert set(PROFILES) == {"gitlab", "github", "okta", "kubernetes", "generic"}
    assert all(name == profile.name for name, profile in PROFILES.items())


@pytest.mark.parametrize("kind", PROFILES)
def test_a_table_is_what_policy_may_rely_on(kind: str) -> None:
    """Ids are compared exactly, globs are for texts with segments, what pins an environment is a required id."""
    profile = PROFILES[kind]
    for name, claim in profile.claims.items():
        assert not (claim.assurance is Assurance.ID and claim.path_like), name
        assert claim.kind is ClaimKind.TEXT or not claim.path_like, name
        assert claim.kind is ClaimKind.TEXTS or not claim.one_or_more, name
        assert not claim.personal or name in PERSONAL_CLAIMS, name
    assert profile.stable_id in profile.pins
    for pin in profile.pins:
        assert profile.claims[pin].assurance is Assurance.ID
        assert profile.claims[pin].required
    assert profile.refs <= set(profile.claims)
    assert not profile.source or profile.claims[profile.source].required
    assert bool(profile.source) == bool(profile.open_sources)
    assert "none" not in profile.algorithms
    assert not any(name.startswith("HS") for name in profile.algorithms)
    assert not profile.untyped & set(profile.claims)
    assert all((profile.advice.audience, profile.advice.expired, profile.advice.lifetime))


@pytest.mark.parametrize("kind", KINDS)
def test_a_documented_token_is_an_identity(kind: str) -> None:
    """Kept and given back by the store as it was."""
    job = workload(kind)
    assert (job.profile, job.issuer_name, job.issuer) == (kind, f"our-{kind}", ISSUERS[kind])
    assert job.stable_id == job.project_id == job.claims[PROFILES[kind].stable_id]
    assert JobIdentity.from_record(job.to_record()) == job
    assert job.job_id
    assert job.jti


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        (kind, name)
        for kind in KINDS
        for name, claim in PROFILES[kind].claims.items()
        if claim.required and not name.startswith("/")
    ],
)
@pytest.mark.parametrize("gone", ["", None, 5, True, {}])
def test_a_required_claim_that_is_missing_or_of_another_type_is_refused(kind: str, name: str, gone: Any) -> None:
    """Null and empty are absent, and nothing is turned into a text."""
    refused = refusal(kind, **{name: gone})
    assert refused.code in (Code.TOKEN_CLAIMS, Code.TOKEN_CLASS)
    assert name in refused.public


@pytest.mark.parametrize("kind", KINDS)
def test_the_hours_are_the_gates_for_every_kind(kind: str) -> None:
    """And how long a token may be valid is the profile's, unless the operator says otherwise."""
    now = claims_of(kind)["iat"]
    assert refusal(kind, exp=now - 60, iat=now - 300, nbf=now - 300).code is Code.TOKEN_EXPIRED
    longest = int(PROFILES[kind].longest.total_seconds())
    assert workload(kind, exp=now + longest).jti
    assert PROFILES[kind].advice.lifetime in refusal(kind, exp=now + longest + 1).public


@pytest.mark.parametrize("kind", KINDS)
def test_advice_is_in_the_words_of_the_platform(kind: str) -> None:
    """`id_tokens:` is GitLab's, and helps nobody else."""
    said = [
        refusal(kind, aud="https://a").public,
        refusal(kind, aud=["https://a", "x"]).public,
        refusal(kind, exp=1, iat=0).public,
    ]
    assert all("id_tokens" not in text and "GitLab" not in text for text in said)
    assert all("https://broker.example" in text for text in said[:2])


@pytest.mark.parametrize("kind", KINDS)
def test_names_at_aws_fit_and_have_the_kinds_own_prefix(kind: str) -> None:
    """GitLab's project 20 and GitHub's repository 20 are not one principal in CloudTrail."""
    job = workload(kind)
    name, source = role_session_name(job, "abcdefghijklmnopqrstuvwxyz"), source_identity(job)
    assert name == f"{source}-abcdefgh"
    assert len(name) <= 64
    assert re.fullmatch(r"(gh|ok|k8s|oidc)-[A-Za-z0-9_+=,.@-]+", source)
    assert not source.startswith("gl-")
    assert source_identity(identity()).startswith("gl-")


@given(st.sampled_from(KINDS), st.data())
def test_whatever_the_claims_are_the_answer_is_an_identity_or_a_refusal(kind: str, data: st.DataObject) -> None:
    """No other exception, and an identity only of the stable id that is in it."""
    odd = st.none() | st.booleans() | st.integers(-5, 5) | st.text(max_size=4) | st.lists(st.text(max_size=3), max_size=2)
    nested = odd | st.dictionaries(st.sampled_from(["serviceaccount", "uid", "namespace", "pod", "x"]), odd, max_size=3)
    changes = data.draw(st.dictionaries(st.sampled_from(sorted(claims_of(kind))), nested, max_size=3))
    with contextlib.suppress(Refused):
        job = workload(kind, **changes)
        assert job.stable_id == job.claims[PROFILES[kind].stable_id]


def test_only_what_says_what_started_it_can_be_a_fork() -> None:
    """Where nothing is started by a proposal, nothing is a fork."""
    for kind in ("okta", "kubernetes", "generic"):
        assert PROFILES[kind].is_fork(ClaimSet({"event_name": "pull_request"})) is False
        assert PROFILES[kind].source == ""
