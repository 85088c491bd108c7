"""The attack list of gitlab-tokens.md 5.1 and 5.2 (and what of 5.3 a token check can see), row by row, with the concrete input.

Every case goes through the whole verifier, as it would at the door. The base token is accepted by the very same verifier.
"""

import asyncio
import hashlib
import hmac
import json
import socket
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.padding import MGF1, PSS, PKCS1v15
from cryptography.hazmat.primitives.hashes import SHA256, SHA512
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from broker.demo.issuer import ABSENT, SigningKey, TestIssuer
from broker.errors import Code, Refused
from broker.identity.gate import MAX_CHARS
from broker.identity.jwks import Keys
from broker.identity.verify import TokenVerifier
from tests.fakes.forge import (
    AUDIENCE,
    ISSUER,
    b64,
    base_claims,
    compact,
    forge,
    gitlab_key,
    job_token,
    jwks,
    jwks_file,
    settings,
    stranger_key,
)
from tests.strategies import NOON, moment

EPOCH = int(NOON.timestamp())
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


def signed_with(header: dict[str, Any], sign: Any) -> str:
    text = f"{b64(compact(header))}.{b64(compact(base_claims()))}"
    return f"{text}.{b64(sign(text.encode()))}"


def _public_pem() -> bytes:
    return gitlab_key().private.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def _hs256(text: bytes) -> bytes:
    return hmac.new(_public_pem(), text, hashlib.sha256).digest()


def _with_member_twice(name: str, second: Any) -> bytes:
    """The claims, with one more `name` written behind the first."""
    return compact(base_claims())[:-1] + f",{json.dumps(name)}:{json.dumps(second)}}}".encode()


def _claims_text(replace: str, by: str) -> bytes:
    return compact(base_claims()).replace(replace.encode(), by.encode())


_B = job_token()

MALFORMED, SIGNATURE, CLAIMS = Code.TOKEN_MALFORMED, Code.TOKEN_SIGNATURE, Code.TOKEN_CLAIMS
CLASS, OTHER_AUDIENCE, EXPIRED = Code.TOKEN_CLASS, Code.TOKEN_AUDIENCE, Code.TOKEN_EXPIRED


def _rs512(text: bytes) -> bytes:
    return gitlab_key().private.sign(text, PKCS1v15(), SHA512())


def _ps256(text: bytes) -> bytes:
    return gitlab_key().private.sign(text, PSS(MGF1(SHA256()), 32), SHA256())


def _es256(text: bytes) -> bytes:
    return ec.generate_private_key(ec.SECP256R1()).sign(text, ec.ECDSA(SHA256()))


_JSON_SERIALIZATION = json.dumps(dict(zip(("protected", "payload", "signature"), _B.split("."), strict=True)))
_LOGIN = {name: value for name, value in base_claims(sub="123").items() if name in {"iss", "sub", "aud", "exp", "iat"}}
_EXP = f'"exp":{EPOCH + 3600}'

