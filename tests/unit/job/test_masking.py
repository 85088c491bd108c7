"""No value of the session in the command's output."""

import base64
import json
import urllib.parse
from itertools import pairwise

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


def test_a_value_too_short_to_protect_is_not_masked() -> None:
    assert knowing("etl").mask(b"etl run") == b"etl run"


def test_learning_again_changes_nothing_and_learning_more_adds() -> None:
    masker = knowing("first-value")
    masker.learn([Secret("first-value")])
    masker.learn([Secret("second-value")])
    assert masker.mask(b"first-value second-value") == b"[MASKED] [MASKED]"
