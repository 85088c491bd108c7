"""Keeps this session's values out of a stream of bytes.

Not covered: a value that the command encrypts, compresses, splits over two lines or prints with other text in between, and what
it writes elsewhere than on stdout and stderr.
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


class Masker:
    """The values to hide, growing while the session rotates. Safe to use from several threads."""

    def __init__(self) -> None:
        self._forms: set[bytes] = set()
        self._pattern: re.Pattern[bytes] | None = None
        self._longest = 0
        self._first: frozenset[int] = frozenset()
        self._lock = threading.Lock()

    def learn(self, values: Iterable[Secret]) -> None:
        """Hides these values from now on, also quoted for a URL or in JSON, in base64, and line by line."""
        forms = {form for value in values for form in _forms(value.reveal())}
        with self._lock:
            if forms <= self._forms:
                return
            self._forms = self._forms | forms
            self._first = frozenset(form[0] for form in self._forms)
            # The longest first: a value that contains another is hidden whole.
            ordered = sorted(self._forms, key=len, reverse=True)
            self._longest = len(ordered[0])
            self._pattern = re.compile(b"|".join(map(re.escape, ordered)))

    def mask(self, data: bytes) -> bytes:
        pattern = self._pattern
        return data if pattern is None else pattern.sub(_MASK, data)

    def split(self, data: bytes) -> tuple[bytes, bytes]:
        """What can be let go, masked, and the rest, which may be the beginning of a value."""
        with self._lock:
            pattern, longest, forms, first = self._pattern, self._longest, self._forms, self._first
        if pattern is None:
            return data, b""
        masked, done = bytearray(), 0
        keep = len(data)
        # The first place from which the data could go on into a form that is not complete yet.
        for start in range(max(0, len(data) - longest + 1), len(data)):
            if data[start] not in first:
                continue
            tail = data[start:]
            if any(len(form) > len(tail) and form.startswith(tail) for form in forms):
                keep = start
                break
        for match in pattern.finditer(data):
            if match.start() >= keep:
                break
            masked += data[done : match.start()] + _MASK
            done = match.end()
        keep = max(keep, done)
        return bytes(masked) + data[done:keep], data[keep:]


def _forms(value: str) -> Iterable[bytes]:
    lines = [value, *value.splitlines()] if "\n" in value else [value]
    for line in lines:
        if len(line) < _SHORTEST:
            continue
        raw = line.encode("utf-8", "surrogateescape")
        yield raw
        yield urllib.parse.quote(line, safe="").encode("ascii")
        yield urllib.parse.quote_plus(line).encode("ascii")
        yield json.dumps(line)[1:-1].encode("ascii")
        yield json.dumps(line, ensure_ascii=False)[1:-1].encode("utf-8", "surrogateescape")
        yield base64.b64encode(raw).rstrip(b"=")
        yield base64.urlsafe_b64encode(raw).rstrip(b"=")
