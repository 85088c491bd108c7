"""Reading requests, strictly: what is repeated, unknown or ambiguous is refused, because two readers of it would disagree.

Pure but for `read_body`. What comes out is typed; nothing here is verified.
"""

import asyncio
import re
from collections.abc import Awaitable, Callable, Collection, Iterable, MutableMapping
from datetime import timedelta
from typing import Any
from urllib.parse import parse_qsl, unquote_to_bytes

from broker.errors import Code, Refused
from broker.exchanging import ExchangeRequest, Peer

Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Headers = Iterable[tuple[bytes, bytes]]

GRANT_TYPE = "urn:ietf:params:oauth:grant-type:token-exchange"
TOKEN_TYPES = ("urn:ietf:params:oauth:token-type:id_token", "urn:ietf:params:oauth:token-type:jwt")
EXCHANGE_FIELDS = frozenset(
    {"grant_type", "subject_token", "subject_token_type", "scope", "resume_key", "heartbeat", "environment"}
)

_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,31}")
_WORD = re.compile(r"[A-Za-z_]{1,40}")
_RESUME_KEY = re.compile(r"[A-Za-z0-9_-]{43}")
_TASK = re.compile(r"[!-~](?:[ -~]{0,510}[!-~])?")
_SECONDS = re.compile(r"[0-9]{1,7}")
_AMBIGUOUS = re.compile(r"[/\\%?#]")
# Of bounded length: int() itself raises for thousands of digits, and the parser lets leading zeros through.
_LENGTH = re.compile(rb"[0-9]{1,10}")
_PERCENT = re.compile(rb"%(?![0-9A-Fa-f]{2})")
_MAX_FIELDS = 16


class BodyRefused(Refused):
    """The body was not read to its end, so the connection cannot be used again."""


# --- headers ----------------------------------------------------------------------------------------------------------


def only(headers: Headers, name: bytes) -> bytes | None:
    """The value of a header that may stand once. Raises Refused(request_invalid) for a second one."""
    found = [value for key, value in headers if key == name]
    if len(found) > 1:
        raise Refused(Code.REQUEST_INVALID, f"the request has {len(found)} {name.decode('ascii')} headers; send exactly one")
    return found[0] if found else None


def handle(headers: Headers, *, bare: bool = False) -> str:
    """The session handle of `Authorization: Bearer …`; `bare`: without the scheme too, as AWS SDKs send it.

    Raises Refused(handle_invalid) when there is none. Its shape is checked by whoever looks it up.
    """
    value = only(headers, b"authorization")
    if not value:
        raise Refused(
            Code.HANDLE_INVALID,
            "the request has no Authorization header; send the session's handle as `Authorization: Bearer cbs_…`",
        )
    text = value.decode("latin-1")
    scheme, space, rest = text.partition(" ")
    if space and scheme.lower() == "bearer":
        return rest.strip(" ")
    if bare and not space:
        return text
    raise Refused(Code.HANDLE_INVALID, "the Authorization header is not `Bearer` and a session handle")


def luigi_task(headers: Headers) -> str | None:
    """The task that the caller says it is. Its word only, and bounded, because it is written in the log."""
    value = only(headers, b"x-luigi-task")
    if value is None:
        return None
    text = value.decode("latin-1")
    if not _TASK.fullmatch(text):
        raise Refused(Code.REQUEST_INVALID, "X-Luigi-Task is not a task id: printable ASCII, at most 512 characters")
    return text


def host_name(headers: Headers) -> str:
    """The host that the request names, without its port. Raises Refused(request_invalid) when there is none."""
    value = only(headers, b"host")
    if not value:
        raise Refused(Code.REQUEST_INVALID, "the request has no Host header")
    text = value.decode("latin-1").lower()
    if text.startswith("["):
        return text[1:].partition("]")[0]
    return text.partition(":")[0]


# --- the path and the query -------------------------------------------------------------------------------------------


def segments(raw_path: bytes) -> tuple[str, ...]:
    """The parts of a path, decoded exactly once.

    Raises Refused(path_invalid) for everything that another reader could take for another path: empty, `.` and `..` parts,
    encoded slashes, backslashes, control characters, and a percent sign that is still there after decoding.
    """
    parts = []
    for raw in raw_path.removeprefix(b"/").split(b"/"):
        if _PERCENT.search(raw):
            raise _path_invalid("a percent sign that encodes nothing")
        try:
            part = unquote_to_bytes(raw).decode("utf-8")
        except UnicodeDecodeError:
            raise _path_invalid("bytes that are not UTF-8") from None
        if part in {"", ".", ".."}:
            raise _path_invalid("an empty, '.' or '..' part")
        if _AMBIGUOUS.search(part) or not part.isprintable():
            raise _path_invalid("an encoded separator, percent sign or control character")
        parts.append(part)
    return tuple(parts)


def _path_invalid(what: str) -> Refused:
    return Refused(Code.PATH_INVALID, f"the path has {what}; write each part plainly, as the policy names it")


def grant_name(text: str) -> str:
    """The text, when it has the shape of a grant's name: any other cannot exist in a policy."""
    if not _NAME.fullmatch(text):
        raise Refused(Code.GRANT_UNKNOWN, "there is no such grant: a name has lower-case letters, digits and '-', at most 32")
    return text


