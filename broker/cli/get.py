"""`credbroker get`."""

import os
from datetime import timedelta
from pathlib import Path
from typing import Literal

import click

from broker.cli.job_options import duration, job_options, or_exit, say

_EXAMPLE = """\b
Example:
  PGPASSWORD=$(credbroker get warehouse --field password)
  eval "$(credbroker get lake --format env --min-ttl 3h)"
"""


@click.command("get", epilog=_EXAMPLE)
@click.argument("grant")
@click.option("--field", metavar="F", help="Print this field's value alone.")
@click.option(
    "--format",
    "format_",
    type=click.Choice(["json", "env", "aws"]),
    help="json, `export` lines, or an AWS credential_process answer  [default: json]",
)
@click.option(
    "--min-ttl", callback=duration, metavar="3h", help="Refuse a credential that ends sooner than this; ask for a new one."
)
@job_options
def get(
    grant: str,
    field: str | None,
    format_: Literal["json", "env", "aws"] | None,
    min_ttl: timedelta | None,
    environment: str | None,
    wait: timedelta,
    url: str | None,
    token_env: str | None,
    token_file: Path | None,
) -> None:
    """Print one credential of GRANT (or GRANT/subpath).

    It stays good for the rest of the job: a session that had to be opened for it is left open, and ends with the job token.
    Inside `credbroker exec` it is of that session, and ends with it.
    """
    from broker.job.getting import GetOrder
    from broker.job.getting import get as read
    from broker.job.private import keep_private
    from broker.job.references import parse_wanted
    from broker.job.settings import JobSettings

    keep_private()

    if field is not None and format_ is not None:
        raise click.UsageError("--field prints one bare value; it does not go with --format")

    def start() -> str:
        order = GetOrder(
            wanted=parse_wanted(grant),
            settings=JobSettings.read(os.environ, url=url, token_env=token_env, token_file=token_file),
            environ=dict(os.environ),
            field=field,
            format=format_ or "json",
            min_ttl=min_ttl,
            environment=environment,
            wait=wait.total_seconds(),
        )
        return read(order, say)

    click.echo(or_exit(start))
