"""The fast ways are only that: what they accept and give is what the plain ways accept and give."""

import base64
import binascii
import json
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from broker.errors import Refused
from broker.identity import base64url
from broker.identity.gate import VerifiedClaims, parse, verify
from broker.identity.keyset import VerificationKey, parse_jwks
from broker.identity.profiles import PROFILES
from broker.identity.reader import Reader
from broker.identity.strict_json import NotStrictError, is_plain, strict_object
from broker.identity.typed import typed_values
from tests.fakes.forge import base_claims, compact, forge, gitlab_key, jwks, rules
from tests.strategies import NOON

TABLE = PROFILES["gitlab"].claims
REQUIRED = tuple(name for name, claim in TABLE.items() if claim.required)
ALPHABET = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"


def key() -> VerificationKey:
    return parse_jwks(jwks(), frozenset({"RS256"})).keys[gitlab_key().kid]


KEY = key()


def verified(claims: Any) -> VerifiedClaims:
    return verify(parse(forge(claims)), KEY, rules(), NOON)


def outcome(read: Any) -> Any:
    try:
        return read()
    except Refused as refused:
        return refused.code, refused.public


VALUES: st.SearchStrategy[Any] = st.one_of(
    st.sampled_from(
        ["", "x", "true", "false", "True", "a b", "ü", "x" * 2048, "x" * 2049, "a\nb", "a\x7fb", "a\u202eb", '"', "\\"]
    ),
    st.sampled_from([None, True, False, 0, 1, -1, 2**53 - 1, [], ["a"], ["a", 1], ["a\n"], {}, {"a": "b"}]),
    st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=20),  # the gate has refused those
)


@given(st.dictionaries(st.sampled_from(sorted(TABLE)), VALUES, max_size=6), st.sets(st.sampled_from(sorted(TABLE)), max_size=2))
def test_a_reader_gives_what_the_table_gives_or_refuses_in_its_words(changes: dict[str, Any], without: set[str]) -> None:
    """Whatever the values of known claims are, and whichever are missing."""
    claims = {name: value for name, value in (base_claims() | changes).items() if name not in without}
    assume("project_id" in claims or "job_id" in claims)  # without both it is of another class
    checked = verified(claims)
    plain = outcome(lambda: typed_values(TABLE, REQUIRED, checked.members))
    reader = Reader(TABLE)
    assert outcome(lambda: reader.read(checked)) == plain
    assert outcome(lambda: reader.read(checked)) == plain  # and again, now that the shape is known
    assert dict(checked.members) == claims  # which reading has not changed


def test_a_reader_looks_at_the_values_of_every_token() -> None:
    """Tokens of one shape: the first good one opens nothing for the second."""
    reader = Reader(TABLE)
    assert reader.read(verified(base_claims()))["ref_protected"] is True
    for wrong in ({"ref_protected": "True"}, {"ref": "a\nb"}, {"runner_id": "12"}, {"project_path": ""}, {"sha": 1}):
        with pytest.raises(Refused) as caught:
            reader.read(verified(base_claims(**wrong)))
        assert next(iter(wrong)) in caught.value.public
    assert reader.read(verified(base_claims()))["project_id"] == "20"


@given(st.text(), st.sampled_from([json.dumps, lambda text: compact(text).decode("utf-8", "surrogatepass")]))
def test_what_is_called_plain_is_printable(text: str, write: Any) -> None:
    """The proof by bytes never says more than the texts themselves."""
    try:
        document = b'{"a":' + write(text).encode() + b"}"
    except UnicodeEncodeError:
        return
    if is_plain(document):
        assert json.loads(document)["a"].isprintable()
        assert json.loads(document)["a"].isascii()


@pytest.mark.parametrize(("text", "plain"), [("abc ~", True), ("a\x7f", False), ("a\x80", False), ("ü", False), ('"', False)])
def test_plain_texts_are_called_so(text: str, plain: bool) -> None:
    assert is_plain(compact({"a": text})) is plain


@pytest.mark.parametrize("control", range(0x20))
def test_a_control_character_that_is_not_escaped_is_no_json(control: int) -> None:
    """What `is_plain` rests on."""
    with pytest.raises(NotStrictError):
        strict_object(b'{"a":"x' + bytes([control]) + b'"}')


@pytest.mark.parametrize(
    "text",
    [b'{"a":1,"a":1}', b'{"a":"x","a":"y"}', b'{"a":1.5}', b'{"a":9007199254740992}', b'{"a":-9007199254740992}', b'{"a":1e3}'],
)
def test_flat_objects_are_no_less_strict(text: bytes) -> None:
    with pytest.raises(NotStrictError):
        strict_object(text)
    assert strict_object(b'{"a":9007199254740991,"b":null,"c":true,"d":"x"}')["a"] == 2**53 - 1


def reference(segment: bytes) -> bytes | None:
    """RFC 4648 section 5, the long way: by the standard library, and only if writing it again gives the same."""
    if not segment or not set(segment) <= set(ALPHABET):
        return None
    try:
        decoded = base64.urlsafe_b64decode(segment + b"=" * (-len(segment) % 4))
    except binascii.Error:
        return None
    return decoded if base64.urlsafe_b64encode(decoded).rstrip(b"=") == segment else None


def ours(segment: bytes) -> bytes | None:
    try:
        return base64url.decode(segment)
    except ValueError:
        return None


@given(st.one_of(st.binary(max_size=40), st.lists(st.sampled_from(ALPHABET + b'=+/"\\ \n'), max_size=40).map(bytes)))
def test_base64url_has_one_spelling(segment: bytes) -> None:
    assert ours(segment) == reference(segment)


def test_no_byte_outside_of_the_alphabet_is_taken_anywhere() -> None:
    """Every byte, at every place of a group and in the last one."""
    for byte in range(256):
        for place in range(12):
            segment = bytearray(b"QUJDQUJDQUJD")
            segment[place] = byte
            assert ours(bytes(segment)) == reference(bytes(segment)), (byte, place)
        for short in (b"QQ", b"QUI"):
            for place in range(len(short)):
                segment = bytearray(short)
                segment[place] = byte
                assert ours(bytes(segment)) == reference(bytes(segment)), (byte, place, short)


@given(st.binary(max_size=200))
def test_what_was_encoded_is_decoded(data: bytes) -> None:
    segment = base64.urlsafe_b64encode(data).rstrip(b"=")
    assert ours(segment) == (data or None)
