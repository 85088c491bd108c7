"""On which line every key of a TOML document stands (TOML 1.0, toml.io/en/v1.0.0).

`tomllib` gives values without positions, and a problem without its line is a search. So the text is walked a second time, after
`tomllib` has accepted it, by a locator that only needs to find keys in TOML known to be valid.
"""

import re
from bisect import bisect_right
from collections.abc import Iterator

import tomllib

KeyPath = tuple[str | int, ...]
"""Keys and array indices from the root: `("environment", 0, "when", "ref_path")`."""

_BLANK = re.compile(r"(?:[ \t\n]|#[^\n]*)*")
_SPACE = re.compile(r"[ \t]*")
_BARE = re.compile(r"[A-Za-z0-9_-]+")
_SCALAR = re.compile(r"[^,\]}#\n]*")
# The long forms first: every one of them starts like a short one. No possessive repeats: before Python 3.11.5 a group in one
# matches too little (CPython gh-106052), and Debian 12 has 3.11.2. Each text has one reading, so none has to give anything back.
_STRINGS = (
    re.compile(r'"""(?:[^"\\]|\\.|"{1,2}(?!"))*"{3,5}', re.DOTALL),
    re.compile(r"'''(?:[^']|'{1,2}(?!'))*'{3,5}"),
    re.compile(r'"(?:[^"\\]|\\.)*"'),
    re.compile(r"'[^']*'"),
)


def locate(text: str) -> dict[KeyPath, int]:
    """The line of every key path of a document that `tomllib` accepts.

    A table that is both implied (`[a.b]`) and written (`[a]`) stands where it is written; one only implied, where that was
    first. An array element stands where its value begins. What happens for text that is not TOML is undefined.
    """
    return _Locator(text).run()


class _Locator:
    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0
        self._line_starts = [0, *(m.end() for m in re.finditer("\n", text))]
        self._lines: dict[KeyPath, int] = {}
        self._array_lengths: dict[KeyPath, int] = {}

    def run(self) -> dict[KeyPath, int]:
        table: KeyPath = ()
        self._skip(_BLANK)
        while self._at < len(self._text):
            table = self._header() if self._text[self._at] == "[" else self._pair(table)
            self._skip(_BLANK)
        return self._lines

    def _header(self) -> KeyPath:
        start = self._at
        is_array = self._text.startswith("[[", start)
        self._at += 2 if is_array else 1
        *outer, last = self._key()
        self._skip(_SPACE)
        self._at += 2 if is_array else 1
        path: KeyPath = ()
        for part in outer:
            path = self._enter(path, part, start)
        if is_array:
            path = (*path, last)
            self._lines.setdefault(path, self._line(start))
            count = self._array_lengths.get(path, 0)
            self._array_lengths[path] = count + 1
            path = (*path, count)
        else:
            path = (*path, last)
        self._lines[path] = self._line(start)
        return path

    def _enter(self, path: KeyPath, part: str, start: int) -> KeyPath:
        """One step of a header's key: into the table of that name, or into the latest element of the array of that name."""
        path = (*path, part)
        self._lines.setdefault(path, self._line(start))
        count = self._array_lengths.get(path)
        return path if count is None else (*path, count - 1)

    def _pair(self, table: KeyPath) -> KeyPath:
        """`key = value`. Returns the table that it stands in, so that the caller's loop reads evenly."""
        start = self._at
        path = table
        for part in self._key():
            path = (*path, part)
            self._lines.setdefault(path, self._line(start))
        self._skip(_SPACE)
        self._at += 1  # the equals sign
        self._skip(_SPACE)
        self._value(path)
        return table

    def _value(self, path: KeyPath) -> None:
        first = self._text[self._at]
        if first in "\"'":
            self._string()
        elif first == "[":
            for index in self._items("]"):
                self._lines[(*path, index)] = self._line(self._at)
                self._value((*path, index))
        elif first == "{":
            for _ in self._items("}"):
                self._pair(path)
        else:
            self._skip(_SCALAR)

    def _items(self, closing: str) -> Iterator[int]:
        """Stops before each item of an array or inline table, and ends after its closing bracket."""
        self._at += 1
        index = 0
        while True:
            self._skip(_BLANK)
            if self._text[self._at] == closing:
                self._at += 1
                return
            yield index
            index += 1
            self._skip(_BLANK)
            if self._text[self._at] == ",":
                self._at += 1

    def _key(self) -> list[str]:
        parts = []
        while True:
            self._skip(_SPACE)
            if self._text[self._at] in "\"'":
                # Its escapes are read by the same parser that read the document, so that the two agree on the name.
                parts.append(str(tomllib.loads("key = " + self._string())["key"]))
            else:
                parts.append(self._skip(_BARE))
            self._skip(_SPACE)
            if self._text[self._at] != ".":
                return parts
            self._at += 1

    def _string(self) -> str:
        for pattern in _STRINGS:
            if found := pattern.match(self._text, self._at):
                self._at = found.end()
                return found[0]
        raise AssertionError("tomllib accepts no unclosed string")

    def _skip(self, pattern: re.Pattern[str]) -> str:
        found = pattern.match(self._text, self._at)
        if found is None:
            raise AssertionError("tomllib accepts no empty bare key")
        self._at = found.end()
        return found[0]

    def _line(self, position: int) -> int:
        return bisect_right(self._line_starts, position)
