"""`credbroker policy`: what is wrong with a policy, and why it decides as it does."""

import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from broker.cli.policy_prove import prove
from broker.errors import BrokerError, Code, Misconfigured, Refused

if TYPE_CHECKING:  # imported where they are used: `--help` needs none of it
    from broker.policy.explain import Explanation, Trail
    from broker.policy.model import Policy, Step
    from broker.toml_source import Problem

T = TypeVar("T")

_MAX_CHARS = 1_000_000


@click.group()
def policy() -> None:
    """Check a policy; explain what it decides and why."""


@policy.command(epilog="\b\nExample:\n  credbroker policy check policy.toml")
@click.argument("file")
@click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout.")
def check(file: str, as_json: bool) -> None:
    """Report everything that is wrong with a policy, and what deserves a second look.

    Exit code 78 when anything is wrong. Warnings do not change it.
    """
    from broker.policy.check import warnings
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
        click.echo(json.dumps(record, indent=2))
        return
    for warning in found:
        _say("warning", "yellow", str(warning))
    counts = f"{len(loaded.environments)} environments, {len(loaded.grants)} grants"
    click.echo(f"{name}: good; {counts}, no two environments can match one job; {loaded.hash}")


@policy.command("explain", epilog="\b\nExample:\n  credbroker policy explain claims.json --policy policy.toml")
@click.argument("source", metavar="TOKEN_FILE|CLAIMS.json|-")
@click.option("--policy", "policy_file", required=True, metavar="FILE", help="The policy to explain.")
@click.option("--issuer", metavar="NAME", help="The issuer's name, as in when.issuer  [default: the policy's only one]")
@click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout.")
def explain_(source: str, policy_file: str, issuer: str | None, as_json: bool) -> None:
    """Show, condition by condition, what a policy makes of a job's claims.

    Takes a file with the job token, a JSON file with claims, or - for stdin. The token is decoded and NOT verified, and is
    never printed.
    """
    from broker.policy.explain import explain
    from broker.policy.language import load

    def run() -> "Explanation":
        loaded = load(policy_file)
        return explain(loaded, _issuer(loaded, issuer), _members(source))

    explanation = _or_exit(run)
    if as_json:
        click.echo(json.dumps(_explanation_record(explanation), indent=2, ensure_ascii=False))
    else:
        _print(explanation)


# --- what goes in -----------------------------------------------------------------------------------------------------


def _issuer(loaded: "Policy", asked: str | None) -> str:
    from broker.policy.explain import issuers_of

    names = issuers_of(loaded)
    if asked is None and len(names) > 1:
        raise Misconfigured(Code.CONFIG_INVALID, f"the policy has several issuers ({', '.join(names)}); say which with --issuer")
    if asked is not None and asked not in names:
        raise Misconfigured(Code.CONFIG_INVALID, f"no environment is of issuer {asked!r}; the policy's are {', '.join(names)}")
    return asked or names[0]


def _members(source: str) -> Mapping[str, Any]:
    """The claims in a file: those of a token, or the JSON object itself. No message quotes what was read."""
    from broker.identity.gate import parse as parse_token
    from broker.identity.strict_json import NotStrictError, strict_object

    try:
        if source == "-":
            text = sys.stdin.buffer.read(_MAX_CHARS + 1)
        else:
            with Path(source).open("rb") as file:
                text = file.read(_MAX_CHARS + 1)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "not a usable path"
        raise Refused(Code.REQUEST_INVALID, f"{source!r} cannot be read ({reason})") from None
    text = text.strip()
    if not text or len(text) > _MAX_CHARS:
        raise Refused(Code.REQUEST_INVALID, f"{source!r} is {'too long' if text else 'empty'}; give a job token or its claims")
    if not text.startswith(b"{"):
        return parse_token(text.decode("latin-1")).unverified_members
    try:
        return strict_object(text)
    except NotStrictError as error:
        raise Refused(Code.REQUEST_INVALID, f"the claims in {source!r} cannot be read: {error}") from None


def _or_exit(run: Callable[[], T]) -> T:
    try:
        return run()
    except BrokerError as error:
        click.echo(f"credbroker: {error.public} [{error.code.word}]", err=True)
        sys.exit(error.code.exit_code)


# --- what comes out ---------------------------------------------------------------------------------------------------


def _print(explanation: "Explanation") -> None:
    from broker.policy.model import Allow

    decision = explanation.decision
    click.echo("The claims are not verified: this explains the policy and proves nothing about the job.", err=True)
    for remark in explanation.remarks:
        click.echo(f"note: {remark}", err=True)
    pins = ", ".join(f"{pin} {value or 'absent'}" for pin, value in explanation.pins.items())
    click.echo(f"job of issuer {explanation.issuer}, {pins}")
    if explanation.trails and not explanation.trails[0].pinned_here:
        click.echo("No environment is pinned to these ids; the nearest of others:")
    for trail in explanation.trails:
        click.echo("\n" + click.style(trail.environment, bold=True) + (": matches" if not trail.missing else ": does not match"))
        for step in trail.steps:
            click.echo(f"  {_mark(step)} {step.clause:<15} {step.claim:<18} {_value(step):<28} wanted {step.wanted}")
    click.echo("")
    if isinstance(decision, Allow):
        grants = ", ".join(decision.grants) or "no grants"
        click.echo(click.style("ALLOW", fg="green", bold=True) + f" environment {decision.environment}: {grants}")
        return
    click.echo(click.style("DENY", fg="red", bold=True) + f" {decision.code.word}: {decision.hint}")
    if explanation.trails:
        nearest = explanation.trails[0]
        wanted = "; ".join(f"{step.claim} {step.wanted}, and it is {_value(step)}" for step in nearest.missing)
        click.echo(f"nearest is {nearest.environment}; it wants {wanted}")


def _mark(step: "Step") -> str:
    return click.style("yes", fg="green") if step.met else click.style("NO ", fg="red")


def _value(step: "Step") -> str:
    return "absent" if step.value is None else repr(step.value)


def _explanation_record(explanation: "Explanation") -> dict[str, Any]:
    from broker.policy.model import Allow

    decision = explanation.decision
    outcome: dict[str, Any]
    if isinstance(decision, Allow):
        outcome = {"decision": "allow", "environment": decision.environment, "grants": list(decision.grants)}
    else:
        outcome = {"decision": "deny", "code": decision.code.word, "hint": decision.hint}
    return {
        **outcome,
        "verified": False,
        "issuer": explanation.issuer,
        "pins": dict(explanation.pins),
        "remarks": list(explanation.remarks),
        "environments": [_trail_record(trail) for trail in explanation.trails],
    }


def _trail_record(trail: "Trail") -> dict[str, Any]:
    steps = [{"clause": s.clause, "claim": s.claim, "value": s.value, "wanted": s.wanted, "met": s.met} for s in trail.steps]
    return {"name": trail.environment, "pinned_here": trail.pinned_here, "matches": not trail.missing, "steps": steps}


def _record(problem: "Problem") -> dict[str, Any]:
    return {"file": problem.file, "line": problem.line, "what": problem.what, "instead": problem.instead}


def _say(word: str, colour: str, sentence: str) -> None:
    click.echo(f"{click.style(word, fg=colour)}: {sentence}", err=True)


policy.add_command(prove)
