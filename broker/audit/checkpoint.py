"""The signed tree head: a C2SP tlog-checkpoint in a C2SP signed note, Ed25519 (type 0x01). Parsed strictly, to the byte.

Sources: c2sp.org/signed-note@v1.0.0, c2sp.org/tlog-checkpoint@v1.0.0. What is parsed here formats back to the very same bytes,
so that a checkpoint has one spelling and two different byte strings are two different checkpoints.
"""

import base64
import binascii
import re
from dataclasses import dataclass
from hashlib import sha256

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from broker.audit.tree import HASH_BYTES
from broker.errors import Code, Misconfigured

_ED25519 = 0x01
_KEY_ID_BYTES = 4
_SIGNATURE_LINE = "\u2014 "
_MOST_SIGNATURES = 32  # the specification asks for at least 16
_MOST_BYTES = 64 * 1024
_SIZE = re.compile(r"0|[1-9][0-9]{0,17}")


@dataclass(frozen=True, slots=True)
class Signature:
    name: str
    key_id: bytes
    value: bytes


@dataclass(frozen=True, slots=True)
class Note:
    """A signed note, parsed; nothing about its signatures is known to be true."""

    text: str  # with its final newline
    signatures: tuple[Signature, ...]

    @classmethod
    def parse(cls, raw: bytes) -> "Note":
        """Raises ValueError for anything that would not format back to the same bytes."""
        if len(raw) > _MOST_BYTES:
            raise ValueError("a note longer than 64 KiB")
        decoded = raw.decode("utf-8")  # UnicodeDecodeError is a ValueError
        if any(c < " " and c != "\n" for c in decoded):
            raise ValueError("a note has no control characters but newlines")
        text, blank, lines = decoded.rpartition("\n\n")
        if not blank or not text or not lines.endswith("\n"):
            raise ValueError("a note is text, a blank line, and signature lines that each end in a newline")
        signatures = tuple(_signature(line) for line in lines[:-1].split("\n"))
        if len(signatures) > _MOST_SIGNATURES:
            raise ValueError(f"a note with more than {_MOST_SIGNATURES} signatures")
        note = cls(text + "\n", signatures)
        if note.format() != raw:
            raise ValueError("a note that has another spelling")
        return note

    def format(self) -> bytes:
        lines = (f"{_SIGNATURE_LINE}{s.name} {_base64(s.key_id + s.value)}\n" for s in self.signatures)
        return (self.text + "\n" + "".join(lines)).encode()


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A tree head: which log, how many entries, which root."""

    origin: str
    size: int
    root: bytes

    @classmethod
    def parse(cls, text: str) -> "Checkpoint":
        """From a note's text. Raises ValueError; extension lines are refused, since our log writes none."""
        match text.split("\n"):
            case [origin, size, root, ""]:
                _name(origin)
            case _:
                raise ValueError("a checkpoint is three lines: origin, size, root")
        if _SIZE.fullmatch(size) is None:
            raise ValueError("a tree size is a plain decimal number")
        hashed = _unbase64(root)
        if len(hashed) != HASH_BYTES:
            raise ValueError("a root hash is 32 bytes")
        return cls(origin, int(size), hashed)

    def text(self) -> str:
        return f"{self.origin}\n{self.size}\n{_base64(self.root)}\n"


@dataclass(frozen=True, slots=True)
class VerifierKey:
    """A log's public key as it is handed around: `name+keyid+base64(0x01 || key)`."""

    name: str
    key_id: bytes
    public: bytes

    @classmethod
    def parse(cls, vkey: str) -> "VerifierKey":
        """Raises ValueError for another kind of key, or a key id that is not of this name and key."""
        name, key_id, material = _three(vkey)
        _name(name)
        decoded = _unbase64(material)
        if len(decoded) != 1 + 32 or decoded[0] != _ED25519:
            raise ValueError("a log's verifier key is an Ed25519 key (type 0x01)")
        key = cls.of(name, decoded[1:])
        if key_id != key.key_id.hex():
            raise ValueError("a verifier key whose id is not of its name and key")
        return key

    @classmethod
    def of(cls, name: str, public: bytes) -> "VerifierKey":
        return cls(name, sha256(name.encode() + b"\n" + bytes([_ED25519]) + public).digest()[:_KEY_ID_BYTES], public)

    def __str__(self) -> str:
        return f"{self.name}+{self.key_id.hex()}+{_base64(bytes([_ED25519]) + self.public)}"

    def text_of(self, raw: bytes) -> str:
        """The text of a note that this key signed.

        Raises ValueError when the note is malformed or not signed by this key. Signatures of other keys are ignored, as the
        specification says; a false one of this key is not outweighed by a true one.
        """
        note = Note.parse(raw)
        ours = [s for s in note.signatures if (s.name, s.key_id) == (self.name, self.key_id)]
        if not ours:
            raise ValueError(f"not signed by {self.name} with the key {self.key_id.hex()}")
        public = Ed25519PublicKey.from_public_bytes(self.public)
        if not all(_signed(public, signature.value, note.text) for signature in ours):
            raise ValueError(f"the signature of {self.name} is false")
        return note.text

    def open(self, raw: bytes) -> Checkpoint:
        """The checkpoint in a note that this key signed under the log's own name. Raises ValueError."""
        checkpoint = Checkpoint.parse(self.text_of(raw))
        if checkpoint.origin != self.name:  # other people's verifiers require key name = origin
            raise ValueError(f"the checkpoint is of the log {checkpoint.origin!r}, not of {self.name!r}")
        return checkpoint


