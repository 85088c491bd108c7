"""The whole token corpus through the doors of a running broker: each is refused there with the code of its row.

Minted by the issuer that this broker trusts. The twin of all of them is `test_the_token_that_they_are_made_of_is_accepted`.
"""

import http.client
import json
from typing import Any
from urllib.parse import quote_plus, urlencode

import pytest

from broker.demo.files import PROJECT
from broker.errors import Code
from tests.attack.corpus import Case, Mint, base_mint, corpus
from tests.story.conftest import Town

_NAMES = [case.name for case in corpus(base_mint())]
_FORM = {
    "grant_type": "urn:ietf:params:oauth:grant-type:token-exchange",
    "subject_token_type": "urn:ietf:params:oauth:token-type:id_token",
}


@pytest.fixture(scope="module")
def mint(town: Town) -> Mint:
    gitlab = town.world.gitlab
    base = gitlab.job_claims(aud=town.world.url, project_id=PROJECT)
    fixed = {name: base[name] for name in ("aud", "project_id", "jti", "iat", "nbf", "exp")}
    return Mint(
        key=gitlab.key,
        claims=lambda **changes: gitlab.job_claims(**(fixed | changes)),
        audience=town.world.url,
        now=base["iat"],
        slack=600,
    )


@pytest.fixture(scope="module")
def cases(mint: Mint) -> dict[str, Case]:
    return {case.name: case for case in corpus(mint)}


def exchange(town: Town, token: str) -> tuple[int, dict[str, Any]]:
    """Status and body of one POST /v1/token."""
    body = urlencode(_FORM) + "&subject_token=" + quote_plus(token, errors="surrogatepass")
    connection = http.client.HTTPConnection("127.0.0.1", town.world.port, timeout=10)
    try:
        connection.request("POST", "/v1/token", body.encode(), {"Content-Type": "application/x-www-form-urlencoded"})
        answer = connection.getresponse()
        return answer.status, json.loads(answer.read())
    except (BrokenPipeError, ConnectionResetError):  # it said no and hung up while two megabytes were on their way
        answer = connection.getresponse()
        return answer.status, json.loads(answer.read())
    finally:
        connection.close()


@pytest.mark.parametrize("name", _NAMES)
def test_an_attack_is_refused_at_the_door_with_the_same_code(town: Town, cases: dict[str, Case], name: str) -> None:
    """400, the code of its row, and nothing of the token in the answer."""
    case = cases[name]
    status, body = exchange(town, case.token)
    assert (status, body["code"]) == (400, (case.door or case.code).word)
    assert "access_token" not in body
    assert "eyJ" not in json.dumps(body)
    if case.door is None:
        assert case.words in body["error_description"]


def test_the_token_that_they_are_made_of_is_accepted(town: Town, mint: Mint) -> None:
    """And a second time it is not: row 30, over the wire."""
    token = mint.token(jti="the-good-one")
    status, body = exchange(town, token)
    assert (status, body["environment"]) == (200, "production")
    respelled = mint.forge(json.dumps(mint.claims(jti="the-good-one"), indent=1).encode())
    assert respelled != token
    assert exchange(town, respelled)[1]["code"] == Code.SESSION_EXISTS.word


def test_nothing_of_a_token_is_in_the_broker_s_log(town: Town, cases: dict[str, Case]) -> None:
    """Row 73, after all of the above: no token, no part of one, whatever was wrong with it."""
    log = (town.world.folder / "broker.log").read_text(errors="replace")
    assert "eyJ" not in log
    assert "glcbt-" not in log
    assert log.isprintable() or all(line.isprintable() for line in log.splitlines())
    for case in cases.values():
        signature = case.token.rpartition(".")[2]
        assert len(signature) < 40 or signature not in log, case.name
