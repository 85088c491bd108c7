"""`GET /v1/credentials/{grant}[/{subpath}]`: from a reference and the job's session to a lease, or to one of our errors."""

import json
from collections.abc import Callable
from datetime import datetime, timezone
from http import HTTPStatus

from luigi_contrib_secrets import lease as leases
from luigi_contrib_secrets import transport
from luigi_contrib_secrets.errors import SecretError, SecretMisconfigured, SecretRefused, SecretUnavailable
from luigi_contrib_secrets.lease import Lease
from luigi_contrib_secrets.reference import Reference
from luigi_contrib_secrets.session_file import Session
from luigi_contrib_secrets.settings import Settings
from luigi_contrib_secrets.transport import Answer

_LONGEST_TASK_ID = 512
_LONGEST_SENTENCE = 500


def fetch(
    reference: Reference,
    stated: Settings,
    session: Session,
    *,
    min_ttl: float,
    task: str,
    timeout: float,
    clock: Callable[[], float],
) -> Lease:
    """One request, one lease. Resolves nothing in another environment than `[secrets] environment`, not even a request."""
    _same_environment(reference, stated, session.environment)
    headers = {"Authorization": f"Bearer {session.handle}"}
    if task and task.isascii() and task.isprintable() and len(task) <= _LONGEST_TASK_ID:
        headers["X-Luigi-Task"] = task
    path = f"/v1/credentials/{reference.path}" + (f"?min_ttl={int(min_ttl)}" if min_ttl else "")
    asked = clock()
    try:
        answer = transport.get(
            stated.url or session.url,
            path,
            headers,
            timeout=timeout,
            ca_file=stated.ca_file,
            ci_ca_file=stated.ci_ca_file,
        )
    except SecretUnavailable as error:
        raise SecretUnavailable(error.sentence, code=error.code, grant=reference.path) from None
    except SecretMisconfigured as error:
        raise SecretMisconfigured(error.sentence, code=error.code, grant=reference.path) from None
    if answer.status != HTTPStatus.OK:
        raise _refusal(reference, answer)
    lease = leases.parse(reference, answer.body, asked=asked, date=answer.date, wall=datetime.now(timezone.utc))
    # The session file could be older than the session that the broker knows under this handle.
    _same_environment(reference, stated, lease.environment)
    return lease


def _same_environment(reference: Reference, stated: Settings, actual: str) -> None:
    if stated.environment and stated.environment != actual:
        sentence = f"[secrets] environment in luigi.cfg is {stated.environment!r}, but this job's session is in {actual!r}"
        raise SecretRefused(sentence, code="environment_mismatch", grant=reference.path)


def _refusal(reference: Reference, answer: Answer) -> SecretError:
    """What an answer other than 200 means. Only an outage may be survived; whatever the broker refuses is final."""
    code, sentence, correlation_id = _said(answer)
    grant = reference.path
    if answer.status == HTTPStatus.TOO_MANY_REQUESTS or (
        answer.status >= HTTPStatus.INTERNAL_SERVER_ERROR and code not in _NOT_AN_OUTAGE
    ):
        return SecretUnavailable(
            sentence,
            code=code or "broker_unreachable",
            grant=grant,
            correlation_id=correlation_id,
            retry_after=answer.retry_after,
        )
    if answer.status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        # Nobody refused: what is still valid is served. But a bug, or a wrong role upstream, does not go away by waiting.
        return SecretUnavailable(sentence, code=code, grant=grant, correlation_id=correlation_id, again=False)
    if not code:
        sentence = f"{sentence}; the address is not the broker's"
        return SecretMisconfigured(sentence, code="config_invalid", grant=grant)
    return SecretRefused(sentence, code=code, grant=grant, correlation_id=correlation_id)


_NOT_AN_OUTAGE = frozenset({"internal", "upstream_config"})


def _said(answer: Answer) -> tuple[str, str, str]:
    """Code, sentence and correlation id of our own error format; of anything else (a proxy's page) only the status."""
    plain = "", f"the answer was HTTP {answer.status}", ""
    try:
        said = json.loads(answer.body)
    except ValueError:
        return plain
    if not isinstance(said, dict) or not isinstance(said.get("code"), str) or not said["code"].isidentifier():
        return plain
    sentence, correlation_id = said.get("error_description"), said.get("correlation_id")
    return said["code"], _line(sentence) or plain[1], _line(correlation_id)


def _line(text: object) -> str:
    """One printable line of it: an answer must not write lines of its own into a job's log."""
    return "".join(c if c.isprintable() else " " for c in text)[:_LONGEST_SENTENCE] if isinstance(text, str) else ""
