"""Keeps this session's values out of a stream of bytes.

Not covered: a value that the command encrypts, compresses, encodes in another way than `_forms` says or twice, splits over two
lines or prints with other text in between, and what it writes elsewhere than on stdout and stderr.
"""

import base64
import json
import re
import threading
import urllib.parse
from collections.abc import Iterable

from broker.secret import Secret

_MASK = b"[MASKED]"
_SHORTEST = 5  # a shorter value would mask ordinary words; it protects nothing anyway
_HEAD = 4
_URL_SAFE = bytes.maketrans(b"+/", b"-_")


class Masker:
    """The values to hide, growing while the session rotates. Safe to use from several threads."""

    def __init__(self) -> None:
        self._forms: frozenset[bytes] = frozenset()
        self._lock = threading.Lock()

    def learn(self, values: Iterable[Secret]) -> None:
        """Hides these values from now on, line by line too, and each also in the forms that `_forms` lists."""
        forms = {form for value in values for form in _forms(value.reveal())}
        with self._lock:
            self._forms |= forms

    def mask(self, data: bytes) -> bytes:
        return b"".join(_masked(data, _places(data, self._forms), len(data)))

    def split(self, data: bytes) -> tuple[bytes, bytes]:
        """What can be let go, masked, and the rest, which may be the beginning of a value."""
        forms = self._forms
        keep = min((_unfinished(data, form) for form in forms), default=len(data))
        # A value that has begun before is whole: it is hidden, and the rest goes on behind it.
        places = [place for place in _places(data, forms) if place[0] < keep]
        keep = max([keep, *(end for _, end in places)])
        return b"".join(_masked(data, places, keep)), data[keep:]


def _places(data: bytes, forms: Iterable[bytes]) -> list[tuple[int, int]]:
    """Where the forms are, in order. One search for each is several times as fast as one pattern of them all."""
    found = []
    for form in forms:
        start = data.find(form)
        while start >= 0:
            end = start + len(form)
            found.append((start, end))
            start = data.find(form, end)
    return sorted(found)


def _masked(data: bytes, places: Iterable[tuple[int, int]], until: int) -> Iterable[bytes]:
    """The pieces of the data up to there, with one mask for places that overlap."""
    done = 0
    for start, end in places:
        if start >= done:
            yield data[done:start]
            yield _MASK
        done = max(done, end)
    yield data[done:until]


def _unfinished(data: bytes, form: bytes) -> int:
    """The first place from which the data could go on into this form; its length when there is none."""
    start = max(0, len(data) - len(form) + 1)
    head = form[:_HEAD]
    while (start := data.find(head, start)) >= 0:
        if form.startswith(data[start:]):
            return start
        start += 1
    for few in range(min(_HEAD, len(form)) - 1, 0, -1):
        if data.endswith(form[:few]):
            return len(data) - few
    return len(data)


def _forms(value: str) -> Iterable[bytes]:
    """The value and its lines: as they are, quoted for a URL, in JSON, in hex, and in base64, also inside of a longer text."""
    lines = [value, *value.splitlines()] if "\n" in value else [value]
    for line in lines:
        if len(line) < _SHORTEST:
            continue
        raw = line.encode("utf-8", "surrogateescape")
        yield raw
        yield raw.hex().encode("ascii")
        yield raw.hex().upper().encode("ascii")
        yield from _quoted(raw)
        yield from _escaped(line)
        for before in range(3):
            for form in _base64(raw, before):
                yield form
                yield form.translate(_URL_SAFE)


def _quoted(raw: bytes) -> Iterable[bytes]:
    """As Python quotes all and paths, as JavaScript does (`encodeURIComponent`, `encodeURI`), as forms do; %2F and %2f."""
    for safe in ("", "/", "!'()*", "!'()*#$&+,/:;=?@"):
        quoted = urllib.parse.quote(raw, safe=safe)
        for form in (quoted, re.sub("%..", lambda found: found[0].lower(), quoted)):
            yield form.encode("ascii")
            yield form.replace("%20", "+").encode("ascii")


def _escaped(line: str) -> Iterable[bytes]:
    r"""In ASCII and in UTF-8; with \/ as PHP has it, with \u003c as Go has it; \u00e4 and \u00E4."""
    for ascii_only in (True, False):
        plain = json.dumps(line, ensure_ascii=ascii_only)[1:-1]
        go = plain.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")
        for form in (plain, go, plain.replace("/", "\\/")):
            yield form.encode("utf-8", "surrogateescape")
            yield re.sub(r"(?<=\\u)....", lambda found: found[0].upper(), form).encode("utf-8", "surrogateescape")


def _base64(raw: bytes, before: int) -> Iterable[bytes]:
    """The characters that are this value's alone when so many bytes of a group of three come before it (`user:` of HTTP Basic).

    Once with the end of the text behind it, and once with more text, which the last character then depends on.
    """
    whole = base64.b64encode(bytes(before) + raw).rstrip(b"=")
    start = -(-8 * before // 6)
    yield whole[start:]
    yield whole[start : 8 * (before + len(raw)) // 6]
