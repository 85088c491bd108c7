"""The job token on the client's side: where it is, and the few claims that decide where it may be sent.

Nothing here verifies a signature. What is read from the token steers this client alone and proves nothing to anybody.
"""

import base64
import binascii
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from broker.errors import Code, Misconfigured, Refused
from broker.job.settings import JobSettings
from broker.secret import Secret

_CI_JOB_TOKEN_PREFIX = "glcbt-"  # noqa: S105 - what a CI_JOB_TOKEN starts with
_MAX_CHARS = 20_000  # DESIGN section 5
_JWT_PARTS = 3
_MARKS = {"project_id": "gitlab", "repository_id": "github", "kubernetes.io": "kubernetes", "cid": "okta"}


@dataclass(frozen=True, slots=True, kw_only=True)
class JobToken:
    value: Secret
    audiences: tuple[str, ...]
    expires_at: float  # unix seconds
    jti: str
    job_id: str | None
    issued_at: float | None = None
    kind: str = ""  # whose token it looks like, by a claim that only such tokens have; "" when it looks like none
    several_audiences: bool = False  # `aud` is a list of more than one


def find_job_token(settings: JobSettings, environ: Mapping[str, str]) -> JobToken:
    """The job token of this job.

    Raises Misconfigured(job_token_missing) with the lines that the job's YAML lacks, Refused(token_class) for a CI_JOB_TOKEN,
    Refused(token_malformed) for anything else that is no JWT.
    """
    if settings.token_file is not None:
        where = f"file {str(settings.token_file)!r}"
        try:
            text = _read(settings.token_file)
        except OSError as error:
            raise Misconfigured(Code.JOB_TOKEN_MISSING, f"the job token cannot be read from {where}: {error.strerror}") from None
    else:
        where = f"variable {settings.token_env}"
        text = environ.get(settings.token_env, "")
    text = text.strip()
    if not text:
        raise Misconfigured(Code.JOB_TOKEN_MISSING, f"there is no job token in {where}; {_lines_to_add(settings)}")
    if text.startswith(_CI_JOB_TOKEN_PREFIX):
        raise Refused(Code.TOKEN_CLASS, f"{where} holds a CI_JOB_TOKEN, which is not an ID token; {_lines_to_add(settings)}")
    return parse_job_token(Secret(text), where)


def parse_job_token(unverified: Secret, where: str) -> JobToken:
    """The claims that steer this client. Raises Refused(token_malformed) without quoting the token."""
    text = unverified.reveal()
    parts = text.split(".")
    malformed = Refused(Code.TOKEN_MALFORMED, f"what is in {where} is not an ID token (a JWT of three parts)")
    if len(text) > _MAX_CHARS or len(parts) != _JWT_PARTS or not all(parts):
        raise malformed
    try:
        claims = json.loads(base64.urlsafe_b64decode(parts[1] + "=" * (-len(parts[1]) % 4)))
    except (ValueError, binascii.Error, RecursionError):
        raise malformed from None
    if not isinstance(claims, dict):
        raise malformed
    audience = claims.get("aud")
    audiences: list[object] = audience if isinstance(audience, list) else [audience]
    # Kubernetes before 1.30 gives no jti: then this is what tells its tokens apart here.
    digest = hashlib.sha256(parts[1].encode()).hexdigest()
    expires_at, jti = claims.get("exp"), claims.get("jti", digest)
    job_id = claims.get("job_id", digest)  # only GitLab's tokens name a job: for any other issuer, one token is one
    if (
        not audiences
        or not all(isinstance(one, str) for one in audiences)
        or isinstance(expires_at, bool)
        or not isinstance(expires_at, int | float)
        or not isinstance(jti, str)
    ):
        raise Refused(Code.TOKEN_MALFORMED, f"the job token in {where} lacks `aud` or `exp`, or its `jti` is no text")
    issued_at = claims.get("iat")
    return JobToken(
        value=unverified,
        audiences=tuple(str(one) for one in audiences),
        expires_at=float(expires_at),
        jti=jti,
        job_id=job_id if isinstance(job_id, str) else None,
        issued_at=None if isinstance(issued_at, bool) or not isinstance(issued_at, int | float) else float(issued_at),
        kind=next((kind for mark, kind in _MARKS.items() if mark in claims), ""),
        several_audiences=len(audiences) > 1,
    )


def _read(path: Path) -> str:
    with path.open(encoding="ascii", errors="replace") as file:
        return file.read(_MAX_CHARS + 2)


def _lines_to_add(settings: JobSettings) -> str:
    audience = settings.url if settings.url and settings.url.startswith("http") else "https://broker.example.com"
    return f"add these lines to the job in .gitlab-ci.yml:\n  id_tokens:\n    {settings.token_env}:\n      aud: {audience}" + (
        "" if audience == settings.url else "   # the broker's public_url"
    )
