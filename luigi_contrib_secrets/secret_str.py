"""A live value as a task gets it: a real `str`, that remembers what it is called."""

from typing import NoReturn

from luigi_contrib_secrets.reference import Reference


class SecretStr(str):
    """The value of one field of one lease.

    It is a `str` because drivers written in C take nothing else. Its repr is the reference, so that it does not show in the
    repr of a container or of a call (Luigi puts the keyword arguments into its errors); pickled it is the reference, read
    again where it is unpickled; given to a SecretParameter it becomes the reference again.
    Not protected: `str()`, `format()`, an f-string, `+` and `json.dumps` give the value, since a DSN has to be built somehow.
    """

    __slots__ = ("reference",)
    reference: Reference

    def __new__(cls, value: str, reference: Reference) -> "SecretStr":  # noqa: PYI034  Self is not in Python 3.10
        self = super().__new__(cls, value)
        self.reference = reference
        return self

    def __repr__(self) -> str:
        return f"<live {self.reference}>"

    def __reduce__(self) -> tuple[object, ...]:
        return read_again, (str(self.reference),)

    def __copy__(self) -> "SecretStr":
        return self

    def __deepcopy__(self, memo: dict[int, object]) -> "SecretStr":
        return self


def read_again(reference: str) -> SecretStr:
    """What an unpickled SecretStr is: the value of that reference in this process, now. Raises SecretError."""
    from luigi_contrib_secrets.client import client

    return client().read(Reference.parse(reference))


def never_pickled(self: object) -> NoReturn:
    """`__reduce__` of what must stay in its process."""
    raise TypeError(f"a {type(self).__name__} holds live values and is not pickled; pass the task's parameter instead")
