"""The environment and the files that a command gets (DESIGN section 6)."""

import os
import shlex
import stat
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from broker.errors import Code, Misconfigured
from broker.job.session_file import KeptSession
from broker.job.settings import SESSION_FILE_VARIABLE, TOKEN_VARIABLE, URL_VARIABLE
from broker.secret import Secret

# Everything that an AWS SDK asks before the container endpoint, or beside it.
SHADOWS = (
    "AWS_ACCESS_KEY_ID",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    "AWS_SECURITY_TOKEN",
    "AWS_CREDENTIAL_EXPIRATION",
    "AWS_ACCOUNT_ID",
    "AWS_PROFILE",
    "AWS_DEFAULT_PROFILE",
    "AWS_CONFIG_FILE",
    "AWS_SHARED_CREDENTIALS_FILE",
    "AWS_CREDENTIAL_FILE",
    "AWS_CREDENTIAL_PROFILES_FILE",
    "AWS_WEB_IDENTITY_TOKEN_FILE",
    "AWS_ROLE_ARN",
    "AWS_ROLE_SESSION_NAME",
    "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
    "AWS_CONTAINER_CREDENTIALS_FULL_URI",
    "AWS_CONTAINER_AUTHORIZATION_TOKEN",
    "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE",
    "BOTO_CONFIG",
)
_PRIVATE = 0o600
_LOOPBACK = ("127.0.0.1", "localhost")


@dataclass(frozen=True, slots=True, kw_only=True)
class AwsSetup:
    """What the AWS SDKs in the command will find."""

    grants: Sequence[str]
    default: str
    endpoint_url: str
    endpoint_token: Secret
    regions: Mapping[str, str]


def command_environment(
    inherited: Mapping[str, str],
    *,
    session: KeptSession,
    session_file: Path,
    token_env: str,
    job_token: Secret | None,
    aws: AwsSetup | None,
    folder: Path,
    extra: Mapping[str, Secret],
) -> dict[str, str]:
    """The command's whole environment. Writes the files that it points to into `folder`, which is ours alone.

    The job token is in it under no name. `CI_JOB_TOKEN` is left alone: it is GitLab's own, and jobs need it.
    """
    environment = dict(inherited)
    for name in {TOKEN_VARIABLE, token_env}:
        environment.pop(name, None)
    if job_token is not None:
        token = job_token.reveal()
        environment = {name: value for name, value in environment.items() if value.strip() != token}
    if aws is not None:
        for name in SHADOWS:
            environment.pop(name, None)
        environment |= _aws_variables(aws, folder)
    for name in ("NO_PROXY", "no_proxy"):
        hosts = [host for host in environment.get(name, "").split(",") if host]
        environment[name] = ",".join([*hosts, *(host for host in _LOOPBACK if host not in hosts)])
    environment[URL_VARIABLE] = session.url
    environment[SESSION_FILE_VARIABLE] = str(session_file)
    for name, value in extra.items():
        text = value.reveal()
        if "\x00" in text:
            raise Misconfigured(
                Code.CONFIG_INVALID, f"the value for --env {name} holds a NUL byte, which no variable can; use --file"
            )
        environment[name] = text
    return environment


def _aws_variables(aws: AwsSetup, folder: Path) -> dict[str, str]:
    token_file, config_file, empty_file = folder / "aws-token", folder / "aws-config", folder / "aws-credentials"
    _write(token_file, aws.endpoint_token.reveal())  # without a newline: botocore refuses one
    _write(config_file, _aws_config(aws))
    _write(empty_file, "")  # in the place of ~/.aws/credentials, which an SDK would ask first
    variables = {
        "AWS_CONTAINER_CREDENTIALS_FULL_URI": aws.endpoint_url,
        "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE": str(token_file),
        "AWS_CONFIG_FILE": str(config_file),
        "AWS_SHARED_CREDENTIALS_FILE": str(empty_file),
        "AWS_EC2_METADATA_DISABLED": "true",  # Java falls through to the instance's own role after a refusal
    }
    region = aws.regions.get(aws.default)
    if region:
        variables |= {"AWS_REGION": region, "AWS_DEFAULT_REGION": region}
    return variables


def _aws_config(aws: AwsSetup) -> str:
    """A profile per AWS grant. None is the default profile: that is the endpoint's."""
    lines = []
    for grant in aws.grants:
        lines += [f"[profile {grant}]", f"credential_process = {_own_command()} get {grant} --format aws"]
        lines += [f"region = {aws.regions[grant]}"] if aws.regions.get(grant) else []
        lines.append("")
    return "\n".join(lines)


def _own_command() -> str:
    program = Path(sys.argv[0]).absolute()
    if program.is_file() and program.name != "__main__.py":
        return shlex.join([sys.executable, str(program)])
    return shlex.join([sys.executable, "-m", "broker"])


def private_folder(beside: Path) -> tempfile.TemporaryDirectory[str]:
    """A folder of mode 0700 beside the session file, in memory where that is."""
    return tempfile.TemporaryDirectory(prefix="exec-", dir=beside.parent, ignore_cleanup_errors=True)


def _write(path: Path, text: str) -> None:
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600), "w", encoding="utf-8") as file:
        file.write(text)


def write_secret_file(path: Path, value: Secret) -> None:
    """The value alone, 0600. Replaces what a killed `exec` left there; refuses to touch anything else that is there.

    Raises Misconfigured(config_invalid).
    """
    try:
        found = path.lstat()
    except OSError:
        found = None
    if found is not None and (
        not stat.S_ISREG(found.st_mode) or found.st_uid != os.geteuid() or stat.S_IMODE(found.st_mode) != _PRIVATE
    ):
        raise Misconfigured(Code.CONFIG_INVALID, f"--file {str(path)!r}: something else is there already")
    try:
        descriptor, name = tempfile.mkstemp(prefix=".secret-", dir=path.parent)  # 0600
        with os.fdopen(descriptor, "w", encoding="utf-8", newline="") as file:
            file.write(value.reveal())
        Path(name).replace(path)
    except OSError as error:
        raise Misconfigured(Code.CONFIG_INVALID, f"--file {str(path)!r} cannot be written: {error.strerror}") from None