CASES: list[tuple[str, str, Code, str]] = [
    # 5.1 Cryptography and parsing
    ("1 alg none without signature", signed_with(HEADER | {"alg": "none"}, lambda _: b""), MALFORMED, "signature"),
    ("1 alg none, signed", forge(header=HEADER | {"alg": "none"}), SIGNATURE, "algorithm"),
    ("1 alg None", forge(header=HEADER | {"alg": "None"}), SIGNATURE, "algorithm"),
    ("2 HS256 with the public key as secret", signed_with(HEADER | {"alg": "HS256"}, _hs256), SIGNATURE, "algorithm"),
    ("2 the same under RS256", signed_with(HEADER, _hs256), SIGNATURE, "does not hold"),
    ("3 RS512 with the right key", signed_with(HEADER | {"alg": "RS512"}, _rs512), SIGNATURE, "algorithm"),
    ("3 PS256 with the right key", signed_with(HEADER | {"alg": "PS256"}, _ps256), SIGNATURE, "algorithm"),
    ("3 ES256", signed_with(HEADER | {"alg": "ES256"}, _es256), SIGNATURE, "algorithm"),
    ("3 RS512 said to be RS256", signed_with(HEADER, _rs512), SIGNATURE, "does not hold"),
    ("4 alg twice", forge(header=b'{"alg":"none",' + compact(HEADER)[1:]), MALFORMED, "twice"),
    ("4 kid twice", forge(header=b'{"kid":"x",' + compact(HEADER)[1:]), MALFORMED, "twice"),
    *(
        (f"5 header {name}", forge(header=HEADER | {name: value}), MALFORMED, "members other than")
        for name, value in {
            "jku": "http://127.0.0.1:1", "x5u": "http://127.0.0.1:1", "jwk": dict(stranger_key().jwk), "x5c": ["AA=="],
        }.items()
    ),
    ("6 kid is a path", forge(header=HEADER | {"kid": "../../dev/null"}), SIGNATURE, "does not publish"),
    ("6 kid is SQL", forge(header=HEADER | {"kid": "' OR 1=1 --"}), SIGNATURE, "does not publish"),
    ("6 kid is huge", forge(header=HEADER | {"kid": "k" * 1_000_000}), MALFORMED, "characters"),
    ("6 kid is long", forge(header=HEADER | {"kid": "k" * 129}), MALFORMED, "kid"),
    ("6 kid is a list", forge(header=HEADER | {"kid": [KID]}), MALFORMED, "kid"),
    ("7 kid is missing", forge(header={"alg": "RS256", "typ": "JWT"}), MALFORMED, "kid"),
    ("8 crit", forge(header=HEADER | {"crit": ["exp"]}), MALFORMED, "members other than"),
    ("8 b64", forge(header=HEADER | {"b64": False, "crit": ["b64"]}), MALFORMED, "members other than"),
    ("11 project_id twice", forge(_with_member_twice("project_id", "666")), MALFORMED, "twice"),
    ("11 project_id twice, once escaped", forge(compact(base_claims())[:-1] + b',"\\u0070roject_id":"666"}'), MALFORMED, "twice"),
    ("11 a member twice in an object", forge(_claims_text('"ref":', '"job_config":{"a":1,"a":2},"ref":')), MALFORMED, "twice"),
    ("12 long s", forge(base_claims() | {"\u017fub": "victim"}), CLAIMS, "resembles"),
    ("12 upper case", job_token(SUB="victim"), CLAIMS, "resembles"),
    ("12 mixed case", job_token(Project_ID="666"), CLAIMS, "resembles"),
    ("12 full width", forge(base_claims() | {"\uff52\uff45\uff46": "main"}), CLAIMS, "resembles"),
    ("13 exp is a text", job_token(exp=str(EPOCH + 60)), CLAIMS, "exp is not a whole number"),
    ("13 exp is true", job_token(exp=True), CLAIMS, "exp is not a whole number"),
    ("13 exp is a list", job_token(exp=[EPOCH + 60]), CLAIMS, "exp is not a whole number"),
    ("13 exp is 1e400", forge(_claims_text(_EXP, '"exp":1e400')), MALFORMED, "JSON"),
    ("13 exp is NaN", forge(_claims_text(_EXP, '"exp":NaN')), MALFORMED, "JSON"),
    ("13 exp is a float", forge(_claims_text(_EXP, f'"exp":{EPOCH + 3600}.0')), MALFORMED, "not whole"),
    ("13 exp is 10**18", job_token(exp=10**18), MALFORMED, "out of range"),
    ("13 exp has 5000 digits", forge(_claims_text(_EXP, '"exp":' + "9" * 5000)), MALFORMED, "payload"),
    ("13 exp is negative", job_token(exp=-1), CLAIMS, "exp is not a whole number"),
    ("14 no exp", job_token(exp=ABSENT), CLAIMS, "exp is missing"),
    ("14 no iat", job_token(iat=ABSENT), CLAIMS, "iat is missing"),
    ("14 no jti", job_token(jti=ABSENT), CLAIMS, "jti is missing"),
    ("15 valid for ten years", job_token(exp=EPOCH + 10 * 365 * 86400), CLAIMS, "at most 86400 s"),
    ("16 iat in the future by 31 s", job_token(iat=EPOCH + 31), CLAIMS, "iat is 2026-11-23T12:00:31Z"),
    ("16 nbf in the future by 31 s", job_token(nbf=EPOCH + 31), CLAIMS, "nbf is 2026-11-23T12:00:31Z"),
    ("16 exp 31 s ago", job_token(iat=EPOCH - 3600, nbf=EPOCH - 3605, exp=EPOCH - 31), EXPIRED, "ended at"),
    ("16 exp exactly the leeway ago", job_token(iat=EPOCH - 3600, nbf=EPOCH - 3605, exp=EPOCH - 30), EXPIRED, "ended at"),
    ("17 payload in UTF-16", forge(compact(base_claims()).decode().encode("utf-16")), MALFORMED, "UTF-8"),
    ("17 payload in UTF-16 without mark", forge(compact(base_claims()).decode().encode("utf-16-le")), MALFORMED, "UTF-8"),
    ("17 payload with a byte order mark", forge(b"\xef\xbb\xbf" + compact(base_claims())), MALFORMED, "UTF-8"),
    ("17 payload in Latin-1", forge(_claims_text("sample-user", "jos\u00e9").decode().encode("latin-1")), MALFORMED, "UTF-8"),
    ("18 nested 50 000 deep", forge(b'{"iss":' + b"[" * 50_000 + b"]" * 50_000 + b"}"), MALFORMED, "characters"),
    ("18 nested 5 000 deep", forge(b'{"iss":' + b"[" * 5_000 + b"]" * 5_000 + b"}"), MALFORMED, "nested"),
    ("18 nested 9 deep", job_token(x=[[[[[[[[1]]]]]]]]), MALFORMED, "nested"),
    ("18 2 MB", job_token(x="y" * 2_000_000), MALFORMED, "20000 characters"),
    ("18 100 000 members", forge(base_claims() | {f"k{n}": n for n in range(100_000)}), MALFORMED, "20000 characters"),
    ("19 half a surrogate pair in ref", forge(_claims_text('"ref":"main"', '"ref":"\\ud800"')), MALFORMED, "payload"),
    ("19 the same in raw bytes", forge(compact(base_claims(x="\ud800"))), MALFORMED, "UTF-8"),
    ("19 NUL in ref", forge(_claims_text('"ref":"main"', '"ref":"main\\u0000"')), MALFORMED, "NUL"),
    ("19 newline in environment", job_token(environment='x\n{"decision":"allow"}'), CLAIMS, "environment"),
    ("19 ANSI in ref", job_token(ref="\x1b[2Jmain"), CLAIMS, "ref"),
    ("19 direction marks in login", job_token(user_login="\u202enimda"), CLAIMS, "user_login"),
    ("19 a lone surrogate as the token", "\ud800", MALFORMED, "characters"),
    ("20 JWE in five parts", ".".join([_B.partition(".")[0]] * 5), MALFORMED, "5 parts"),
    ("20 JSON serialization", _JSON_SERIALIZATION, MALFORMED, "parts"),
    ("20 nested JWT", forge(_B.encode(), HEADER | {"typ": "JWT"}), MALFORMED, "payload"),
    ("21 typ at+jwt", forge(header=HEADER | {"typ": "at+jwt"}), CLASS, "not an ID token"),
    ("21 typ logout+jwt", forge(header=HEADER | {"typ": "logout+jwt"}), CLASS, "not an ID token"),
    # 5.2 Another spelling of a token that was accepted
    ("30 with padding", _B + "==", MALFORMED, "one spelling"),
    ("30 with a space behind", _B + " ", MALFORMED, "one spelling"),
    ("30 with a newline before", "\n" + _B, MALFORMED, "one spelling"),
    ("30 with other spare bits", _B[:-1] + chr(ord(_B[-1]) + 1), MALFORMED, "one spelling"),
    # 5.3 What a token check sees of it
    ("33 aud is a list with us in it", job_token(aud=[AUDIENCE, "https://evil"]), OTHER_AUDIENCE, "aud is a list"),
    ("33 aud is an empty list", job_token(aud=[]), OTHER_AUDIENCE, "aud is a list"),
    ("33 aud with a slash more", job_token(aud=AUDIENCE + "/"), OTHER_AUDIENCE, f"aud is {AUDIENCE}/; this broker is {AUDIENCE}"),
    ("34 a token for Vault", job_token(aud="https://vault.example"), OTHER_AUDIENCE, "aud is https://vault.example"),
    ("40 a tag's type with a branch's path", job_token(ref_type="tag", ref_path="refs/heads/main"), CLAIMS, "ref_path"),
    *(
        (f"43 ref_protected {value!r}", job_token(ref_protected=value), CLAIMS, "ref_protected")
        for value in (True, "True", 1, None, ABSENT, "yes", ["true"])
    ),
    *(
        (f"43 project_id {value!a}", job_token(project_id=value), CLAIMS, "project_id")
        for value in (20, "020", " 20", "20\n", "\uff12\uff10", "2\u200b0", "", None, ABSENT, ["20"])
    ),
    ("57 a login token for our audience", forge({**base_claims(), "auth_time": EPOCH} | {"sub": "123"}), CLASS, "login"),
    ("57 a login token has no job", forge(_LOGIN), CLASS, "login"),
    ("58 CI_JOB_TOKEN", "glcbt-64_" + _B, CLASS, "CI_JOB_TOKEN"),
]  # fmt: skip


