"""What a job's environment says to the job side. The only place in `broker.job` that reads variables."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from broker.errors import Code, Misconfigured

TOKEN_VARIABLE = "CREDBROKER_ID_TOKEN"  # noqa: S105 - the name of a variable, not a token
URL_VARIABLE = "CREDBROKER_URL"
SESSION_FILE_VARIABLE = "CREDBROKER_SESSION_FILE"


@dataclass(frozen=True, slots=True, kw_only=True)
class JobSettings:
    url: str | None  # None: only an existing session file can say where the broker is
    token_env: str
    token_file: Path | None
    session_file: Path | None
    ci_job_id: str | None
    runtime_dir: Path | None
    ca_file: Path | None  # instead of the system's authorities
    ci_ca_file: Path | None  # beside them: what the runner trusts GitLab with
    server_uid: int | None

    @classmethod
    def read(
        cls,
        environ: Mapping[str, str],
        *,
        url: str | None = None,
        token_env: str | None = None,
        token_file: Path | None = None,
    ) -> "JobSettings":
        """Options win over variables; an empty variable counts as absent. Raises Misconfigured(config_invalid)."""

        def path(name: str) -> Path | None:
            return Path(environ[name]) if environ.get(name) else None

        uid = environ.get("CREDBROKER_SERVER_UID") or None
        if uid is not None and not (uid.isascii() and uid.isdigit()):
            raise Misconfigured(Code.CONFIG_INVALID, "CREDBROKER_SERVER_UID must be the number of a user")
        return cls(
            url=url or environ.get(URL_VARIABLE) or None,
            token_env=token_env or TOKEN_VARIABLE,
            token_file=token_file,
            session_file=path(SESSION_FILE_VARIABLE),
            ci_job_id=environ.get("CI_JOB_ID") or None,
            runtime_dir=path("XDG_RUNTIME_DIR"),
            ca_file=path("CREDBROKER_CA_FILE"),
            ci_ca_file=path("CI_SERVER_TLS_CA_FILE"),
            server_uid=None if uid is None else int(uid),
        )
