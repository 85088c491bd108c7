"""What the parts of the OpenBao double share: its clock, requests and answers, and Go's way of writing things."""

import secrets
import string
import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

BASE62 = string.ascii_letters + string.digits

PERMISSION_DENIED = "permission denied"  # an unknown token, or a login that is not let in
POLICY_DENIED = "1 error occurred:\n\t* permission denied\n\n"  # a known token whose policies do not allow it


class Clock:
    """The server's clock: real time plus what a test has added; or standing still at a moment."""

    def __init__(self) -> None:
        self._offset = 0.0
        self._fixed: float | None = None

    def now(self) -> float:
        return self._offset + (time.time() if self._fixed is None else self._fixed)

    def advance(self, seconds: float) -> None:
        self._offset += seconds

    def stand_at(self, moment: float) -> None:
        self._fixed, self._offset = moment, 0.0


@dataclass(frozen=True, kw_only=True)
class Request:
    method: str
    path: str  # after /v1/
    headers: Mapping[str, str]
    body: dict[str, Any]
    remote: str
    raw: bytes = b""

    @property
    def token(self) -> str:
        return self.headers.get("x-vault-token", "")


@dataclass(kw_only=True)
class Response:
    status: int
    json: dict[str, Any] | None = None
    text: str = ""
    headers: dict[str, str] = field(default_factory=dict)


class RefusedError(Exception):
    """An answer that is an error: `{"errors": [...]}`."""

    def __init__(self, status: int, *errors: str, headers: dict[str, str] | None = None) -> None:
        super().__init__(status, errors)
        self.response = Response(status=status, json={"errors": list(errors)}, headers=headers or {})


NO_CONTENT = 204


def empty(status: int = NO_CONTENT) -> Response:
    return Response(status=status)


def answer(
    data: dict[str, Any] | None = None,
    *,
    status: int = 200,
    lease_id: str = "",
    renewable: bool = False,
    lease_duration: int = 0,
    warnings: list[str] | None = None,
    auth: dict[str, Any] | None = None,
) -> Response:
    body = {
        "request_id": str(uuid.uuid4()),
        "lease_id": lease_id,
        "renewable": renewable,
        "lease_duration": lease_duration,
        "data": data,
        "wrap_info": None,
        "warnings": warnings,
        "auth": auth,
    }
    return Response(status=status, json=body)


def base62(length: int) -> str:
    return "".join(secrets.choice(BASE62) for _ in range(length))


def rfc3339(moment: float) -> str:
    at = datetime.fromtimestamp(moment, UTC)
    return at.strftime("%Y-%m-%dT%H:%M:%S.") + f"{at.microsecond:06d}000Z"


def seconds_of(value: Any) -> int:
    """A duration as Vault takes it: a number of seconds, or `90s`, `20m`, `1h`."""
    if isinstance(value, (int, float)):
        return int(value)
    text = str(value or "0")
    unit = {"s": 1, "m": 60, "h": 3600}.get(text[-1])
    return int(text) if unit is None else int(text[:-1]) * unit


def go_duration(seconds: int) -> str:
    """`24h`, `59m49s`, `3s`: as the server's warnings write it."""
    hours, rest = divmod(seconds, 3600)
    minutes, rest = divmod(rest, 60)
    parts = [f"{n}{unit}" for n, unit in ((hours, "h"), (minutes, "m"), (rest, "s")) if n]
    return "".join(parts) or "0s"


def capped(wanted: int, left: int) -> tuple[int, list[str] | None]:
    """A time to live within what a maximum leaves, with the warning that recorded answers carry."""
    if wanted <= left:
        return wanted, None
    said = (
        f'TTL of "{go_duration(wanted)}" exceeded the effective max_ttl of "{go_duration(left)}"; TTL value is capped accordingly'
    )
    return left, [said]
