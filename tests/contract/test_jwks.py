"""An issuer's keys over real HTTP and HTTPS: rotation, outage, and answers that must not be believed."""

import asyncio
import json
import re
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any, Literal

import pytest

from broker.demo.certificates import LoopbackCa
from broker.demo.issuer import DISCOVERY_PATH, KEYS_PATH, TestIssuer
from broker.errors import Code, Misconfigured, Refused, Unavailable
from broker.identity import fetch
from broker.identity.fetch import FetchError, address_problem
from broker.identity.jwks import Keys
from broker.identity.verify import TokenVerifier
from broker.moment import Moment
from tests.fakes import key_server
from tests.fakes.forge import compact, gitlab_key, job_token, jwks, jwks_file, settings, stranger_key
from tests.fakes.key_server import KeyServer, document
from tests.fakes.workloads import claims_of, ec_jwk, ec_token
from tests.strategies import NOON, moment


@pytest.fixture(params=["http", "https"])
def ca(request: pytest.FixtureRequest, tmp_path: Path) -> LoopbackCa | None:
    """The authority that the issuer's certificate is of; None for plain HTTP on loopback."""
    if request.param == "http":
        return None
    (tmp_path / "ca").mkdir()
    return LoopbackCa(tmp_path / "ca")


@pytest.fixture
def gitlab(ca: LoopbackCa | None) -> Iterator[TestIssuer]:
    with TestIssuer(scheme="https" if ca else "http", clock=lambda: NOON, ca=ca) as issuer:
        yield issuer


@pytest.fixture
def server(ca: LoopbackCa | None) -> Iterator[KeyServer]:
    with KeyServer(ca) as one:
        yield one


@asynccontextmanager
async def keys_of(**changes: Any) -> AsyncIterator[Keys]:
    keys = Keys(settings(**changes))
    yield keys
    await keys.close()


async def found(keys: Keys, kid: str, now: Moment) -> bool:
    return (await keys.find(kid, now)).kid == kid


async def refused(keys: Keys, kid: str, now: Moment) -> Code:
    with pytest.raises((Refused, Unavailable)) as caught:
        await keys.find(kid, now)
    return caught.value.code


async def fails(keys: Keys, caplog: pytest.LogCaptureFixture, now: Moment | None = None) -> str:
    """Why the keys could not be loaded, as the operator's log says it."""
    caplog.clear()
    assert not await keys.load(now or moment())
    (record,) = (record for record in caplog.records if record.message == "identity.keys_failed")
    return str(record.__dict__["reason"])


@pytest.mark.parametrize("scheme", ["http", "https"])
async def test_keys_are_found_by_discovery(scheme: Literal["http", "https"]) -> None:
    """GitLab's documents, over both; with TLS by the issuer's own CA."""
    with TestIssuer(scheme=scheme, clock=lambda: NOON) as gitlab:
        own = settings(issuer=gitlab.url, ca_file=gitlab.ca_file)
        verifier = TokenVerifier([(own, Keys(own))])
        job = await verifier.verify(gitlab.mint(aud=own.audience[0]), moment())
        assert job.kid == gitlab.key.kid
        assert gitlab.requests == [DISCOVERY_PATH, KEYS_PATH]
        assert verifier.skew is not None
        await verifier.close()


async def test_a_server_whose_ca_was_not_said_is_not_believed(caplog: pytest.LogCaptureFixture, tmp_path: Path) -> None:
    """The system's CAs do not vouch for it, nor does another of our own."""
    with TestIssuer(scheme="https") as gitlab:
        for ca_file in (None, LoopbackCa(tmp_path).ca_file):
            async with keys_of(issuer=gitlab.url, ca_file=ca_file) as keys:
                assert "certificate is not trusted" in await fails(keys, caplog)
        assert gitlab.requests == []


async def test_a_server_with_another_name_is_not_believed(caplog: pytest.LogCaptureFixture, tmp_path: Path) -> None:
    """The CA is right, the certificate is somebody else's."""
    ca = LoopbackCa(tmp_path)
    with KeyServer(ca, host="gitlab.example.com") as server:
        async with keys_of(jwks_url=f"{server.url}/keys", ca_file=ca.ca_file) as keys:
            assert "certificate is not trusted" in await fails(keys, caplog)


