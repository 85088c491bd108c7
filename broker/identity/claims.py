"""Who is asking: the typed, validated claims of one job token."""

from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Any

import msgspec

ClaimValue = str | bool | int | tuple[str, ...]
"""What a typed claim can be. GitLab's "true"/"false" strings are booleans here; a null claim is an absent one."""


class ClaimSet(Mapping[str, ClaimValue]):
    """Every claim the issuer's profile knows and the token carried, by name, in order of their names. Unchangeable."""

    __slots__ = ("_values",)

    def __init__(self, values: Mapping[str, ClaimValue]) -> None:
        self._values = dict(values)

    def __getitem__(self, name: str) -> ClaimValue:
        return self._values[name]

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(self._values))

    def __len__(self) -> int:
        return len(self._values)

    def __contains__(self, name: object) -> bool:  # this and `get` as Mapping has them, without a KeyError on the way
        return name in self._values

    def get(self, name: str, default: ClaimValue | None = None) -> ClaimValue | None:  # type: ignore[override]  # no other default
        return self._values.get(name, default)

    @property
    def by_name(self) -> Mapping[str, ClaimValue]:
        """The claims as the quickest mapping there is, for what looks at many of them. Not for writing to."""
        return self._values

    def __repr__(self) -> str:
        return f"ClaimSet({', '.join(self)})"


class JobIdentity(msgspec.Struct, frozen=True, kw_only=True):
    """One job, as its issuer signed it and its profile typed it. Only a profile makes these, from verified claims.

    A struct and not a dataclass, since one is made for every exchange and a frozen dataclass takes six times as long.
    What decides is `stable_id` and `claims`; names and paths are for people.
    """

    issuer_name: str  # our short name of the issuer: policy and the assertion's `sub` say this
    profile: str
    issuer: str  # `iss`
    stable_id: str  # gitlab: project_id
    jti: str
    kid: str
    issued_at: datetime
    expires_at: datetime
    project_id: str
    project_path: str
    job_id: str
    pipeline_id: str
    ref_path: str
    ref_protected: bool
    user_id: str  # "" when the pipeline has no user
    claims: ClaimSet

    def to_record(self) -> dict[str, Any]:
        """As JSON values, for the store: a session is decided again from this. `from_record` gives it back."""
        plain = {name: getattr(self, name) for name in _TEXTS}
        return plain | {
            "issued_at": self.issued_at.timestamp(),
            "expires_at": self.expires_at.timestamp(),
            "ref_protected": self.ref_protected,
            "claims": {name: list(v) if isinstance(v, tuple) else v for name, v in self.claims.items()},
        }

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> "JobIdentity":
        """The identity that `to_record` wrote. Trusts its caller: the store checks the row's HMAC first."""
        return cls(
            **{name: record[name] for name in _TEXTS},
            issued_at=datetime.fromtimestamp(record["issued_at"], UTC),
            expires_at=datetime.fromtimestamp(record["expires_at"], UTC),
            ref_protected=record["ref_protected"],
            claims=ClaimSet({n: tuple(v) if isinstance(v, list) else v for n, v in record["claims"].items()}),
        )


_TEXTS = (
    "issuer_name",
    "profile",
    "issuer",
    "stable_id",
    "jti",
    "kid",
    "project_id",
    "project_path",
    "job_id",
    "pipeline_id",
    "ref_path",
    "user_id",
)
