"""What is not hot: the Starlette routes, made from the endpoint table. Each leaves its reply for the door to send."""

from collections.abc import Awaitable, Callable
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route, Router
from starlette.types import ASGIApp, Receive, Scope, Send

from broker.errors import Code, Refused
from broker.web import reading, replies
from broker.web.desk import Desk, Publication, Ready
from broker.web.endpoints import ENDPOINTS, Endpoint
from broker.web.limits import DoorLimits
from broker.web.metrics import CONTENT_TYPE, Metrics
from broker.web.openapi import document
from broker.web.replies import Reply
from broker.web.visit import VISIT, Visit

HOT = frozenset({"exchangeToken", "readCredential", "readContainerCredential"})

Handler = Callable[[Request, Visit], Awaitable[Reply]]

# What these say about a session is that it holds nothing any more, which is what a revocation is to achieve.
_NOTHING_LEFT = frozenset({Code.HANDLE_INVALID, Code.SESSION_EXPIRED, Code.SESSION_REVOKED, Code.SESSION_IDLE})


class _Left(Response):
    """A response that is not sent: the door sends what is in the visit."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        pass


class Routes:
    """The handlers, one method for each operation of the table that is not hot."""

    def __init__(
        self,
        *,
        desk: Desk,
        publication: Publication,
        ready: Ready,
        metrics: Metrics,
        limits: DoorLimits,
        public_url: str,
    ) -> None:
        self._desk = desk
        self._publication = publication
        self._ready = ready
        self._metrics = metrics
        self._limits = limits
        # These two say the same until the next start. The discovery document and the key set do not: keys rotate.
        self._oauth = replies.public(_oauth_metadata(public_url))
        self._description = replies.public(document(public_url))

    def app(self) -> ASGIApp:
        """The app for the door. Raises Refused(path_invalid) for a path that is not in the table."""
        handlers: dict[str, Handler] = {
            "viewSession": self._view,
            "heartbeat": self._heartbeat,
            "revokeSession": self._revoke,
            "openidConfiguration": self._openid_configuration,
            "jwks": self._jwks,
            "oauthMetadata": self._oauth_metadata,
            "health": self._health,
            "readiness": self._readiness,
            "metrics": self._read_metrics,
            "openapi": self._openapi,
        }
        routes = [_route(endpoint, handlers[endpoint.operation]) for endpoint in ENDPOINTS if endpoint.operation not in HOT]
        router = Router(routes, redirect_slashes=False, default=_not_found)

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            scope["app"] = router  # without it a wrong method would be answered in plain text
            try:
                await router(scope, receive, send)
            except HTTPException as error:
                allow = (error.headers or {}).get("Allow", "another method")
                raise Refused(Code.REQUEST_INVALID, f"this endpoint takes {allow}") from None

        return app

    # --- sessions ---------------------------------------------------------------------------------------------------

    async def _view(self, request: Request, visit: Visit) -> Reply:
        reading.query(request.scope["query_string"])
        return replies.session(await self._desk.view(reading.handle(request.scope["headers"]), visit.peer))

    async def _heartbeat(self, request: Request, visit: Visit) -> Reply:
        reading.query(request.scope["query_string"])
        await self._desk.heartbeat(reading.handle(request.scope["headers"]), visit.peer)
        return replies.private({})

    async def _revoke(self, request: Request, visit: Visit) -> Reply:
        """RFC 7009: a token that is not valid (any more) is answered like one that has just been revoked."""
        headers = request.scope["headers"]
        reading.query(request.scope["query_string"])
        body = await reading.read_body(
            headers, request.receive, limit=self._limits.body_bytes, seconds=self._limits.request_seconds
        )
        fields = reading.form(headers, body, ("token", "token_type_hint"))
        if not fields.get("token"):
            raise Refused(Code.REQUEST_INVALID, "token is missing; send the session's handle as the form field `token`")
        try:
            await self._desk.close(fields["token"], visit.peer, visit.correlation_id)
        except Refused as refusal:
            if refusal.code not in _NOTHING_LEFT:
                raise
        return replies.private({})

    # --- what anybody may read --------------------------------------------------------------------------------------

    async def _openid_configuration(self, _: Request, __: Visit) -> Reply:
        return replies.public(self._publication.discovery())

    async def _jwks(self, _: Request, __: Visit) -> Reply:
        return replies.public(self._publication.jwks())

    async def _oauth_metadata(self, _: Request, __: Visit) -> Reply:
        return self._oauth

    async def _openapi(self, _: Request, __: Visit) -> Reply:
        return self._description

    async def _health(self, _: Request, __: Visit) -> Reply:
        return replies.private({"status": "ok"})

    async def _readiness(self, _: Request, visit: Visit) -> Reply:
        """Status alone, except on the admin socket: why a broker is not ready is a map for whoever wants to keep it so."""
        problems = (await self._ready()).problems
        body: dict[str, Any] = {"status": "not ready" if problems else "ready"}
        if visit.peer.transport == "admin":
            body["problems"] = problems
        return replies.private(body, status=503 if problems else 200)

    async def _read_metrics(self, _: Request, __: Visit) -> Reply:
        return Reply(
            200, ((b"content-type", CONTENT_TYPE.encode("ascii")), (b"cache-control", b"no-store")), self._metrics.text()
        )


def _oauth_metadata(public_url: str) -> dict[str, Any]:
    """RFC 8414."""
    return {
        "issuer": public_url,
        "token_endpoint": f"{public_url}/v1/token",
        "token_endpoint_auth_methods_supported": ["none"],
        "revocation_endpoint": f"{public_url}/v1/revoke",
        "revocation_endpoint_auth_methods_supported": ["none"],
        "grant_types_supported": [reading.GRANT_TYPE],
        "response_types_supported": [],  # RFC 8414 asks for the member; there is no authorization endpoint
    }


def _route(endpoint: Endpoint, handler: Handler) -> Route:
    async def answer(request: Request) -> Response:
        visit = request.scope[VISIT]
        if visit.peer.transport not in endpoint.served_on:
            raise _no_such_endpoint()
        visit.route = endpoint.operation
        visit.reply = await handler(request, visit)
        return _Left()

    return Route(endpoint.path, answer, methods=[endpoint.method], name=endpoint.operation)


async def _not_found(scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG001 - ASGI's signature
    raise _no_such_endpoint()


def _no_such_endpoint() -> Refused:
    return Refused(Code.PATH_INVALID, "there is no such endpoint here; /openapi.json lists them")
