"""The story of `credbroker exec`, in numbered steps."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from broker.errors import BrokerError, Code, Misconfigured, Refused
from broker.job.answers import ContainerCredentials, Credential, format_moment
from broker.job.child import Signals, run_command
from broker.job.endpoint import Answers, Endpoint
from broker.job.environment import AwsSetup, command_environment, private_folder, write_secret_file
from broker.job.heartbeat import Heartbeat
from broker.job.job_token import JobToken, find_job_token
from broker.job.joining import Joined, Left, join_or_open, leave
from broker.job.masking import Masker
from broker.job.references import EnvReference, FileReference, Wanted
from broker.job.retry import Patience
from broker.job.rotations import Rotations
from broker.job.session_file import SessionPlace, find_session_file
from broker.job.settings import JobSettings
from broker.secret import Secret

_REVOKE_WAIT = 10.0  # a job that has ended is not held up longer by a broker that is away
_NEEDS_SUBPATH = {Code.SUBPATH_DENIED, Code.PATH_INVALID}


@dataclass(frozen=True, slots=True, kw_only=True)
class ExecOrder:
    """What the command line asked for."""

    command: Sequence[str]
    settings: JobSettings
    environ: Mapping[str, str] = field(repr=False)
    grants: Sequence[Wanted] = ()
    environment: str | None = None
    aws: str | None = None
    variables: Sequence[EnvReference] = ()
    files: Sequence[FileReference] = ()
    mask: bool = True
    wait: float = 120.0


def run(order: ExecOrder, told: Callable[[str], None]) -> int:
    """Runs the command on the job's session; returns its exit code. `told` gets sentences for stderr.

    Nothing was started when this raises (Refused, Unavailable, Misconfigured), and what it opened is revoked then, too.
    """

    @cache
    def token() -> JobToken:
        return find_job_token(order.settings, order.environ)

    patience = Patience(wait=order.wait, told=told)
    with Signals() as signals:
        # 1. The job's session: the one that is there, or a new one.
        place = SessionPlace(find_session_file(order.settings, lambda: token().job_id))
        joined = join_or_open(place, order.settings, token, who="exec", environment=order.environment, patience=patience)
        read: dict[Wanted, Credential] = {}
        try:
            # 2. The credentials that were named, before the command: a denial stops the job before it begins.
            read |= _read(order, joined, patience)
            default = _default_aws(order.aws, _aws_grants(read))

            # 3. Run it.
            return _run(order, joined, signals, told, read, default)
        finally:
            # 4. Give back what was opened, and say so.
            signals.hold()
            left = leave(joined, Patience(wait=min(_REVOKE_WAIT, order.wait), told=told))
            joined.client.close()
            told(_report(joined, left, list(read.values())))


def _read(order: ExecOrder, joined: Joined, patience: Patience) -> dict[Wanted, Credential]:
    """Every credential that the command line names; without --grant and --aws, every one of the session that needs no subpath."""
    named = {*order.grants, *(one.wanted for one in order.variables), *(one.wanted for one in order.files)}
    named |= {Wanted(grant=order.aws)} if order.aws is not None else set()
    read = {wanted: _credential(joined, wanted, patience) for wanted in sorted(named)}
    if not order.grants and order.aws is None:
        for wanted in sorted({Wanted(grant=name) for name in joined.grants} - named):
            with suppress(_NeedsSubpathError):
                read[wanted] = _credential(joined, wanted, patience)
    return read


class _NeedsSubpathError(Refused):
    """The grant is one that can only be read with a subpath."""


def _credential(joined: Joined, wanted: Wanted, patience: Patience) -> Credential:
    try:
        return patience.call(lambda: joined.client.credential(joined.session.handle, wanted.grant, wanted.subpath))
    except Refused as refused:
        if refused.code in _NEEDS_SUBPATH:
            raise _NeedsSubpathError(refused.code, refused.public, detail=refused.detail) from None
        raise


def _aws_grants(read: Mapping[Wanted, Credential]) -> list[str]:
    return [wanted.grant for wanted, credential in read.items() if credential.kind == "aws"]


def _default_aws(asked: str | None, grants: Sequence[str]) -> str | None:
    if asked is not None:
        if asked not in grants:
            raise Misconfigured(Code.CONFIG_INVALID, f"--aws {asked}: that grant is no AWS grant")
        return asked
    if len(grants) > 1:
        raise Misconfigured(
            Code.CONFIG_INVALID,
            f"there are several AWS grants ({', '.join(grants)}); say with --aws which one the AWS SDKs get by default",
        )
    return grants[0] if grants else None


def _run(
    order: ExecOrder,
    joined: Joined,
    signals: Signals,
    told: Callable[[str], None],
    read: Mapping[Wanted, Credential],
    default_aws: str | None,
) -> int:
    client, handle = joined.client, joined.session.handle
    aws_grants = _aws_grants(read)
    job_token = _token_value(order.settings, order.environ)
    masker = Masker()
    rotations = Rotations(client, handle, masker)
    masker.learn([handle] if job_token is None else [handle, job_token])
    for wanted, credential in read.items():
        rotations.note(credential, wanted.subpath)

    with ExitStack() as stack:
        folder = Path(stack.enter_context(private_folder(joined.place.path)))
        aws, endpoint = None, None
        if default_aws is not None:

            def fetch(grant: str, seconds: float) -> ContainerCredentials:
                answer = client.container(handle, grant, seconds=seconds)
                masker.learn(answer.secrets)  # before the command can have them
                return answer

            endpoint = Endpoint(aws_grants, Answers(fetch))
            stack.callback(endpoint.stop)
            masker.learn([endpoint.token])
            aws = AwsSetup(
                grants=aws_grants,
                default=default_aws,
                endpoint_url=endpoint.url(default_aws),
                endpoint_token=endpoint.token,
                regions={
                    w.grant: c.fields["region"].reveal() for w, c in read.items() if c.kind == "aws" and "region" in c.fields
                },
            )
        environment = command_environment(
            order.environ,
            session=joined.session,
            session_file=joined.place.path,
            token_env=order.settings.token_env,
            job_token=job_token,
            aws=aws,
            folder=folder,
            extra={one.name: _field(read[one.wanted], one.field) for one in order.variables},
        )
        for one in order.files:
            write_secret_file(one.path, _field(read[one.wanted], one.field))
            stack.callback(one.path.unlink, missing_ok=True)
        heartbeat = Heartbeat(lambda: client.heartbeat(handle), told)
        stack.callback(heartbeat.stop)

        def started() -> None:
            # Not before the fork: a process with threads cannot be forked safely. Requests wait in the backlog.
            if endpoint is not None:
                endpoint.start()
            heartbeat.start()

        return run_command(
            order.command,
            environment,
            signals,
            masker=masker if order.mask else None,
            rotations=rotations if order.mask else None,
            on_start=started,
        )


def _field(credential: Credential, name: str) -> Secret:
    if name not in credential.fields:
        fields = ", ".join(sorted(credential.fields))
        raise Misconfigured(Code.CONFIG_INVALID, f"grant {credential.grant!r} has no field {name!r}; it has: {fields}")
    return credential.fields[name]


def _token_value(settings: JobSettings, environ: Mapping[str, str]) -> Secret | None:
    """The job token, to keep it from the command under every name and out of its output; None inside another `exec`."""
    try:
        return find_job_token(settings, environ).value
    except BrokerError:
        return None


def _report(joined: Joined, left: Left, read: Sequence[Credential]) -> str:
    line = f"session {joined.session.session_id} ({joined.session.environment}): {left.value}"
    if left is Left.FAILED:
        line += "; the broker is away, and revokes it by itself after five minutes without a heartbeat"
    ends = [credential.expires_at for credential in read if credential.kind == "aws"]
    if left is Left.REVOKED and ends:
        line += f"; AWS keys read at the start lapse by {format_moment(max(ends))}"
    return line
