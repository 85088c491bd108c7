"""TOML as `broker.toml` and policies are read: the parsed data, and the line on which every key of it stands.

`tomllib` gives values without positions, and a problem without its line is a search. So the text is walked a second time, after
`tomllib` has accepted it, by a locator that only needs to find keys in TOML known to be valid (TOML 1.0, toml.io/en/v1.0.0).
"""

import difflib
import re
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import timedelta
from os import PathLike
from pathlib import Path
from typing import Any, NamedTuple

import tomllib

from broker.errors import Code, Misconfigured

KeyPath = tuple[str | int, ...]
"""Keys and array indices from the root: `("environment", 0, "when", "ref_path")`."""

FilePath = str | PathLike[str]

_MAX_BYTES = 16 * 1024 * 1024


class Place(NamedTuple):
    """Where something is written: the source of that file knows its line."""

    file: str
    path: KeyPath


@dataclass(frozen=True, slots=True, order=True)
class Problem:
    """One thing wrong in a file: where, what, and what to write instead."""

    file: str
    line: int
    what: str
    instead: str = ""

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.what}" + (f"; {self.instead}" if self.instead else "")


class SourceInvalid(Misconfigured):
    """A file that cannot be used, with every problem found in it, in the order of their lines."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems = tuple(sorted(set(problems)))
        super().__init__(Code.CONFIG_INVALID, "\n".join(map(str, self.problems)))


class Source:
    """Parsed TOML text that knows where everything stands. `data` is what `tomllib` made of it."""

    def __init__(self, name: str, text: str, data: Mapping[str, Any]) -> None:
        self.name = name
        self.text = text
        self.data = data
        self._lines: Mapping[KeyPath, int] | None = None

    def line_of(self, path: KeyPath) -> int:
        """The line of that key, or of the nearest table around it that is written (a missing key has no line of its own)."""
        if self._lines is None:  # only a file with a problem pays for the second walk
            self._lines = locate(self.text)
        for end in range(len(path), 0, -1):
            line = self._lines.get(path[:end])
            if line is not None:
                return line
        return 1

    def problem(self, path: KeyPath, what: str, instead: str = "") -> Problem:
        """That problem, at the line of that key."""
        return Problem(self.name, self.line_of(path), what, instead)


def parse(text: str, name: str) -> Source:
    """The document in `text`; `name` is what messages call it. Raises SourceInvalid with the line of a syntax error."""
    text = text.replace("\r\n", "\n")
    try:
        data = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise SourceInvalid([_syntax_problem(str(error), text, name)]) from None
    except RecursionError:
        raise SourceInvalid([Problem(name, 1, "arrays or tables are nested too deeply to read")]) from None
    except ValueError as error:  # an integer of thousands of digits
        raise SourceInvalid([Problem(name, 1, f"a value cannot be read: {error}")]) from None
    return Source(name, text, data)


def read_text(path: FilePath) -> str:
    """The file's text. Raises SourceInvalid when it is not there, not readable, too large or not UTF-8."""
    name = Path(path).name
    try:
        raw = Path(path).read_bytes()
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "not a usable path"
        what = f"the file cannot be read ({reason})"
        raise SourceInvalid([Problem(str(path), 1, what, "check the path and its permissions")]) from None
    if len(raw) > _MAX_BYTES:
        raise SourceInvalid([Problem(name, 1, f"the file has {len(raw)} bytes, the limit is {_MAX_BYTES}")])
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise SourceInvalid([Problem(name, line, "this line is not UTF-8 text", "save the file as UTF-8")]) from None


def texts_at(path: FilePath, *, leaving_out: str) -> dict[str, str]:
    """By name: the text of that file, or of every `*.toml` in that folder whose name does not end in `leaving_out`.

    Names that start with a dot are not looked at. Raises SourceInvalid when there is none, when one cannot be read, or when a
    folder in that folder has such files, which would be rules that nobody reads.
    """
    if not Path(path).is_dir():
        return {Path(path).name: read_text(path)}
    problems = []
    texts = {}
    try:
        entries = sorted(Path(path).iterdir())
    except OSError as error:
        what = f"the folder cannot be read ({error.strerror})"
        raise SourceInvalid([Problem(str(path), 1, what, "check the path and its permissions")]) from None
    for entry in entries:
        if entry.name.startswith(".") or entry.name.endswith(leaving_out):
            continue
        if entry.is_dir() and any(entry.glob("*.toml")):
            what = f"{entry.name} is a folder with *.toml files in it, and they would not be read"
            problems.append(Problem(entry.name, 1, what, "move them up, or name it with a dot in front"))
        elif entry.suffix == ".toml":
            try:
                texts[entry.name] = read_text(entry)
            except SourceInvalid as invalid:
                problems += invalid.problems
    if not texts and not problems:
        problems.append(Problem(str(path), 1, "the folder has no *.toml file", "put the policy's files into it"))
    if problems:
        raise SourceInvalid(problems)
    return texts


def reader_beside(path: FilePath) -> Callable[[str], str]:
    """Reads files that stand in the same folder as `path` (in it, if it is one), by their plain name; raises SourceInvalid for
    any other name.
    """
    folder = Path(path) if Path(path).is_dir() else Path(path).parent

    def read(name: str) -> str:
        if not re.fullmatch(r"[A-Za-z0-9_-][A-Za-z0-9._-]*", name):
            raise SourceInvalid([Problem(name, 1, f"{name!r} is not a plain file name", "name a file in the same folder")])
        return read_text(folder / name)

    return read


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """What to write instead of an unknown word: the closest known one, or all of them."""
    words = sorted(known)
    close = difflib.get_close_matches(word, words, n=1, cutoff=0.6)
    return f"did you mean {close[0]!r}?" if close else f"known are {', '.join(words)}"


_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


def duration(text: str) -> timedelta:
    """`"90s"`, `"30m"`, `"1h"`, `"1h30m"`, `"30d"`. Raises ValueError for anything else, and for zero."""
    if not re.fullmatch(r"(?:[0-9]{1,6}[dhms])+", text, re.ASCII):
        raise ValueError(f"{text!r} is not a length of time")
    seconds = sum(int(count) * _SECONDS[unit] for count, unit in re.findall(r"([0-9]+)([dhms])", text))
    if not seconds:
        raise ValueError(f"{text!r} is no time at all")
    return timedelta(seconds=seconds)


def _syntax_problem(message: str, text: str, name: str) -> Problem:
    what, _, place = message.partition(" (at ")
    found = re.match(r"line (\d+), column (\d+)", place)
    line = int(found[1]) if found else text.count("\n") + (not text.endswith("\n"))
    column = f" (column {found[2]})" if found else ""
    return Problem(name, max(line, 1), f"this is not TOML: {what[:1].lower()}{what[1:]}{column}")


# --- the locator ------------------------------------------------------------------------------------------------------

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
