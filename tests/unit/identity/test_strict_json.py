"""JSON with exactly one reading."""

import contextlib
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.identity.strict_json import NotStrictError, strict_object

_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53) + 1, 2**53 - 1)
    | st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0")),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0")), inner, max_size=4)
    ),
    max_leaves=12,
)
_objects = st.dictionaries(
    st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=8), _values, max_size=6
)


def _depth(value: Any) -> int:
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else None
    return 0 if inner is None else 1 + max(map(_depth, inner), default=0)


@given(_objects.filter(lambda v: _depth(v) <= 8), st.sampled_from([None, 1]), st.booleans())
def test_what_has_one_reading_is_read_whatever_its_layout(value: dict[str, Any], indent: int | None, ascii_only: bool) -> None:
    """Compact or not, escaped or not: the same object as the standard library reads."""
    assert strict_object(json.dumps(value, indent=indent, ensure_ascii=ascii_only).encode()) == value


@given(st.binary(max_size=60))
def test_whatever_the_bytes_are_only_not_strict_is_raised(raw: bytes) -> None:
    """No other exception leaves, and what is accepted is an object."""
    with contextlib.suppress(NotStrictError):
        assert type(strict_object(raw)) is dict


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (b'{"a":1,"a":1}', "twice"),
        (b'{"a":{"b":[{"c":1,"c":2}]}}', "twice"),
        (b'{"a":1,"\\u0061":2}', "twice"),
        (b'{"a":1.0}', "not whole"),
        (b'{ "a":1.5 }', "not whole"),
        (b'{ "a":1e2 }', "not whole"),
        (b'{"a":1e400}', "not valid JSON"),
        (b'{"a":NaN}', "not valid JSON"),
        (b'{"a":-Infinity}', "not valid JSON"),
        (b'{"a":9007199254740992}', "out of range"),
        (b'{"a":[-9007199254740992]}', "out of range"),
        (b'{"a":' + b"9" * 5000 + b"}", "not valid JSON|out of range"),
        (b'{"a":"\\u0000"}', "NUL"),
        (b'{"\\u0000":1}', "NUL"),
        (b'{"a":["\\ud800"]}', "not valid JSON|surrogate"),
        (b'{"a":"\xed\xa0\x80"}', "not valid JSON"),
        (b'{"a":"\xff"}', "not valid JSON"),
        (b'\xef\xbb\xbf{"a":1}', "not valid JSON"),
        ('{"a":1}'.encode("utf-16"), "not valid JSON"),
        (b'{"a":1}{"b":2}', "not valid JSON"),
        (b'{"a":1,}', "not valid JSON"),
        (b'{"a":"\n"}', "not valid JSON"),
        (b"[1]", "not a JSON object"),
        (b'"a"', "not a JSON object"),
        (b"null", "not a JSON object"),
        (b"", "not valid JSON"),
        (b'{"a":' + b"[" * 8 + b"]" * 8 + b"}", "nested too deeply"),
        (b'{"a":' + b"[" * 9000 + b"]" * 9000 + b"}", "nested"),
        (b'{"a":"' + b"{" * 300 + b'"}', "nested"),
    ],
)
def test_two_readings_are_refused_with_the_rule(text: bytes, why: str) -> None:
    """Each is something that some parser takes, and another reads differently or not at all."""
    with pytest.raises(NotStrictError, match=why):
        strict_object(text)


def test_a_message_quotes_nothing_of_the_text() -> None:
    """Before a signature holds, the text is a stranger's."""
    for text in (b'{"secret":1,"secret":2}', b'{"secret":1.5}', b'{"secret"'):
        with pytest.raises(NotStrictError) as caught:
            strict_object(text)
        assert "secret" not in str(caught.value)


def test_escaped_text_is_read_as_what_it_means() -> None:
    """GitLab's Ruby escapes `<`, `>` and `&`; that is the same claim, not another one."""
    assert strict_object(b'{"a":"\\\\u0000"}') == {"a": "\\u0000"}
    assert strict_object(b'{"a":"x\\u003cy","b":"\\ud83d\\ude00","c":-0}') == {"a": "x<y", "b": "\U0001f600", "c": 0}
