"""The gate: one spelling, one reading, and verified claims only from a signature that holds."""

import base64
import copy
import pickle
from datetime import timedelta
from typing import Any

import jwt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from broker.errors import Code, Refused
from broker.identity.gate import MAX_CHARS, SignedClaims, VerifiedClaims, check_signature, parse, verify
from broker.identity.keyset import VerificationKey, parse_jwks
from broker.identity.rules import Names
from tests.fakes.forge import AUDIENCE, ISSUER, b64, base_claims, compact, forge, gitlab_key, job_token, jwks, rules, stranger_key
from tests.strategies import NOON

EPOCH = int(NOON.timestamp())


def our_key() -> VerificationKey:
    return parse_jwks(jwks(), frozenset({"RS256"})).keys[gitlab_key().kid]


def through(token: str, *, after: float = 0.0, **changes: Any) -> VerifiedClaims:
    return verify(parse(token), our_key(), rules(**changes), NOON + timedelta(seconds=after))


def refusal(token: str, *, after: float = 0.0, **changes: Any) -> Refused:
    with pytest.raises(Refused) as caught:
        through(token, after=after, **changes)
    return caught.value


def test_a_job_token_becomes_verified_claims() -> None:
    """Issuer, key, token id and hours are typed; the members are as they were signed."""
    verified = through(job_token())
    assert (verified.issuer, verified.kid, verified.token_id) == (ISSUER, gitlab_key().kid, base_claims()["jti"])
    assert verified.issued_at == NOON
    assert verified.expires_at == NOON + timedelta(hours=1)
    assert dict(verified.members) == base_claims()
    assert verified.unknown == ()


def test_a_claim_that_nobody_knows_is_named_and_ignored() -> None:
    """GitLab adds some every year; a token is not refused for them."""
    assert through(job_token(brand_new="x", other={"a": 1})).unknown == ("brand_new", "other")


def test_nobody_else_makes_verified_claims() -> None:
    """Not the constructor, not a copy, not a pickle."""
    token = parse(job_token())
    with pytest.raises(TypeError, match="come from the gate"):
        SignedClaims(object(), token)
    signed = check_signature(token, our_key(), rules())
    with pytest.raises(TypeError, match="come from the gate"):
        VerifiedClaims(object(), signed, Names((), ()), "j", EPOCH, EPOCH + 60)
    for unmade in (pickle.dumps, copy.copy):
        with pytest.raises(TypeError, match="not pickled"):
            unmade(signed)
    verified = through(job_token())
    with pytest.raises(TypeError, match="not pickled"):
        pickle.dumps(verified)
    with pytest.raises(TypeError, match="not pickled"):
        copy.copy(verified)
    with pytest.raises(TypeError):
        verified.members["project_id"] = "666"  # type: ignore[index]  # that it cannot be done is what is tested
    assert "20" not in repr(verified).replace(base_claims()["jti"], "")


@pytest.mark.parametrize(
    ("token", "why"),
    [
        ("", "1 parts"),
        ("a.b", "2 parts"),
        ("a.b.c.d.e", "5 parts"),
        (job_token() + "=", "signature is not base64url"),
        (" " + job_token(), "header is not base64url"),
        (job_token() + "\n", "signature is not base64url"),
        (job_token().replace(".", "..", 1), "4 parts"),
        (job_token().rpartition(".")[0] + ".", "signature is not base64url"),
        ("." + job_token().partition(".")[2], "header is not base64url"),
        ("é" + job_token(), "characters that no token has"),
        ("\ud800" + job_token(), "characters that no token has"),
        ("x" * (MAX_CHARS + 1), "more than 20000 characters"),
        (job_token() + "x" * MAX_CHARS, "more than 20000 characters"),
    ],
)
def test_anything_but_three_canonical_segments_is_malformed(token: str, why: str) -> None:
    """Whitespace, padding, other alphabets and other numbers of parts are no other way to write a token."""
    with pytest.raises(Refused, match=why) as caught:
        parse(token)
    assert caught.value.code is Code.TOKEN_MALFORMED


def test_the_spare_bits_of_a_last_character_have_one_value() -> None:
    """342 characters carry 4 spare bits: without the rule one signature has 16 spellings (performance.md 1)."""
    token = job_token()
    assert len(token.rpartition(".")[2]) == 342
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    others = [alphabet[alphabet.index(token[-1]) ^ bits] for bits in range(1, 16)]
    for other in others:
        respelled = token[:-1] + other
        assert base64.urlsafe_b64decode(respelled.rpartition(".")[2] + "==") == base64.urlsafe_b64decode(
            token.rpartition(".")[2] + "=="
        )
        assert refusal(respelled).code is Code.TOKEN_MALFORMED


