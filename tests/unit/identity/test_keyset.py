"""A key document: what may verify, what is left out and why, what cannot be used at all."""

from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, SECP384R1, generate_private_key
from jwt.algorithms import ECAlgorithm

from broker.demo.issuer import SigningKey
from broker.identity.keyset import MAX_BYTES, KeySet, KeySetError, parse_jwks
from tests.fakes.forge import compact, gitlab_key, jwks, stranger_key

RS256 = frozenset({"RS256"})


def parsed(*keys: dict[str, Any], algorithms: frozenset[str] = RS256) -> KeySet:
    return parse_jwks(jwks(*keys), algorithms)


def good(**changes: Any) -> dict[str, Any]:
    members = dict(gitlab_key().jwk) | changes
    return {name: value for name, value in members.items() if value is not ...}


def ec(curve: SECP256R1 | SECP384R1, **changes: Any) -> dict[str, Any]:
    public = ECAlgorithm.to_jwk(generate_private_key(curve).public_key(), as_dict=True)
    return dict(public) | {"kid": "ec", "use": "sig"} | changes


def test_gitlabs_two_keys_are_taken_by_their_kid() -> None:
    """The login key is in the same document; what it signs is told apart by its claims, not by its key."""
    keys = parsed(dict(gitlab_key().jwk), dict(stranger_key().jwk))
    assert set(keys.keys) == {gitlab_key().kid, stranger_key().kid}
    assert keys.left_out == ()
    assert keys.keys[gitlab_key().kid].algorithm == "RS256"


@pytest.mark.parametrize("changes", [{"alg": ...}, {"use": ...}, {"key_ops": ["verify"]}, {"x5t": "extra"}])
def test_members_that_a_document_may_leave_out_are_not_required(changes: dict[str, Any]) -> None:
    """`alg`, `use` and `key_ops` restrict; absent they restrict nothing."""
    assert parsed(good(**changes)).keys


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"use": "enc"}, "not for signatures"),
        ({"use": 5}, "not for signatures"),
        ({"key_ops": ["encrypt"]}, "not for signatures"),
        ({"key_ops": "verify"}, "not for signatures"),
        ({"kid": ...}, "no `kid`"),
        ({"kid": ""}, "no `kid`"),
        ({"kid": "k" * 129}, "no `kid`"),
        ({"kid": 5}, "no `kid`"),
        ({"alg": "RS512"}, "type or algorithm"),
        ({"alg": "HS256"}, "type or algorithm"),
        ({"kty": "EC"}, "type or algorithm"),
        ({"kty": "oct", "k": "c2VjcmV0"}, "private or symmetric"),
        ({"d": "AQAB"}, "private or symmetric"),
        ({"n": ...}, "cannot be read"),
        ({"n": 5}, "cannot be read"),
        ({"n": "!"}, "cannot be read|bits"),
        ({"e": "AQ"}, "cannot be read"),
    ],
)
def test_a_key_that_must_not_verify_is_left_out_with_its_reason(changes: dict[str, Any], why: str) -> None:
    """The others of the document go on verifying."""
    with pytest.raises(KeySetError, match=why):
        parsed(good(**changes))
    keys = parsed(dict(stranger_key().jwk), good(**changes))
    assert set(keys.keys) == {stranger_key().kid}
    assert len(keys.left_out) == 1
    assert keys.left_out[0].startswith("key 1 ")


def test_a_short_rsa_key_is_left_out() -> None:
    """1024 bits are within reach of a well-funded attacker."""
    weak = SigningKey.new(1024)
    with pytest.raises(KeySetError, match="RSA key of 1024 bits"):
        parsed(dict(weak.jwk))


def test_a_curve_has_to_be_the_algorithms() -> None:
    """ES256 is P-256 and no other curve."""
    assert parsed(ec(SECP256R1()), algorithms=frozenset({"ES256"})).keys["ec"].algorithm == "ES256"
    with pytest.raises(KeySetError, match="cannot be read"):
        parsed(ec(SECP384R1()), algorithms=frozenset({"ES256"}))


@pytest.mark.parametrize(
    ("document", "why"),
    [
        (jwks(good(), good(n="AQAB")), "two keys with one `kid`"),
        (jwks(*({"kid": str(n)} for n in range(65))), "more than 64 keys"),
        (compact({"keys": []}), "it is empty"),
        (compact({"keys": ["x", 5]}), "not an object"),
        (compact({"keys": {}}), "no list `keys`"),
        (compact({}), "no list `keys`"),
        (b"<html>", "cannot be read"),
        (b'{"keys":[],"keys":[]}', "cannot be read: it has a member twice"),
        (b" " * (MAX_BYTES + 1), "larger than 256 KiB"),
    ],
)
def test_a_document_that_cannot_be_used_is_refused_whole(document: bytes, why: str) -> None:
    """Two keys of one name: which one is meant cannot be known, so none is."""
    with pytest.raises(KeySetError, match=why):
        parse_jwks(document, RS256)
