"""TOML as `broker.toml` and policies are read: the parsed data, and problems that name the line on which they stand."""

import difflib
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from os import PathLike
from pathlib import Path
from typing import Any, NamedTuple

import tomllib

from broker.errors import Code, Misconfigured
from broker.toml_lines import KeyPath, locate

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
