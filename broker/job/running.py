"""The story of `credbroker exec`, in numbered steps."""

import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import datetime
from functools import cache
from pathlib import Path

from broker.errors import BrokerError, Code, Misconfigured
from broker.job.answers import ContainerCredentials, Credential, Offer, format_moment
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

_OF_AWS = ("aws", "rds")  # kinds that nobody can take back
_REVOKE_WAIT = 10.0  # a job that has ended is not held up longer by a broker that is away


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
        ends = Ends()
        try:
            # 2. What the session offers, without reading any of it.
            view = patience.call(lambda: joined.client.view(joined.session.handle))
            aws = _aws_grants(order, view.offers)
            default = _default_aws(order, aws, view.offers)

            # 3. The credentials that were named, before the command: a denial stops the job before it begins. No other is
            #    minted until the command asks for it.
            read = {wanted: _credential(joined, wanted, patience) for wanted in sorted(_named(order))}
            ends.note(credential.expires_at for credential in read.values() if credential.kind in _OF_AWS)

            # 4. Run it.
            return _run(order, joined, signals, told, _Given(read=read, aws=aws, default=default, ends=ends))
        finally:
            # 5. Give back what was opened, and say so.
            signals.hold()
            left = leave(joined, Patience(wait=min(_REVOKE_WAIT, order.wait), told=told))
            joined.client.close()
            told(_report(joined, left, ends))


class Ends:
    """When the last AWS keys or RDS token that passed through this `exec` lapse: nobody can take those back. For any thread."""

    def __init__(self) -> None:
        self.last: datetime | None = None
        self._lock = threading.Lock()

    def note(self, ends: Iterable[datetime]) -> None:
        with self._lock:
            self.last = max([*ends, *([] if self.last is None else [self.last])], default=None)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Given:
    """What the command gets, beside the session itself."""

    read: Mapping[Wanted, Credential]
    aws: Sequence[Offer]
    default: str | None  # of those, the one that AWS SDKs find without being told
    ends: Ends


def _named(order: ExecOrder) -> set[Wanted]:
    """Every credential that the command line names."""
    named = {*order.grants, *(one.wanted for one in order.variables), *(one.wanted for one in order.files)}
    return named if order.aws is None else named | {Wanted(grant=order.aws)}


def _credential(joined: Joined, wanted: Wanted, patience: Patience) -> Credential:
    return patience.call(lambda: joined.client.credential(joined.session.handle, wanted.grant, wanted.subpath))


def _aws_grants(order: ExecOrder, offers: Sequence[Offer]) -> list[Offer]:
    """The command's AWS grants: those that --grant and --aws name; without --grant, every one of the session."""
    named = {wanted.grant for wanted in order.grants} | {order.aws}
    return [offer for offer in offers if offer.kind == "aws" and (not order.grants or offer.grant in named)]


def _default_aws(order: ExecOrder, aws: Sequence[Offer], offers: Sequence[Offer]) -> str | None:
    """Raises Misconfigured when it cannot be told. A grant that the session does not have is the broker's to refuse."""
    names = [offer.grant for offer in aws]
    if order.aws is not None:
        if order.aws in {offer.grant for offer in offers} - set(names):
            raise Misconfigured(Code.CONFIG_INVALID, f"--aws {order.aws}: that grant is no AWS grant")
        return order.aws
    if len(names) > 1:
        raise Misconfigured(
            Code.CONFIG_INVALID,
            f"there are several AWS grants ({', '.join(names)}); say with --aws which one the AWS SDKs get by default",
        )
    return names[0] if names else None


def _run(
    order: ExecOrder,
    joined: Joined,
    signals: Signals,
    told: Callable[[str], None],
    given: _Given,
) -> int:
    client, handle, read = joined.client, joined.session.handle, given.read
    aws_grants = [offer.grant for offer in given.aws]
    job_token = _token_value(order.settings, order.environ)
    masker = Masker()
    rotations = Rotations(client, handle, masker)
    masker.learn([handle] if job_token is None else [handle, job_token])
    for wanted, credential in read.items():
        rotations.note(credential, wanted.subpath)

    with ExitStack() as stack:
        folder = Path(stack.enter_context(private_folder(joined.place.path)))
        aws, endpoint = None, None
        if given.default is not None:

            def fetch(grant: str, seconds: float) -> ContainerCredentials:
                answer = client.container(handle, grant, seconds=seconds)
                masker.learn(answer.secrets)  # before the command can have them
                given.ends.note([answer.expires_at])
                return answer

            endpoint = Endpoint(aws_grants, Answers(fetch))
            stack.callback(endpoint.stop)
            masker.learn([endpoint.token])
            aws = AwsSetup(
                grants=aws_grants,
                default=given.default,
                endpoint_url=endpoint.url(given.default),
                endpoint_token=endpoint.token,
                regions={offer.grant: offer.region for offer in given.aws if offer.region is not None},
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


def _report(joined: Joined, left: Left, ends: Ends) -> str:
    line = f"session {joined.session.session_id} ({joined.session.environment}): {left.value}"
    if left is Left.FAILED:
        line += "; the broker is away, and revokes it by itself after five minutes without a heartbeat"
    if left is Left.LAST:
        line += f"; it ends at {format_moment(joined.session.expires_at)}"
    if left is Left.REVOKED and ends.last is not None:
        line += f"; AWS credentials that the command had lapse by {format_moment(ends.last)}"
    return line
