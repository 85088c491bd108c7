"""Claims inside objects, named by JSON pointer (RFC 6901), because names of claims have dots and slashes of their own. Pure."""

import unicodedata
from collections.abc import Iterator, Mapping
from typing import Any

from broker.errors import Code, Refused


def value_at(members: Mapping[str, Any], name: str) -> Any:
    """What the claim of that name, or at that pointer, is; None when it is absent or null.

    Raises Refused(token_claims) when something on the way to it is no object: then the token is not its issuer's as documented.
    """
    if not name.startswith("/"):
        return members.get(name)
    value: Any = members
    for part in parts_of(name):
        if value is None:
            return None
        if not isinstance(value, Mapping):
            raise Refused(Code.TOKEN_CLAIMS, f"{name} is not there: something on the way to it is not an object")
        value = value.get(part)
    return value


def parts_of(pointer: str) -> tuple[str, ...]:
    """The names from the root on. `~1` is a slash in a name, `~0` a tilde."""
    return tuple(part.replace("~1", "/").replace("~0", "~") for part in pointer.split("/")[1:])


def pointer_to(*parts: str) -> str:
    return "".join("/" + part.replace("~", "~0").replace("/", "~1") for part in parts)


def refuse_resembling_inside(members: Mapping[str, Any], pointers: frozenset[str]) -> None:
    """What the gate does for names at the top: refuses one that folds onto a known one at its place without being it.

    Looks at the objects that the pointers lead through, and at no other.
    """
    known: dict[tuple[str, ...], set[str]] = {}
    for pointer in pointers:
        parts = parts_of(pointer)
        for depth in range(1, len(parts)):
            known.setdefault(parts[:depth], set()).add(parts[depth])
    for path, names in known.items():
        value: Any = members
        for part in path:
            value = value.get(part) if isinstance(value, Mapping) else None
        for name in value if isinstance(value, Mapping) else ():
            if name not in names and _folded(name) in names:
                raise Refused(Code.TOKEN_CLAIMS, f"the claim {name[:80]!a} resembles another claim's name; no issuer sends both")


def flattened(members: Mapping[str, Any]) -> dict[str, Any]:
    """Every value by its name, or by its pointer where it is inside an object."""
    flat = {name: value for name, value in members.items() if not isinstance(value, Mapping) and not name.startswith("/")}
    return flat | dict(_inside(members, ()))


def _inside(members: Mapping[str, Any], path: tuple[str, ...]) -> Iterator[tuple[str, Any]]:
    for name, value in members.items():
        if isinstance(value, Mapping):
            yield from _inside(value, (*path, name))
        elif path:
            yield pointer_to(*path, name), value


def _folded(name: str) -> str:
    return unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", name).casefold())
