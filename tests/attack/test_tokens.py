"""The attack list of gitlab-tokens.md section 5 through the token check: the corpus, and the rows about keys.

Every case goes through the whole verifier, as it would at the door. The base token is accepted by the very same verifier.
"""

import asyncio
import json
import socket
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from broker.demo.issuer import SigningKey, TestIssuer
from broker.errors import Code, Refused
from broker.identity.gate import MAX_CHARS
from broker.identity.jwks import Keys
from broker.identity.verify import TokenVerifier
from tests.attack.corpus import Case, base_mint, corpus, public_pem
from tests.fakes.forge import (
    AUDIENCE,
    ISSUER,
    b64,
    base_claims,
    forge,
    gitlab_key,
    job_token,
    jwks,
    jwks_file,
    settings,
    stranger_key,
)
from tests.strategies import NOON, moment

KID = gitlab_key().kid
HEADER = {"alg": "RS256", "kid": KID, "typ": "JWT"}


@pytest.fixture
async def verifier(tmp_path: Path) -> AsyncIterator[TokenVerifier]:
    own = settings(jwks_file=jwks_file(tmp_path))
    one = TokenVerifier([(own, Keys(own))])
    await one.warm(moment())
    yield one
    await one.close()


@pytest.fixture
def connections(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Every name that is looked up and every address that is connected to."""
    seen: list[Any] = []

    def resolve(*args: Any, **kwargs: Any) -> Any:
        seen.append(args)
        raise OSError("no network in this test")

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    monkeypatch.setattr(socket, "create_connection", resolve)
    return seen


_B = job_token()
_CASES = corpus(base_mint())


@pytest.mark.parametrize("case", _CASES, ids=[case.name for case in _CASES])
async def test_an_attack_by_token_is_refused_with_its_reason(verifier: TokenVerifier, connections: list[Any], case: Case) -> None:
    """Refused with the code and words of its row, by a verifier that accepts the base token, and without any network call."""
    with pytest.raises(Refused) as caught:
        await verifier.verify(case.token, moment())
    assert caught.value.code is case.code
    assert case.words in caught.value.public
    assert "eyJ" not in caught.value.public + caught.value.detail
    assert "glcbt-" not in caught.value.public + caught.value.detail
    assert caught.value.public.isprintable()
    assert connections == []
    assert (await verifier.verify(_B, moment())).stable_id == "20"


def test_every_case_has_a_name_of_its_own() -> None:
    """It is what the table of rows points to."""
    assert len({case.name for case in _CASES}) == len(_CASES)


@pytest.mark.parametrize(
    ("row", "document"),
    [
        ("9 use enc", jwks(dict(gitlab_key().jwk) | {"use": "enc"}, dict(stranger_key().jwk))),
        ("9 private", jwks(dict(gitlab_key().jwk) | {"d": "AQAB"}, dict(stranger_key().jwk))),
        ("9 oct", jwks({"kty": "oct", "k": b64(public_pem(gitlab_key())), "kid": KID}, dict(stranger_key().jwk))),
        ("10 ours behind another of that kid", jwks(dict(stranger_key().jwk) | {"kid": KID}, dict(stranger_key().jwk))),
    ],
)
async def test_rows_9_and_10_a_key_that_must_not_verify_does_not(tmp_path: Path, row: str, document: bytes) -> None:
    """The rest of the document goes on verifying."""
    own = settings(jwks_file=jwks_file(tmp_path, document))
    one = TokenVerifier([(own, Keys(own))])
    with pytest.raises(Refused, match=r"does not publish|does not hold") as caught:
        await one.verify(_B, moment())
    assert caught.value.code is Code.TOKEN_SIGNATURE, row
    stranger = forge(header=HEADER | {"kid": stranger_key().kid}, key=stranger_key())
    assert (await one.verify(stranger, moment())).kid == stranger_key().kid


async def test_row_9_a_1024_bit_key_verifies_nothing(tmp_path: Path) -> None:
    """Even though its issuer published it."""
    weak = SigningKey.new(1024)
    own = settings(jwks_file=jwks_file(tmp_path, jwks(dict(weak.jwk), dict(gitlab_key().jwk))))
    one = TokenVerifier([(own, Keys(own))])
    with pytest.raises(Refused, match="does not publish"):
        await one.verify(forge(header=HEADER | {"kid": weak.kid}, key=weak), moment())
    assert (await one.verify(_B, moment())).kid == KID


async def test_rows_25_to_28_against_a_real_issuer() -> None:
    """Floods fetch once at most, an outage stops nobody, a rotation is followed, the key that was replaced is not accepted."""
    with TestIssuer(clock=lambda: NOON) as gitlab:
        own = settings(issuer=gitlab.url)
        one = TokenVerifier([(own, Keys(own))])
        first = gitlab.mint(aud=AUDIENCE)
        await one.verify(first, moment())
        asked = len(gitlab.requests)

        made_up = [gitlab.mint(aud=AUDIENCE, header={"kid": f"made-up-{n}"}) for n in range(50)]
        answers = await asyncio.gather(*(one.verify(token, moment(1)) for token in made_up), return_exceptions=True)
        assert {a.code for a in answers if isinstance(a, Refused)} == {Code.TOKEN_SIGNATURE}
        assert len(answers) == len(made_up)
        assert len(gitlab.requests) == asked + 2  # discovery and keys, once

        forged = gitlab.mint(aud=AUDIENCE, key=stranger_key(), header={"kid": gitlab.key.kid})
        with pytest.raises(Refused, match="does not hold"):
            await one.verify(forged, moment(40))
        assert len(gitlab.requests) == asked + 2

        gitlab.stop()
        assert await one.verify(first, moment(50)) == await one.verify(first, moment(51))
        gitlab.start()

        gitlab.rotate()
        assert (await one.verify(gitlab.mint(aud=AUDIENCE), moment(60))).kid == gitlab.key.kid
        with pytest.raises(Refused, match="does not publish"):
            await one.verify(first, moment(61))
        await one.close()


async def test_row_30_the_token_id_and_not_the_spelling_is_what_a_replay_is_known_by(verifier: TokenVerifier) -> None:
    """The same claims in another layout are another text, and the same job and token id."""
    loose = forge(json.dumps(base_claims(), indent=1).encode())
    assert loose != _B
    one, other = await verifier.verify(_B, moment()), await verifier.verify(loose, moment())
    assert (one.issuer, one.jti) == (other.issuer, other.jti)
    assert one == other


async def test_the_longest_token_that_is_taken_is_taken(verifier: TokenVerifier) -> None:
    """The allowed twin of the size cap."""
    token = job_token(x="y" * 13_500)
    assert MAX_CHARS - 500 < len(token) <= MAX_CHARS
    assert (await verifier.verify(token, moment())).issuer == ISSUER