@pytest.mark.parametrize("change", [{"+": "-"}, {"/": "_"}])
def test_the_other_base64_alphabet_is_malformed(change: dict[str, str]) -> None:
    """`+` and `/` are what the decoder underneath would take."""
    ((plain, url),) = change.items()
    token = next(t for t in (job_token(jti=str(n)) for n in range(200)) if url in t.rpartition(".")[2])
    assert refusal(token.replace(url, plain)).code is Code.TOKEN_MALFORMED


@pytest.mark.parametrize(
    ("header", "why"),
    [
        (b'{"alg":"none","alg":"RS256","kid":"k"}', "header is refused: it has a member twice"),
        ({"alg": "RS256", "typ": "JWT"}, "no `kid`"),
        ({"alg": "RS256", "kid": ""}, "no `kid`"),
        ({"alg": "RS256", "kid": "k" * 129}, "no `kid`"),
        ({"alg": "RS256", "kid": ["k1"]}, "no `kid`"),
        ({"kid": "k"}, "no `alg`"),
        ({"alg": 7, "kid": "k"}, "no `alg`"),
        ({"alg": "RS256", "kid": "k", "typ": None}, "`typ` is not a text"),
        ({"alg": "RS256", "kid": "k", "typ": 1}, "`typ` is not a text"),
        *(
            ({"alg": "RS256", "kid": "k", name: value}, "members other than alg, kid and typ")
            for name, value in {
                "jku": "http://127.0.0.1:1", "x5u": "http://127.0.0.1:1", "jwk": {}, "x5c": [], "x5t": "x", "crit": ["exp"],
                "b64": False, "cty": "JWT", "zip": "DEF", "ALG": "none",
            }.items()
        ),
        (b"[]", "not a JSON object"),
    ],
)  # fmt: skip
def test_a_header_says_alg_kid_and_typ_once_each_and_nothing_more(header: Any, why: str) -> None:
    """A token does not bring its own key, and says nothing critical that we would have to understand."""
    refused = refusal(forge(header=header))
    assert refused.code is Code.TOKEN_MALFORMED
    assert why in refused.public


@pytest.mark.parametrize("alg", ["none", "HS256", "RS384", "RS512", "PS256", "ES256", "EdDSA", "rs256", ""])
def test_an_algorithm_that_the_issuer_does_not_use_is_refused(alg: str) -> None:
    """Whatever the signature is."""
    refused = refusal(forge(header={"alg": alg, "kid": gitlab_key().kid, "typ": "JWT"}))
    assert refused.code is Code.TOKEN_SIGNATURE
    assert "algorithm" in refused.public


@pytest.mark.parametrize("typ", ["at+jwt", "logout+jwt", "jwt", "JWS", ""])
def test_a_header_that_names_another_kind_of_token_is_refused(typ: str) -> None:
    """`JWT`, or nothing, is an ID token."""
    assert refusal(forge(header={"alg": "RS256", "kid": gitlab_key().kid, "typ": typ})).code is Code.TOKEN_CLASS
    assert through(forge(header={"alg": "RS256", "kid": gitlab_key().kid})).issuer == ISSUER


def test_a_signature_by_another_key_does_not_hold() -> None:
    """Neither under our key's name, nor when the key that is handed in has another name."""
    assert refusal(forge(key=stranger_key())).code is Code.TOKEN_SIGNATURE
    assert refusal(forge(signature=b"\0" * 256)).code is Code.TOKEN_SIGNATURE
    assert refusal(forge(signature=b"x")).code is Code.TOKEN_SIGNATURE
    assert refusal(forge(header={"alg": "RS256", "kid": "other", "typ": "JWT"})).code is Code.TOKEN_SIGNATURE


def test_another_issuer_than_the_rules_is_refused_before_its_signature_is_looked_at() -> None:
    """The rules, not the key, say whose token it has to be."""
    assert refusal(job_token(iss="https://gitlab.com.evil.example")).code is Code.TOKEN_ISSUER
    assert refusal(job_token(iss=ISSUER + "/")).code is Code.TOKEN_ISSUER


@pytest.mark.parametrize("issuer", [None, 5, ["https://gitlab.com"], {"a": 1}])
def test_an_issuer_that_is_no_text_is_malformed(issuer: Any) -> None:
    """There is nothing to look up."""
    assert refusal(forge(base_claims() | {"iss": issuer})).code is Code.TOKEN_MALFORMED


