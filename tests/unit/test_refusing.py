"""What a refused token leaves behind: a count, or an entry of what its issuer signed; and what its sender is told."""

import json
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.errors import BrokerError, Code, Refused, Unavailable
from broker.identity.jwks import Keys
from broker.identity.verify import TokenVerifier
from broker.moment import rfc3339
from broker.policy.decide import decide
from broker.policy.language import parse
from broker.policy.model import Deny
from broker.web import replies
from tests.fakes.forge import forge, jwks_file, settings
from tests.fakes.forge import job_token as forged
from tests.rig import Rig, exchange_request, rig
from tests.strategies import identity

SENTINEL = "wanted-by-the-policy"
SECRETIVE = f"""
version = 1
project_id = ["4711"]

[[environment]]
name = "{SENTINEL[:20]}-one"
when.issuer = "gitlab"
when.ref_path = "refs/heads/{SENTINEL}/**"
when.environment = "{SENTINEL}"
when.sha = ["{SENTINEL}1", "{SENTINEL}2"]
when.pipeline_source = ["push"]
unless.user_login = "{SENTINEL}"

[[environment]]
name = "{SENTINEL[:20]}-two"
when.issuer = "gitlab"
when.ref_path = "refs/tags/{SENTINEL}"
when.project_path = "{SENTINEL}/*"
when.namespace_id = "90210"
when.pipeline_source = ["schedule"]

[[grant]]
name = "lake"
environments = ["{SENTINEL[:20]}-one"]
[grant.aws]
role_arn = "arn:aws:iam::111122223333:role/{SENTINEL}"
ttl = "1h"
"""


def job_token(**changes: Any) -> str:
    return forged(**({"project_id": "4711", "job_project_id": "4711"} | changes))


def with_real_tokens(broker: Rig, folder: Path) -> None:
    one = settings(jwks_file=jwks_file(folder))
    broker.tokens = TokenVerifier([(one, Keys(one))])  # type: ignore[assignment] # the real one, instead of named tokens
    broker.build()


async def refused(broker: Rig, token: str, **changes: Any) -> Refused:
    with pytest.raises(Refused) as caught:
        await broker.desk.exchange(exchange_request(token, **changes))
    return caught.value


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"aud": "https://vault.example"}, Code.TOKEN_AUDIENCE),
        ({"iat": 1, "nbf": 1, "exp": 3601}, Code.TOKEN_EXPIRED),
        ({"ref_path": None}, Code.TOKEN_CLAIMS),
        ({"auth_time": 1}, Code.TOKEN_CLASS),
    ],
)
async def test_a_signed_token_that_is_refused_is_a_denial_of_its_own(tmp_path: Path, changes: dict[str, Any], code: Code) -> None:
    async with rig(tmp_path) as broker:
        with_real_tokens(broker, tmp_path)
        assert (await refused(broker, job_token(**changes), correlation_id="c9")).code is code
        (entry,) = broker.entries()
        assert (entry["kind"], entry["code"], entry["correlation_id"]) == ("denied", code.word, "c9")
        assert entry["signed"]["stable_id"] == "4711"
        assert entry["signed"]["claims"]["job_id"] == "302"
        assert "identity" not in entry
        assert entry["whole"]["user"] == {"name": "refused token of gitlab:4711", "type_id": 0, "uid": "gitlab:4711"}
        assert "actor" not in entry["whole"]
        assert {"user_login", "user_email"}.isdisjoint(entry["signed"]["claims"])  # of a person only the number
        await broker.upkeep.write_rollup()
        assert broker.rolled_up == []
        assert await broker.open(job_token())  # the allowed twin


async def test_signed_denials_are_twenty_a_minute_of_a_project_and_then_counted(tmp_path: Path) -> None:
    async with rig(tmp_path) as broker:
        with_real_tokens(broker, tmp_path)
        for n in range(25):
            await refused(broker, job_token(aud="https://vault.example", jti=str(n)))
        await refused(broker, job_token(aud="https://vault.example", project_id="4712"))
        denied = broker.entries("denied")
        assert [entry["signed"]["stable_id"] for entry in denied] == ["4711"] * 20 + ["4712"]
        await broker.upkeep.write_rollup()
        assert broker.rolled_up == [("token_audience", "http", 5)]
        broker.clock.forward(61)
        await refused(broker, job_token(aud="https://vault.example"))
        assert len(broker.entries("denied")) == 22


