"""Globs over whole values."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.policy.glob import automaton, compile_glob, is_glob


@pytest.mark.parametrize(
    ("pattern", "yes", "no"),
    [
        ("refs/heads/*", ["refs/heads/main"], ["refs/heads/a/b", "refs/tags/x", "xrefs/heads/main", "refs/headsx"]),
        ("refs/heads/**", ["refs/heads/a", "refs/heads/a/b"], ["refs/tags/a", "refs/heads", "Refs/heads/a"]),
        ("acme/*/data", ["acme/x/data"], ["acme/data", "acme/x/y/data", "acme/x/data/z", "acme/x/datab"]),
        ("acme/**/data", ["acme/x/data", "acme/x/y/data"], ["acme/data", "acme-evil/x/data"]),
        ("*/main", ["x/main", "/main"], ["x/y/main", "main"]),
        ("**/a*b/*", ["x/aab/c", "x/y/ab/c", "x/a/aab/c"], ["x/a/b/c", "x/ab/c/d"]),
        ("a.c/*", ["a.c/x"], ["abc/x"]),
        ("a*", ["a", "ab"], ["a/b"]),
    ],
)
def test_a_star_stops_at_a_slash_and_two_cross_it(pattern: str, yes: list[str], no: list[str]) -> None:
    glob = compile_glob(pattern)
    assert [value for value in yes if not glob.matches(value)] == []
    assert [value for value in no if glob.matches(value)] == []


def test_the_whole_value_is_compared_to_its_last_newline() -> None:
    """`$` of a regular expression would let a newline follow."""
    assert compile_glob("release/*/x").matches("release/1/x")
    assert not compile_glob("release/*/x").matches("release/1/x\n")


@pytest.mark.parametrize("pattern", ["a?*", "[ab]*", "{a,b}*", "a***", "****"])
def test_wildcards_of_other_languages_are_refused(pattern: str) -> None:
    with pytest.raises(ValueError, match=r"wildcard|is no choice|means nothing"):
        compile_glob(pattern)


def _slow(pattern: str, value: str) -> bool:
    """What the words say, with no cleverness."""
    if not pattern:
        return not value
    if pattern.startswith("**"):
        return any(_slow(pattern[2:], value[n:]) for n in range(len(value) + 1))
    if pattern.startswith("*"):
        stop = value.find("/") if "/" in value else len(value)
        return any(_slow(pattern[1:], value[n:]) for n in range(stop + 1))
    return bool(value) and value[0] == pattern[0] and _slow(pattern[1:], value[1:])


_PATTERNS = st.lists(st.sampled_from(["a", "b", "/", "*", "**"]), max_size=6).map("".join).filter(lambda p: "***" not in p)


@given(_PATTERNS, st.text("ab/\n", max_size=8))
def test_matcher_and_automaton_agree_with_the_words(pattern: str, value: str) -> None:
    expected = _slow(pattern, value)
    assert automaton(pattern).matches(value) == expected
    if is_glob(pattern):
        assert compile_glob(pattern).matches(value) == expected


def test_no_value_makes_matching_slow() -> None:
    """Whoever names a branch does not get to spend the broker's time."""
    glob = compile_glob("*a*a*a*a*a*a*a*b")
    start = time.process_time()
    assert not glob.matches("a" * 2_000)
    assert time.process_time() - start < 0.5
