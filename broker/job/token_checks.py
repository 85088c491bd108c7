"""What a job can see of its own token without anybody's keys: what it looks like, its hours, and where else one may be."""

import re
from collections.abc import Mapping

from broker.errors import Code, Refused
from broker.job.findings import Finding, failed, ok, warn
from broker.job.job_token import JobToken
from broker.job.settings import JobSettings

SKEW_ALARM = 20.0  # as the broker's own alarm (DESIGN 3.15)
_SOON = 300.0  # a token with less left hardly starts a job
_LOOKS_LIKE_JWT = re.compile(r"eyJ[A-Za-z0-9_-]+\.eyJ[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+")
_RETIRED = ("CI_JOB_JWT", "CI_JOB_JWT_V1", "CI_JOB_JWT_V2")
_KINDS = {
    "gitlab": "a GitLab job's ID token",
    "github": "a GitHub Actions ID token",
    "kubernetes": "a Kubernetes service account's token",
    "okta": "an Okta access token",
}


def elsewhere(settings: JobSettings, environ: Mapping[str, str]) -> str:
    """What to do when the token is not where it is looked for. GitLab writes one variable per entry under `id_tokens:`."""
    others = [
        name
        for name, value in sorted(environ.items())
        if name not in _RETIRED and name != settings.token_env and _LOOKS_LIKE_JWT.fullmatch(value.strip())
    ]
    if others:
        return f"variable {others[0]} holds something like it: rename it, or say `--token-env {others[0]}`"
    retired = [name for name in _RETIRED if environ.get(name)]
    if retired:
        return f"{retired[0]} is the token of an older GitLab and is not taken; declare one under `id_tokens:`"
    return "declare it under `id_tokens:` in the job itself; a job template's own `id_tokens:` replaces the whole section"


def check_kind(token: JobToken, own_job_id: str | None) -> Finding:
    if token.kind not in _KINDS:
        wrong = Refused(Code.TOKEN_CLASS, "this is no job's ID token as GitLab, GitHub, Okta or Kubernetes write them")
        return failed("token_kind", wrong, "send the variable that the job declares under `id_tokens:`")
    if token.job_id is not None and own_job_id is not None and token.job_id != own_job_id:
        return warn(
            "token_kind",
            f"it reads as {_KINDS[token.kind]} of job {plain(token.job_id)}, and this is job {plain(own_job_id)}",
            "let each job use its own token; one that was handed on is taken for stolen",
        )
    return ok("token_kind", f"it reads as {_KINDS[token.kind]} (its signature is for the broker to check)")


def check_hours(token: JobToken, now: float) -> Finding:
    left = token.expires_at - now
    if left <= 0:
        ended = Refused(Code.TOKEN_EXPIRED, f"the job token ended {length(-left)} ago")
        return failed("token_hours", ended, "start the job again; GitLab makes one token per job, for its timeout")
    if token.issued_at is not None and token.issued_at - now > SKEW_ALARM:
        return warn(
            "token_hours",
            f"the job token was issued {length(token.issued_at - now)} from now: this host's clock is behind its issuer's",
            "set the clock of the runner's host (NTP)",
        )
    age = "" if token.issued_at is None else f", issued {length(max(0.0, now - token.issued_at))} ago"
    if left < _SOON:
        return warn(
            "token_hours", f"the job token ends in {length(left)}{age}", "raise the job's `timeout:`: no session outlives it"
        )
    return ok("token_hours", f"the job token is good for {length(left)}{age}; no session outlives it")


def plain(text: str) -> str:
    """A value of the token for a terminal: nothing in it that one would obey."""
    return ascii(text[:200])


def length(seconds: float) -> str:
    whole = int(seconds)
    hours, minutes = whole // 3600, whole % 3600 // 60
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {whole % 60} s" if minutes else f"{whole} s"
