"""`credbroker serve`: the broker itself, or with `--check` only the word on whether it would start."""

from collections.abc import Iterable, Iterator
from pathlib import Path

import click

from broker.errors import BrokerError, ManyFaults

_EXAMPLE = """\b
Examples:
  credbroker serve --config /etc/credbroker/broker.toml
  credbroker serve --config broker.toml --check
"""


@click.command(epilog=_EXAMPLE)
@click.option(
    "--config",
    "path",
    required=True,
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="broker.toml; paths in it are relative to it.",
)
@click.option("--check", is_flag=True, help="Read everything, print every problem, start nothing. Exits with 0 or 78.")
def serve(path: Path, *, check: bool) -> None:
    """Run the broker until SIGTERM or SIGINT. It logs JSON lines on stderr.

    A stop is graceful: nothing new is accepted, what is in flight is answered, the log is flushed.
    """
    from broker.config import load
    from broker.toml_source import SourceInvalid

    try:
        if check:
            from broker import checking

            _report(dict.fromkeys(checking.check(path)))
            return
        config = load(path)
        from broker import wiring
        from broker.web.logs import to_stderr

        to_stderr()
        wiring.run(config)
    except (SourceInvalid, ManyFaults) as invalid:
        for line in _told(invalid):
            click.echo(line, err=True)
        click.get_current_context().exit(invalid.code.exit_code)


def _told(invalid: BrokerError) -> Iterator[str]:
    """One line for each problem: with its file and line, or as the command tells a lone error."""
    from broker.toml_source import SourceInvalid

    if isinstance(invalid, ManyFaults):
        for fault in invalid.faults:
            yield from _told(fault)
    elif isinstance(invalid, SourceInvalid):
        yield from map(str, invalid.problems)
    else:
        yield f"credbroker: {invalid.public} [{invalid.code.word}]"


def _report(warnings: Iterable[str]) -> None:
    for warning in warnings:
        click.echo(f"warning: {warning}", err=True)
    click.echo("ok")
