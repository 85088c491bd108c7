"""One request's way through this room: what the protocol and the door know of it, carried in the ASGI scope."""

from dataclasses import dataclass

from broker.errors import Code, Refused
from broker.exchanging import Peer
from broker.web.replies import Reply

PEER = "credbroker.peer"  # put into the scope by the protocol: the kernel's word, not the request's
VISIT = "credbroker.visit"


@dataclass(slots=True, kw_only=True)
class Visit:
    """Fills up as the request goes its way."""

    correlation_id: str
    peer: Peer
    route: str = "none"  # the operation that answers, for metrics and logs
    at_token: bool = False
    for_aws: bool = False
    reply: Reply | None = None


def require(method: str, wanted: str) -> None:
    """Raises Refused(request_invalid) for another method than this endpoint's."""
    if method != wanted:
        raise Refused(Code.REQUEST_INVALID, f"this endpoint takes {wanted}")
