import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.audit.canonical import canonical


def test_keys_are_sorted_by_utf16_code_units() -> None:
    """The example of RFC 8785 section 3.2.3: by code points, the emoji would come last."""
    keys = {"\u20ac": 1, "\r": 2, "\ufb33": 3, "1": 4, "\U0001f600": 5, "\u0080": 6, "\u00f6": 7}
    assert [value for _, value in json.loads(canonical(keys), object_pairs_hook=list)] == [2, 4, 6, 7, 1, 5, 3]


def test_text_is_spelled_as_the_rfc_spells_it() -> None:
    """The string of RFC 8785 section 3.2.2, without its number."""
    assert canonical("\u20ac$\u000f\u000aA'\u0042\u0022\u005c\\\"/") == '"\u20ac$\\u000f\\nA\'B\\"\\\\\\\\\\"/"'.encode()


def test_literals_and_nesting() -> None:
    assert canonical({"b": [True, False, None, -1], "a": {}, "c": ("x",)}) == b'{"a":{},"b":[true,false,null,-1],"c":["x"]}'


@pytest.mark.parametrize("value", [1.5, {"a": b"x"}, {1: "a"}, {"a": {2, 3}}])
def test_what_is_not_a_value_of_an_entry_is_refused(value: Any) -> None:
    with pytest.raises(TypeError):
        canonical(value)


@pytest.mark.parametrize(("value", "reason"), [(2**53, "2\\*\\*53"), (-(2**53), "2\\*\\*53"), ("\ud800", "surrogates")])
def test_what_readers_would_read_differently_is_refused(value: Any, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        canonical(value)


def test_the_largest_shared_number_is_not() -> None:
    assert canonical(2**53 - 1) == b"9007199254740991"


_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53) + 1, 2**53 - 1) | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(st.characters(exclude_categories=["Cs"])), inner),
)


@given(_VALUES)
def test_one_value_has_one_spelling(value: Any) -> None:
    """What is read back is the value, and spelling it again gives the same bytes."""
    spelled = canonical(value)
    assert json.loads(spelled) == value
    assert canonical(json.loads(spelled)) == spelled
