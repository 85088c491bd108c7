"""`credbroker policy`: what is wrong with a policy, and why it decides as it does."""

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from broker.cli.policy_diff import diff, replay
from broker.cli.policy_explain import explain_
from broker.cli.policy_init import init
from broker.cli.policy_prove import prove
from broker.cli.policy_render import render
from broker.cli.policy_test import test

if TYPE_CHECKING:  # imported where they are used: `--help` needs none of it
    from broker.toml_source import Problem


@click.group()
def policy() -> None:
    """Check, test, explain and prove a policy; show what a change changes."""


@policy.command(
    short_help="Report everything that is wrong with a policy.", epilog="\b\nExample:\n  credbroker policy check policy.toml"
)
@click.argument("file")
@click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout.")
def check(file: str, as_json: bool) -> None:
    """Report everything that is wrong with a policy (a file, or a folder of them), and what deserves a second look.

    Exit code 78 when anything is wrong. Warnings do not change it.
    """
    from broker.policy.check import shared, warnings
    from broker.policy.language import load
    from broker.toml_source import SourceInvalid

    name = Path(file).name
    try:
        loaded = load(file)
    except SourceInvalid as invalid:
        if as_json:
            click.echo(json.dumps({"ok": False, "problems": [_record(p) for p in invalid.problems], "warnings": []}, indent=2))
        else:
            for problem in invalid.problems:
                _say("error", "red", str(problem))
            count = len(invalid.problems)
            click.echo(f"{name}: {count} problem{'s' if count > 1 else ''} [{invalid.code.word}]", err=True)
        sys.exit(invalid.code.exit_code)
    found = warnings(loaded)
    if as_json:
        record = {"ok": True, "hash": loaded.hash, "problems": [], "warnings": [_record(w) for w in found]}
        record |= {"shared": shared(loaded)}
        click.echo(json.dumps(record, indent=2))
        return
    for warning in found:
        _say("warning", "yellow", str(warning))
    for grant, reached in shared(loaded).items():
        click.echo(f"shared grant {grant!r} is reached by {len(reached)} environments: {'; '.join(reached)}")
    counts = f"{_counted(len(loaded.environments), 'environment')}, {_counted(len(loaded.grants), 'grant')}"
    click.echo(f"{name}: good; {counts}, no two environments can match one job; {loaded.hash}")


def _record(problem: "Problem") -> dict[str, Any]:
    return {"file": problem.file, "line": problem.line, "what": problem.what, "instead": problem.instead}


def _counted(number: int, of: str) -> str:
    return f"{number} {of}{'' if number == 1 else 's'}"


def _say(word: str, colour: str, sentence: str) -> None:
    click.echo(f"{click.style(word, fg=colour)}: {sentence}", err=True)


for command in (test, explain_, init, prove, diff, replay, render):
    policy.add_command(command)
