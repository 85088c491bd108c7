"""What one token is known by, so that a second session for it is seen (DESIGN 3.5). Pure."""

import hashlib
import json
from base64 import urlsafe_b64encode

from broker.errors import Code, Refused
from broker.identity.gate import VerifiedClaims


def required_id(verified: VerifiedClaims, sender: str) -> str:
    """The token's `jti`, of an issuer that gives every token one. Raises Refused(token_claims)."""
    if not verified.token_id:
        raise Refused(
            Code.TOKEN_CLAIMS, f"jti is missing; {sender} gives every token of a job one, and without it no replay can be seen"
        )
    return verified.token_id


def id_or_digest(verified: VerifiedClaims) -> str:
    """The token's `jti`, or a digest of everything it says where its issuer gives none (Kubernetes before 1.30).

    Of the parsed members and not of the text: another spelling of the token has the same digest. Two tokens that say exactly the
    same (one second, one pod, one audience) are one token here, which refuses more and never less.
    """
    if verified.token_id:
        return verified.token_id
    members = json.dumps(dict(verified.members), sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    digest = hashlib.sha256(b"credbroker/token/1\0" + members.encode()).digest()
    return "sha256:" + urlsafe_b64encode(digest).rstrip(b"=").decode()
