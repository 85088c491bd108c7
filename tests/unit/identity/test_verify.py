"""The order of the checks: who is believed, when a key is looked for, what is counted."""

from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from broker.errors import Code, Misconfigured, Refused, Unavailable
from broker.identity.jwks import Keys
from broker.identity.settings import IssuerSettings
from broker.identity.verify import TokenVerifier
from tests.fakes.forge import AUDIENCE, base_claims, forge, gitlab_key, job_token, jwks, jwks_file, settings, stranger_key
from tests.strategies import moment


def verifier(*issuers: IssuerSettings) -> TokenVerifier:
    return TokenVerifier([(one, Keys(one)) for one in issuers])


@pytest.fixture
def gitlab(tmp_path: Path) -> IssuerSettings:
    return settings(jwks_file=jwks_file(tmp_path))


async def test_a_token_of_a_trusted_issuer_is_an_identity(gitlab: IssuerSettings) -> None:
    """With the issuer's own short name."""
    job = await verifier(gitlab).verify(job_token(), moment())
    assert (job.issuer_name, job.stable_id, job.job_id) == ("gitlab", "20", "302")


async def test_each_issuer_vouches_for_its_own_tokens_alone(gitlab: IssuerSettings, tmp_path: Path) -> None:
    """Two GitLabs: the same claims, signed by the other one's key, are nobody's."""
    (tmp_path / "other").mkdir()
    other = settings(
        name="other", issuer="https://git.other.example", jwks_file=jwks_file(tmp_path / "other", jwks(dict(stranger_key().jwk)))
    )
    both = verifier(gitlab, other)
    header = {"alg": "RS256", "kid": stranger_key().kid, "typ": "JWT"}
    theirs = forge(base_claims(iss=other.issuer), header, key=stranger_key())
    assert (await both.verify(theirs, moment())).issuer_name == "other"
    with pytest.raises(Refused) as caught:
        await both.verify(forge(base_claims(), header, key=stranger_key()), moment())
    assert caught.value.code is Code.TOKEN_SIGNATURE


@pytest.mark.parametrize("prefix", ["glcbt-64_", "glpat-"])
async def test_another_credential_of_gitlab_is_named_for_what_it_is(gitlab: IssuerSettings, prefix: str) -> None:
    """And not repeated."""
    with pytest.raises(Refused) as caught:
        await verifier(gitlab).verify(f"{prefix}abcdefghij", moment())
    assert caught.value.code is Code.TOKEN_CLASS
    assert "ID token" in caught.value.public
    assert "abcdefghij" not in caught.value.public + caught.value.detail


async def test_unknown_claims_are_counted_by_issuer_and_named_once(
    gitlab: IssuerSettings, caplog: pytest.LogCaptureFixture
) -> None:
    """A new GitLab does not stop anybody, and somebody can see that it came."""
    caplog.set_level("INFO", "credbroker.identity")
    checked = verifier(gitlab)
    for _ in range(3):
        await checked.verify(job_token(novelty="x"), moment())
    await checked.verify(job_token(), moment())
    assert dict(checked.unknown_claims) == {"gitlab": 3}
    records = [record for record in caplog.records if record.message == "identity.unknown_claims"]
    assert [record.__dict__["names"] for record in records] == [["'novelty'"]]


async def test_readiness_says_which_issuer_has_no_keys(gitlab: IssuerSettings, tmp_path: Path) -> None:
    """And is reached as soon as they can be read."""
    away = settings(name="away", issuer="https://away.example", jwks_file=tmp_path / "not-there.json")
    both = verifier(gitlab, away)
    assert len(both.problems(moment())) == 2
    assert not await both.ready(moment())
    assert both.problems(moment()) == ("the keys of issuer 'away' could not be fetched yet",)
    (tmp_path / "not-there.json").write_bytes(jwks())
    assert not await both.ready(moment(1))  # a file that was just not there is not read again at once
    assert await both.ready(moment(6))
    assert both.skew is None  # a file has no clock
    await both.close()


async def test_a_token_of_an_issuer_without_keys_may_be_tried_again(tmp_path: Path) -> None:
    """It is not known to be wrong."""
    away = settings(jwks_file=tmp_path / "not-there.json")
    with pytest.raises(Unavailable) as caught:
        await verifier(away).verify(job_token(), moment())
    assert caught.value.code is Code.ISSUER_UNAVAILABLE
    assert caught.value.retry_after == 5
    assert str(tmp_path) not in caught.value.public


@pytest.mark.parametrize(
    ("issuers", "why"),
    [
        ([], "no \\[\\[issuer\\]\\]"),
        ([{}, {"name": "again"}], "one `issuer`"),
        ([{"audience": ()}], "no audience"),
    ],
)
def test_a_verifier_that_could_not_be_right_is_not_made(issuers: list[dict[str, Any]], why: str, tmp_path: Path) -> None:
    """Nothing is empty by accident."""
    with pytest.raises(Misconfigured, match=why) as caught:
        verifier(*(settings(jwks_file=jwks_file(tmp_path), **changes) for changes in issuers))
    assert caught.value.code is Code.CONFIG_INVALID


async def test_the_leeway_and_the_lifetime_are_the_issuers(gitlab: IssuerSettings, tmp_path: Path) -> None:
    """Each issuer's settings, to the second."""
    strict = settings(jwks_file=gitlab.jwks_file, leeway=timedelta(0), max_lifetime=timedelta(minutes=59))
    with pytest.raises(Refused, match="at most 3540 s"):
        await verifier(strict).verify(job_token(), moment())
    assert (await verifier(gitlab).verify(job_token(), moment(3629))).stable_id == "20"
    exact = settings(jwks_file=gitlab.jwks_file, leeway=timedelta(0), audience=(AUDIENCE, "https://second"))
    with pytest.raises(Refused, match="ended at"):
        await verifier(exact).verify(job_token(), moment(3600))
    assert (await verifier(exact).verify(job_token(aud="https://second"), moment(3599))).kid == gitlab_key().kid
