"""A value with one door."""

import hmac
from typing import NoReturn


class Secret:
    """A string that leaves through `reveal()` and nowhere else.

    Not through repr, str, format, iteration, pickle, copy, JSON or logging. A test lists every place that calls `reveal()`.
    Not protected: the memory of the process, and whatever a caller of `reveal()` does next.
    """

    __slots__ = ("_value",)

    def __init__(self, value: str) -> None:
        self._value = value

    def reveal(self) -> str:
        """The value. Whoever calls this is one of the listed exits."""
        return self._value

    def same_as(self, other: "Secret") -> bool:
        """Equal, in time that does not depend on where they differ."""
        return hmac.compare_digest(self._value.encode(), other._value.encode())  # noqa: SLF001 - its own kind

    def __repr__(self) -> str:
        return "Secret(***)"

    __str__ = __repr__

    def __format__(self, spec: str) -> str:
        return "Secret(***)"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a Secret is not pickled or copied")

    def __eq__(self, other: object) -> NoReturn:
        # `==` on a secret leaks by timing and invites it as a dict key; `same_as` is the way.
        raise TypeError("compare secrets with same_as()")

    __hash__ = None  # type: ignore[assignment]
