"""`credbroker audit`: whether the log is what was signed, and what is in it. Needs the database file and no secret."""

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TextIO

import click

from broker.audit.checkpoint import VerifierKey
from broker.audit.facets import parsed
from broker.audit.fitting import plain
from broker.audit.ocsf import SHAPES
from broker.audit.query import Query, told
from broker.audit.verify import Report
from broker.audit.verify import verify as verified
from broker.errors import BrokerError
from broker.store.reading import LogFile, open_readonly
from broker.toml_source import duration

_BAD_DATA = 65  # sysexits.h EX_DATAERR
_PROGRESS_FROM = 5_000
_PROGRESS_EVERY = 1_000
_DATABASE = click.Path(exists=True, dir_okay=False, path_type=Path)


def _kind(_ctx: click.Context, _param: click.Parameter, given: str) -> str:
    if given and given not in SHAPES:
        raise click.BadParameter(f"there are no entries of kind {given!r}; there are {', '.join(SHAPES)}")
    return given


@click.group()
def audit() -> None:
    """Verify and query the issuance log."""


@audit.command(
    short_help="Check that the log is what was signed.",
    epilog="\b\nExample:\n  credbroker audit verify broker.db --key log.vkey",
)
@click.argument("database", metavar="DB", type=_DATABASE)
@click.option("--key", "vkey", required=True, metavar="VKEY|FILE", help="The log's public key (vkey), or a file that holds it.")
@click.option("--origin", metavar="NAME", help="Also insist that the key is of the log of this name.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as one JSON object.")
def verify(database: Path, vkey: str, origin: str | None, as_json: bool) -> None:
    """Check every entry, the tree, every signed checkpoint and every promise of the log in DB.

    Exits 0 when all of it is what was signed, and 65 otherwise, naming the first bad entry. A log that was put back to an
    earlier state of its own looks sound: compare the size and root with those you wrote down last time.
    """
    key = _key(vkey)
    if origin is not None and origin != key.name:
        raise click.BadParameter(f"the key is of the log {key.name!r}, not of {origin!r}", param_hint="--origin")
    with _reading(database) as log, _progress(log, quiet=as_json) as progress:
        report = verified(log, key, progress=progress)
    if as_json:
        click.echo(json.dumps(_as_json(report)))
    else:
        _tell(report)
    if not report.sound:
        raise SystemExit(_BAD_DATA)


@audit.command(
    short_help="Print entries of the log.",
    epilog="\b\nExamples:\n  credbroker audit query broker.db --project 4711 --kind issued --since 1d\n"
    "  credbroker audit query broker.db --credential AKIAIOSFODNN7EXAMPLE --json",
)
@click.argument("database", metavar="DB", type=_DATABASE)
@click.option("--project", default="", metavar="ID|PATH", help="Of this project.")
@click.option("--job", default="", metavar="ID", help="Of this job.")
@click.option("--session", default="", metavar="ID", help="Of this session.")
@click.option("--environment", default="", metavar="NAME", help="In this environment.")
@click.option("--grant", default="", metavar="NAME", help="About this grant.")
@click.option(
    "--kind", default="", callback=_kind, metavar="KIND", help="Of this kind, e.g. issued, denied, revoked."
)  # a typo must not look like a log in which nothing happened
@click.option("--credential", default="", metavar="ID", help="About this access key id, accessor, lease id or session name.")
@click.option("--since", metavar="TIME|SPAN", help="Not older: 2026-11-23T08:00:00Z, 2026-11-23, or 90m, 2h, 7d ago.")
@click.option("--until", metavar="TIME|SPAN", help="Older than this.")
@click.option("--limit", default=1000, show_default=True, type=click.IntRange(min=1), help="The newest so many.")
@click.option("--json", "as_json", is_flag=True, help="Print whole entries, one JSON object a line.")
def query(
    database: Path,
    project: str,
    job: str,
    session: str,
    environment: str,
    grant: str,
    kind: str,
    credential: str,
    since: str | None,
    until: str | None,
    limit: int,
    as_json: bool,
) -> None:
    """Print the entries of the log in DB that match every option given, oldest first.

    Nothing here is verified; `credbroker audit verify` is for that.
    """
    now = datetime.now(UTC)
    wanted = Query(
        project=project,
        job=job,
        session=session,
        environment=environment,
        grant=grant,
        kind=kind,
        credential=credential,
        since=_time("--since", since, now),
        until=_time("--until", until, now),
        limit=limit,
    )
    with _reading(database) as log:
        found = log.find(wanted)
    if as_json:
        for index, body in found:
            click.echo(json.dumps({"index": index, "entry": parsed(body)}, ensure_ascii=True))
    else:
        _table([(index, parsed(body)) for index, body in found])


