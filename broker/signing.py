"""The keys that sign the broker's assertions: what a key can do, which of them signs now, which are published.

A key file is a private key in PEM under one line of text, `activate_at: 2026-11-23T09:00:00Z`. It is published as soon as it is
loaded and signs only from that moment, so that whoever caches the published keys has it by then.
"""

import base64
import hashlib
import json
import re
import stat
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Protocol, cast

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, EllipticCurvePrivateKey, generate_private_key
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, load_pem_private_key
from jwt.algorithms import ECAlgorithm, RSAAlgorithm

from broker.errors import Code, Gathering, Misconfigured
from broker.keyfiles import read_private
from broker.moment import rfc3339

PUBLISHED_AFTER_USE = timedelta(hours=1)  # longer than anyone caches keys, and than an assertion lives
_MIN_RSA_BITS = 2048
_ACTIVATE = re.compile(r"activate_at: (\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ)")
_PEM_START = "-----BEGIN "

# The members that make a key's thumbprint, in this order (RFC 7638 section 3.2).
_THUMBPRINT = {"EC": ("crv", "kty", "x", "y"), "RSA": ("e", "kty", "n")}


class Signer(Protocol):
    """One signing key, wherever it lives. `sign` may be called from any thread."""

    @property
    def kid(self) -> str: ...

    @property
    def algorithm(self) -> str: ...

    @property
    def public_jwk(self) -> Mapping[str, str]:
        """What is published: the public key with `kid`, `alg` and `use`."""

    def sign(self, signed: bytes) -> bytes:
        """The signature as JWS wants it. Raises Unavailable when the key is out of reach."""


class FileSigner:
    """A key in this process's memory: P-256 signs ES256, RSA of at least 2048 bits RS256."""

    __slots__ = ("_algorithm", "_key", "algorithm", "kid", "public_jwk")

    def __init__(self, key: EllipticCurvePrivateKey | RSAPrivateKey) -> None:
        self._key = key
        if isinstance(key, EllipticCurvePrivateKey):
            self.algorithm = "ES256"
            self._algorithm: ECAlgorithm | RSAAlgorithm = ECAlgorithm(ECAlgorithm.SHA256)
            public = cast("dict[str, str]", ECAlgorithm.to_jwk(key.public_key(), as_dict=True))
        else:
            self.algorithm = "RS256"
            self._algorithm = RSAAlgorithm(RSAAlgorithm.SHA256)
            public = cast("dict[str, str]", RSAAlgorithm.to_jwk(key.public_key(), as_dict=True))
        members = {name: public[name] for name in _THUMBPRINT[public["kty"]]}
        self.kid = thumbprint(members)
        self.public_jwk: Mapping[str, str] = members | {"kid": self.kid, "alg": self.algorithm, "use": "sig"}

    def sign(self, signed: bytes) -> bytes:
        return self._algorithm.sign(signed, cast("Any", self._key))

    def __repr__(self) -> str:
        return f"FileSigner(kid={self.kid!r}, algorithm={self.algorithm!r})"


@dataclass(frozen=True, slots=True)
class TimedSigner:
    signer: Signer
    activate_at: datetime


class Keyring:
    """The keys of the broker as issuer, by when they sign. Unchangeable; the newest active key signs."""

    __slots__ = ("_keys",)

    def __init__(self, keys: Sequence[TimedSigner]) -> None:
        """Raises Misconfigured(config_invalid) for no key, one key twice, or two that start at one moment."""
        if not keys:
            raise _refused("there is no issuer key; `credbroker keygen` makes one")
        ordered = tuple(sorted(keys, key=lambda key: key.activate_at))
        if len({key.signer.kid for key in ordered}) != len(ordered):
            raise _refused("one issuer key is there twice")
        if len({key.activate_at for key in ordered}) != len(ordered):
            raise _refused("two issuer keys have one activate_at; which of them signs could not be known")
        self._keys = ordered

    @classmethod
    def load(cls, folder: Path, now: datetime) -> "Keyring":
        """The keys in a folder's `*.pem` files.

        Raises Misconfigured(config_invalid), ManyFaults for several files that are none; also when none of them is active yet.
        """
        try:
            mode = folder.stat().st_mode
            paths = sorted(folder.glob("*.pem"))
        except OSError:
            raise _refused(f"the folder of issuer keys {folder} cannot be read; `credbroker keygen` makes one") from None
        if not stat.S_ISDIR(mode) or mode & (stat.S_IWGRP | stat.S_IWOTH):
            # Whoever can put a key into it can sign as the broker after the next start.
            raise _refused(f"{folder} is not a folder, or others may write to it; `chmod go-w` it")
        keys, gathering = [], Gathering()
        for path in paths:
            with gathering:
                keys.append(parse_key_file(read_private(path), f"key file {path}"))
        gathering.raise_any()
        try:
            ring = cls(keys)
            ring.signer(now)
        except Misconfigured as fault:
            raise _refused(f"{folder}: {fault.public}") from None
        return ring

    def signer(self, now: datetime) -> Signer:
        """The newest key that is active. Raises Misconfigured(config_invalid) when there is none."""
        active = [key.signer for key in self._keys if key.activate_at <= now]
        if not active:
            raise _refused(f"no issuer key is active yet; the first one is from {rfc3339(self._keys[0].activate_at)}")
        return active[-1]

    def published(self, now: datetime) -> tuple[Signer, ...]:
        """Those that somebody may need to check a signature with: all but the ones replaced more than an hour ago."""
        kept = (
            key.signer
            for key, successor in zip(self._keys, (*self._keys[1:], None), strict=True)
            if successor is None or now < successor.activate_at + PUBLISHED_AFTER_USE
        )
        return tuple(kept)


def thumbprint(jwk: Mapping[str, str]) -> str:
    """The name of a public key that follows from the key alone (RFC 7638, SHA-256)."""
    members = {name: jwk[name] for name in _THUMBPRINT[jwk["kty"]]}
    canonical = json.dumps(members, separators=(",", ":"), sort_keys=True)
    return base64.urlsafe_b64encode(hashlib.sha256(canonical.encode()).digest()).rstrip(b"=").decode()


def parse_key_file(content: bytes, name: str) -> TimedSigner:
    """A key file as a signer with its start. `name` is for the message. Raises Misconfigured(config_invalid)."""
    text = content.decode("ascii", "replace")
    heading, start, _ = text.partition(_PEM_START)
    activate = _ACTIVATE.fullmatch(heading.strip())
    if not start or activate is None:
        raise _refused(f"{name} has to start with one line `activate_at: 2026-01-31T09:00:00Z`, and then the key in PEM")
    try:
        activate_at = datetime.strptime(activate[1], "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC)
        key = load_pem_private_key(content[len(heading) :], password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm):  # TypeError: it wants a password
        raise _refused(f"{name} has no time that exists, or no private key in PEM without a password") from None
    if isinstance(key, EllipticCurvePrivateKey) and isinstance(key.curve, SECP256R1):
        return TimedSigner(FileSigner(key), activate_at)
    if isinstance(key, RSAPrivateKey) and key.key_size >= _MIN_RSA_BITS:
        return TimedSigner(FileSigner(key), activate_at)
    raise _refused(f"{name} is neither a P-256 key nor an RSA key of at least {_MIN_RSA_BITS} bits")


def new_key_file(activate_at: datetime) -> bytes:
    """A fresh P-256 key as a key file that signs from that moment."""
    pem = generate_private_key(SECP256R1()).private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    return f"activate_at: {rfc3339(activate_at)}\n".encode() + pem


def _refused(why: str) -> Misconfigured:
    return Misconfigured(Code.CONFIG_INVALID, why)