async def test_a_rotation_without_overlap_is_followed_at_once(gitlab: TestIssuer) -> None:
    """The new key works with its first token; the old one is gone with the document that had it."""
    async with keys_of(issuer=gitlab.url, ca_file=gitlab.ca_file) as keys:
        old = gitlab.key.kid
        assert await found(keys, old, moment())
        gitlab.rotate()
        assert await found(keys, gitlab.key.kid, moment(1))
        assert await refused(keys, old, moment(40)) is Code.TOKEN_SIGNATURE


async def test_made_up_key_names_cause_one_fetch_in_a_cool_down(gitlab: TestIssuer) -> None:
    """A thousand tokens with random names: one question to GitLab, and one more half a minute later."""
    async with keys_of(issuer=gitlab.url, ca_file=gitlab.ca_file) as keys:
        await keys.load(moment())
        before = gitlab.requests.count(KEYS_PATH)
        answers = await asyncio.gather(*(refused(keys, f"made-up-{n}", moment(1)) for n in range(500)))
        answers += [await refused(keys, f"made-up-again-{n}", moment(1 + n / 20)) for n in range(500)]
        assert set(answers) == {Code.TOKEN_SIGNATURE}
        assert gitlab.requests.count(KEYS_PATH) == before + 1
        assert await found(keys, gitlab.key.kid, moment(20))
        assert await refused(keys, "made-up", moment(32)) is Code.TOKEN_SIGNATURE
        assert gitlab.requests.count(KEYS_PATH) == before + 2


async def test_a_flood_under_a_known_key_name_fetches_nothing(gitlab: TestIssuer) -> None:
    """A signature that does not hold is no reason to ask for keys."""
    own = settings(issuer=gitlab.url, ca_file=gitlab.ca_file)
    verifier = TokenVerifier([(own, Keys(own))])
    await verifier.warm(moment())
    before = list(gitlab.requests)
    for _ in range(50):
        with pytest.raises(Refused, match="signature does not hold"):
            await verifier.verify(gitlab.mint(key=stranger_key(), header={"kid": gitlab.key.kid}), moment())
    assert gitlab.requests == before
    await verifier.close()


async def test_many_tokens_at_the_start_share_one_fetch(gitlab: TestIssuer) -> None:
    """Single flight, also when most of its passengers leave."""
    async with keys_of(issuer=gitlab.url, ca_file=gitlab.ca_file) as keys:
        waiting = [asyncio.create_task(keys.find(gitlab.key.kid, moment())) for _ in range(50)]
        await asyncio.sleep(0)
        for task in waiting[1:]:
            task.cancel()
        assert (await waiting[0]).kid == gitlab.key.kid
        assert gitlab.requests == [DISCOVERY_PATH, KEYS_PATH]


async def test_an_outage_changes_nothing_until_the_keys_are_an_hour_old(gitlab: TestIssuer) -> None:
    """Stale on error, but a key that may have been withdrawn an hour ago is not used."""
    async with keys_of(issuer=gitlab.url, ca_file=gitlab.ca_file) as keys:
        kid = gitlab.key.kid
        await keys.find(kid, moment())
        gitlab.stop()
        for seconds in (60, 1900, 3599):
            assert await found(keys, kid, moment(seconds))
            await _settled(keys)
        assert await refused(keys, kid, moment(3630)) is Code.ISSUER_UNAVAILABLE
        assert not keys.usable(moment(3630))
        gitlab.start()
        assert await refused(keys, kid, moment(3631)) is Code.ISSUER_UNAVAILABLE  # asked a second ago
        assert await found(keys, kid, moment(3640))


async def test_an_unknown_key_during_an_outage_is_not_called_forged(gitlab: TestIssuer) -> None:
    """GitLab may have rotated: nobody knows, so the client may try again."""
    async with keys_of(issuer=gitlab.url, ca_file=gitlab.ca_file) as keys:
        await keys.load(moment())
        gitlab.stop()
        with pytest.raises(Unavailable) as caught:
            await keys.find("new", moment(1))
        assert caught.value.code is Code.ISSUER_UNAVAILABLE
        assert caught.value.retry_after == 30


async def test_a_withdrawn_key_is_gone_within_its_age(gitlab: TestIssuer) -> None:
    """Nobody tells us; the refresh in the background sees it, without a caller waiting for it."""
    async with keys_of(issuer=gitlab.url, ca_file=gitlab.ca_file) as keys:
        kid = gitlab.key.kid
        await keys.find(kid, moment())
        gitlab.withdraw()
        assert await found(keys, kid, moment(1799))
        assert await found(keys, kid, moment(1801))  # served from what is there, while the refresh is on its way
        await _settled(keys)
        assert await refused(keys, kid, moment(1802)) is Code.TOKEN_SIGNATURE