@contextmanager
def _reading(database: Path) -> Iterator[LogFile]:
    """The log, open. What is wrong with the file is one sentence and an exit code."""
    try:
        with open_readonly(database) as log:
            yield log
    except BrokerError as error:
        click.echo(f"credbroker: {error.public}", err=True)
        raise SystemExit(_BAD_DATA) from None
    except ValueError as error:
        click.echo(f"credbroker: {database}: {error}", err=True)
        raise SystemExit(_BAD_DATA) from None


@contextmanager
def _progress(log: LogFile, *, quiet: bool) -> Iterator[Callable[[int], None]]:
    """A bar on stderr while a long log is read, when somebody is there to see it."""
    size = log.size()
    if quiet or size < _PROGRESS_FROM or not _watched(sys.stderr):
        yield lambda _: None
        return
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("verifying", total=size)

        def told_so_far(done: int) -> None:
            if done % _PROGRESS_EVERY == 0:
                bar.update(task, completed=done)

        yield told_so_far


def _watched(stream: TextIO) -> bool:
    return stream.isatty()


def _key(given: str) -> VerifierKey:
    try:
        path = Path(given)
        text = path.read_text("utf-8").strip() if path.is_file() else given.strip()
        return VerifierKey.parse(text)
    except (ValueError, OSError) as error:
        raise click.BadParameter(
            f"not a verifier key, nor a file with one: {error}; `credbroker keygen` prints it", param_hint="--key"
        ) from None


def _time(option: str, given: str | None, now: datetime) -> datetime | None:
    if given is None:
        return None
    try:
        at = datetime.fromisoformat(given)
    except ValueError:
        try:
            return now - duration(given)
        except (ValueError, OverflowError):
            raise click.BadParameter("give a time as 2026-11-23T08:00:00Z, or a span as 90m, 2h, 7d", param_hint=option) from None
    return at if at.tzinfo else at.replace(tzinfo=UTC)


def _as_json(report: Report) -> dict[str, Any]:
    return {
        "sound": report.sound,
        "origin": report.origin,
        "size": report.size,
        "root": report.root.hex(),
        "checkpoints": report.checkpoints,
        "open_intents": report.open_intents,
        "problems": [{"index": p.index, "entry_id": p.entry_id, "what": p.what} for p in report.problems],
        "more_problems": report.more,
    }


def _tell(report: Report) -> None:
    for problem in report.problems:
        click.echo(plain(str(problem)))
    if report.more:
        click.echo(f"and {report.more} more problems")
    if report.sound:
        click.secho("sound: every entry is what was signed", fg="green")
    else:
        first = next((p for p in report.problems if p.index is not None), None)
        where = f"; the first bad entry is {first.index}" if first else ""
        click.secho(f"NOT what was signed{where}", fg="red", bold=True)
    click.echo(f"log          {report.origin}")
    click.echo(f"entries      {report.size}")
    click.echo(f"root         {report.root.hex()}")
    click.echo(f"checkpoints  {report.checkpoints}")
    if report.open_intents:
        click.echo(f"open         {report.open_intents} issuances are under way")


def _table(found: list[tuple[int, dict[str, Any]]]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    lines = [(str(index), told(index, event)) for index, event in found]
    if not _watched(sys.stdout):
        for index, line in lines:
            click.echo("\t".join(plain(cell) for cell in (index, line.time, line.kind, line.job, line.where, line.what)))
        return
    table = Table(box=None, header_style="bold", pad_edge=False)
    for name in ("#", "time (UTC)", "kind", "job", "for", "what"):
        table.add_column(name, overflow="fold")
    for index, line in lines:
        style = _STYLES.get(line.kind, "")
        cells = (index, line.time, line.kind, line.job, line.where, line.what)
        table.add_row(*(Text(plain(cell)) for cell in cells), style=style)
    Console().print(table)
    click.echo(f"{len(lines)} entries", err=True)


_STYLES = {"denied": "yellow", "intent_failed": "yellow", "issued": "green", "revoke_failed": "red", "revoked": "cyan"}
