"""A table of `broker.toml`: paths are relative to the file, URLs are https, and nothing in it is a secret."""

import re
from pathlib import Path
from typing import Any, Self
from urllib.parse import urlsplit

from broker import toml_table
from broker.loopback import is_loopback
from broker.toml_source import Problem, Source

_MAX_PORT = 65535
_RELATIVE = "paths are relative to the configuration file"


class Table(toml_table.Table):
    """`folder` is what relative paths are relative to."""

    def __init__(self, source: Source, folder: Path, problems: list[Problem]) -> None:
        super().__init__(source, (), source.data, problems)
        self._folder = folder

    def text(self, key: str, *, required: bool = False) -> str | None:
        """Text that is not empty. A `${…}` is refused: none of the keys of today holds a secret, and nothing else is expanded."""
        value = super().text(key, required=required)
        if value is not None and "${" in value:
            what = f"{key} holds no secret, so ${{env:…}} and ${{file:…}} are not expanded in it"
            self.problem(key, what, "write the value itself")
            return None
        return value

    def uids(self, key: str) -> tuple[int, ...]:
        """A list of one or more user ids; `()` when it is absent or wrong."""
        values: list[Any] | None = self._of(key, list)
        if values is None:
            return ()
        if not values or not all(type(v) is int and v >= 0 for v in values):
            self.problem(key, f"{key} is not a list of one or more user ids", f"write {key} = [0]")
            return ()
        return tuple(values)

    def table(self, key: str, *, required: bool = False) -> Self:
        """The table of that name; an empty one when it is absent, so that what it must hold is missing."""
        return super().table(key, required=required) or self._inner((key,), {})

    def path(self, key: str, *, required: bool = False) -> Path | None:
        """An absolute path; nothing is looked up."""
        text = self.text(key, required=required)
        return None if text is None else self.beside(key, text)

    def beside(self, key: str, text: str) -> Path | None:
        """The path that is the text, or a part of it, of that key."""
        if "\x00" in text:
            self.problem(key, f"{key}: {text!r} is not a path", "leave the NUL out")
            return None
        return self._folder / text

    def file(self, key: str, *, required: bool = False) -> Path | None:
        """An existing file."""
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

    def url(self, key: str, *, required: bool = False, bare: bool = False) -> str | None:
        """An https URL, or an http one on loopback; without user, query, fragment or final slash; `bare`: without a path too.

        Nothing is sent there to see whether it answers.
        """
        value = self.text(key, required=required)
        if value is not None and (found := _url_fault(value, bare=bare)):
            self.problem(key, f"{key}: {value!r} {found[0]}", found[1])
        return value

    def address(self, key: str) -> tuple[str, int] | None:
        """`host:port`, `[v6]:port`."""
        return self.parsed(key, _address, 'write "127.0.0.1:8400" or "[::1]:8400"')


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
