"""The table of endpoints. The routes are made from it and `/openapi.json` is printed from it, so that they cannot differ."""

from dataclasses import dataclass
from typing import Any, Literal

from broker.errors import Code
from broker.exchanging import Transport

Schema = dict[str, Any]

JOBS: frozenset[Transport] = frozenset({"unix", "http", "https"})
ADMIN: frozenset[Transport] = frozenset({"admin"})
EVERYWHERE = JOBS | ADMIN

_TEXT: Schema = {"type": "string"}
_TIME: Schema = {"type": "string", "format": "date-time", "pattern": "Z$"}
_NAME: Schema = {"type": "string", "pattern": "^[a-z0-9][a-z0-9-]{0,31}$"}
_KIND: Schema = {"type": "string", "enum": ["aws", "rds", "vault"]}
_COUNT: Schema = {"type": "integer", "minimum": 0}


@dataclass(frozen=True, slots=True, kw_only=True)
class Field:
    """One parameter or form field."""

    name: str
    schema: Schema
    words: str
    place: Literal["path", "query", "header", "form"] = "form"
    required: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    operation: str
    method: Literal["GET", "POST"]
    path: str
    words: str
    answer: str  # the name of a schema
    holder: bool = False  # needs a session's handle in Authorization
    fields: tuple[Field, ...] = ()
    codes: tuple[Code, ...] = ()  # beside request_invalid, path_invalid, rate_limited and internal, which any can answer
    served_on: frozenset[Transport] = EVERYWHERE
    media_type: str = "application/json"


def _object(required: dict[str, Schema], **optional: Schema) -> Schema:
    return {
        "type": "object",
        "required": list(required),
        "properties": required | optional,
        "additionalProperties": False,
    }


SCHEMAS: dict[str, Schema] = {
    "Error": _object(
        {"error": _TEXT, "code": {"type": "string", "enum": [c.word for c in Code if c.http_status]}}
        | {"error_description": _TEXT, "correlation_id": _TEXT},
        message=_TEXT,
        Code=_TEXT,
        Message=_TEXT,
    ),
    "Token": _object(
        {
            "access_token": {"type": "string", "pattern": "^cbs_[0-9A-Za-z]{49}$"},
            "issued_token_type": {"const": "urn:ietf:params:oauth:token-type:access_token"},
            "token_type": {"const": "Bearer"},
            "expires_in": _COUNT,
            "scope": _TEXT,
            "environment": _NAME,
            "session_id": _TEXT,
            "exchanges_left": _COUNT,
            "receipt": _TEXT,
        }
    ),
    "Credential": _object(
        {
            "grant": _NAME,
            "kind": _KIND,
            "environment": _NAME,
            "lease_id": _TEXT,
            "version": {"type": "integer", "minimum": 1},
            "issued_at": _TIME,
            "refresh_at": _TIME,
            "expires_at": _TIME,
            "receipt": _TEXT,
            "data": {"type": "object", "additionalProperties": _TEXT},
        }
    ),
    "ContainerCredential": _object(
        {"AccessKeyId": _TEXT, "SecretAccessKey": _TEXT, "Token": _TEXT, "Expiration": _TIME}, AccountId=_TEXT
    ),
    "Session": _object(
        {
            "session_id": _TEXT,
            "environment": _NAME,
            "grants": {"type": "array", "items": _NAME},
            "offers": {
                "type": "array",
                "items": _object({"grant": _NAME, "kind": _KIND, "subpath": {"type": "boolean"}}, region=_TEXT),
            },
            "expires_at": _TIME,
            "leases": {
                "type": "array",
                "items": _object({"grant": _NAME, "subpath": _TEXT, "version": _COUNT, "refresh_at": _TIME, "expires_at": _TIME}),
            },
        }
    ),
    "Nothing": _object({}),
    "Status": _object(
        {"status": {"type": "string", "enum": ["ok", "ready", "not ready"]}}, problems={"type": "array", "items": _TEXT}
    ),
    "Document": {"type": "object"},
    "Text": _TEXT,
}

_GRANT = Field(name="grant", schema=_NAME, words="A grant of this session.", place="path", required=True)
_TASK = Field(
    name="X-Luigi-Task", schema={"type": "string", "maxLength": 512}, words="The asking task; logged as claimed.", place="header"
)
_HOLDER = (Code.HANDLE_INVALID, Code.HANDLE_PEER, Code.SESSION_EXPIRED, Code.SESSION_REVOKED, Code.SESSION_IDLE)
_STORE = (Code.STORE_UNAVAILABLE, Code.LOG_UNAVAILABLE, Code.CLOCK_UNSAFE)
_READ = (
    *_HOLDER,
    *_STORE,
    Code.NO_ENVIRONMENT,
    Code.GRANT_DENIED,
    Code.GRANT_UNKNOWN,
    Code.TEMPLATE_VALUE,
    Code.UPSTREAM_DENIED,
    Code.UPSTREAM_CONFIG,
    Code.UPSTREAM_UNAVAILABLE,
)