def query(query_string: bytes, allowed: Collection[str] = ()) -> dict[str, str]:
    """The parameters of a URL, each at most once. Raises Refused(request_invalid) for any other."""
    return _parameters(query_string, allowed, "in the URL (a token never travels there)") if query_string else {}


def min_ttl(parameters: dict[str, str]) -> timedelta | None:
    text = parameters.get("min_ttl")
    if text is None:
        return None
    if not _SECONDS.fullmatch(text):
        raise Refused(Code.REQUEST_INVALID, "min_ttl is not a number of seconds, such as 10800")
    return timedelta(seconds=int(text))


def _parameters(raw: bytes, allowed: Collection[str], where: str) -> dict[str, str]:
    try:
        pairs = parse_qsl(
            raw.decode("ascii"), keep_blank_values=True, strict_parsing=True, errors="strict", max_num_fields=_MAX_FIELDS
        )
    except ValueError:  # UnicodeDecodeError is one
        raise Refused(Code.REQUEST_INVALID, f"what stands {where} is not form-encoded") from None
    found: dict[str, str] = {}
    for name, value in pairs:
        shown = f"{name!r} " if _WORD.fullmatch(name) else ""
        if name not in allowed:
            raise Refused(
                Code.REQUEST_INVALID, f"parameter {shown}is not known {where}; known: {', '.join(sorted(allowed)) or 'none'}"
            )
        if name in found:
            raise Refused(Code.REQUEST_INVALID, f"parameter {shown}stands there twice; send it once")
        found[name] = value
    return found


# --- the body ---------------------------------------------------------------------------------------------------------


async def read_body(headers: Headers, receive: Receive, *, limit: int, seconds: float) -> bytes:
    """The whole body, at most `limit` bytes, within `seconds`. Raises BodyRefused(request_invalid)."""
    length = only(headers, b"content-length")
    if length is not None and not _LENGTH.fullmatch(length):
        raise BodyRefused(Code.REQUEST_INVALID, "Content-Length is not a number of at most 10 digits")
    if length is not None and int(length) > limit:
        raise BodyRefused(Code.REQUEST_INVALID, f"the body is larger than {limit} bytes")
    body = bytearray()
    try:
        async with asyncio.timeout(seconds):
            while True:
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise BodyRefused(Code.REQUEST_INVALID, "the connection ended before the body did")
                body += message.get("body", b"")
                if len(body) > limit:
                    raise BodyRefused(Code.REQUEST_INVALID, f"the body is larger than {limit} bytes")
                if not message.get("more_body"):
                    return bytes(body)
    except TimeoutError:
        raise BodyRefused(Code.REQUEST_INVALID, f"the body did not arrive within {seconds:g} seconds") from None


def form(headers: Headers, body: bytes, allowed: Collection[str]) -> dict[str, str]:
    """The fields of a form, each at most once. Raises Refused(request_invalid) for any other, or another content type."""
    content_type = (only(headers, b"content-type") or b"").partition(b";")[0].strip().lower()
    if content_type != b"application/x-www-form-urlencoded":
        raise Refused(Code.REQUEST_INVALID, "the body is not application/x-www-form-urlencoded")
    return _parameters(body, allowed, "in the form") if body else {}


def exchange_request(fields: dict[str, str], *, token_chars: int, peer: Peer, correlation_id: str) -> ExchangeRequest:
    """A token exchange (RFC 8693 2.1) as a value. Raises Refused; the token itself is not looked into."""
    if fields.get("grant_type") != GRANT_TYPE:
        raise Refused(Code.REQUEST_INVALID, f"grant_type is not {GRANT_TYPE}")
    token = fields.get("subject_token")
    if not token:
        raise Refused(Code.TOKEN_MISSING, "subject_token is missing; send the job's ID token (id_tokens: in .gitlab-ci.yml)")
    if len(token) > token_chars:
        raise Refused(Code.TOKEN_MALFORMED, f"subject_token has {len(token)} characters, the limit is {token_chars}")
    if fields.get("subject_token_type") not in TOKEN_TYPES:
        raise Refused(Code.REQUEST_INVALID, f"subject_token_type is not {TOKEN_TYPES[0]} or {TOKEN_TYPES[1]}")
    environment = fields.get("environment")
    if environment is not None and not _NAME.fullmatch(environment):
        raise Refused(Code.REQUEST_INVALID, "environment is not a name: lower-case letters, digits and '-', at most 32")
    resume_key = fields.get("resume_key")
    if resume_key is not None and not _RESUME_KEY.fullmatch(resume_key):
        raise Refused(Code.REQUEST_INVALID, "resume_key is not 43 base64url characters")
    heartbeat = fields.get("heartbeat", "0")
    if heartbeat not in {"0", "1"}:
        raise Refused(Code.REQUEST_INVALID, "heartbeat is not 1 or 0")
    return ExchangeRequest(
        unverified_token=token,
        wants=_wants(fields["scope"]) if "scope" in fields else None,
        environment=environment,
        resume_key=resume_key,
        heartbeat=heartbeat == "1",
        peer=peer,
        correlation_id=correlation_id,
    )


def _wants(scope: str) -> tuple[str, ...]:
    """The grants of a scope, each once, in their order. An empty scope would be a session that may do nothing."""
    names = scope.split(" ")
    if not scope or "" in names:
        raise Refused(
            Code.REQUEST_INVALID, "scope is not grants separated by single spaces; leave it out for all that is allowed"
        )
    return tuple(dict.fromkeys(grant_name(name) for name in names))
