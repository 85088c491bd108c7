"""`credbroker policy prove`: a proof, or a job that shows the opposite."""

import json
import sys
from typing import TYPE_CHECKING, Any

import click

from broker.errors import Code, Refused

if TYPE_CHECKING:  # imported where they are used: `--help` needs none of it
    from broker.identity.claims import ClaimSet
    from broker.policy.model import Policy
    from broker.policy.prove import Witness

_WITNESS = 1  # the exit code of "no, and here is why"


@click.command(
    epilog="\b\nExamples:\n  credbroker policy prove policy.toml\n"
    "  credbroker policy prove policy.toml --never environment=production,claim.ref_protected=false\n"
    "  credbroker policy prove policy.toml --who-can lake@production"
)
@click.argument("file")
@click.option(
    "--never", "nevers", multiple=True, metavar="KEY=VALUE,…", help="What must not be possible: environment, grant, claim.NAME."
)
@click.option(
    "--who-can", "whos", multiple=True, metavar="GRANT[@ENVIRONMENT]", help="Every rule that gives a grant, with a job."
)
@click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout.")
def prove(file: str, nevers: tuple[str, ...], whos: tuple[str, ...], as_json: bool) -> None:
    """Prove that something can never be, or print the shortest job for which it is.

    Without a question: the policy's own [[invariant]]s, and that no two environments match one job. A witness is a set of claims
    that `policy explain` takes. The proof is over the claims as `docs/policy.md` says they can be. Exit code 1 when anything
    asked with --never is possible.
    """
    from broker.cli.policy_files import loaded, or_exit
    from broker.errors import Misconfigured
    from broker.policy.prove import TooComplexError

    policy = loaded(file)

    def run() -> list[dict[str, Any]]:
        try:
            asked = [_never(policy, text) for text in nevers] + [_who(policy, text) for text in whos]
            return asked or _own(policy)
        except TooComplexError:
            sentence = "neither a proof nor a witness within bounds: use fewer wildcards in one pattern, or exact values"
            raise Misconfigured(Code.CONFIG_INVALID, sentence) from None

    answers = or_exit(run)
    if as_json:
        click.echo(json.dumps({"hash": policy.hash, "answers": answers}, indent=2, ensure_ascii=False))
    else:
        for answer in answers:
            _print(answer)
    if any(answer["proved"] is False for answer in answers):
        sys.exit(_WITNESS)


def _own(policy: "Policy") -> list[dict[str, Any]]:
    """What loading has proved already: a policy that breaks any of it does not load."""
    first = {"asked": "no two environments match one job", "proved": True, "witness": None}
    return [first, *({"asked": i.name, "proved": True, "witness": None} for i in policy.invariants)]


def _never(policy: "Policy", text: str) -> dict[str, Any]:
    from broker.policy.prove import ask, violation
    from broker.toml_source import SourceInvalid

    try:
        invariant = ask(policy, text)
    except SourceInvalid as invalid:
        problem = invalid.problems[0]
        raise Refused(Code.REQUEST_INVALID, f"--never {text}: {problem.what}; {problem.instead}".rstrip("; ")) from None
    witness = violation(policy, invariant)
    return {
        "asked": f"never {text}",
        "proved": witness is None,
        "witness": None if witness is None else _witness(policy, witness),
    }


def _who(policy: "Policy", text: str) -> dict[str, Any]:
    from broker.policy.prove import who_can
    from broker.toml_source import did_you_mean

    grant, _, environment = text.partition("@")
    for kind, name, names in (
        ("grant", grant, {g.name for g in policy.grants}),
        ("environment", environment, {e.name for e in policy.environments}),
    ):
        if name not in names and (name or kind == "grant"):
            raise Refused(Code.REQUEST_INVALID, f"--who-can {text}: there is no {kind} {name!r}; {did_you_mean(name, names)}")
    reaches = [
        {
            "environment": reach.environment.name,
            "place": f"{reach.environment.place.file}:{policy.line(reach.environment.place)}",
            "conditions": [f"{c.claim} {c.wanted}" for c in reach.environment.conditions],
            "allow_forks": reach.environment.allow_forks,
            "job": None if reach.job is None else claims_record(reach.job),
        }
        for reach in who_can(policy, grant, environment or None)
    ]
    return {"asked": f"who can have {text}", "proved": None, "reaches": reaches}


def _witness(policy: "Policy", witness: "Witness") -> dict[str, Any]:
    return {
        "environment": witness.environment.name,
        "place": f"{witness.environment.place.file}:{policy.line(witness.environment.place)}",
        "issuer": witness.environment.issuer,
        "grants": list(witness.grants),
        "job": claims_record(witness.job),
    }


def claims_record(job: "ClaimSet") -> dict[str, Any]:
    """A witness as JSON has claims: what `policy explain` reads."""
    return {name: list(value) if isinstance(value, tuple) else value for name, value in job.items()}


def _print(answer: dict[str, Any]) -> None:
    if "reaches" in answer:
        click.echo(click.style(answer["asked"], bold=True) + ("" if answer["reaches"] else ": nobody"))
        for reach in answer["reaches"]:
            click.echo(
                f"  {reach['place']}: environment {reach['environment']}" + (", forks too" if reach["allow_forks"] else "")
            )
            for condition in reach["conditions"]:
                click.echo(f"      {condition}")
            least = "no job can be in it" if reach["job"] is None else json.dumps(reach["job"], ensure_ascii=False)
            click.echo(f"    least job: {least}")
    elif answer["proved"]:
        click.echo(f"{click.style('proved', fg='green')}: {answer['asked']}")
    else:
        found = answer["witness"]
        what = f" gets {', '.join(found['grants'])} in" if found["grants"] else " is in"
        click.echo(f"{click.style('possible', fg='red')}: {answer['asked']}")
        click.echo(f"  this job{what} environment {found['environment']} ({found['place']}, issuer {found['issuer']}):", err=True)
        click.echo(json.dumps(found["job"], ensure_ascii=False))