async def _settled(keys: Keys) -> None:
    if keys._flight is not None:
        await keys._flight


async def test_an_answer_of_another_kind_leaves_the_keys_as_they_are(server: KeyServer) -> None:
    """A proxy's error page must not stop every job."""
    server.answers["/keys"] = document(jwks())
    async with keys_of(jwks_url=f"{server.url}/keys", ca_file=server.ca_file) as keys:
        await keys.load(moment())
        server.answers["/keys"] = document(b"<html>maintenance</html>")
        assert await refused(keys, "new", moment(1)) is Code.ISSUER_UNAVAILABLE
        assert await found(keys, gitlab_key().kid, moment(2))


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (document(b"<html>"), "cannot be read"),
        (document(b"{}"), "no list `keys`"),
        (document(jwks(), status=500), "answered 500"),
        (document(jwks(), status=204), "answered 204"),
        (document(b" " * (300 * 1024)), "more than 256 KiB"),
        (key_server.endless, "more than 256 KiB"),
        (key_server.redirect("/elsewhere"), "redirect, which is not followed"),
        (key_server.redirect("http://127.0.0.1:1/keys"), "redirect, which is not followed"),
        (key_server.cut, "could not be fetched"),
    ],
)
async def test_an_answer_that_is_no_key_document_is_refused(
    server: KeyServer, caplog: pytest.LogCaptureFixture, answer: Callable[..., None], why: str
) -> None:
    """The operator's log says why, and quotes nothing of the answer."""
    server.answers["/keys"] = answer
    server.answers["/elsewhere"] = document(jwks())
    async with keys_of(jwks_url=f"{server.url}/keys", ca_file=server.ca_file) as keys:
        reason = await fails(keys, caplog)
        assert why in reason
        assert "<html>" not in reason
        assert server.seen == ["/keys"]


@pytest.mark.parametrize("answer", [key_server.trickle, key_server.silent])
async def test_a_slow_answer_ends_at_the_time_limit(
    server: KeyServer, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, answer: Callable[..., None]
) -> None:
    """A byte now and then keeps every read alive; the whole has a limit of its own, and the line is cut there."""
    monkeypatch.setattr(fetch, "_TOTAL_SECONDS", 0.4)
    server.answers["/keys"] = answer
    async with keys_of(jwks_url=f"{server.url}/keys", ca_file=server.ca_file) as keys:
        started = time.monotonic()
        assert "did not answer in full" in await fails(keys, caplog)
        assert time.monotonic() - started < 3


async def test_the_loop_runs_on_while_keys_are_fetched(server: KeyServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """One slow issuer does not hold up the others' jobs."""
    monkeypatch.setattr(fetch, "_TOTAL_SECONDS", 0.5)
    server.answers["/keys"] = key_server.silent
    async with keys_of(jwks_url=f"{server.url}/keys", ca_file=server.ca_file) as keys:
        loading = asyncio.create_task(keys.load(moment()))
        turns = 0
        deadline = time.monotonic() + 20
        while not loading.done():
            assert time.monotonic() < deadline
            await asyncio.sleep(0.005)
            turns += 1
        assert turns > 20


async def test_closing_ends_a_fetch(server: KeyServer) -> None:
    """A broker that stops does not wait for a silent issuer."""
    server.answers["/keys"] = key_server.silent
    keys = Keys(settings(jwks_url=f"{server.url}/keys", ca_file=server.ca_file))
    loading = asyncio.create_task(keys.load(moment()))
    deadline = time.monotonic() + 20
    while not server.seen:
        assert time.monotonic() < deadline
        await asyncio.sleep(0.005)
    await asyncio.wait_for(keys.close(), 3)
    with pytest.raises(asyncio.CancelledError):
        await loading


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"issuer": "https://gitlab.com.evil.example"}, "of another issuer"),
        ({"issuer": None}, "of another issuer"),
        ({"jwks_uri": "file:///etc/passwd"}, "another origin, or nowhere"),
        ({"jwks_uri": "http://169.254.169.254/keys"}, "another origin, or nowhere"),
        ({"jwks_uri": "http://127.0.0.1:1/keys"}, "another origin, or nowhere"),
        ({"jwks_uri": None}, "another origin, or nowhere"),
        ({"jwks_uri": 5}, "another origin, or nowhere"),
    ],
)
async def test_a_discovery_document_leads_nowhere_else(
    server: KeyServer, caplog: pytest.LogCaptureFixture, changes: dict[str, Any], why: str
) -> None:
    """Neither to another issuer's keys nor to another host."""
    good = {"issuer": server.url, "jwks_uri": f"{server.url}/keys"}
    server.answers["/keys"] = document(jwks())
    server.answers[DISCOVERY_PATH] = document(compact(good | changes))
    async with keys_of(issuer=server.url, ca_file=server.ca_file) as keys:
        assert why in await fails(keys, caplog)
        assert server.seen == [DISCOVERY_PATH]
    server.answers[DISCOVERY_PATH] = document(compact(good))
    async with keys_of(issuer=server.url, ca_file=server.ca_file) as keys:
        assert await keys.load(moment())