class LogSigner:
    """Signs checkpoints of one log. The private key stays in here."""

    __slots__ = ("_key", "_verifier")

    def __init__(self, key: Ed25519PrivateKey, origin: str) -> None:
        _name(origin)
        self._key = key
        self._verifier = VerifierKey.of(origin, key.public_key().public_bytes_raw())

    @classmethod
    def load(cls, pem: bytes, origin: str) -> "LogSigner":
        """From an unencrypted PKCS #8 PEM. Raises Misconfigured(config_invalid)."""
        try:
            key = load_pem_private_key(pem, password=None)
        except (ValueError, TypeError, UnsupportedAlgorithm):
            raise Misconfigured(
                Code.CONFIG_INVALID, "the log key is not an unencrypted PKCS #8 PEM; `credbroker keygen` makes one"
            ) from None
        if not isinstance(key, Ed25519PrivateKey):
            raise Misconfigured(Code.CONFIG_INVALID, "the log key is not an Ed25519 key; `credbroker keygen` makes one")
        try:
            return cls(key, origin)
        except ValueError as error:
            raise Misconfigured(Code.CONFIG_INVALID, f"[log] origin {origin!r} cannot name a log: {error}") from None

    @property
    def verifier(self) -> VerifierKey:
        return self._verifier

    @property
    def vkey(self) -> str:
        """The public key to hand to auditors."""
        return str(self._verifier)

    @property
    def origin(self) -> str:
        return self._verifier.name

    def sign(self, size: int, root: bytes) -> bytes:
        """The signed checkpoint. Whoever calls this has made sure that it extends every one signed before."""
        text = Checkpoint(self.origin, size, root).text()
        signature = Signature(self.origin, self._verifier.key_id, self._key.sign(text.encode()))
        return Note(text, (signature,)).format()

    def __repr__(self) -> str:
        return f"LogSigner({self.vkey})"


def _signed(public: Ed25519PublicKey, signature: bytes, text: str) -> bool:
    try:
        public.verify(signature, text.encode())
    except InvalidSignature:
        return False
    return True


def _signature(line: str) -> Signature:
    name, space, encoded = line.removeprefix(_SIGNATURE_LINE).partition(" ")
    if not line.startswith(_SIGNATURE_LINE) or not space:
        raise ValueError("a signature line is an em dash, a key name and a base64 signature")
    _name(name)
    decoded = _unbase64(encoded)
    if len(decoded) <= _KEY_ID_BYTES:
        raise ValueError("a signature is shorter than its key id")
    return Signature(name, decoded[:_KEY_ID_BYTES], decoded[_KEY_ID_BYTES:])


def _name(name: str) -> None:
    if not name or "+" in name or any(c.isspace() or c < " " for c in name):
        raise ValueError("a key name is not empty and has no spaces, plus signs or control characters")


def _three(vkey: str) -> tuple[str, str, str]:
    name, _, rest = vkey.partition("+")
    key_id, plus, material = rest.partition("+")  # base64 may itself hold a plus
    if not plus:
        raise ValueError("a verifier key is `name+keyid+key`")
    return name, key_id, material


def _base64(raw: bytes) -> str:
    return base64.b64encode(raw).decode("ascii")


def _unbase64(text: str) -> bytes:
    """Decodes, encodes again and compares: decoders accept stray low bits in the last letter even when told to validate."""
    try:
        raw = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise ValueError("not base64") from None
    if _base64(raw) != text:
        raise ValueError("base64 that has another spelling")
    return raw
