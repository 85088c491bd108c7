"""What the commands on the job's side share: their options, and how they fail."""

import re
import sys
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

import click

from broker.errors import BrokerError

_DURATION = re.compile(r"([0-9]{1,6})(s|m|h)?")
_UNITS = {"": 1, "s": 1, "m": 60, "h": 3600}
T = TypeVar("T")
F = TypeVar("F", bound=Callable[..., Any])


def duration(_ctx: click.Context, _param: click.Parameter, value: str | None) -> timedelta | None:
    """`90s`, `2m`, `3h`, or a number of seconds."""
    if value is None:
        return None
    match = _DURATION.fullmatch(value)
    if match is None:
        raise click.BadParameter(f"{value!r} is no duration such as 90s, 2m or 3h")
    return timedelta(seconds=int(match[1]) * _UNITS[match[2] or ""])


def job_options(command: F) -> F:
    """The options that say where the broker and the job token are."""
    for option in (
        click.option("--token-file", type=click.Path(path_type=Path), help="Read the job token from this file."),
        click.option("--token-env", metavar="NAME", help="Read the job token from this variable  [default: CREDBROKER_ID_TOKEN]"),
        click.option("--url", help="The broker: https://…, http://127.0.0.1:… or unix:///path  [default: $CREDBROKER_URL]"),
        click.option(
            "--wait",
            metavar="2m",
            callback=duration,
            default="2m",
            show_default=True,
            help="How long to wait for a broker that is away.",
        ),
        click.option("--environment", metavar="E", help="Refuse to go on when the job is in any other environment."),
    ):
        command = option(command)
    return command


def say(sentence: str) -> None:
    click.echo(f"credbroker: {sentence}", err=True)


def or_exit(run: Callable[[], T]) -> T:
    """What `run` returns. Its refusal is one sentence and its code on stderr, and the exit code of sysexits.h."""
    try:
        return run()
    except BrokerError as error:
        detail = f" ({error.detail})" if error.detail else ""
        # The lines that a sentence brings along are for pasting: the code stands before them.
        sentence, newline, lines = error.public.partition("\n")
        say(f"{sentence} [{error.code.word}]{detail}{newline}{lines}")
        sys.exit(getattr(error, "exit_code", error.code.exit_code))