async def test_a_discovery_that_changes_its_issuer_changes_no_keys(server: KeyServer) -> None:
    """Whoever answers there now is somebody else: the keys that are here stay, and nothing is taken from there."""
    server.answers["/keys"] = document(jwks())
    server.answers[DISCOVERY_PATH] = document(compact({"issuer": server.url, "jwks_uri": f"{server.url}/keys"}))
    async with keys_of(issuer=server.url, ca_file=server.ca_file) as keys:
        assert await keys.load(moment())
        server.answers["/keys"] = document(jwks(dict(stranger_key().jwk)))
        server.answers[DISCOVERY_PATH] = document(compact({"issuer": "https://evil", "jwks_uri": f"{server.url}/keys"}))
        assert await refused(keys, stranger_key().kid, moment(1)) is Code.ISSUER_UNAVAILABLE
        assert await found(keys, gitlab_key().kid, moment(2))
        assert server.seen.count("/keys") == 1


async def test_a_discovery_document_that_cannot_be_read_is_refused(server: KeyServer, caplog: pytest.LogCaptureFixture) -> None:
    """Duplicate members would let two readers find two addresses."""
    server.answers[DISCOVERY_PATH] = document(b'{"jwks_uri":"a","jwks_uri":"b"}')
    async with keys_of(issuer=server.url, ca_file=server.ca_file) as keys:
        assert "a member twice" in await fails(keys, caplog)


async def test_discovery_may_be_somewhere_else_than_the_issuer(server: KeyServer) -> None:
    """A GitLab whose `iss` is not its own address (18.1) is found where the operator says."""
    server.answers["/copy/discovery"] = document(compact({"issuer": "https://gitlab.com", "jwks_uri": f"{server.url}/copy/keys"}))
    server.answers["/copy/keys"] = document(jwks())
    async with keys_of(discovery_url=f"{server.url}/copy/discovery", ca_file=server.ca_file) as keys:
        assert await found(keys, gitlab_key().kid, moment())


async def test_a_gitlab_under_a_path_is_found_under_that_path(server: KeyServer) -> None:
    """`https://host/gitlab` is the issuer; the well-known path is appended to it."""
    issuer = f"{server.url}/gitlab"
    server.answers[f"/gitlab{DISCOVERY_PATH}"] = document(compact({"issuer": issuer, "jwks_uri": f"{issuer}/keys"}))
    server.answers["/gitlab/keys"] = document(jwks())
    async with keys_of(issuer=issuer, ca_file=server.ca_file) as keys:
        assert await keys.load(moment())


async def test_a_cluster_with_an_elliptic_key_is_found_and_follows_its_rotation(server: KeyServer) -> None:
    """Kubernetes may sign with ES256; its keys are at `/openid/v1/jwks`, under an authority of its own."""
    server.answers["/openid/v1/jwks"] = document(jwks(ec_jwk("first")))
    issuer = {"issuer": server.url, "jwks_uri": f"{server.url}/openid/v1/jwks"}
    server.answers[DISCOVERY_PATH] = document(compact(issuer | {"id_token_signing_alg_values_supported": ["ES256"]}))
    own = settings(profile="kubernetes", issuer=server.url, ca_file=server.ca_file)
    verifier = TokenVerifier([(own, Keys(own))])
    claims = claims_of("kubernetes", iss=server.url)
    assert (await verifier.verify(ec_token(claims, "first"), moment())).kid == "first"
    server.answers["/openid/v1/jwks"] = document(jwks(ec_jwk("second")))
    assert (await verifier.verify(ec_token(claims, "second"), moment(1))).kid == "second"
    with pytest.raises(Refused, match="does not publish"):
        await verifier.verify(ec_token(claims, "first"), moment(2))
    await verifier.close()