@pytest.mark.parametrize(
    ("claims", "after", "code"),
    [
        ({}, 3629.9, None),  # exp + leeway is the first moment refused
        ({}, 3630, Code.TOKEN_EXPIRED),
        ({}, 3631, Code.TOKEN_EXPIRED),
        ({"iat": EPOCH + 30, "nbf": EPOCH}, 0, None),  # iat - leeway is the first moment accepted
        ({"iat": EPOCH + 31, "nbf": EPOCH}, 0, Code.TOKEN_CLAIMS),
        ({"nbf": EPOCH + 30}, 0, None),
        ({"nbf": EPOCH + 31}, 0, Code.TOKEN_CLAIMS),
        ({"exp": EPOCH + 24 * 3600}, 0, None),
        ({"exp": EPOCH + 24 * 3600 + 1}, 0, Code.TOKEN_CLAIMS),
        ({"exp": EPOCH, "iat": EPOCH}, 0, Code.TOKEN_CLAIMS),
        ({"exp": EPOCH - 10, "iat": EPOCH - 5}, 0, Code.TOKEN_CLAIMS),
    ],
)
def test_the_hours_have_exact_ends(claims: dict[str, int], after: float, code: Code | None) -> None:
    """Leeway is 30 s on each end, and no token lives longer than its issuer's maximum."""
    token = job_token(**claims)
    if code is None:
        assert through(token, after=after).issuer == ISSUER
    else:
        assert refusal(token, after=after).code is code


@pytest.mark.parametrize("name", ["exp", "iat", "nbf"])
@pytest.mark.parametrize("value", ["1795435200", True, [EPOCH], -1, 10**13, {}])
def test_a_date_is_a_whole_number_in_range(name: str, value: Any) -> None:
    """PyJWT takes a text, and 10**18."""
    refused = refusal(job_token(**{name: value}))
    assert refused.code is Code.TOKEN_CLAIMS
    assert f"{name} is not a whole number of seconds" in refused.public


@pytest.mark.parametrize("name", ["exp", "iat"])
def test_a_token_without_its_hours_is_refused(name: str) -> None:
    """Null is not a way to leave one out: for the issuer's own claims, absent and null are one, for the token's they are not."""
    claims = base_claims()
    assert f"{name} is not a whole number" in refusal(forge(claims | {name: None})).public
    del claims[name]
    assert f"{name} is missing" in refusal(forge(claims)).public


def test_an_expired_token_is_told_its_own_end() -> None:
    """After the signature holds, the caller's own values are no secret to it."""
    refused = refusal(job_token(), after=7200)
    assert "ended at 2026-11-23T13:00:00Z and it is 2026-11-23T14:00:00Z" in refused.public


@pytest.mark.parametrize(
    ("audience", "words"),
    [
        ("https://a", "aud is https://a; this broker is https://broker.example"),
        (AUDIENCE + "/", "aud is https://broker.example/; this broker is https://broker.example"),
        ("https://vault.example", "aud is https://vault.example"),
        ("HTTPS://broker.example", "aud is HTTPS://broker.example"),
        ("a\nb", "aud is 'a\\nb'"),
        ("", "aud is "),
        ([AUDIENCE], "aud is a list"),
        ([AUDIENCE, "https://evil"], "aud is a list"),
        ([], "aud is a list"),
        (None, "aud is missing"),
        (5, "aud is missing, or is not a text"),
    ],
)
def test_the_audience_is_one_text_and_exactly_ours(audience: Any, words: str) -> None:
    """A list is refused even when we are in it: each of its members could replay the token at the others."""
    refused = refusal(job_token(aud=audience))
    assert refused.code is Code.TOKEN_AUDIENCE
    assert words in refused.public


def test_any_one_of_our_audiences_will_do() -> None:
    """A broker with an old and a new name."""
    assert through(job_token(aud="https://new"), audience=(AUDIENCE, "https://new")).issuer == ISSUER


@pytest.mark.parametrize("jti", [5, ["x"], "x" * 129, "a\nb", True, None, 0, False, []])
def test_an_odd_token_id_is_refused(jti: Any) -> None:
    """It is the key of replay protection. Whether it may be missing is the profile's to say."""
    refused = refusal(job_token(jti=jti))
    assert refused.code is Code.TOKEN_CLAIMS
    assert "jti" in refused.public


