"""No mutation of a valid token is accepted unless it decodes to the identical token: bits, bytes, structure, spelling.

Two attackers. One has the token and no key: whatever is changed is refused. The other is the issuer itself, careless: a payload
that is written otherwise and signed again is taken only when it says the same, and never when two readers could differ on it.
In the manner of Project Wycheproof's JWS and JSON vectors.
"""

import base64
import json
from collections.abc import Callable
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256
from hypothesis import given, settings
from hypothesis import strategies as st
from jwt.algorithms import ECAlgorithm

from broker.errors import Code, Refused
from broker.identity.claims import JobIdentity
from broker.identity.gate import parse, verify
from broker.identity.keyset import VerificationKey, parse_jwks
from broker.identity.profiles import PROFILES
from tests.fakes.forge import b64, base_claims, compact, forge, gitlab_key, job_token, jwks, rules
from tests.strategies import NOON

_RULES = rules()
_KEY = parse_jwks(jwks(), _RULES.algorithms).keys[gitlab_key().kid]
_TOKEN = job_token(jti="the-one-token")
_ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"


def identity(token: str, key: VerificationKey = _KEY, **changes: Any) -> JobIdentity | None:
    """What the token check makes of it; None when it refuses. Nothing else may come out of it."""
    try:
        return PROFILES["gitlab"].identify(verify(parse(token), key, rules(**changes), NOON), "gitlab")
    except Refused:
        return None


_ONE = identity(_TOKEN)


def parts(token: str) -> list[bytes]:
    return [base64.urlsafe_b64decode(segment + "=" * (-len(segment) % 4)) for segment in token.split(".")]


def joined(raw: list[bytes]) -> str:
    return ".".join(map(b64, raw))


def test_the_token_itself_is_accepted() -> None:
    """The twin of everything below."""
    assert _ONE is not None
    assert joined(parts(_TOKEN)) == _TOKEN


# --- without a key -----------------------------------------------------------------------------------------------------


def test_no_single_bit_of_the_text_can_be_flipped() -> None:
    """Every bit of every character, one after the other: all 8 x length of them."""
    for place in range(len(_TOKEN)):
        for bit in range(8):
            changed = _TOKEN[:place] + chr(ord(_TOKEN[place]) ^ 1 << bit) + _TOKEN[place + 1 :]
            assert identity(changed) is None, (place, bit)


@settings(max_examples=300)
@given(st.sampled_from([0, 1, 2]), st.data())
def test_no_byte_of_a_part_can_be_changed(part: int, data: st.DataObject) -> None:
    """Changed, cut, repeated, taken out or put in, and spelled rightly again."""
    raw = parts(_TOKEN)
    old = raw[part]
    place = data.draw(st.integers(0, len(old) - 1))
    byte = data.draw(st.binary(min_size=1, max_size=2))
    raw[part] = data.draw(
        st.sampled_from(
            [
                old[:place] + byte + old[place + 1 :],
                old[:place] + byte + old[place:],
                old[:place] + old[place + 1 :],
                old[:place],
                old[place:] + old[:place],
                old + old[place:],
                b"",
            ]
        )
    )
    assert identity(joined(raw)) is None or raw[part] == old


@settings(max_examples=200)
@given(st.lists(st.sampled_from([0, 1, 2]), min_size=0, max_size=5), st.sampled_from([".", "..", "", " ", "\n", "%2e", "\u2024"]))
def test_no_other_order_or_number_of_parts_is_accepted(order: list[int], dot: str) -> None:
    """Parts left out, doubled and exchanged; another sign between them."""
    segments = _TOKEN.split(".")
    text = dot.join(segments[index] for index in order)
    assert identity(text) is None or text == _TOKEN


