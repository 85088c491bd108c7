"""An issuer that nobody here has heard of: texts are compared, `sub` names the project, a person's login is no job."""

from typing import Any

import pytest

from broker.demo.issuer import ABSENT
from broker.errors import Code, Refused
from broker.identity.profiles import PROFILES, ClaimKind
from tests.fakes.workloads import claims_of, workload

GENERIC = PROFILES["generic"]


def refusal(**changes: Any) -> Refused:
    with pytest.raises(Refused) as caught:
        workload("generic", **changes)
    return caught.value


def test_a_workloads_token_is_its_subject() -> None:
    """Texts, known lists, and texts inside objects; numbers decide nothing."""
    job = workload("generic")
    assert (job.stable_id, job.job_id) == ("pipeline/0183a2e1/main", claims_of("generic")["jti"])
    assert dict(job.claims) == {
        "sub": "pipeline/0183a2e1/main",
        "organization_slug": "acme",
        "build_branch": "main",
        "groups": ("etl", "etl-prod"),
        "/agent/tags/queue": "deploy",
        "/agent/id": "0184990a-4782",
    }


def test_any_name_is_a_claim_and_is_compared_as_a_text() -> None:
    """But for those of the token itself and of a person."""
    assert GENERIC.claims["build_branch"].kind is ClaimKind.TEXT
    assert GENERIC.claims["/agent/tags/queue"].kind is ClaimKind.TEXT
    assert GENERIC.claims["groups"].kind is ClaimKind.TEXTS
    assert len(GENERIC.claims) == len(list(GENERIC.claims))
    for name in ("exp", "aud", "email", "name", "", "x" * 256, "a\nb"):
        assert name not in GENERIC.claims


def test_what_is_of_a_person_is_not_kept() -> None:
    job = workload("generic", email="a@example.com", given_name="A", address={"locality": "here"})
    assert job == workload("generic")


def test_a_member_that_is_named_like_a_pointer_is_none() -> None:
    """Whoever can choose names of members at the top could pass for what is inside."""
    job = workload("generic", **{"/agent/tags/queue": "evil", "/agent/tags/more": "evil"})
    assert job == workload("generic")


def test_without_a_jti_a_digest_stands_for_it() -> None:
    """OpenID Connect does not ask for one."""
    one, other = workload("generic", jti=ABSENT), workload("generic", jti=ABSENT, build_number=8)
    assert one.jti.startswith("sha256:")
    assert one.jti != other.jti
    assert ":" not in one.job_id


@pytest.mark.parametrize("name", ["nonce", "at_hash", "auth_time", "c_hash", "s_hash"])
def test_a_persons_login_is_of_another_class(name: str) -> None:
    refused = refusal(**{name: "x"})
    assert refused.code is Code.TOKEN_CLASS
    assert "a person's login" in refused.public


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"sub": ABSENT}, "sub is missing"),
        ({"sub": ["x"]}, "sub is a list"),
        ({"sub": " x"}, "blanks at its ends"),
        ({"groups": [1]}, "element"),
        ({"groups": {"a": 1}}, "an object"),
        ({"build_branch": "a\u202eb"}, "direction marks"),
        ({"agent": {"id": "a\x1bb"}}, "control characters"),
        ({"SUB": "x"}, "resembles"),
    ],
)
def test_a_claim_that_is_missing_or_odd_is_refused(changes: dict[str, Any], words: str) -> None:
    refused = refusal(**changes)
    assert refused.code is Code.TOKEN_CLAIMS
    assert words in refused.public


@pytest.mark.parametrize("groups", ["etl", ["etl"]])
def test_one_group_may_come_as_a_text(groups: Any) -> None:
    assert workload("generic", groups=groups).claims["groups"] == ("etl",)
