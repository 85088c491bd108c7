"""`secret://<grant>[/<subpath>][#<field>]`, and what `--env` and `--file` make of it."""

import re
from dataclasses import dataclass
from pathlib import Path

from broker.errors import Code, Misconfigured, Refused

_GRANT = re.compile(r"[a-z0-9][a-z0-9-]{0,31}")
_REFERENCE = re.compile(r"secret://([^/#]+)(?:/([^#]+))?(?:#([A-Za-z0-9_.-]+))?")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class Wanted:
    """One credential to read."""

    grant: str
    subpath: str = ""

    def __str__(self) -> str:
        return f"{self.grant}/{self.subpath}" if self.subpath else self.grant


@dataclass(frozen=True, slots=True, kw_only=True)
class EnvReference:
    name: str
    wanted: Wanted
    field: str


@dataclass(frozen=True, slots=True, kw_only=True)
class FileReference:
    path: Path
    wanted: Wanted
    field: str


def parse_wanted(text: str) -> Wanted:
    """`GRANT` or `GRANT/subpath`. Raises Refused(path_invalid)."""
    grant, _, subpath = text.partition("/")
    if not _GRANT.fullmatch(grant) or (subpath and not all(part not in ("", ".", "..") for part in subpath.split("/"))):
        raise Refused(Code.PATH_INVALID, f"{text!r} names no grant (written lake, or warehouse/a/subpath)")
    return Wanted(grant=grant, subpath=subpath)


def parse_env(text: str) -> EnvReference:
    name, wanted, field = _split(text, "--env NAME=secret://grant#field")
    if not _VARIABLE.fullmatch(name):
        raise Misconfigured(Code.CONFIG_INVALID, f"{name!r} is no name of a variable")
    return EnvReference(name=name, wanted=wanted, field=field)


def parse_file(text: str) -> FileReference:
    name, wanted, field = _split(text, "--file PATH=secret://grant#field")
    return FileReference(path=Path(name).absolute(), wanted=wanted, field=field)


def _split(text: str, shape: str) -> tuple[str, Wanted, str]:
    name, equals, reference = text.partition("=")
    match = _REFERENCE.fullmatch(reference)
    if not name or not equals or match is None or match[3] is None:
        raise Misconfigured(Code.CONFIG_INVALID, f"{text!r} is not of the form {shape}")
    return name, parse_wanted(match[1] + ("/" + match[2] if match[2] else "")), match[3]