@settings(max_examples=300)
@given(st.sampled_from([0, 1, 2]), st.data())
def test_no_part_has_a_second_spelling(part: int, data: st.DataObject) -> None:
    """Padding, white space, the other alphabet, spare bits, percent-encoding: the same bytes, written otherwise."""
    segments = _TOKEN.split(".")
    old = segments[part]
    place = data.draw(st.integers(0, len(old)))
    last = _ALPHABET.index(old[-1])
    spellings = [
        old + "=",
        old + "==",
        old + "=" * (-len(old) % 4),
        old[:place] + "\n" + old[place:],
        old[:place] + " " + old[place:],
        old[:place] + "\r\n" + old[place:],
        old[:place] + "%0a" + old[place:],
        old[:place] + "\x00" + old[place:],
        old.replace("-", "+"),
        old.replace("_", "/"),
        *(old[:-1] + _ALPHABET[last ^ bits] for bits in range(1, 16) if len(old) % 4 in (2, 3)),
        "".join(chr(ord(c) + 0xFEE0) if c.isalnum() else c for c in old),  # full width
        old.swapcase(),
    ]
    segments[part] = data.draw(st.sampled_from(spellings))
    text = ".".join(segments)
    assert identity(text) is None or text == _TOKEN


@settings(max_examples=100)
@given(st.sampled_from([0, 1]), st.data())
def test_json_that_is_written_otherwise_needs_another_signature(part: int, data: st.DataObject) -> None:
    """The claims are the same, the signed bytes are not."""
    raw = parts(_TOKEN)
    value = json.loads(raw[part])
    raw[part] = data.draw(_respellings(value))
    assert identity(joined(raw)) is None or raw[part] == parts(_TOKEN)[part]


# --- signed again ------------------------------------------------------------------------------------------------------