async def test_a_token_without_a_valid_signature_is_never_an_entry_whatever_it_says(tmp_path: Path) -> None:
    """Also one that claims to be of a project, is past its hours and names another audience."""
    async with rig(tmp_path) as broker:
        with_real_tokens(broker, tmp_path)
        wrong = job_token(aud="https://vault.example", exp=1)
        for token in (wrong[:-8] + "AAAAAAAA", wrong.rpartition(".")[0] + ".AAAA", "x.y.z", "glcbt-1"):
            refusal = await refused(broker, token)
            assert "vault.example" not in refusal.public
        assert broker.entries() == []
        await broker.upkeep.write_rollup()
        (entry,) = broker.entries()
        assert entry["kind"] == "rollup"
        assert "4711" not in json.dumps(entry["counts"])


async def test_a_second_holder_is_an_alarm_that_names_the_session_it_would_have_taken(tmp_path: Path) -> None:
    async with rig(tmp_path) as broker:
        opened = await broker.desk.exchange(exchange_request())
        await refused(broker, "main")
        entry = broker.entries("denied")[0]
        assert entry["possible_theft"] == {"live_session_id": opened.session.session_id}
        assert entry["whole"]["severity_id"] == 4
        assert "session_id" not in entry  # it has none
        await broker.desk.close(opened.handle.reveal(), exchange_request().peer, "c")
        await refused(broker, "main", wants=("nothing",))
        assert "possible_theft" not in broker.entries("denied")[1]


async def test_a_session_that_ends_while_it_is_resumed_is_no_error_of_the_client(tmp_path: Path) -> None:
    """Overtaken between looking and committing: it looks again, and opens a session of its own."""
    async with rig(tmp_path) as broker:
        first = await broker.desk.exchange(exchange_request(resume_key="r" * 43))
        looked = broker.ledger.live_session

        async def overtaken(issuer: str, jti: str) -> Any:
            found = await looked(issuer, jti)
            if found is not None:
                await broker.desk.close(first.handle.reveal(), exchange_request().peer, "c")
            return found

        broker.ledger.live_session = overtaken  # type: ignore[method-assign] # another broker, at the worst moment
        again = await broker.desk.exchange(exchange_request(resume_key="r" * 43))
        assert again.replaced is None
        assert broker.meter.thefts == 0
        assert broker.kinds() == ["session_opened", "session_closed", "session_opened"]


# --- what the sender is told ----------------------------------------------------------------------------------------


@given(
    st.fixed_dictionaries(
        {
            "ref_path": st.sampled_from(["refs/heads/main", "refs/heads/x/y", "refs/tags/v1"]),
            "environment": st.sampled_from(["production", "", "Production"]),
            "sha": st.text("0123456789abcdef", min_size=1, max_size=8),
            "project_path": st.sampled_from(["acme/data", "acme/evil"]),
            "pipeline_source": st.sampled_from(["push", "schedule", "web", "merge_request_event"]),
            "namespace_id": st.sampled_from(["72", "90211"]),
            "project_id": st.sampled_from(["4711", "4712"]),
        }
    ),
    st.sets(st.sampled_from(["environment", "sha", "project_path"])),
    st.sampled_from([None, ("lake",), ("nothing",)]),
)
def test_no_refusal_ever_tells_what_the_policy_wants(
    claims: dict[str, Any], without: set[str], wants: tuple[str, ...] | None
) -> None:
    """Only the job's own claims: neither a value nor an environment's name of the policy is in any hint."""
    policy = parse(SECRETIVE, "policy.toml", lambda name: "")
    decision = decide(policy, identity(claims=claims, without=sorted(without)), wants)
    assert isinstance(decision, Deny)
    for told in (SENTINEL, SENTINEL[:20], "90210", "111122223333"):
        assert told not in decision.hint
    if claims["project_id"] == "4712":  # a stranger learns nothing but that
        assert decision.hint == "this job is in no environment of this broker's policy"


