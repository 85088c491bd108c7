"""A JWKS document as verification keys: what may verify a signature, and why the rest was left out. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from jwt import PyJWK
from jwt.algorithms import RSAAlgorithm
from jwt.exceptions import PyJWTError

from broker.identity.strict_json import NotStrictError, strict_object

MAX_BYTES = 256 * 1024
MAX_KEYS = 64
_MAX_KID = 128
_MIN_RSA_BITS = 2048
_MAX_RSA_BITS = 8192  # above it one verification costs milliseconds
_KTY = {"RS": "RSA", "PS": "RSA", "ES": "EC", "Ed": "OKP"}
_PRIVATE = frozenset({"d", "p", "q", "dp", "dq", "qi", "oth", "k"})


class KeySetError(ValueError):
    """The document cannot be used as a whole. The message is for our log; it quotes no key."""


class VerificationKey:
    """One public key, for one algorithm. `verifies` is all that can be done with it."""

    __slots__ = ("_algorithm", "_key", "algorithm", "kid")

    def __init__(self, jwk: PyJWK, kid: str) -> None:
        self.kid = kid
        self.algorithm = jwk.algorithm_name
        self._algorithm = jwk.Algorithm
        self._key = jwk.key

    def verifies(self, signed: bytes, signature: bytes) -> bool:
        return self._algorithm.verify(signed, self._key, signature)


@dataclass(frozen=True, slots=True)
class KeySet:
    keys: Mapping[str, VerificationKey]
    left_out: tuple[str, ...]  # one sentence for each key that was not taken


def parse_jwks(document: bytes, algorithms: frozenset[str]) -> KeySet:
    """The keys of a JWKS that may verify tokens of an issuer with these algorithms.

    Left out, with the reason: keys for encryption, of another type or algorithm, without `kid`, private or symmetric ones, and
    RSA keys under 2048 bits. Raises KeySetError for a document that is not a JWKS, is too large, names one `kid` twice (which
    of the two is meant cannot be known), or has no usable key at all.
    """
    if len(document) > MAX_BYTES:
        raise KeySetError(f"the key document is larger than {MAX_BYTES // 1024} KiB")
    try:
        jwks = strict_object(document, max_openings=1024).get("keys")
    except NotStrictError as error:
        raise KeySetError(f"the key document cannot be read: {error}") from None
    if type(jwks) is not list:
        raise KeySetError("the key document has no list `keys`")
    if len(jwks) > MAX_KEYS:
        raise KeySetError(f"the key document has more than {MAX_KEYS} keys")
    kids = [jwk["kid"] for jwk in jwks if type(jwk) is dict and type(jwk.get("kid")) is str]
    if len(set(kids)) != len(kids):
        raise KeySetError("the key document has two keys with one `kid`")
    keys: dict[str, VerificationKey] = {}
    left_out: list[str] = []
    for place, jwk in enumerate(jwks):
        key = _usable(jwk, algorithms)
        if isinstance(key, VerificationKey):
            keys[key.kid] = key
        else:
            left_out.append(f"key {place} {key}")
    if not keys:
        raise KeySetError(f"the key document has no usable key ({'; '.join(left_out) or 'it is empty'})")
    return KeySet(keys, tuple(left_out))


def _usable(jwk: Any, algorithms: frozenset[str]) -> VerificationKey | str:
    """The key, or why it is left out."""
    unfit = _unfit(jwk)
    if unfit:
        return unfit
    named = jwk.get("alg")
    fitting = [a for a in sorted(algorithms) if named in (None, a) and jwk.get("kty") == _KTY[a[:2]]]
    if len(fitting) != 1:
        return "is of a type or algorithm that this issuer's tokens are not signed with"
    try:
        key = PyJWK(jwk, fitting[0])
        key.Algorithm.prepare_key(key.key)  # the curve, where there is one, has to be the algorithm's
    except (PyJWTError, ValueError, TypeError, AttributeError):  # the last two: a member of another JSON type
        return "cannot be read as a key"
    if isinstance(key.Algorithm, RSAAlgorithm) and not _MIN_RSA_BITS <= key.key.key_size <= _MAX_RSA_BITS:
        return f"is an RSA key of {key.key.key_size} bits; {_MIN_RSA_BITS} to {_MAX_RSA_BITS} are taken"
    return VerificationKey(key, jwk["kid"])


def _unfit(jwk: Any) -> str:
    """Why a member of the list is no public signature key with a name, or nothing."""
    if type(jwk) is not dict:
        return "is not an object"
    kid = jwk.get("kid")
    if type(kid) is not str or not 0 < len(kid) <= _MAX_KID:
        return "has no `kid`, or one that is not a text of at most 128 characters"
    if not _PRIVATE.isdisjoint(jwk):
        return "is a private or symmetric key, which does not belong into a published document"
    uses = jwk.get("key_ops", ["verify"])
    if jwk.get("use", "sig") != "sig" or type(uses) is not list or "verify" not in uses:
        return "is not for signatures"
    return ""
