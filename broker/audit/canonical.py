"""RFC 8785 canonical JSON, for the values that an entry is made of: text, whole numbers, booleans, null, lists and objects.

One value has one spelling, so that the bytes that were hashed can be made again from what they say. There are no floats in an
entry: their spelling is the hard part of the RFC, and a log has no use for them.
"""

import json
from collections.abc import Mapping, Sequence
from typing import TypeAlias

Json: TypeAlias = "bool | int | str | Sequence[Json] | Mapping[str, Json] | None"

SAFE_INTEGER = 2**53 - 1  # RFC 7493 section 2.2: beyond it readers that use doubles see another number


def canonical(value: Json) -> bytes:
    """The one spelling of `value`, as UTF-8.

    Raises ValueError for a lone surrogate, a whole number beyond 2**53 - 1, and TypeError for anything that is not one of the
    types above.
    """
    spelled = json.dumps(_ordered(value), ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return spelled.encode("utf-8")  # refuses lone surrogates: UnicodeEncodeError is a ValueError


def _ordered(value: Json) -> Json:
    match value:
        case None | bool() | str():
            return value
        case int():
            if abs(value) > SAFE_INTEGER:
                raise ValueError("a whole number beyond 2**53 - 1 has no canonical spelling that every reader shares")
            return value
        case Mapping():
            if not all(isinstance(key, str) for key in value):
                raise TypeError("a key of a JSON object is text")
            # RFC 8785 section 3.2.3 sorts by UTF-16 code units, which differs from code points above U+FFFF.
            keys = sorted(value) if all(map(str.isascii, value)) else sorted(value, key=_utf16)
            return {key: _ordered(value[key]) for key in keys}
        case bytes() | bytearray() | memoryview():
            raise TypeError("bytes are not a JSON value")
        case Sequence():
            return [_ordered(item) for item in value]
        case _:
            raise TypeError(f"{type(value).__name__} is not a JSON value of an entry")


def _utf16(key: str) -> bytes:
    return key.encode("utf-16-be", "surrogatepass")