ENDPOINTS = (
    Endpoint(
        operation="exchangeToken",
        method="POST",
        path="/v1/token",
        words="Exchange a job token for a session (RFC 8693). Mints nothing.",
        answer="Token",
        fields=(
            Field(
                name="grant_type", schema={"const": "urn:ietf:params:oauth:grant-type:token-exchange"}, words="", required=True
            ),
            Field(
                name="subject_token", schema={"type": "string", "maxLength": 20_000}, words="The job's ID token.", required=True
            ),
            Field(
                name="subject_token_type",
                schema={"enum": ["urn:ietf:params:oauth:token-type:id_token", "urn:ietf:params:oauth:token-type:jwt"]},
                words="",
                required=True,
            ),
            Field(name="scope", schema=_TEXT, words="Grants, separated by spaces; all that are allowed when absent."),
            Field(
                name="resume_key",
                schema={"type": "string", "pattern": "^[A-Za-z0-9_-]{43}$"},
                words="The same token with the same key within 120 s replaces the session.",
            ),
            Field(name="heartbeat", schema={"enum": ["0", "1"]}, words="1: the session ends when the heartbeat falls silent."),
            Field(name="environment", schema=_NAME, words="Refused when the job is in another one."),
        ),
        codes=(
            *(c for c in Code if c.word.startswith("token_")),
            *_STORE,
            Code.SESSION_EXISTS,
            Code.NO_ENVIRONMENT,
            Code.ENVIRONMENT_MISMATCH,
            Code.GRANT_DENIED,
            Code.GRANT_UNKNOWN,
            Code.ISSUER_UNAVAILABLE,
        ),
        served_on=JOBS,
    ),
    Endpoint(
        operation="readCredential",
        method="GET",
        path="/v1/credentials/{grant}",
        words="The current credential of a grant, minted at its first request. `/{subpath}` may follow where it admits one.",
        answer="Credential",
        holder=True,
        fields=(
            _GRANT,
            _TASK,
            Field(name="min_ttl", schema=_COUNT, words="Seconds; a lease with less left is replaced.", place="query"),
        ),
        codes=(*_READ, Code.SUBPATH_DENIED, Code.TTL_UNAVAILABLE),
        served_on=JOBS,
    ),
    Endpoint(
        operation="readContainerCredential",
        method="GET",
        path="/v1/aws/{grant}",
        words="The AWS container credentials protocol. Authorization is the bare handle, or Bearer and the handle.",
        answer="ContainerCredential",
        holder=True,
        fields=(_GRANT, _TASK),
        codes=_READ,
        served_on=JOBS,
    ),
    Endpoint(
        operation="viewSession",
        method="GET",
        path="/v1/session",
        words="The session, what each of its grants is (`subpath`: read only with one), and its current leases, without values.",
        answer="Session",
        holder=True,
        codes=(*_HOLDER, *_STORE),
        served_on=JOBS,
    ),
    Endpoint(
        operation="heartbeat",
        method="POST",
        path="/v1/session/heartbeat",
        words="The job is alive. A session opened with heartbeat=1 needs one each minute.",
        answer="Nothing",
        holder=True,
        codes=(*_HOLDER, *_STORE),
        served_on=JOBS,
    ),
    Endpoint(
        operation="revokeSession",
        method="POST",
        path="/v1/revoke",
        words="End the session and take its leases back (RFC 7009). A handle that holds nothing is answered with 200 too.",
        answer="Nothing",
        fields=(
            Field(name="token", schema=_TEXT, words="The session's handle.", required=True),
            Field(name="token_type_hint", schema=_TEXT, words="Ignored: there is one type."),
        ),
        codes=(Code.HANDLE_PEER, *_STORE, Code.UPSTREAM_UNAVAILABLE),
        served_on=JOBS,
    ),
    Endpoint(
        operation="openidConfiguration",
        method="GET",
        path="/.well-known/openid-configuration",
        words="The broker as an OIDC issuer, for its upstreams.",
        answer="Document",
    ),
    Endpoint(operation="jwks", method="GET", path="/jwks", words="The keys of the broker's assertions.", answer="Document"),
    Endpoint(
        operation="oauthMetadata",
        method="GET",
        path="/.well-known/oauth-authorization-server",
        words="The broker as an OAuth authorization server (RFC 8414), for its clients.",
        answer="Document",
    ),
    Endpoint(operation="health", method="GET", path="/healthz", words="The process answers.", answer="Status"),
    Endpoint(
        operation="readiness",
        method="GET",
        path="/readyz",
        words="200 when a credential could be issued now, else 503. The reasons are for the admin socket alone.",
        answer="Status",
    ),
    Endpoint(
        operation="metrics",
        method="GET",
        path="/metrics",
        words="Prometheus.",
        answer="Text",
        served_on=ADMIN,
        media_type="text/plain",
    ),
    Endpoint(operation="openapi", method="GET", path="/openapi.json", words="This document.", answer="Document"),
)
