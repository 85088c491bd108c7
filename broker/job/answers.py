"""What the broker answers, parsed once at the door. After that nobody reads a dict."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from typing import Any

from broker.errors import Code, Unavailable
from broker.secret import Secret


@dataclass(frozen=True, slots=True, kw_only=True)
class Opened:
    """A session that an exchange just opened."""

    handle: Secret
    session_id: str
    environment: str
    expires_at: datetime
    left: int  # how many more sessions the token may open


@dataclass(frozen=True, slots=True, kw_only=True)
class Offer:
    """A grant of the session as it can be known before anything is read."""

    grant: str
    kind: str
    subpath: bool  # a folder: read only with a subpath
    region: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class LeaseSeen:
    grant: str
    subpath: str
    version: int


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """A live session as the broker sees it."""

    environment: str
    offers: tuple[Offer, ...]
    expires_at: datetime
    leases: tuple[LeaseSeen, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Credential:
    """One credential. `document` is the answer as it came, for `get --format json`."""

    grant: str
    kind: str
    version: int
    expires_at: datetime
    fields: Mapping[str, Secret]
    document: Secret = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class ContainerCredentials:
    """An answer of the AWS container credentials protocol, to be handed on as it is."""

    body: Secret
    expires_at: datetime
    secrets: tuple[Secret, ...]


def parse_opened(raw: bytes, sent_at: datetime) -> Opened:
    """Hours count from before the request was sent, so that they never end later than the broker's."""
    answer = _Answer(raw)
    return Opened(
        handle=Secret(answer.text("access_token")),
        session_id=answer.text("session_id"),
        environment=answer.text("environment"),
        expires_at=sent_at + timedelta(seconds=answer.number("expires_in")),
        left=int(answer.number("exchanges_left")),
    )


def parse_view(raw: bytes) -> View:
    answer = _Answer(raw)
    return View(
        environment=answer.text("environment"),
        offers=tuple(
            Offer(
                grant=line.text("grant"),
                kind=line.text("kind"),
                subpath=line.flag("subpath"),
                region=line.text("region") if "region" in line.document else None,
            )
            for line in (_Answer(item) for item in answer.items("offers"))
        ),
        expires_at=answer.moment("expires_at"),
        leases=tuple(
            LeaseSeen(grant=line.text("grant"), subpath=line.text("subpath", absent=""), version=int(line.number("version")))
            for line in (_Answer(item) for item in answer.items("leases"))
        ),
    )


def parse_credential(raw: bytes) -> Credential:
    answer = _Answer(raw)
    data = answer.document.get("data")
    if not isinstance(data, dict) or not data:
        raise _nonsense("data")
    return Credential(
        grant=answer.text("grant"),
        kind=answer.text("kind"),
        version=int(answer.number("version")),
        expires_at=answer.moment("expires_at"),
        # A KV secret may hold numbers or lists; what is not text is kept as JSON writes it.
        fields={name: Secret(value if isinstance(value, str) else json.dumps(value)) for name, value in data.items()},
        document=Secret(json.dumps(answer.document)),
    )


def parse_container(raw: bytes) -> ContainerCredentials:
    """Raises Unavailable for an answer without all its parts: an SDK must never get empty keys with a 200."""
    answer = _Answer(raw)
    answer.text("AccessKeyId")
    return ContainerCredentials(
        body=Secret(raw.decode("utf-8")),
        expires_at=answer.moment("Expiration"),
        secrets=(Secret(answer.text("SecretAccessKey")), Secret(answer.text("Token"))),
    )


def check_health(raw: bytes) -> None:
    """Raises Unavailable unless this is what a broker says at /healthz: many things answer 200."""
    if _Answer(raw).text("status") != "ok":
        raise _nonsense("status")


def parse_moment(text: str) -> datetime:
    """An RFC 3339 time in UTC ending in Z. Raises ValueError. (Python 3.10's `fromisoformat` does not read the Z.)"""
    shape = "%Y-%m-%dT%H:%M:%S.%fZ" if "." in text else "%Y-%m-%dT%H:%M:%SZ"
    return datetime.strptime(text, shape).replace(tzinfo=timezone.utc)


def format_moment(moment: datetime) -> str:
    """Without fractions: JavaScript's and Rust's AWS SDKs read no other form."""
    return moment.astimezone(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")


class _Answer:
    """A JSON object whose fields are asked for by type."""

    def __init__(self, raw: Any) -> None:
        if isinstance(raw, bytes):
            try:
                raw = json.loads(raw)
            except (ValueError, RecursionError):
                raise _nonsense("JSON") from None
        if not isinstance(raw, dict):
            raise _nonsense("a JSON object")
        self.document: dict[str, Any] = raw

    def text(self, name: str, *, absent: str | None = None) -> str:
        value = self.document.get(name, absent)
        if not isinstance(value, str) or (not value and absent is None):
            raise _nonsense(name)
        return value

    def number(self, name: str) -> float:
        value = self.document.get(name)
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 10**10:
            raise _nonsense(name)
        return value

    def flag(self, name: str) -> bool:
        value = self.document.get(name)
        if not isinstance(value, bool):
            raise _nonsense(name)
        return value

    def items(self, name: str) -> list[Any]:
        value = self.document.get(name)
        if not isinstance(value, list):
            raise _nonsense(name)
        return value

    def moment(self, name: str) -> datetime:
        try:
            return parse_moment(self.text(name))
        except ValueError:
            raise _nonsense(name) from None


def _nonsense(missing: str) -> Unavailable:
    return Unavailable(
        Code.BROKER_UNREACHABLE,
        f"what answers at the broker's address does not speak as a broker does (its answer has no usable {missing})",
    )