def _escaped(value: Any, every: int) -> str:
    """JSON with each `every`th character of each text as an escape."""
    if isinstance(value, dict):
        return "{" + ",".join(f"{_escaped(name, every)}:{_escaped(member, every)}" for name, member in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ",".join(_escaped(element, every) for element in value) + "]"
    if isinstance(value, str):
        return '"' + "".join(f"\\u{ord(c):04x}" if n % every == 0 else c for n, c in enumerate(value)) + '"'
    return json.dumps(value)


def _respellings(value: dict[str, Any]) -> st.SearchStrategy[bytes]:
    """Ways to write one object that every reader reads alike."""
    layouts = st.sampled_from([(",", ":"), (", ", ": "), (" ,\t", "\r\n: ")])
    plain = st.builds(
        lambda seed, layout, indent: json.dumps(dict(seed), separators=layout, indent=indent).encode(),
        st.permutations(list(value.items())),
        layouts,
        st.sampled_from([None, 1, "\t"]),
    )
    return plain | st.integers(1, 5).map(lambda every: _escaped(value, every).encode())


@settings(max_examples=150)
@given(_respellings(base_claims(jti="the-one-token")))
def test_json_that_is_written_otherwise_and_signed_again_is_the_identical_token(text: bytes) -> None:
    """Any order, any white space, any escapes: one job, one token id. Replay is known by that, and not by the text."""
    assert identity(forge(text)) == _ONE


def _twice(text: str) -> str:
    return text[:-1] + ',"jti":"the-one-token"}'


AMBIGUOUS: dict[str, Callable[[str], str]] = {
    "a member twice with the same value": _twice,
    "a member twice, once escaped": lambda text: text[:-1] + ',"\\u006ati":"the-one-token"}',
    "a name that is null-terminated": lambda text: text[:-1] + ',"jti\\u0000":"x"}',
    "a name in other case": lambda text: text[:-1] + ',"JTI":"x"}',
    "a name with a letter that folds": lambda text: text[:-1] + ',"i\\u017fs":"x"}',
    "a number with an exponent": lambda text: text.replace('"runner_id":12270807', '"runner_id":1.2270807e7'),
    "a number with a fraction": lambda text: text.replace('"runner_id":12270807', '"runner_id":12270807.0'),
    "a number with a sign": lambda text: text.replace('"runner_id":12270807', '"runner_id":+12270807'),
    "a number with a zero in front": lambda text: text.replace('"runner_id":12270807', '"runner_id":012270807'),
    "a number that doubles cannot hold": lambda text: text.replace('"runner_id":12270807', '"runner_id":9007199254740993'),
    "a number as a text": lambda text: text.replace('"runner_id":12270807', '"runner_id":"12270807"'),
    "hexadecimal": lambda text: text.replace('"runner_id":12270807', '"runner_id":0xbb3c17'),
    "a comma more": lambda text: text[:-1] + ",}",
    "a comment": lambda text: text[:-1] + "/* */}",
    "single quotes": lambda text: text.replace('"', "'"),
    "a name without quotes": lambda text: text.replace('"jti"', "jti"),
    "something behind it": lambda text: text + "x",
    "a second object behind it": lambda text: text + text,
    "a NUL behind it": lambda text: text + "\x00",
    "a byte order mark": lambda text: "\ufeff" + text,
    "a vertical tab as white space": lambda text: text[:-1] + "\x0b}",
    "a no-break space as white space": lambda text: text[:-1] + "\u00a0}",
    "a tab in a text": lambda text: text.replace("sample-user@", "sample\tuser@"),
    "an unknown escape": lambda text: text.replace("sample-user@", "sample\\xuser@"),
    "half a surrogate pair": lambda text: text.replace("sample-user@", "\\udc00@"),
    "a list around it": lambda text: f"[{text}]",
    "a text around it": json.dumps,
}


@pytest.mark.parametrize("name", AMBIGUOUS)
def test_what_two_readers_could_read_differently_is_refused_though_it_is_signed(name: str) -> None:
    """Each is taken by some JSON reader. The claims are otherwise those of the accepted token."""
    plain = compact(base_claims(jti="the-one-token")).decode()
    changed = AMBIGUOUS[name](plain)
    assert changed != plain
    assert identity(forge(changed.encode())) is None
    assert identity(forge(plain.encode())) == _ONE


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-8-sig", "cp500"])
def test_no_other_encoding_is_read(encoding: str) -> None:
    """Libraries guess; a claim in another encoding is another claim to whoever does not."""
    assert identity(forge(compact(base_claims()).decode().encode(encoding))) is None


@settings(max_examples=200)
@given(st.dictionaries(st.sampled_from(sorted(base_claims())), st.none() | st.booleans() | st.integers() | st.text(), min_size=1))
def test_other_claims_are_another_token_or_none(changes: dict[str, Any]) -> None:
    """What decides never comes through changed: an accepted token has exactly the claims that were signed."""
    claims = base_claims(jti="the-one-token") | changes
    found = identity(forge(compact(claims)))
    if found is None:
        return
    for name, value in found.claims.items():
        assert claims[name] in (value, str(value).lower()), name


# --- the other kind of signature -----------------------------------------------------------------------------------------


def _ec_token() -> tuple[str, VerificationKey, int]:
    private = ec.generate_private_key(ec.SECP256R1())
    jwk = dict(ECAlgorithm.to_jwk(private.public_key(), as_dict=True)) | {"kid": "ec", "use": "sig"}
    key = parse_jwks(jwks(jwk), frozenset({"ES256"})).keys["ec"]
    signed = f"{b64(compact({'alg': 'ES256', 'kid': 'ec'}))}.{b64(compact(base_claims()))}"
    r, s = decode_dss_signature(private.sign(signed.encode(), ec.ECDSA(SHA256())))
    return f"{signed}.{b64(r.to_bytes(32) + s.to_bytes(32))}", key, s


_P256 = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551


def test_an_elliptic_signature_has_one_length_and_its_twin_is_the_identical_token() -> None:
    """ECDSA gives each signature a twin (r, n - s), which anybody can compute and no issuer avoids. It opens nothing more, for a
    token is known by its issuer and id. Zeros, DER and other lengths are no signatures.
    """
    token, key, s = _ec_token()
    es256 = {"algorithms": frozenset({"ES256"})}
    one = identity(token, key, **es256)
    assert one is not None
    text, _, signature = token.rpartition(".")
    raw = base64.urlsafe_b64decode(signature + "==")
    assert identity(f"{text}.{b64(raw[:32] + (_P256 - s).to_bytes(32))}", key, **es256) == one
    for odd in (
        b"\0" * 64,
        raw[:32] + b"\0" * 32,
        b"\0" * 32 + raw[32:],
        raw[:32] + _P256.to_bytes(32),
        raw[:63],
        raw + b"\0",
        b"\0" + raw,
        raw[32:] + raw[:32],
        b"\x30\x44\x02\x20" + raw[:32] + b"\x02\x20" + raw[32:],
        b"",
        b"\0",
    ):
        assert identity(f"{text}.{b64(odd)}", key, **es256) is None
    with pytest.raises(Refused) as caught:
        verify(parse(token), key, _RULES, NOON)
    assert caught.value.code is Code.TOKEN_SIGNATURE
