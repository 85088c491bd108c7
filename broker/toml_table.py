"""One table of a TOML document, read key by key: what is asked for is known, what is left over is refused.

A reading that fails adds a problem and gives None or nothing, as an absent key does, so that one run finds every problem. Whoever
reads makes nothing of a document that has one.
"""

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from copy import copy
from datetime import timedelta
from typing import Any, Self, TypeVar

from broker.toml_lines import KeyPath
from broker.toml_source import Place, Problem, Source, did_you_mean, duration

T = TypeVar("T")

_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,31}")
_ANY = '"…"'
_LONGEST_ID = 10**18
_LONGEST = 999_999  # seconds; more digits are no length of time
_SHOWN = {bool: "true or false", int: "a whole number", str: "text in quotes", list: "a list", dict: "a table"}


class Table:
    """What `source` holds at `path`. The tables in it add to the same problems."""

    def __init__(self, source: Source, path: KeyPath, data: Any, problems: list[Problem]) -> None:
        self._source = source
        self._path = path
        self._data = data
        self._problems = problems
        self._asked: set[str] = set()

    def problem(self, key: str, what: str, instead: str = "") -> None:
        """Adds a problem at the line of that key; `""` is the table itself."""
        self._problems.append(self._source.problem((*self._path, key) if key else self._path, what, instead))

    @property
    def faults(self) -> int:
        """How many problems there are so far, in the whole document."""
        return len(self._problems)

    @property
    def position(self) -> int:
        """Of an element of an array of tables: how many stand before it."""
        last = self._path[-1]
        return last if isinstance(last, int) else 0

    @property
    def place(self) -> Place:
        """Where this table stands."""
        return Place(self._source.name, self._path)

    def at(self, key: str) -> Place:
        """Where that key of it stands."""
        return Place(self._source.name, (*self._path, key))

    def __contains__(self, key: str) -> bool:
        self._asked.add(key)
        return key in self._data

    def keys(self) -> Iterator[str]:
        """Every key, all of them known from here on: for tables whose keys the caller checks."""
        self._asked.update(self._data)
        yield from self._data

    def raw(self, key: str) -> Any:
        self._asked.add(key)
        return self._data.get(key)

    def refuse_others(self) -> None:
        """Call last: every key that nobody asked for is a problem."""
        for key in self._data:
            if key not in self._asked:
                self.problem(key, f"unknown key {key!r}", did_you_mean(key, self._asked))

    # --- values -----------------------------------------------------------------------------------------------------

    def text(self, key: str, *, required: bool = False) -> str | None:
        """Text that is not empty."""
        value: str | None = self._of(key, str, required=required)
        if value is not None and not value.strip():
            self.problem(key, f"{key} is empty", "leave the key out or give it a value")
            return None
        return value

    def name(self, key: str, *, required: bool = False) -> str | None:
        """A name as DESIGN section 2 has them."""
        value = self.text(key, required=required)
        return value if value is not None and self.named(key, value) else None

    def named(self, key: str, value: str | None = None) -> bool:
        """Whether the value, or the key itself, is a name as DESIGN section 2 has them; a problem when it is not."""
        name = key if value is None else value
        if not _NAME.fullmatch(name):
            instead = "use at most 32 lower-case letters, digits and '-', and do not start with '-'"
            self.problem(key, f"{name!r} is not a name", instead)
            return False
        return True

    def texts(self, key: str, *, required: bool = False, empty: bool = False) -> tuple[str, ...]:
        """A list of different texts, of one or more unless it may be `empty`; `()` when it is absent or wrong.

        A text or a number in its place, or numbers in it, are a problem and are taken for what was meant: of one slip there is
        one problem, and not another wherever the texts are missed.
        """
        given = self._data.get(key)
        if _plain(given):
            self._of(key, list, shown=f"a list of texts: write {key} = [{_quoted(given)}]")
            return (str(given),)
        values: list[Any] | None = self._of(key, list, required=required)
        if values is None or (empty and not values):
            return ()
        if not values or not all(type(v) is str and v.strip() for v in values):
            meant = [*map(str, values)] if all(map(_plain, values)) else []
            self.problem(
                key, f"{key} is not a list of one or more texts", f"write {key} = [{', '.join(map(_quoted, meant)) or _ANY}]"
            )
            return tuple(dict.fromkeys(meant))
        if len(set(values)) != len(values):
            self.problem(key, f"{key} names something twice", "name each once")
        return tuple(values)

    def one_or_more(self, key: str) -> tuple[str, ...]:
        """A text, or a list of one or more different texts; `()` when it is absent or wrong."""
        if type(self.raw(key)) is not str:
            return self.texts(key)
        value = self.text(key)
        return () if value is None else (value,)

    def members(self) -> Mapping[str, Any]:
        """Everything in it, as TOML has it and all of it known: for tables whose values the caller checks."""
        return {key: self._data[key] for key in self.keys()}

    def flag(self, key: str, *, default: bool = False) -> bool:
        value: bool | None = self._of(key, bool)
        return default if value is None else value

    def integer(self, key: str, default: int, low: int, high: int) -> int:
        value: int | None = self._of(key, int)
        if value is None:
            return default
        if not low <= value <= high:
            self.problem(key, f"{key} is {value}", f"it must be between {low} and {high}")
        return value

    def choice(self, key: str, allowed: Sequence[str], *, required: bool = False) -> str | None:
        """One of these words."""
        value = self.text(key, required=required)
        if value is not None and value not in allowed:
            self.problem(key, f"{key} is {value!r}", did_you_mean(value, allowed))
            return None
        return value

    def length(self, key: str, low: timedelta, high: timedelta) -> timedelta | None:
        """A length of time within bounds."""
        given, instead = self._data.get(key), 'write a length of time such as "90s", "30m" or "1h"'
        if type(given) is int and low <= timedelta(seconds=min(max(given, 0), _LONGEST)) <= high:
            instead = f'write {key} = "{given}s" for seconds, or another length such as "30m" or "1h"'
        found = self.parsed(key, duration, instead)
        if found is not None and not low <= found <= high:
            self.problem(key, f"{key} is {self._data[key]!r}", f"it must be between {_spelled(low)} and {_spelled(high)}")
        return found

    def parsed(self, key: str, parse: Callable[[str], T], instead: str) -> T | None:
        """What `parse` makes of that text. Its ValueError says what is wrong, `instead` what to write."""
        value = self._of(key, str, shown=f"text; {instead}")
        if value is None:
            return None
        try:
            return parse(value)
        except ValueError as error:
            self.problem(key, f"{key}: {error}", instead)
            return None

    def table(self, key: str, *, required: bool = False) -> Self | None:
        data = self._of(key, dict, required=required)
        return None if data is None else self._inner((key,), data)

    def tables(self, key: str) -> list[Self]:
        """The elements of an array of tables; none when it is absent."""
        values = self._of(key, list, shown=f"an array of tables: write [[{key}]] with two brackets")
        found = []
        for index, data in enumerate(values or []):
            element = self._inner((key, index), data)
            if type(data) is dict:
                found.append(element)
            else:
                element.problem("", f"{key} is not an array of tables", f"write [[{key}]]")
        return found

    def _inner(self, step: KeyPath, data: Any) -> Self:
        inner = copy(self)
        inner._path, inner._data, inner._asked = (*self._path, *step), data, set()  # noqa: SLF001  its own class
        return inner

    def _of(self, key: str, kind: type, *, required: bool = False, shown: str = "") -> Any:
        self._asked.add(key)
        if key not in self._data:
            if required:
                where = ".".join(step for step in self._path if isinstance(step, str))
                self.problem("", f"{key} is missing" + (f" in [{where}]" if where else ""), f"add {key} = …")
            return None
        value = self._data[key]
        if type(value) is not kind:  # not isinstance: True is an int to it
            self.problem(key, f"{key} is {_SHOWN.get(type(value), 'a date or a fraction')}", f"it is {shown or _SHOWN[kind]}")
            return None
        return value


def _plain(value: object) -> bool:
    """Text or a number: what can stand in quotes. No number longer than ids are: str() refuses thousands of digits."""
    return (type(value) is int and abs(value) < _LONGEST_ID) or (type(value) is str and bool(value.strip()))


def _quoted(value: object) -> str:
    return json.dumps(str(value), ensure_ascii=False)


def _spelled(length: timedelta) -> str:
    seconds = int(length.total_seconds())
    for unit, size in (("d", 86400), ("h", 3600), ("m", 60)):
        if seconds % size == 0:
            return f"{seconds // size}{unit}"
    return f"{seconds}s"