@pytest.mark.parametrize(
    ("profile", "changes", "why"),
    [
        ("kubernetes", {"crv": "P-384"}, "cannot be read"),
        ("kubernetes", {"alg": "ES384"}, "type or algorithm"),
        ("kubernetes", {"alg": "RS256"}, "type or algorithm"),
        ("kubernetes", {"kty": "RSA"}, "type or algorithm|cannot be read"),
        ("kubernetes", {"use": "enc"}, "not for signatures"),
        ("kubernetes", {"d": "AQAB"}, "private or symmetric"),
        ("kubernetes", {"x": "AAAA"}, "cannot be read"),
        ("github", {}, "type or algorithm"),
        ("okta", {}, "type or algorithm"),
        ("gitlab", {}, "type or algorithm"),
    ],
)
async def test_an_elliptic_key_that_the_profile_does_not_allow_is_no_key(
    server: KeyServer, caplog: pytest.LogCaptureFixture, profile: str, changes: dict[str, str], why: str
) -> None:
    """By curve, algorithm, use and type, as for RSA."""
    server.answers["/keys"] = document(jwks(ec_jwk() | changes))
    async with keys_of(profile=profile, jwks_url=f"{server.url}/keys", ca_file=server.ca_file) as keys:
        assert re.search(why, await fails(keys, caplog))
    server.answers["/keys"] = document(jwks(ec_jwk()))
    async with keys_of(profile="kubernetes", jwks_url=f"{server.url}/keys", ca_file=server.ca_file) as keys:
        assert await found(keys, "ec", moment())


async def test_a_document_with_too_many_keys_is_refused_whole(server: KeyServer, caplog: pytest.LogCaptureFixture) -> None:
    """64 keys are taken, 65 are not."""
    several = [dict(gitlab_key().jwk) | {"kid": f"k{number}"} for number in range(65)]
    server.answers["/keys"] = document(jwks(*several))
    async with keys_of(jwks_url=f"{server.url}/keys", ca_file=server.ca_file) as keys:
        assert "more than 64 keys" in await fails(keys, caplog)
    server.answers["/keys"] = document(jwks(*several[:64]))
    async with keys_of(jwks_url=f"{server.url}/keys", ca_file=server.ca_file) as keys:
        assert await found(keys, "k63", moment())


async def test_keys_in_a_file_are_read_again_when_it_changes(tmp_path: Path) -> None:
    """For a GitLab that cannot be reached: the operator replaces the file."""
    path = jwks_file(tmp_path)
    async with keys_of(jwks_file=path) as keys:
        assert await found(keys, gitlab_key().kid, moment())
        jwks_file(tmp_path, jwks(dict(stranger_key().jwk)))
        assert await found(keys, stranger_key().kid, moment(1))