@pytest.mark.parametrize(("token", "code", "words"), [case[1:] for case in CASES], ids=[case[0] for case in CASES])
async def test_an_attack_by_token_is_refused_with_its_reason(
    verifier: TokenVerifier, connections: list[Any], token: str, code: Code, words: str
) -> None:
    """Refused with the code and words of its row, by a verifier that accepts the base token, and without any network call."""
    with pytest.raises(Refused) as caught:
        await verifier.verify(token, moment())
    assert caught.value.code is code
    assert words in caught.value.public
    assert "eyJ" not in caught.value.public + caught.value.detail
    assert caught.value.public.isprintable()
    assert connections == []
    assert (await verifier.verify(_B, moment())).stable_id == "20"


@pytest.mark.parametrize(
    "issuer",
    [
        "http://169.254.169.254", "https://gitlab.com@evil", "https://gitlab.com.evil.example", "https://evil/?https://gitlab.com",
        "https://gitlab.com/", "HTTPS://GitLab.com", "https://g\u0456tlab.com", "http://gitlab.com", "https://gitlab.com:443", "",
        " https://gitlab.com", "https://gitlab.com\x00", "https://evil#https://gitlab.com", "file:///etc/passwd",
    ],
)  # fmt: skip
async def test_row_22_an_issuer_that_is_not_ours_is_refused_without_dns_or_socket(
    verifier: TokenVerifier, connections: list[Any], issuer: str
) -> None:
    """Byte for byte, and before any name is looked up: there is nothing to forge a request with."""
    with pytest.raises(Refused) as caught:
        await verifier.verify(forge(compact(base_claims() | {"iss": issuer})), moment())
    assert caught.value.code in (Code.TOKEN_ISSUER, Code.TOKEN_MALFORMED)
    assert connections == []
    if caught.value.code is Code.TOKEN_ISSUER:
        assert "none that this broker trusts" in caught.value.public
    assert not issuer or issuer.strip() not in caught.value.public


@pytest.mark.parametrize(
    ("row", "document"),
    [
        ("9 use enc", jwks(dict(gitlab_key().jwk) | {"use": "enc"}, dict(stranger_key().jwk))),
        ("9 private", jwks(dict(gitlab_key().jwk) | {"d": "AQAB"}, dict(stranger_key().jwk))),
        ("9 oct", jwks({"kty": "oct", "k": b64(_public_pem()), "kid": KID}, dict(stranger_key().jwk))),
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
