"""`credbroker doctor`."""

import json
import os
import sys
from pathlib import Path

import click

from broker.cli.job_options import or_exit

_EXAMPLE = """\b
Example:
  credbroker doctor
  credbroker doctor --token-env VAULT_ID_TOKEN --json
"""
_COLOURS = {"ok": "green", "warn": "yellow", "fail": "red"}


@click.command("doctor", epilog=_EXAMPLE)
@click.option("--json", "as_json", is_flag=True, help="Print the checks as one JSON object.")
@click.option("--environment", metavar="E", help="Say so when the job is in any other environment.")
@click.option("--url", help="The broker: https://…, http://127.0.0.1:… or unix:///path  [default: $CREDBROKER_URL]")
@click.option("--token-env", metavar="NAME", help="Read the job token from this variable  [default: CREDBROKER_ID_TOKEN]")
@click.option("--token-file", type=click.Path(path_type=Path), help="Read the job token from this file.")
def doctor(as_json: bool, environment: str | None, url: str | None, token_env: str | None, token_file: Path | None) -> None:
    """Say, from inside a job, what stands between it and its credentials.

    Checks the job token, its audience and hours, the way to the broker, the clocks, what the broker would give this job and why
    not, and what shadows AWS credentials. Never prints the token. A job without a session opens one and closes it again, which is
    one of the few that its token may open; no credential is minted.

    Exit code: 0 when nothing failed (warnings may be there), else 78 to set something right, 77 denied, 69 the broker is away.
    """
    from broker.job.doctor import Doctor
    from broker.job.settings import JobSettings

    settings = or_exit(lambda: JobSettings.read(os.environ, url=url, token_env=token_env, token_file=token_file))
    report = Doctor(settings=settings, environ=dict(os.environ), environment=environment).examine()
    if as_json:
        click.echo(json.dumps(report.to_document(), indent=2))
    else:
        for finding in report.findings:
            word = click.style(f"{finding.status.value:<4}", fg=_COLOURS[finding.status.value])
            click.echo(f"{word}  {finding.check:<12}  {finding.says}")
            if finding.do:
                click.echo(f"{'':<20}→ {finding.do}")
        if report.not_checked:
            click.echo(f"not checked, because of what failed: {', '.join(report.not_checked)}")
    sys.exit(report.exit_code)
