"""Answers: the one place where a value or an error becomes bytes on the wire (DESIGN section 5)."""

import math
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

import msgspec

from broker.errors import Broken, BrokerError, Code
from broker.exchanging import Exchanged
from broker.lease import Lease
from broker.leases.requests import Offer, SessionView
from broker.moment import rfc3339

Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
Header = tuple[bytes, bytes]

# Exactly this: Go's SDK parses an error only under this very value, so no charset (reference/aws.md 2.1).
JSON: Header = (b"content-type", b"application/json")
_NO_STORE: Header = (b"cache-control", b"no-store")
_PUBLIC: Header = (b"cache-control", b"public, max-age=300")
_NO_SNIFF: Header = (b"x-content-type-options", b"nosniff")
_CLOSE: Header = (b"connection", b"close")
_CHALLENGE: Header = (b"www-authenticate", b'Bearer realm="credbroker", error="invalid_token"')
_RETRYABLE = frozenset({429, 503})
_RETRY_SECONDS = 2


@dataclass(frozen=True, slots=True)
class Reply:
    """A whole answer. `outcome` is its label in metrics and logs: "ok" or the word of a code."""

    status: int
    headers: tuple[Header, ...]
    body: bytes
    outcome: str = "ok"

    async def send(self, send: Send, correlation_id: str) -> None:
        """Head and body, which the protocol makes one write."""
        headers = [*self.headers, _NO_SNIFF, (b"x-correlation-id", correlation_id.encode("ascii"))]
        headers.append((b"content-length", str(len(self.body)).encode("ascii")))
        await send({"type": "http.response.start", "status": self.status, "headers": headers})
        await send({"type": "http.response.body", "body": self.body})

    def closing(self) -> "Reply":
        """The same answer, after which the connection ends."""
        return replace(self, headers=(*self.headers, _CLOSE))


def private(body: object, status: int = 200) -> Reply:
    """JSON that no cache may keep."""
    return Reply(status, (JSON, _NO_STORE), msgspec.json.encode(body))


def public(body: Mapping[str, Any]) -> Reply:
    """JSON that anybody may read, and keep for five minutes."""
    return Reply(200, (JSON, _PUBLIC), msgspec.json.encode(body))


def refusal(error: BrokerError, correlation_id: str, *, at_token: bool = False, for_aws: bool = False) -> Reply:
    """The answer to any error: the table of DESIGN section 5, applied.

    A code that never travels (it has no HTTP status) is a bug of ours here, and the caller is told only that.
    """
    if not error.code.http_status:
        error = Broken(f"{error.code.word} came up while answering a request: {error.detail or error.public}")
    code, status, oauth = error.code, error.code.http_status, error.code.oauth_error
    if at_token and code is Code.GRANT_UNKNOWN:
        status, oauth = 400, "invalid_scope"
    body = {"error": oauth, "code": code.word, "error_description": error.public, "correlation_id": correlation_id}
    if for_aws:
        # Go and Java read the lower-case keys, JavaScript the others.
        body |= {"message": error.public, "Code": code.word, "Message": error.public}
    headers = [JSON, _NO_STORE]
    if status == 401:  # noqa: PLR2004 - an HTTP status
        headers.append(_CHALLENGE)
    if status in _RETRYABLE:
        seconds = _RETRY_SECONDS if error.retry_after is None else max(1, math.ceil(error.retry_after))
        headers.append((b"retry-after", str(seconds).encode("ascii")))
    return Reply(status, tuple(headers), msgspec.json.encode(body), outcome=code.word)


# --- the bodies that carry secrets ------------------------------------------------------------------------------------


def exchanged(result: Exchanged, now: datetime) -> Reply:
    """The token response of RFC 8693 2.2.1 with our own members."""
    session = result.session
    return private(
        {
            "access_token": result.handle.reveal(),
            "issued_token_type": "urn:ietf:params:oauth:token-type:access_token",
            "token_type": "Bearer",
            "expires_in": max(0, math.floor((session.expires_at - now).total_seconds())),
            "scope": " ".join(session.grants),
            "environment": session.environment,
            "session_id": session.session_id,
            "exchanges_left": result.left,
            "receipt": f"/v1/receipts/{session.receipt}",
        }
    )


def credential(lease: Lease) -> Reply:
    """A lease with its value."""
    return private(
        {
            "grant": lease.grant,
            "kind": lease.kind,
            "environment": lease.environment,
            "lease_id": lease.lease_id,
            "version": lease.version,
            "issued_at": rfc3339(lease.issued_at),
            "refresh_at": rfc3339(lease.refresh_at),
            "expires_at": rfc3339(lease.expires_at),
            "receipt": f"/v1/receipts/{lease.receipt}",
            "data": {name: value.reveal() for name, value in lease.fields.items()},
        }
    )


def container_credential(lease: Lease) -> Reply:
    """The AWS container credentials protocol's answer (reference/aws.md 2.1). Raises Broken when the lease cannot fill it."""
    fields = lease.fields
    try:
        body = {
            "AccessKeyId": fields["access_key_id"].reveal(),
            "SecretAccessKey": fields["secret_access_key"].reveal(),
            "Token": fields["session_token"].reveal(),
            "Expiration": rfc3339(lease.expires_at),
        }
    except KeyError as missing:
        raise Broken(f"an AWS lease of grant {lease.grant} has no {missing}") from None
    if "account_id" in fields:
        body["AccountId"] = fields["account_id"].reveal()
    return private(body)


def session(view: SessionView) -> Reply:
    """A session without any value."""
    return private(
        {
            "session_id": view.session.session_id,
            "environment": view.session.environment,
            "grants": view.session.grants,
            "offers": [_offer(offer) for offer in view.offers],
            "expires_at": rfc3339(view.session.expires_at),
            "leases": [
                {
                    "grant": line.grant,
                    "subpath": line.subpath,
                    "version": line.version,
                    "refresh_at": rfc3339(line.refresh_at),
                    "expires_at": rfc3339(line.expires_at),
                }
                for line in view.leases
            ],
        }
    )


def _offer(offer: Offer) -> dict[str, Any]:
    body: dict[str, Any] = {"grant": offer.grant, "kind": offer.kind, "subpath": offer.subpath}
    return body if offer.region is None else body | {"region": offer.region}