async def test_a_key_file_that_everybody_may_write_is_refused(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Who can write it can make tokens."""
    path = jwks_file(tmp_path)
    path.chmod(0o666)
    async with keys_of(jwks_file=path) as keys:
        assert "written by everybody" in await fails(keys, caplog)


async def test_the_issuers_clock_is_compared_with_ours(server: KeyServer) -> None:
    """DESIGN 3.15: by its Date, at every fetch."""
    server.answers["/keys"] = document(jwks())
    async with keys_of(jwks_url=f"{server.url}/keys", ca_file=server.ca_file) as keys:
        # The server says the real time, and our moment is noon of a day of its own: the skew is the difference.
        await keys.load(moment())
        assert keys.skew is not None
        real = time.time() - NOON.timestamp()
        assert abs(keys.skew.total_seconds() - real) < 5


@pytest.mark.parametrize("date", ["yesterday", "Mon, 23 Nov 2026 12:00:00 -0000", "Mon, 23 Nov 99999 12:00:00 GMT", ""])
async def test_a_server_that_does_not_know_the_time_is_asked_for_keys_alone(server: KeyServer, date: str) -> None:
    """Its Date is of no use, its keys are."""
    server.answers["/keys"] = lambda handler: handler.reply(200, jwks(), own_date=date)
    async with keys_of(jwks_url=f"{server.url}/keys", ca_file=server.ca_file) as keys:
        assert await keys.load(moment())
        assert keys.skew is None


async def test_a_cached_answer_tells_no_time(server: KeyServer) -> None:
    """A CDN in front of GitLab repeats the Date of hours ago; that is no skew."""
    server.answers["/keys"] = document(jwks(), Age="7200")
    async with keys_of(jwks_url=f"{server.url}/keys", ca_file=server.ca_file) as keys:
        assert await keys.load(moment())
        assert keys.skew is None


async def test_a_login_token_verifies_and_is_no_job(gitlab: TestIssuer) -> None:
    """The same issuer, a key of the same document, and our own audience."""
    own = settings(issuer=gitlab.url, ca_file=gitlab.ca_file)
    verifier = TokenVerifier([(own, Keys(own))])
    with pytest.raises(Refused) as caught:
        await verifier.verify(gitlab.mint_login(own.audience[0]), moment())
    assert caught.value.code is Code.TOKEN_CLASS
    await verifier.close()


async def test_an_unknown_issuer_causes_no_network_call(gitlab: TestIssuer) -> None:
    """Neither to it, nor to the one that is known."""
    own = settings(issuer=gitlab.url, ca_file=gitlab.ca_file)
    verifier = TokenVerifier([(own, Keys(own))])
    with KeyServer() as elsewhere, pytest.raises(Refused) as caught:
        await verifier.verify(job_token(iss=elsewhere.url), moment())
    assert caught.value.code is Code.TOKEN_ISSUER
    assert elsewhere.seen == gitlab.requests == []


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("http://gitlab.example.com", "plain http"),
        ("http://10.0.0.1:8080", "plain http"),
        ("http://localhost.evil.example", "plain http"),
        ("ftp://gitlab.example.com", "not an https"),
        ("file:///etc/passwd", "not an https"),
        ("gitlab.example.com", "not an https"),
        ("https://", "not an https"),
        ("https://a:0", "not an https"),
        ("https://a:99999", "not a URL"),
        ("https://exa mple.com", "not a URL"),
        ("https://gitlab.com@evil.example", "a user or a fragment"),
        ("https://gitlab.com/#x", "a user or a fragment"),
    ],
)
async def test_keys_come_from_https_or_from_loopback(url: str, why: str) -> None:
    """Refused when the broker starts, and once more before a socket is opened."""
    assert why in str(address_problem(url))
    for field in ("issuer", "jwks_url", "discovery_url"):
        with pytest.raises(Misconfigured, match=why) as caught:
            Keys(settings(**{field: url}))
        assert caught.value.code is Code.CONFIG_INVALID
    with pytest.raises(FetchError, match=why):
        await fetch.get(url, ca_file=None, max_bytes=1)


@pytest.mark.parametrize(
    "url", ["https://gitlab.example.com:8443/gitlab", "http://127.0.0.1:1", "http://[::1]:1", "http://localhost:1"]
)
def test_https_and_loopback_are_addresses(url: str) -> None:
    """The allowed twins."""
    assert address_problem(url) is None
    Keys(settings(issuer=url))


def test_an_issuer_that_is_only_a_name_is_fine_when_its_keys_are_elsewhere(tmp_path: Path) -> None:
    """With a file or a URL of its own, nothing is ever fetched from the issuer."""
    Keys(settings(issuer="http://gitlab.internal", jwks_file=tmp_path / "k"))
    Keys(settings(issuer="http://gitlab.internal", jwks_url="https://keys.example.com/jwks"))


def test_the_model_issuer_speaks_as_gitlab_documents_it(gitlab: TestIssuer) -> None:
    """The double's own contract: types of claims, members of keys, nothing for other paths."""
    claims = gitlab.job_claims()
    numbers = {name for name, value in claims.items() if type(value) is int}
    assert numbers == {"exp", "iat", "nbf", "runner_id"}
    assert all(type(value) is str for name, value in claims.items() if name not in numbers)
    assert claims["iat"] - claims["nbf"] == 5
    keys = gitlab.answer(KEYS_PATH)
    assert keys is not None
    assert [set(key) for key in keys["keys"]] == [{"kty", "kid", "e", "n", "use", "alg"}] * 2
    assert gitlab.answer("/other") is None
    assert json.dumps(gitlab.answer(DISCOVERY_PATH))
    assert timedelta(seconds=claims["exp"] - claims["iat"]) == timedelta(hours=1)
