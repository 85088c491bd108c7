"""`secret://<grant>[/<subpath>][#<field>]`: the name of a secret, which may stand anywhere; parsed once, strictly."""

import re
from dataclasses import dataclass

from luigi_contrib_secrets.errors import ReferenceInvalid

SCHEME = "secret://"
_LONGEST = 1024
_SEGMENT = r"[A-Za-z0-9_.-]+"
_REFERENCE = re.compile(
    rf"(?P<grant>[a-z0-9][a-z0-9-]{{0,31}})(?:/(?P<subpath>{_SEGMENT}(?:/{_SEGMENT})*))?(?:\#(?P<field>[A-Za-z0-9_.-]+))?"
)
_SHAPE = "secret://<grant>[/<subpath>][#<field>]"


@dataclass(frozen=True, order=True)
class Reference:
    """What is stored, logged, pickled and sent to the scheduler in a secret's place. It holds no secret itself."""

    grant: str
    subpath: str = ""
    field: str = ""

    @classmethod
    def parse(cls, unverified_text: object) -> "Reference":
        """The reference in `secret://…`. Raises ReferenceInvalid, which does not repeat the text: it may be a secret."""
        if not isinstance(unverified_text, str) or not unverified_text.startswith(SCHEME):
            raise ReferenceInvalid(f"a reference {_SHAPE} belongs here, never a literal; what was given is not repeated")
        return cls.parse_short(unverified_text[len(SCHEME) :])

    @classmethod
    def parse_short(cls, unverified_text: str) -> "Reference":
        """The same without its scheme, as in `${secret:<grant>[/<subpath>][#<field>]}`."""
        match = _REFERENCE.fullmatch(unverified_text) if len(unverified_text) <= _LONGEST else None
        if match is None:
            raise ReferenceInvalid(f"the reference does not have the shape {_SHAPE}; what was given is not repeated")
        found = cls(grant=match["grant"], subpath=match["subpath"] or "", field=match["field"] or "")
        if any(segment in {".", ".."} for segment in found.subpath.split("/")):
            # The path goes into a URL: a dot segment would be another grant's once somebody normalises it.
            raise ReferenceInvalid("a subpath has no '.' or '..' in it")
        return found

    @property
    def path(self) -> str:
        """Grant and subpath: what one lease is for."""
        return f"{self.grant}/{self.subpath}" if self.subpath else self.grant

    def of(self, field: str) -> "Reference":
        """The same lease's `field`."""
        return Reference(self.grant, self.subpath, field)

    def __str__(self) -> str:
        return f"{SCHEME}{self.path}#{self.field}" if self.field else f"{SCHEME}{self.path}"

    __repr__ = __str__
