"""What a session is, and the handle that holds it."""

import base64
import hashlib
import re
import secrets
import zlib
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from broker.errors import Code, Refused
from broker.identity.claims import JobIdentity
from broker.secret import Secret

HANDLE_PREFIX = "cbs_"
_ALPHABET = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_RANDOM_CHARS = 43
_CHECK_CHARS = 6
_SHAPE = re.compile(rf"{HANDLE_PREFIX}([0-9A-Za-z]{{{_RANDOM_CHARS}}})([0-9A-Za-z]{{{_CHECK_CHARS}}})")
_HASH_DOMAIN = b"credbroker/handle/1\x00"
_RESUME_DOMAIN = b"credbroker/resume/1\x00"


class SessionState(StrEnum):
    LIVE = "live"
    CLOSED = "closed"  # its holder ended it
    REVOKED = "revoked"  # somebody else did: policy, operator, a resumed exchange
    IDLE = "idle"  # its heartbeat fell silent
    EXPIRED = "expired"  # the token's `exp`, or the policy's `max_session`


_REFUSALS = {
    SessionState.CLOSED: (Code.SESSION_REVOKED, "this session was ended by its job; open a new one with the job token"),
    SessionState.REVOKED: (Code.SESSION_REVOKED, "this session was revoked; the broker's log says by what"),
    SessionState.IDLE: (
        Code.SESSION_IDLE,
        "this session's heartbeat fell silent, or nobody used the session at all, and it was revoked; open a new one",
    ),
    SessionState.EXPIRED: (
        Code.SESSION_EXPIRED,
        "this session is over: the job token's `exp` or the policy's max_session is past",
    ),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Session:
    """What one accepted job token opened. Unchangeable but for its state and last heartbeat, which only the store writes."""

    session_id: str
    handle_hash: bytes
    identity: JobIdentity
    environment: str
    grants: tuple[str, ...]  # what was asked for and allowed at the exchange
    policy_hash: str
    opened_at: datetime
    expires_at: datetime  # min(token `exp`, opened_at + max_session)
    heartbeat: bool  # opened with one: falls idle without it
    peer_uid: int | None  # bound to this uid when the exchange came over the Unix socket
    resume_hash: bytes | None
    receipt: str  # id of its `session_opened` entry
    state: SessionState = SessionState.LIVE
    last_seen: datetime | None = None


def refusal_of(state: SessionState) -> Refused:
    """What a handle of a session in this state is told."""
    code, sentence = _REFUSALS[state]
    return Refused(code, sentence)


def new_handle() -> Secret:
    """A fresh handle: `cbs_`, 32 random bytes as 43 base62 characters, 6 base62 characters of CRC32 (DESIGN 3.13).

    The checksum is for secret scanners and typing errors, not for security.
    """
    body = _base62(int.from_bytes(secrets.token_bytes(32)), _RANDOM_CHARS)
    return Secret(HANDLE_PREFIX + body + _checksum(body))


def handle_hash(presented: str) -> bytes:
    """What the store knows a handle by. Raises Refused(handle_invalid) for anything that is not shaped like a handle."""
    shaped = _SHAPE.fullmatch(presented)
    if shaped is None or shaped[2] != _checksum(shaped[1]):
        raise Refused(
            Code.HANDLE_INVALID,
            "this is not a session handle of a broker (its shape or checksum is wrong); open a session with `credbroker exec`",
        )
    return hashlib.sha256(_HASH_DOMAIN + presented.encode("ascii")).digest()


def resume_hash(resume_key: str) -> bytes:
    """What the store keeps of a client's resume key (43 base64url characters, checked at the door)."""
    return hashlib.sha256(_RESUME_DOMAIN + resume_key.encode("ascii")).digest()


def new_id() -> str:
    """128 random bits as 26 lower-case base32 characters: session ids, lease ids, entry ids, correlation ids."""
    return base64.b32encode(secrets.token_bytes(16)).decode("ascii").rstrip("=").lower()


def _checksum(body: str) -> str:
    return _base62(zlib.crc32(body.encode("ascii")), _CHECK_CHARS)


def _base62(number: int, width: int) -> str:
    digits = []
    while number:
        number, digit = divmod(number, 62)
        digits.append(_ALPHABET[digit])
    return "".join(reversed(digits)).rjust(width, _ALPHABET[0])