def test_the_same_policy_lets_in_who_has_all_of_it() -> None:
    """The allowed twin."""
    policy = parse(SECRETIVE, "policy.toml", lambda name: "")
    wanted = {"ref_path": f"refs/heads/{SENTINEL}/x", "environment": SENTINEL, "sha": f"{SENTINEL}1", "user_login": "jo"}
    decision = decide(policy, identity(claims=wanted), None)
    assert not isinstance(decision, Deny), decision


@pytest.mark.parametrize("code", [code for code in Code if code.http_status])
def test_every_error_has_one_shape(code: Code) -> None:
    """Row 69 of the attack list: what is refused, and why, does not show in the shape of the answer."""
    reply = replies.refusal(BrokerError(code, "a sentence", detail="for our log"), "c" * 26)
    body = json.loads(reply.body)
    assert list(body) == ["error", "code", "error_description", "correlation_id"]
    assert body["correlation_id"] == "c" * 26
    assert "for our log" not in reply.body.decode()


def test_all_refused_tokens_have_one_status_and_one_oauth_error() -> None:
    token_codes = [code for code in Code if code.word.startswith("token_") and code.exit_code == 77] + [Code.SESSION_EXISTS]
    assert {(code.http_status, code.oauth_error) for code in token_codes} == {(400, "invalid_grant")}
    assert len(token_codes) == 8


async def test_an_old_gitlab_is_told_which_release_sends_what_is_missing(tmp_path: Path) -> None:
    async with rig(tmp_path) as broker:
        with_real_tokens(broker, tmp_path)
        claims = {name: value for name, value in json.loads(_payload(job_token())).items() if name != "ref_path"}
        refusal = await refused(broker, forge(claims))
        assert refusal.public == "ref_path is missing: GitLab 16.0 or newer sends it"
        refusal = await refused(broker, job_token(aud="https://a"))
        assert refusal.public.startswith("aud is https://a; this broker is https://broker.example")


async def test_the_hours_of_a_refused_token_are_its_own(tmp_path: Path) -> None:
    async with rig(tmp_path) as broker:
        with_real_tokens(broker, tmp_path)
        broker.clock.forward(timedelta(hours=2).total_seconds())
        refusal = await refused(broker, job_token())
        assert refusal.code is Code.TOKEN_EXPIRED
        (entry,) = broker.entries()
        assert entry["signed"]["claims"]["exp"] - entry["signed"]["claims"]["iat"] == 3600


def _payload(token: str) -> bytes:
    import base64

    part = token.split(".")[1]
    return base64.urlsafe_b64decode(part + "=" * (-len(part) % 4))


async def test_what_was_counted_while_the_log_was_away_is_in_the_next_rollup(tmp_path: Path) -> None:
    """The store's file is moved away, which a commit notices; nothing that was counted is lost, nor when counting began."""
    async with rig(tmp_path) as broker:
        began = broker.clock().wall
        await refused(broker, "x.y.z")
        away = broker.path.with_suffix(".away")
        broker.path.rename(away)
        broker.clock.forward(60)
        with pytest.raises(Unavailable) as caught:
            await broker.upkeep.write_rollup()
        assert caught.value.code is Code.STORE_UNAVAILABLE
        await refused(broker, "x.y.z")
        await broker.upkeep.stop()  # says so in our own log, and does not keep the broker from stopping
        assert broker.rolled_up == []
        away.rename(broker.path)
        broker.clock.forward(60)
        await broker.upkeep.stop()
        (entry,) = broker.entries("rollup")
        assert sum(line["count"] for line in entry["counts"]) == 2
        assert entry["since"] == rfc3339(began)
        await broker.upkeep.stop()
        assert broker.kinds() == ["rollup"]
