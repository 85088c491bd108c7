"""One table of a TOML document, read key by key: what is asked for is known, what is left over is refused.

A reading that fails adds a problem and returns a stand-in of the right type, so that one run finds every problem. The stand-ins
never leave: `load` makes no Config when there is a problem.
"""

import ipaddress
import re
from collections.abc import Callable, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

from broker.policy.model import Rate
from broker.toml_source import Problem, Source, did_you_mean, duration

T = TypeVar("T")

_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,31}")
_MAX_PORT = 65535
_RELATIVE = "paths are relative to the configuration file"


def is_loopback(host: str) -> bool:
    """`localhost` or an address of the loopback network, as a literal. No name is ever resolved."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


class Table:
    """A view on `source.data` at `path`. `folder` is what relative paths are relative to."""

    def __init__(
        self, source: Source, path: tuple[str | int, ...], data: dict[str, Any], folder: Path, problems: list[Problem]
    ) -> None:
        self._source = source
        self._path = path
        self._data = data
        self._folder = folder
        self._problems = problems
        self._known: set[str] = set()

    def problem(self, key: str, what: str, instead: str = "") -> None:
        """Adds a problem at the line of that key; `""` is the table itself."""
        path = (*self._path, key) if key else self._path
        self._problems.append(self._source.problem(path, what, instead))

    def __contains__(self, key: str) -> bool:
        return key in self._data

    # --- values -----------------------------------------------------------------------------------------------------

    def text(self, key: str, *, default: str = "", required: bool = False, one_of: Sequence[str] = ()) -> str:
        """Non-empty text. A `${…}` is refused: none of the keys of today holds a secret, and nothing else is expanded."""
        value: str = self._get(key, str, "text", default, required=required)
        given = key in self._data and isinstance(self._data[key], str)
        if not given:  # absent, or not text and reported
            return value
        if not value.strip():
            self.problem(key, f"{key} is empty", "leave the key out or give it a value")
        elif "${" in value:
            self.problem(
                key, f"{key} holds no secret, so ${{env:…}} and ${{file:…}} are not expanded in it", "write the value itself"
            )
        elif one_of and value not in one_of:
            self.problem(key, f"{key} is {value!r}", did_you_mean(value, one_of))
        return value

    def name(self, key: str = "name") -> str:
        """A name as DESIGN section 2 has them; required."""
        value = self.text(key, required=True)
        if value and not _NAME.fullmatch(value):
            self.problem(
                key, f"{value!r} is not a name", "use lower-case letters, digits and '-', at most 32, starting with no '-'"
            )
        return value

    def texts(self, key: str, default: tuple[str, ...]) -> tuple[str, ...]:
        """A list of one or more texts."""
        values = self._get(key, list, "a list of texts", list(default))
        if not values or not all(isinstance(v, str) and v.strip() for v in values):
            self.problem(key, f"{key} is not a list of one or more texts", f'write {key} = ["…"]')
            return default
        return tuple(values)

    def flag(self, key: str, *, default: bool) -> bool:
        return self._get(key, bool, "true or false", default)

    def integer(self, key: str, default: int, low: int, high: int) -> int:
        value = self._get(key, int, "a whole number", default)
        if not low <= value <= high:
            self.problem(key, f"{key} is {value}", f"it must be between {low} and {high}")
        return value

    def integers(self, key: str, default: tuple[int, ...]) -> tuple[int, ...]:
        """A list of one or more numbers that are not negative."""
        values = self._get(key, list, "a list of whole numbers", list(default))
        if not values or not all(type(v) is int and v >= 0 for v in values):
            self.problem(key, f"{key} is not a list of one or more user ids", f"write {key} = [0]")
            return default
        return tuple(values)

    def length(self, key: str, default: timedelta, low: timedelta, high: timedelta) -> timedelta:
        """A length of time within bounds."""
        found = self._parsed(key, duration, 'write a length of time such as "30s", "5m" or "24h"')
        if found is None:
            return default
        if not low <= found <= high:
            self.problem(key, f"{key} is {self._data[key]!r}", f"it must be between {low} and {high}")
        return found

    def rate(self, key: str, default: Rate) -> Rate:
        """So many in a second, a minute or an hour."""
        return self._parsed(key, _rate, 'write a number and a unit such as "50/s" or "30/m"') or default

    def _parsed(self, key: str, parse: Callable[[str], T], instead: str) -> T | None:
        """What `parse` makes of that text; None when the key is absent, or wrong and reported."""
        text = self.text(key)
        if not text:
            return None
        try:
            return parse(text)
        except ValueError as error:
            self.problem(key, f"{key}: {error}", instead)
            return None

    # --- paths, URLs, addresses ---------------------------------------------------------------------------------------

    def file(self, key: str, *, required: bool = False) -> Path | None:
        """An existing file, as an absolute path."""
        path = self.path(key, required=required)
        if path is not None and not path.is_file():
            what = "is a folder, not a file" if path.is_dir() else "does not exist, or may not be looked at"
            self.problem(key, f"{key}: {path} {what}", _RELATIVE)
        return path

    def file_or_folder(self, key: str) -> Path | None:
        """An existing file or folder, as an absolute path."""
        path = self.path(key, required=True)
        if path is not None and not (path.is_file() or path.is_dir()):
            self.problem(key, f"{key}: {path} does not exist, or may not be looked at", _RELATIVE)
        return path

    def directory(self, key: str) -> Path | None:
        path = self.path(key, required=True)
        if path is not None and not path.is_dir():
            self.problem(key, f"{key}: {path} is not a folder", "`credbroker keygen` makes it")
        return path

    def path(self, key: str, *, required: bool = False) -> Path | None:
        """An absolute path; nothing is looked up."""
        text = self.text(key, required=required)
        return self._folder / text if text and "\x00" not in text else None

    def url(self, key: str, *, default: str = "", required: bool = False, bare: bool = False) -> str:
        """An https URL, or an http one on loopback; without user, query, fragment or final slash; `bare`: without a path too.

        Nothing is sent there to see whether it answers.
        """
        value = self.text(key, default=default, required=required)
        if not value or key not in self._data:
            return value
        found = _url_fault(value, bare=bare)
        if found:
            self.problem(key, f"{key}: {value!r} {found[0]}", found[1])
        return value

    def address(self, key: str) -> tuple[str, int] | None:
        """`host:port`, `[v6]:port`."""
        return self._parsed(key, _address, 'write "127.0.0.1:8400" or "[::1]:8400"')

    def beside(self, name: str) -> Path:
        """A path that was part of something else, made absolute."""
        return self._folder / name

    # --- tables -------------------------------------------------------------------------------------------------------

    def table(self, key: str) -> "Table":
        """The table of that name; an empty one when it is absent."""
        data = self._get(key, dict, f"a table [{key}]", {})
        return Table(self._source, (*self._path, key), data, self._folder, self._problems)

    def tables(self, key: str) -> list["Table"]:
        """The elements of `[[key]]`."""
        values = self._get(key, list, f"a list of tables [[{key}]]", [])
        tables = []
        for index, data in enumerate(values):
            if isinstance(data, dict):
                tables.append(Table(self._source, (*self._path, key, index), data, self._folder, self._problems))
            else:
                self.problem(key, f"{key} holds something that is not a table", f"write [[{key}]]")
        return tables

    def finish(self) -> None:
        """Refuses every key that nobody asked for."""
        for key in self._data:
            if key not in self._known:
                self.problem(key, f"unknown key {key!r}", did_you_mean(key, self._known))

    def _get(self, key: str, kind: type[T], words: str, default: T, *, required: bool = False) -> T:
        self._known.add(key)
        if key not in self._data:
            if required:
                self.problem("", f"missing key {key!r}" + (f" in [{self._path[0]}]" if self._path else ""))
            return default
        value = self._data[key]
        if type(value) is not kind:  # `True` is no number here, and no subclass comes out of tomllib
            self.problem(key, f"{key} is not {words}")
            return default
        return value


_UNITS = {"s": timedelta(seconds=1), "m": timedelta(minutes=1), "h": timedelta(hours=1)}


def _rate(text: str) -> Rate:
    found = re.fullmatch(r"([1-9][0-9]{0,5})/([smh])", text)
    if not found:
        raise ValueError(f"{text!r} is not a rate")
    return Rate(count=int(found[1]), per=_UNITS[found[2]])


def _url_fault(value: str, *, bare: bool) -> tuple[str, str] | None:
    """What is wrong with a URL, and what to write instead."""
    try:
        parts = urlsplit(value)
        host, _ = parts.hostname or "", parts.port
    except ValueError:
        return "is not a URL", "write https://host"
    if parts.scheme not in {"http", "https"} or not host or not value.isascii() or any(c.isspace() for c in value):
        return "is not an https URL", "write https://host"
    if parts.scheme == "http" and not is_loopback(host):
        return "is plain http to another machine", "use https; http is for loopback alone"
    if parts.username is not None or parts.password is not None or "?" in value or "#" in value:
        return "has a user, a query or a fragment", "leave them out"
    if value.endswith("/") or (bare and parts.path):
        return "has a path or a slash at its end", f"write {parts.scheme}://{parts.netloc}"
    return None


def _address(text: str) -> tuple[str, int]:
    host, colon, port = text.rpartition(":")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        raise ValueError(f"{text!r} is not an address and a port")
    if not colon or not host or not re.fullmatch(r"[0-9]{1,5}", port) or int(port) > _MAX_PORT:
        raise ValueError(f"{text!r} is not an address and a port")
    return host, int(port)
