"""The front door: one ASGI callable for every listener. The three hot routes are answered here, the rest by the Starlette app.

Everything that all requests have in common happens once, here: a correlation id, the bound on requests in flight, the checks that
keep browsers out, errors to answers, counts and our log.
"""

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Awaitable, Callable, MutableMapping
from datetime import timedelta
from typing import Any
from urllib.parse import urlsplit

from broker.errors import Broken, BrokerError, Code, Misconfigured, Refused, Unavailable
from broker.exchanging import Peer
from broker.leases.requests import ReadRequest
from broker.moment import Clock
from broker.session import new_id
from broker.web import reading, replies
from broker.web.desk import Desk
from broker.web.limits import DoorLimits
from broker.web.metrics import Metrics
from broker.web.replies import Reply
from broker.web.visit import PEER, VISIT, Visit, require

log = logging.getLogger("credbroker.web")

Scope = MutableMapping[str, Any]
App = Callable[[Scope, reading.Receive, replies.Send], Awaitable[None]]

# Java gives up on its credentials endpoint after one second.
AWS_PATIENCE = timedelta(seconds=0.8)
_LOOPBACK_HOSTS = frozenset({"localhost", "127.0.0.1", "::1"})


class Door:
    """The whole HTTP surface. `rest` is the app for what is not hot; it leaves its reply in the visit and raises as all do."""

    def __init__(self, *, desk: Desk, rest: App, limits: DoorLimits, clock: Clock, metrics: Metrics, public_url: str) -> None:
        self._desk = desk
        self._rest = rest
        self._limits = limits
        self._clock = clock
        self._metrics = metrics
        self._hosts = _LOOPBACK_HOSTS | {urlsplit(public_url).hostname or ""}
        self._in_flight: Counter[str] = Counter()  # by listener: strangers on TCP must not use up what jobs on the socket have

    async def __call__(self, scope: Scope, receive: reading.Receive, send: replies.Send) -> None:
        """Answers one request, whatever happens."""
        started = time.perf_counter()
        visit = scope[VISIT] = Visit(correlation_id=new_id(), peer=scope[PEER])
        self._in_flight[visit.peer.transport] += 1
        try:
            reply = await self._answer(scope, receive, visit)
        except BrokerError as error:
            reply = self._refuse(error, visit)
        except asyncio.CancelledError:
            # The stop's patience is over. The caller gets an answer that its client knows how to retry.
            stopping = Unavailable(Code.UPSTREAM_UNAVAILABLE, "the broker was stopped before this was answered; ask again")
            reply = self._refuse(stopping, visit).closing()
        except Exception:
            log.exception("request.failed", extra=_fields(visit))
            reply = self._refuse(Broken(""), visit, quiet=True)
        finally:
            self._in_flight[visit.peer.transport] -= 1
        seconds = time.perf_counter() - started
        self._metrics.request(visit.route, visit.peer.transport, reply.outcome, seconds)
        await reply.send(send, visit.correlation_id)

    async def _answer(self, scope: Scope, receive: reading.Receive, visit: Visit) -> Reply:
        if self._in_flight[visit.peer.transport] > self._limits.concurrency:
            raise Unavailable(Code.RATE_LIMITED, "the broker has too many requests in flight; try again", retry_after=1)
        headers = scope["headers"]
        self._keep_browsers_out(headers, visit.peer)
        parts = reading.segments(scope["raw_path"])
        if parts[0] == "v1" and visit.peer.transport != "admin":
            if parts[1:] == ("token",):
                visit.route, visit.at_token = "exchangeToken", True
                return await self._exchange(scope, receive, visit)
            if parts[1:2] == ("credentials",) and len(parts) > 2:  # noqa: PLR2004 - /v1/credentials/{grant}
                visit.route = "readCredential"
                return await self._credential(scope, parts, visit)
            if parts[1:2] == ("aws",) and len(parts) > 2:  # noqa: PLR2004 - /v1/aws/{grant}
                visit.route, visit.for_aws = "readContainerCredential", True
                return await self._aws(scope, parts, visit)
        await self._rest(scope, receive, _nothing)
        if visit.reply is None:
            raise Broken(f"{visit.route} gave no answer")
        return visit.reply

    # --- the hot routes ---------------------------------------------------------------------------------------------

    async def _exchange(self, scope: Scope, receive: reading.Receive, visit: Visit) -> Reply:
        require(scope["method"], "POST")
        reading.query(scope["query_string"])
        headers = scope["headers"]
        limits = self._limits
        body = await reading.read_body(headers, receive, limit=limits.body_bytes, seconds=limits.request_seconds)
        fields = reading.form(headers, body, reading.EXCHANGE_FIELDS)
        request = reading.exchange_request(
            fields, token_chars=limits.token_chars, peer=visit.peer, correlation_id=visit.correlation_id
        )
        return replies.exchanged(await self._desk.exchange(request), self._clock().wall)

    async def _credential(self, scope: Scope, parts: tuple[str, ...], visit: Visit) -> Reply:
        require(scope["method"], "GET")
        headers = scope["headers"]
        request = ReadRequest(
            unverified_handle=reading.handle(headers),
            grant=reading.grant_name(parts[2]),
            kind=None,
            subpath="/".join(parts[3:]),
            min_ttl=reading.min_ttl(reading.query(scope["query_string"], ("min_ttl",))),
            luigi_task=reading.luigi_task(headers),
            patience=None,
            peer=visit.peer,
            correlation_id=visit.correlation_id,
        )
        return replies.credential(await self._desk.read(request))

    async def _aws(self, scope: Scope, parts: tuple[str, ...], visit: Visit) -> Reply:
        require(scope["method"], "GET")
        headers = scope["headers"]
        reading.query(scope["query_string"])
        if len(parts) > 3:  # noqa: PLR2004 - /v1/aws/{grant}
            raise Refused(Code.PATH_INVALID, "an AWS grant has no subpath; the path is /v1/aws/{grant}")
        request = ReadRequest(
            unverified_handle=reading.handle(headers, bare=True),
            grant=reading.grant_name(parts[2]),
            kind="aws",
            subpath="",
            min_ttl=None,
            luigi_task=reading.luigi_task(headers),
            patience=AWS_PATIENCE,
            peer=visit.peer,
            correlation_id=visit.correlation_id,
        )
        return replies.container_credential(await self._desk.read(request))

    # --- what all requests have in common ---------------------------------------------------------------------------

    def _keep_browsers_out(self, headers: reading.Headers, peer: Peer) -> None:
        """Refuses what a web page could make a browser on this host send (DNS rebinding, cross-site requests).

        Only plain HTTP on loopback needs it: a browser speaks no Unix socket, and over HTTPS the certificate names the host.
        """
        host = reading.host_name(headers)
        if peer.transport != "http":
            return
        if host not in self._hosts:
            raise Refused(Code.REQUEST_INVALID, "the Host header names neither loopback nor this broker's public_url")
        if any(name == b"origin" for name, _ in headers):
            raise Refused(Code.REQUEST_INVALID, "the request has an Origin header; the broker's endpoints are not for browsers")

    def _refuse(self, error: BrokerError, visit: Visit, *, quiet: bool = False) -> Reply:
        """The answer to an error, and its line in our log."""
        reply = replies.refusal(error, visit.correlation_id, at_token=visit.at_token, for_aws=visit.for_aws)
        if not quiet:
            fields = _fields(visit) | {"code": error.code.word, "status": reply.status, "detail": error.detail or error.public}
            log.log(_level(error), "request.refused", extra=fields)
        return reply.closing() if isinstance(error, reading.BodyRefused) else reply


async def _nothing(message: MutableMapping[str, Any]) -> None:
    """The `send` of the app behind us: the door itself sends every reply."""
    raise Broken(f"the app sent {message['type']} by itself")


def _fields(visit: Visit) -> dict[str, str | int | None]:
    peer = visit.peer
    known = {"correlation_id": visit.correlation_id, "route": visit.route, "listener": peer.transport}
    return known | {"peer_uid": peer.uid, "peer_address": peer.address}


def _level(error: BrokerError) -> int:
    if isinstance(error, Broken):
        return logging.ERROR
    return logging.WARNING if isinstance(error, Unavailable | Misconfigured) else logging.INFO
