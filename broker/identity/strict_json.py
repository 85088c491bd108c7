"""JSON with exactly one reading: what two parsers could see differently is refused.

Refused: anything but UTF-8 without a byte order mark, a member that stands twice at any depth, numbers that are not whole or not
exact in every language, NUL and lone surrogates, deep nesting. Source: RFC 8259 section 4 and 8, RFC 7493 (I-JSON).
"""

import json
from typing import Annotated, Any, NoReturn

import msgspec

_MAX_DEPTH = 8
_MAX_OPENINGS = 256  # brackets and braces in the text, those inside strings too: keeps the parsers far from their recursion limit
_MAX_WHOLE = 2**53 - 1  # the last number that a reader with doubles sees exactly
_DECODER = msgspec.json.Decoder()
_ENCODER = msgspec.json.Encoder()
# An object of nothing but texts, truth values, nulls and whole numbers in range: nearly every token. The rules are the decoder's.
_WholeNumber = Annotated[int, msgspec.Meta(ge=-_MAX_WHOLE, le=_MAX_WHOLE)]
_FLAT = msgspec.json.Decoder(dict[str, str | bool | _WholeNumber | None])


class NotStrictError(ValueError):
    """The text is not JSON, or JSON with more than one reading. Its message names the rule and quotes nothing of the text."""


def strict_object(text: bytes, *, max_openings: int = _MAX_OPENINGS) -> dict[str, Any]:
    """The object in `text`. Raises NotStrictError, and nothing else whatever the bytes are."""
    if text.find(b"{", 1) < 0 and b"[" not in text:  # nothing inside it
        try:
            flat = _FLAT.decode(text)
        except (msgspec.MsgspecError, ValueError):
            pass  # the long way says what is wrong with it
        else:
            if b"\\" not in text and _ENCODER.encode(flat) == text:
                return flat
    if text.count(b"{") + text.count(b"[") > max_openings:
        raise NotStrictError("it has too many nested values")
    try:
        value = _DECODER.decode(text)
    except (msgspec.MsgspecError, ValueError, RecursionError):
        raise NotStrictError("it is not valid JSON in UTF-8") from None
    # Writing the value again gives the same bytes only when nothing was lost in reading: then no member stood twice, at any
    # depth. It is three times cheaper than a hook on every object; text in another layout takes the slow way.
    if _ENCODER.encode(value) != text:
        value = _slowly(text)
    if type(value) is not dict:
        raise NotStrictError("it is not a JSON object")
    _check(value, _MAX_DEPTH)
    if b"\\u0000" in text:  # perhaps a NUL, perhaps only its spelling; half a surrogate pair the decoder has refused already
        _check_texts(value)
    return value


def is_plain(text: bytes) -> bool:
    """Whether every text in this JSON is printable ASCII. Reads no values: a control character stands in JSON only behind a
    backslash (RFC 8259 section 7), but for DEL.
    """
    return text.isascii() and b"\\" not in text and b"\x7f" not in text


def _slowly(text: bytes) -> Any:
    try:
        return _SLOW.decode(text.decode())
    except NotStrictError:
        raise
    except (ValueError, RecursionError):
        raise NotStrictError("it is not valid JSON in UTF-8") from None


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise NotStrictError("it has a member twice")
    return members


def _not_whole(_: str) -> NoReturn:
    raise NotStrictError("it has a number that is not whole")


_SLOW = json.JSONDecoder(object_pairs_hook=_once, parse_float=_not_whole, parse_constant=_not_whole)


def _check(value: dict[str, Any] | list[Any], depth: int) -> None:
    if depth == 0:
        raise NotStrictError("it is nested too deeply")
    elements: Any = value.values() if type(value) is dict else value
    for element in elements:
        kind = type(element)
        if kind is str or kind is bool or element is None:
            continue
        if kind is int:
            if not -_MAX_WHOLE <= element <= _MAX_WHOLE:
                raise NotStrictError("it has a number out of range")
        elif kind is float:
            raise NotStrictError("it has a number that is not whole")
        else:
            _check(element, depth - 1)


def _check_texts(value: Any) -> None:
    if type(value) is dict:
        for name, element in value.items():
            _check_texts(name)
            _check_texts(element)
    elif type(value) is list:
        for element in value:
            _check_texts(element)
    elif type(value) is str and "\x00" in value:
        raise NotStrictError("it has a NUL in a text")
