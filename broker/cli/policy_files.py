"""What the commands of `policy` share: a policy from a path, and one sentence with an exit code for what goes wrong."""

import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

import click

from broker.errors import BrokerError

if TYPE_CHECKING:  # imported where it is used: `--help` needs none of it
    from broker.policy.model import Policy

T = TypeVar("T")


def loaded(file: str) -> "Policy":
    """The policy, or every problem on stderr and exit code 78."""
    from broker.policy.language import load
    from broker.toml_source import SourceInvalid

    try:
        return load(file)
    except SourceInvalid as invalid:
        for problem in invalid.problems:
            click.echo(f"{click.style('error', fg='red')}: {problem}", err=True)
        click.echo(f"{file} is not taken; `credbroker policy check` says the same [{invalid.code.word}]", err=True)
        sys.exit(invalid.code.exit_code)


def or_exit(run: Callable[[], T]) -> T:
    try:
        return run()
    except BrokerError as error:
        click.echo(f"credbroker: {error.public} [{error.code.word}]", err=True)
        sys.exit(error.code.exit_code)
