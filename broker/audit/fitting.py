"""What makes an entry one line of bounded length, whatever a claim says: no value starts a new line, nothing vanishes unsaid."""

import unicodedata
from collections.abc import Mapping, Sequence
from typing import Any

from broker.audit.canonical import Json, canonical

MAX_ENTRY_BYTES = 65_535  # C2SP tlog-tiles: the length of an entry in a bundle is a uint16
_LONGEST_TEXT = 4096
_TIGHTER = (1024, 256, 64)
_LIST_ITEMS = 8

# Controls, format characters (bidi overrides among them), surrogates, and the line and paragraph separators: each can make a
# terminal or a log reader show something else than what was signed, or begin a new line.
_UNSAFE_CATEGORIES = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})


def plain(text: str) -> str:
    r"""`text` with every character that could move a cursor or end a line spelled out, as in `\u{202e}`."""
    if text.isascii() and text.isprintable():
        return text
    return "".join(f"\\u{{{ord(c):x}}}" if unicodedata.category(c) in _UNSAFE_CATEGORIES else c for c in text)


def plain_items(value: Any) -> Any:
    """A JSON value whose texts and keys are all `plain`, none of them longer than 4096 characters."""
    if isinstance(value, str):
        return _cut(plain(value), _LONGEST_TEXT)
    if isinstance(value, Mapping):
        return {_cut(plain(key), _LONGEST_TEXT): plain_items(item) for key, item in value.items()}
    if isinstance(value, Sequence):
        return [plain_items(item) for item in value]
    return value


def fitted(event: dict[str, Any]) -> bytes:
    """The canonical bytes of an event, at most 65 535 of them.

    What has to go is said: the rest of a trail as `trail_cut`, the rest of a text as `…+N`, the rest of a list as a last item
    `…+N`.
    """
    body = canonical(event)
    if len(body) <= MAX_ENTRY_BYTES:
        return body
    ours: dict[str, Any] = event["unmapped"]
    trail = ours.get("trail", [])
    if trail:
        keep = _fitting_steps(event, trail)
        if keep is not None:
            return canonical(_with_trail(event, trail, keep))
        event = _with_trail(event, trail, 0)
    for limit in _TIGHTER:
        body = canonical(_shortened(event, limit))
        if len(body) <= MAX_ENTRY_BYTES:
            return body
    raise ValueError("an entry does not fit although each of its texts was cut to 64 characters")


def _fitting_steps(event: dict[str, Any], trail: Sequence[Json]) -> int | None:
    """The largest number of first steps with which the event fits; None when it does not even without any."""
    low, high = -1, len(trail)
    while high - low > 1:
        middle = (low + high) // 2
        if len(canonical(_with_trail(event, trail, middle))) <= MAX_ENTRY_BYTES:
            low = middle
        else:
            high = middle
    return low if low >= 0 else None


def _with_trail(event: dict[str, Any], trail: Sequence[Json], keep: int) -> dict[str, Any]:
    ours = event["unmapped"] | {"trail": list(trail[:keep]), "trail_cut": len(trail) - keep}
    return event | {"unmapped": ours}


def _shortened(value: Any, limit: int) -> Any:
    if isinstance(value, str):
        return _cut(value, limit)
    if isinstance(value, Mapping):
        return {key: _shortened(item, limit) for key, item in value.items()}
    if isinstance(value, Sequence):
        kept = [_shortened(item, limit) for item in value[:_LIST_ITEMS]]
        return [*kept, f"…+{len(value) - _LIST_ITEMS}"] if len(value) > _LIST_ITEMS else kept
    return value


def _cut(text: str, limit: int) -> str:
    return text if len(text) <= limit else f"{text[:limit]}…+{len(text) - limit}"
