"""Strict reading, for everything that could be sent."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import quote, urlencode

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.errors import Code, Refused
from broker.web import reading

PART = st.text(st.characters(codec="utf-8", categories=("L", "N", "P")), min_size=1, max_size=12)


@contextmanager
def refused_only_with(code: Code) -> Iterator[None]:
    """What stands in it may be refused, with that code; any other exception is a bug."""
    try:
        yield
    except Refused as refusal:
        if refusal.code is not code:
            raise


@given(st.binary(max_size=80))
def test_a_path_is_read_once_or_refused(raw: bytes) -> None:
    """What comes out never has a separator, a dot part or an escape left for the next reader."""
    parts: tuple[str, ...] = ()
    with refused_only_with(Code.PATH_INVALID):
        parts = reading.segments(b"/" + raw)
    for part in parts:
        assert part not in {"", ".", ".."}
        assert not set(part) & set("/\\%?#\x00")
        assert part.isprintable()


@given(st.lists(PART.filter(lambda p: p not in {".", ".."} and not set(p) & set("/\\%?#")), min_size=1, max_size=5))
def test_a_plain_path_comes_out_as_it_was_meant(parts: list[str]) -> None:
    """The allowed twin: encoded once, decoded once."""
    raw = "/" + "/".join(quote(part, safe="") for part in parts)
    assert reading.segments(raw.encode()) == tuple(parts)


@given(st.binary(max_size=200))
def test_any_form_is_read_or_refused(raw: bytes) -> None:
    """Never another exception, never a field that is not known."""
    headers = [(b"content-type", b"application/x-www-form-urlencoded")]
    fields: dict[str, str] = {}
    with refused_only_with(Code.REQUEST_INVALID):
        fields = reading.form(headers, raw, reading.EXCHANGE_FIELDS)
    assert fields.keys() <= reading.EXCHANGE_FIELDS


@given(st.dictionaries(st.sampled_from(sorted(reading.EXCHANGE_FIELDS)), st.text(max_size=20)))
def test_a_well_made_form_comes_out_as_it_went_in(fields: dict[str, str]) -> None:
    """Whatever is in it."""
    headers = [(b"content-type", b"application/x-www-form-urlencoded")]
    assert reading.form(headers, urlencode(fields).encode(), reading.EXCHANGE_FIELDS) == fields


@given(st.binary(max_size=60))
def test_any_authorization_is_read_or_refused(value: bytes) -> None:
    """As text without a scheme, or as an error of ours."""
    for bare in (True, False):
        with refused_only_with(Code.HANDLE_INVALID):
            found = reading.handle([(b"authorization", value)], bare=bare)
            assert not found.lower().startswith("bearer ") or value.lower().startswith(b"bearer bearer")


async def test_a_connection_that_ends_inside_the_body_is_an_end() -> None:
    """Half a form is no form."""

    async def receive() -> dict[str, Any]:
        return {"type": "http.disconnect"}

    with pytest.raises(reading.BodyRefused, match="ended before the body did"):
        await reading.read_body([], receive, limit=10, seconds=1)


@pytest.mark.parametrize("length", [b"", b"+5", b"5_0", b"5\n", "\u00b2".encode("latin-1"), b"0" * 5000 + b"5", b"1" * 11])
async def test_a_length_that_is_no_number_is_refused(length: bytes) -> None:
    """The parser would let only zeros through; this reader does not rely on it."""

    async def receive() -> dict[str, Any]:
        raise AssertionError

    with pytest.raises(reading.BodyRefused, match="Content-Length is not a number of at most 10 digits") as caught:
        await reading.read_body([(b"content-length", length)], receive, limit=10, seconds=1)
    assert caught.value.code is Code.REQUEST_INVALID


async def test_a_length_is_a_number_up_to_the_limit() -> None:
    """The allowed twin, and the first that is one too many."""

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b"0123456789"}

    assert await reading.read_body([(b"content-length", b"0000000010")], receive, limit=10, seconds=1) == b"0123456789"
    with pytest.raises(reading.BodyRefused, match="larger than 10 bytes"):
        await reading.read_body([(b"content-length", b"11")], receive, limit=10, seconds=1)
