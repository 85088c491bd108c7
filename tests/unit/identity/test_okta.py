"""Okta's access tokens as types, and its tokens that are none."""

from typing import Any

import pytest

from broker.demo.issuer import ABSENT
from broker.errors import Code, Refused
from broker.identity.profiles import PROFILES
from tests.fakes.workloads import workload

CLIENT = "0oa2hl2inow5Uqc6c357"
PERSON = {"sub": "a.person@example.com", "uid": "00ujmkLgagxeRrAg20g3", "auth_time": 1, "groups": ["Everyone", "etl"]}


def refusal(**changes: Any) -> Refused:
    with pytest.raises(Refused) as caught:
        workload("okta", **changes)
    return caught.value


def test_a_services_token_is_its_client() -> None:
    """One token is one job: Okta knows of no others."""
    job = workload("okta")
    assert (job.stable_id, job.project_path, job.job_id) == (CLIENT, CLIENT, "AT.0mP4JKAZX1iACIT4vbEDF7LpvDVjxypPMf0D7uX39RE")
    assert (job.user_id, job.ref_path, job.ref_protected) == ("", "", False)
    assert dict(job.claims) == {"cid": CLIENT, "sub": CLIENT, "scp": ("etl.read", "etl.run"), "ver": 1}


def test_behind_a_persons_token_the_person_is_a_number() -> None:
    """The login is kept nowhere, and `when.sub` lets services alone in."""
    job = workload("okta", **PERSON)
    assert job.user_id == "00ujmkLgagxeRrAg20g3"
    assert "sub" not in job.claims
    assert "a.person@example.com" not in str(job.to_record())


def test_one_group_may_come_as_a_text() -> None:
    """And is a list of one, so that it is compared whole."""
    assert workload("okta", groups="etl").claims["groups"] == ("etl",)
    assert workload("okta", groups=["etl", "x"]).claims["groups"] == ("etl", "x")
    assert refusal(groups={"etl": True}).code is Code.TOKEN_CLAIMS
    assert refusal(scp="etl.read").code is Code.TOKEN_CLAIMS  # scopes are always a list


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"jti": "ID.0mP4JKAZX1iACIT4vbEDF7LpvDVjxypPMf0D7uX39RE"}, "its jti starts with ID."),
        ({"nonce": "n"}, "it has nonce"),
        ({"at_hash": "h"}, "it has at_hash"),
        ({"idp": "00o1"}, "it has idp"),
        ({"amr": ["pwd"]}, "it has amr"),
        ({"cid": ABSENT}, "no cid and scp"),
        ({"scp": ABSENT}, "no cid and scp"),
        ({"jti": "0mP4JKAZX1iACIT4"}, "does not start with AT."),
        ({"jti": "RT.0mP4JKAZX1iACIT4"}, "does not start with AT."),
    ],
)
def test_what_the_same_keys_sign_for_other_purposes_is_of_another_class(changes: dict[str, Any], words: str) -> None:
    """An ID token is for the client that the person logged in to: whoever gets it could send it on."""
    refused = refusal(**changes)
    assert refused.code is Code.TOKEN_CLASS
    assert words in refused.public
    assert "access token" in refused.public


def test_an_id_token_is_named_as_one_though_its_audience_is_another() -> None:
    """Not "aud is 0oa…", which would send its sender the wrong way."""
    refused = refusal(jti="ID.x", aud=CLIENT, cid=ABSENT, scp=ABSENT, nonce="n")
    assert refused.code is Code.TOKEN_CLASS


@pytest.mark.parametrize("typ", ["application/okta-internal-at+jwt", "at+jwt"])
def test_a_token_for_okta_itself_says_so_in_its_header(typ: str) -> None:
    """The org authorization server's access tokens are opaque by contract."""
    refused = refusal(header={"typ": typ})
    assert refused.code is Code.TOKEN_CLASS


@pytest.mark.parametrize(
    ("issuer", "good"),
    [
        ("https://acme.okta.com/oauth2/default", True),
        ("https://acme.okta.com/oauth2/aus1a2b3c4d5e6f7g8h9", True),
        ("https://acme.okta.com", False),
        ("https://acme.okta.com/oauth2", False),
        ("https://acme.okta.com/oauth2/v1", False),
        ("https://acme.okta.com/oauth2/default/more", False),
    ],
)
def test_only_a_custom_authorization_server_can_be_trusted(issuer: str, good: bool) -> None:
    assert (PROFILES["okta"].issuer_problem(issuer) == "") is good


@pytest.mark.parametrize(
    ("name", "value"), [("cid", 5), ("scp", [1]), ("scp", []), ("sub", None), ("ver", "1"), ("uid", ["x"]), ("jti", ABSENT)]
)
def test_a_claim_of_another_type_is_refused(name: str, value: Any) -> None:
    if (name, value) == ("scp", []):
        assert workload("okta", scp=[]).claims["scp"] == ()  # nothing was granted, and no condition on it is met
        return
    assert refusal(**{name: value}).code is Code.TOKEN_CLAIMS
