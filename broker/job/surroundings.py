"""What around a job gets between it and its credentials: the AWS SDKs' other sources, and a user that several jobs share."""

import os
import pwd
from collections.abc import Mapping
from pathlib import Path

from broker.job.address import Address
from broker.job.environment import SHADOWS
from broker.job.findings import Finding, ok, warn
from broker.job.settings import SESSION_FILE_VARIABLE

# A name that several jobs of one host have: the shell executor's, by every package of GitLab Runner.
_RUNNER_USERS = frozenset({"gitlab-runner", "gitlab_runner"})
_OF_EXEC = frozenset(
    {
        "AWS_CONFIG_FILE",
        "AWS_SHARED_CREDENTIALS_FILE",
        "AWS_CONTAINER_CREDENTIALS_FULL_URI",
        "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE",
    }
)
_FOLDER_OF_EXEC = "exec-"


def check_aws_chain(environ: Mapping[str, str]) -> Finding:
    """Whether an AWS SDK asks somebody else before it asks us. Names variables and files, never what is in them."""
    inside = inside_exec(environ)
    names = [name for name in SHADOWS if environ.get(name) and not (inside and name in _OF_EXEC)]
    files = [] if inside else [str(path) for path in _files(environ) if path.is_file()]
    if not names and not files:
        where = "inside `credbroker exec`, and " if inside else ""
        return ok("aws_chain", f"{where}nothing shadows the AWS credentials that `exec` sets up")
    found = ", ".join([*names, *files])
    if inside:
        return warn(
            "aws_chain",
            f"set inside `credbroker exec`, AWS SDKs use these before the credentials it set up: {found}",
            "unset them in the command, or take them out of whatever the command reads",
        )
    return warn(
        "aws_chain",
        f"AWS SDKs ask these first: {found}",
        "nothing, for a command under `credbroker exec`: it takes them away when the job has an AWS grant. Everything else in "
        "the job uses them; remove long-lived keys from the CI variables",
    )


def inside_exec(environ: Mapping[str, str]) -> bool:
    """Whether the AWS set-up in these variables is `exec`'s own: its token file lies in a folder of its session file's."""
    token_file, session_file = environ.get("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE"), environ.get(SESSION_FILE_VARIABLE)
    if not token_file or not session_file:
        return False
    folder = Path(token_file).parent
    return folder.name.startswith(_FOLDER_OF_EXEC) and folder.parent == Path(session_file).parent


def check_shared_uid(address: Address) -> Finding:
    """Over a Unix socket a handle is bound to the uid that opened it, which separates only jobs of different uids (3.12)."""
    if address.scheme != "unix":
        return ok("shared_uid", "the broker is not on a Unix socket, so nothing rests on this job's user")
    uid = os.geteuid()
    if uid == 0 or _name_of(uid) in _RUNNER_USERS:
        who = "root (uid 0)" if uid == 0 else f"{_name_of(uid)} (uid {uid})"
        return warn(
            "shared_uid",
            f"this job runs as {who}, as other jobs on this host may: they can use each other's sessions over the socket",
            "run each job as a user of its own, or let jobs reach the broker over HTTPS",
        )
    return ok("shared_uid", f"handles over this socket are bound to uid {uid}; other jobs of the same user could use them")


def _files(environ: Mapping[str, str]) -> list[Path]:
    home = environ.get("HOME")
    return [Path(home) / ".aws" / "credentials", Path(home) / ".aws" / "config"] if home else []


def _name_of(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return ""
