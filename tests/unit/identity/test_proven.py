"""What a signature proves of a token that is refused: enough for the log, and never an identity."""

from pathlib import Path
from typing import Any

import pytest

from broker.errors import Code, Refused
from broker.identity.claims import JobIdentity
from broker.identity.jwks import Keys
from broker.identity.proven import SignedRefusal
from broker.identity.verify import TokenVerifier
from tests.fakes.forge import base_claims, forge, gitlab_key, job_token, jwks_file, settings, stranger_key
from tests.strategies import moment


@pytest.fixture
def verifier(tmp_path: Path) -> TokenVerifier:
    one = settings(jwks_file=jwks_file(tmp_path))
    return TokenVerifier([(one, Keys(one))])


async def refusal(verifier: TokenVerifier, token: str, seconds: float = 0.0) -> Refused:
    with pytest.raises(Refused) as caught:
        await verifier.verify(token, moment(seconds))
    return caught.value


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"aud": "https://vault.example"}, Code.TOKEN_AUDIENCE),
        ({"exp": 1, "iat": 0, "nbf": 0}, Code.TOKEN_EXPIRED),
        ({"ref_protected": True}, Code.TOKEN_CLAIMS),
        ({"SUB": "x"}, Code.TOKEN_CLAIMS),
        ({"auth_time": 1}, Code.TOKEN_CLASS),
    ],
)
async def test_a_signed_token_that_is_refused_carries_what_its_issuer_signed(
    verifier: TokenVerifier, changes: dict[str, Any], code: Code
) -> None:
    refused = await refusal(verifier, job_token(**changes))
    assert isinstance(refused, SignedRefusal)
    assert refused.code is code
    proven = refused.proven
    assert (proven.issuer, proven.issuer_name, proven.profile, proven.stable_id) == (
        "https://gitlab.com",
        "gitlab",
        "gitlab",
        "20",
    )
    assert proven.kid == gitlab_key().kid
    assert proven.claims["job_id"] == "302"
    assert not issubclass(type(proven), JobIdentity)


@pytest.mark.parametrize(
    "token",
    [
        "a.b.c",
        "glcbt-64_x",
        job_token(iss="https://other.example"),
        forge(base_claims(), {"alg": "RS256", "kid": "nobody", "typ": "JWT"}),
        forge(base_claims(), key=stranger_key()),
        forge(base_claims(), {"alg": "none", "kid": gitlab_key().kid, "typ": "JWT"}, signature=b""),
    ],
)
async def test_a_token_without_a_valid_signature_carries_nothing(verifier: TokenVerifier, token: str) -> None:
    """The twin: of these nothing is known."""
    assert not isinstance(await refusal(verifier, token), SignedRefusal)


async def test_nothing_of_a_person_and_nothing_that_is_not_plain_is_kept(verifier: TokenVerifier) -> None:
    """An entry is for years, and is read on terminals."""
    refused = await refusal(
        verifier,
        job_token(
            aud=["https://a", "https://b"], user_login="jo-the-login", user_email="jo@example.com", ref="a\nb", sha="x" * 300,
            project_path=7, runner_id="12", environment={"a": "b"},
        ),
    )  # fmt: skip
    assert isinstance(refused, SignedRefusal)
    kept = refused.proven.claims
    assert kept["aud"] == ("https://a", "https://b")
    assert kept["user_id"] == "1"
    assert {"user_login", "user_email", "ref", "sha", "project_path", "runner_id", "environment"}.isdisjoint(kept)


@pytest.mark.parametrize("project_id", [20, None, "x" * 300, ["20"]])
async def test_an_id_that_is_none_leaves_the_issuer_alone(verifier: TokenVerifier, project_id: Any) -> None:
    refused = await refusal(verifier, job_token(project_id=project_id))
    assert isinstance(refused, SignedRefusal)
    assert refused.proven.stable_id == ""
    assert "project_id" not in refused.proven.claims
