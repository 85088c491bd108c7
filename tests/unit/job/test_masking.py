"""No value of the session in the command's output."""

import base64
import json
import urllib.parse
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.job.masking import Masker
from broker.secret import Secret


def through(masker: Masker, pieces: list[bytes]) -> bytes:
    out, held = b"", b""
    for piece in pieces:
        done, held = masker.split(held + piece)
        out += done
    return out + masker.mask(held)


def knowing(*values: str) -> Masker:
    masker = Masker()
    masker.learn(map(Secret, values))
    return masker


secrets = st.text(st.characters(codec="utf-8", exclude_characters="\n\r[]MASKED"), min_size=5, max_size=30)


@given(value=secrets, before=st.binary(max_size=20), after=st.binary(max_size=20), cuts=st.lists(st.integers(0, 90)))
def test_a_value_never_gets_through_however_it_is_cut(value: str, before: bytes, after: bytes, cuts: list[int]) -> None:
    data = before + value.encode() + after
    edges = sorted({0, len(data), *(cut for cut in cuts if cut < len(data))})
    pieces = [data[a:b] for a, b in pairwise(edges)]
    assert value.encode() not in through(knowing(value), pieces)


@given(data=st.binary(max_size=300), cuts=st.lists(st.integers(0, 300)))
def test_what_holds_no_value_passes_unchanged(data: bytes, cuts: list[int]) -> None:
    edges = sorted({0, len(data), *(cut for cut in cuts if cut < len(data))})
    pieces = [data[a:b] for a, b in pairwise(edges)]
    assert through(knowing("correct-horse-battery-staple"), pieces) == data


def test_nothing_known_holds_nothing_back() -> None:
    assert Masker().split(b"abc") == (b"abc", b"")
    assert Masker().mask(b"abc") == b"abc"


def test_only_the_possible_beginning_of_a_value_is_held_back() -> None:
    assert knowing("passw0rd").split(b"the pass") == (b"the ", b"pass")
    assert knowing("passw0rd").split(b"the pass\n") == (b"the pass\n", b"")


def test_a_longer_value_that_begins_like_a_shorter_one_is_hidden_whole() -> None:
    masker = knowing("abcdef", "abcdefghij")
    assert through(masker, [b"abcdef", b"ghij!"]) == b"[MASKED]!"
    assert through(masker, [b"abcdef", b"!"]) == b"[MASKED]!"


def test_quoted_encoded_and_single_lines_are_hidden_too() -> None:
    value = 'p"ä/ss wörd'
    masker = knowing(value, "-----BEGIN KEY-----\nMIIEvQIBADANBg\n-----END KEY-----")
    for form in (
        urllib.parse.quote(value, safe=""),
        urllib.parse.quote_plus(value),
        json.dumps(value)[1:-1],
        json.dumps(value, ensure_ascii=False)[1:-1],
        base64.b64encode(value.encode()).decode().rstrip("="),
    ):
        assert masker.mask(f"<{form}>".encode()) == b"<[MASKED]>"
    assert masker.mask(b"MIIEvQIBADANBg\r\n") == b"[MASKED]\r\n"


@given(value=secrets, before=st.binary(max_size=40), after=st.binary(max_size=40), cut=st.integers(0, 200))
def test_base64_of_a_text_around_the_value_hides_the_value(value: str, before: bytes, after: bytes, cut: int) -> None:
    """HTTP Basic is base64 of `user:password`: at two of three alignments it went through. Parts of a byte stay at the edges."""
    masker, raw = knowing(value), value.encode()
    for encode in (base64.b64encode, base64.urlsafe_b64encode):
        whole = encode(before + raw + after)
        first, last = -(-8 * len(before) // 6), 8 * (len(before) + len(raw)) // 6
        assert whole[first:last] not in through(masker, [whole[:cut], whole[cut:]])


def test_a_password_of_http_basic_is_hidden_whichever_the_user_is() -> None:
    for user in ("u", "us", "usr", "user"):
        header = b"Authorization: Basic " + base64.b64encode(f"{user}:correct-horse".encode())
        out = knowing("correct-horse").mask(header)
        before = header[: header.index(b"Basic ") + 6 + -(-8 * (len(user) + 1) // 6)]
        assert out.rstrip(b"=") == before + b"[MASKED]"


@pytest.mark.parametrize(
    "form",
    [
        "70c3a42f2b3c6922",
        "70C3A42F2B3C6922",
        "p%C3%A4%2F%2B%3Ci%22",
        "p%c3%a4%2f%2b%3ci%22",
        "p%C3%A4/%2B%3Ci%22",
        "p%C3%A4/+%3Ci%22",
        'pä/+<i\\"',
        'p\\u00e4/+<i\\"',
        'p\\u00E4/+<i\\"',
        'p\\u00e4\\/+<i\\"',
        'pä/+\\u003ci\\"',
    ],
)
def test_what_other_languages_make_of_a_value_is_hidden(form: str) -> None:
    """Hex, URLs and JSON; the allowed twin is the same with another character in it."""
    masker = knowing('pä/+<i"')
    assert masker.mask(f"<{form}>".encode()) == b"<[MASKED]>"
    other = f"<{form.replace('i', 'j').replace('69', '68')}>".encode()
    assert masker.mask(other) == other


def test_a_value_too_short_to_protect_is_not_masked() -> None:
    """Nor what it looks like encoded: that would hide ordinary words."""
    masker = knowing("etl", "", "A", "+/=", "1234")
    for text in (b"etl run", b"65746c", b"ZXRs", b"A1234", b"31323334", base64.b64encode(b"user:1234")):
        assert masker.mask(text) == text
        assert masker.split(text) == (text, b"")


@given(value=secrets)
def test_no_form_of_a_value_is_shorter_than_the_shortest_value(value: str) -> None:
    """So none hides more of ordinary text than a value itself may."""
    assert min(map(len, knowing(value)._forms)) >= 5


def test_values_that_overlap_are_hidden_whole() -> None:
    masker = knowing("abcdefgh", "efghijkl")
    assert masker.mask(b"<abcdefghijkl>") == b"<[MASKED]>"


def test_learning_again_changes_nothing_and_learning_more_adds() -> None:
    masker = knowing("first-value")
    masker.learn([Secret("first-value")])
    masker.learn([Secret("second-value")])
    assert masker.mask(b"first-value second-value") == b"[MASKED] [MASKED]"
