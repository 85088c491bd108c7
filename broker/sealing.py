"""The seal: credential values at rest, readable only with the handle of their session (DESIGN 3.9)."""

import json
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from broker.errors import Broken
from broker.moment import rfc3339
from broker.secret import Secret

_INFO = b"credbroker/seal/1"
_NONCE_BYTES = 12


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where a sealed value belongs. It is the AAD, so that a row moved to another place does not open."""

    session_id: str
    grant: str
    subpath: str
    version: int
    expires_at: datetime

    def aad(self) -> bytes:
        parts = (self.session_id, self.grant, self.subpath, str(self.version), rfc3339(self.expires_at))
        return "\n".join(parts).encode()


class SealKey:
    """The key that a session's handle derives. Lives in memory from the handle's first use to the session's end."""

    __slots__ = ("_aead",)

    def __init__(self, handle: Secret, session_id: str) -> None:
        derived = HKDF(algorithm=SHA256(), length=32, salt=session_id.encode(), info=_INFO)
        self._aead = AESGCM(derived.derive(handle.reveal().encode()))

    def seal(self, values: Mapping[str, Secret], place: Place) -> bytes:
        """Nonce and ciphertext of the values, bound to their place."""
        plain = json.dumps({name: value.reveal() for name, value in values.items()}).encode()
        nonce = secrets.token_bytes(_NONCE_BYTES)
        return nonce + self._aead.encrypt(nonce, plain, place.aad())

    def open(self, sealed: bytes, place: Place) -> dict[str, Secret]:
        """The values again. Raises Broken when the bytes, the key or the place are not the ones that were sealed."""
        try:
            plain = self._aead.decrypt(sealed[:_NONCE_BYTES], sealed[_NONCE_BYTES:], place.aad())
        except InvalidTag:
            raise Broken(f"a sealed lease of session {place.session_id} does not open: the row was changed or moved") from None
        return {name: Secret(value) for name, value in json.loads(plain).items()}
