"""`credbroker exec`."""

import os
import sys
from datetime import timedelta
from pathlib import Path

import click

from broker.cli.job_options import job_options, or_exit, say

_EXAMPLE = """\b
Example:
  credbroker exec -- luigi --module pipelines.daily Daily
  credbroker exec --grant lake --env DB_PASSWORD=secret://warehouse#password -- ./load.sh
"""


@click.command("exec", epilog=_EXAMPLE, context_settings={"allow_interspersed_args": False}, options_metavar="[OPTIONS] --")
@click.option(
    "--grant",
    "grants",
    multiple=True,
    metavar="G",
    help="Read this grant before the command starts (repeatable)  [default: none; each is read when the command asks]",
)
@click.option("--aws", metavar="G", help="The grant that AWS SDKs use by default, when there are several; read first too.")
@click.option("--env", "variables", multiple=True, metavar="NAME=REF", help="Put one value into a variable of the command.")
@click.option(
    "--file",
    "files",
    multiple=True,
    metavar="PATH=REF",
    help="Put one value into a file (0600), removed at the end.",
)
@click.option("--mask/--no-mask", default=True, show_default=True, help="Hide this session's values in the command's output.")
@job_options
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
def exec_(
    command: tuple[str, ...],
    grants: tuple[str, ...],
    aws: str | None,
    variables: tuple[str, ...],
    files: tuple[str, ...],
    mask: bool,
    environment: str | None,
    wait: timedelta,
    url: str | None,
    token_env: str | None,
    token_file: Path | None,
) -> None:
    """Run COMMAND with the job's short-lived credentials, rotated while it runs and taken back when it ends.

    What is named here is read before COMMAND starts: a grant that is denied stops the job there, and one that is not named is
    issued only when COMMAND asks for it. COMMAND finds AWS credentials the way AWS SDKs look for them (the job's one AWS grant,
    or the one that --grant or --aws names), and everything else through $CREDBROKER_SESSION_FILE. AWS_REGION becomes that
    grant's region, which the broker knows without reading it. REF is secret://GRANT[/SUBPATH]#FIELD. The exit code is COMMAND's
    own; 128+n when signal n ended it.
    """
    from broker.job.private import keep_private
    from broker.job.references import parse_env, parse_file, parse_wanted
    from broker.job.running import ExecOrder, run
    from broker.job.settings import JobSettings

    keep_private()

    def start() -> int:
        order = ExecOrder(
            command=command,
            settings=JobSettings.read(os.environ, url=url, token_env=token_env, token_file=token_file),
            environ=dict(os.environ),
            grants=tuple(parse_wanted(text) for text in grants),
            environment=environment,
            aws=aws,
            variables=tuple(parse_env(text) for text in variables),
            files=tuple(parse_file(text) for text in files),
            mask=mask,
            wait=wait.total_seconds(),
        )
        return run(order, say)

    sys.exit(or_exit(start))