@pytest.mark.parametrize("name", ["SUB", "Project_ID", "\u017fub", "ｒｅｆ", "ref_patH", "e\u24cdp", "JTI", "ISS"])
def test_a_name_that_folds_onto_a_known_claim_is_refused(name: str) -> None:
    """By case or by NFKC: another reader could take it for the real one (hashicorp/cap#191)."""
    refused = refusal(job_token(**{name: "victim"}))
    assert refused.code is Code.TOKEN_CLAIMS
    assert "resembles" in refused.public


def test_before_the_signature_holds_no_value_of_the_token_is_told() -> None:
    """Whatever is wrong, and wherever in the token the words are."""
    tokens = [
        forge(base_claims(aud="MARKER"), key=stranger_key()),
        job_token(iss="https://MARKER"),
        forge(header={"alg": "MARKER", "kid": "k", "typ": "JWT"}),
        forge(header={"alg": "RS256", "kid": gitlab_key().kid, "typ": "MARKER"}),
        forge(header={"alg": "RS256", "kid": "MARKER", "typ": "JWT"}),
        forge(header={"alg": "RS256", "kid": "k", "MARKER": 1}),
        forge(b'{"MARKER":1,"MARKER":2}'),
        forge({"iss": ["MARKER"]}),
        "MARKER",
    ]
    for token in tokens:
        refused = refusal(token)
        assert "MARKER" not in refused.public + refused.detail


# --- no mutation passes, and nobody stricter than us passes less ---------------------------------------------------------

_VALID = job_token(jti="the-one-token")


def _outcome(token: str) -> dict[str, Any] | None:
    try:
        return dict(through(token).members)
    except Refused:
        return None


@settings(max_examples=400)
@given(st.data())
def test_no_mutation_of_a_valid_token_is_accepted(data: st.DataObject) -> None:
    """Change, insert, delete or swap characters anywhere: refused, unless it is the identical token."""
    text = _VALID
    for _ in range(data.draw(st.integers(1, 3))):
        place = data.draw(st.integers(0, len(text) - 1))
        character = data.draw(st.sampled_from("ABab09-_+/=. \n\x00é{") | st.characters())
        match data.draw(st.sampled_from(["change", "insert", "delete", "swap", "cut"])):
            case "change":
                text = text[:place] + character + text[place + 1 :]
            case "insert":
                text = text[:place] + character + text[place:]
            case "delete":
                text = text[:place] + text[place + 1 :]
            case "swap":
                text = text[place:] + text[:place]
            case _:
                text = text[: place + 1]
    assert _outcome(text) is None or text == _VALID


@settings(max_examples=100)
@given(st.sampled_from([0, 1, 2]), st.integers(0, 2000), st.integers(0, 7))
def test_no_flipped_bit_of_a_part_is_accepted(part: int, place: int, bit: int) -> None:
    """The decoded bytes, one bit at a time, written again in the right spelling."""
    parts = [base64.urlsafe_b64decode(segment + "=" * (-len(segment) % 4)) for segment in _VALID.split(".")]
    raw = bytearray(parts[part])
    raw[place % len(raw)] ^= 1 << bit
    parts[part] = bytes(raw)
    assert _outcome(".".join(map(b64, parts))) is None


_odd_values: st.SearchStrategy[Any] = st.sampled_from(
    [
        None,
        True,
        0,
        -1,
        1.5,
        "",
        "20",
        "x",
        EPOCH,
        EPOCH + 40,
        EPOCH - 40,
        str(EPOCH),
        10**18,
        [],
        [AUDIENCE],
        AUDIENCE,
        {},
        "2\u0660",
    ]
)


@settings(max_examples=300)
@given(st.dictionaries(st.sampled_from(["exp", "iat", "nbf", "aud", "iss", "jti", "sub", "ref", "x"]), _odd_values, max_size=3))
def test_whatever_we_accept_pyjwt_accepts_with_the_same_claims(changes: dict[str, Any]) -> None:
    """PyJWT is the laxer oracle: the gate refuses more, never less, and reads the same."""
    token = forge(compact(base_claims() | changes))
    ours = _outcome(token)
    if ours is None:
        return
    theirs = jwt.decode(
        token,
        gitlab_key().private.public_key(),
        algorithms=["RS256"],
        issuer=ISSUER,
        audience=AUDIENCE,
        options={"verify_exp": False, "verify_iat": False, "verify_nbf": False, "verify_sub": False, "require": ["exp", "iat"]},
    )
    assert theirs == ours
