"""The broker's error answers, back into the errors they were."""

import json

from broker.errors import BrokerError, Code, Misconfigured, Refused, Unavailable

_MAX_SENTENCE = 1000
_MAX_RETRY_AFTER = 3600
_CLIENT_ONLY = (Code.BROKER_UNREACHABLE, Code.JOB_TOKEN_MISSING, Code.CONFIG_INVALID)
_REDIRECTS = range(300, 400)
_CLIENT_ERRORS = range(400, 500)
_BUSY = (429, 502, 503, 504)  # a gateway in front of the broker says 502 and 504 for "away"


def refusal(status: int, retry_after: str | None, body: bytes) -> BrokerError:
    """The error in an answer that is no 200. `code` decides; an unknown one, or none, falls back to the status.

    The sentence is the broker's own, without control characters: it ends up on somebody's terminal.
    """
    word, sentence, correlation_id = _read(body)
    detail = f"correlation id {correlation_id}" if correlation_id else ""
    wait = _seconds(retry_after)
    try:
        code = Code.of(word)
    except KeyError:
        code = None
    if code is None or code in _CLIENT_ONLY:
        return _by_status(status, sentence, detail, wait)
    sentence = sentence or f"the broker answered {code.word}"
    if code.oauth_error == "temporarily_unavailable":
        return Unavailable(code, sentence, detail=detail, retry_after=wait)
    if code is Code.UPSTREAM_CONFIG:
        return Misconfigured(code, sentence, detail=detail)
    if code is Code.INTERNAL:
        return BrokerError(code, sentence, detail=detail)
    return Refused(code, sentence, detail=detail)


def _by_status(status: int, sentence: str, detail: str, wait: float | None) -> BrokerError:
    if status in _REDIRECTS:
        return Misconfigured(
            Code.CONFIG_INVALID,
            f"the broker's address answers with a redirect (HTTP {status}), which is not followed; give the broker's own address",
        )
    said = f": {sentence}" if sentence else ""
    if status in _BUSY:
        return Unavailable(Code.BROKER_UNREACHABLE, f"the broker is away (HTTP {status}){said}", detail=detail, retry_after=wait)
    if status in _CLIENT_ERRORS:
        return Refused(Code.REQUEST_INVALID, f"the broker refused the request (HTTP {status}){said}", detail=detail)
    return BrokerError(Code.INTERNAL, f"the broker failed (HTTP {status}){said}", detail=detail)


def _read(body: bytes) -> tuple[str, str, str]:
    try:
        answer = json.loads(body)
    except (ValueError, RecursionError):
        return "", "", ""
    if not isinstance(answer, dict):
        return "", "", ""
    parts = (answer.get("code"), answer.get("error_description") or answer.get("message"), answer.get("correlation_id"))
    word, sentence, correlation_id = (_printable(part) if isinstance(part, str) else "" for part in parts)
    return word, sentence, correlation_id


def _printable(text: str) -> str:
    return "".join(c if c.isprintable() else " " for c in text[:_MAX_SENTENCE])


def _seconds(retry_after: str | None) -> float | None:
    if retry_after is None or not (retry_after.isascii() and retry_after.isdigit()):
        return None  # the HTTP-date form says nothing without a trusted clock; our own pause is used
    return float(min(int(retry_after[:6]), _MAX_RETRY_AFTER))
