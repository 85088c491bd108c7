"""`credbroker policy explain`: why a policy decides as it does, from a token, a claims file or flags."""

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from broker.cli.policy_files import loaded, or_exit
from broker.errors import Code, Misconfigured, Refused

if TYPE_CHECKING:  # imported where they are used: `--help` needs none of it
    from broker.identity.profile import Profile
    from broker.policy.explain import Explanation, Trail
    from broker.policy.model import Step

_MAX_CHARS = 1_000_000
EXAMPLE = (
    "\b\nExamples:\n  credbroker policy explain claims.json --policy policy.toml\n"
    "  credbroker policy explain --policy policy.toml --project 4711 --ref refs/heads/main --protected \\\n"
    "      --source push --environment production"
)


@click.command("explain", epilog=EXAMPLE)
@click.argument("source", metavar="[TOKEN_FILE|CLAIMS.json|-]", required=False)
@click.option("--policy", "policy_file", required=True, metavar="PATH", help="The policy to explain, a file or a folder.")
@click.option("--issuer", metavar="NAME", help="The issuer's name, as in when.issuer  [default: the policy's only one]")
@click.option("--project", metavar="ID", help="The issuer's stable id; of GitLab project_id, and job_project_id: no fork's job.")
@click.option("--ref", metavar="REF", help="The whole ref, as in refs/heads/main; the claims follow from it.")
@click.option("--protected/--unprotected", default=None, help="ref_protected.")
@click.option("--source", "pipeline_source", metavar="WORD", help="What started it, as in push.")
@click.option("--environment", metavar="NAME", help="The claim of that name.")
@click.option("--claim", "more", multiple=True, metavar="NAME=VALUE", help="Any other claim, or a JSON pointer. Repeatable.")
@click.option("--grant", "grants", multiple=True, metavar="NAME", help="Ask for this grant alone. Repeatable.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout.")
def explain_(
    source: str | None,
    policy_file: str,
    issuer: str | None,
    project: str | None,
    ref: str | None,
    protected: bool | None,
    pipeline_source: str | None,
    environment: str | None,
    more: tuple[str, ...],
    grants: tuple[str, ...],
    as_json: bool,
) -> None:
    """Show, condition by condition, what a policy makes of a job's claims.

    Takes a file with the job token, a JSON file with claims, - for stdin, or claims as options; options change what a file
    says. The token is decoded and NOT verified, and is never printed.
    """
    from broker.policy.explain import explain, issuers_of, profile_of

    flags = {"--project": project, "--ref": ref, "--protected": protected, "--source": pipeline_source}
    flags["--environment"] = environment

    def run() -> "Explanation":
        if source is None and not more and all(value is None for value in flags.values()):
            raise Refused(Code.REQUEST_INVALID, "there is nothing to explain; give a token, a claims file, or --project, --ref …")
        policy = loaded(policy_file)
        name = _issuer(issuer, issuers_of(policy))
        profile = profile_of(policy, name)
        members = dict(_members(source)) if source is not None else {}
        for option, value in flags.items():
            members |= _claims(option, value, profile) if value is not None else {}
        return explain(policy, name, members | _more(more, profile), grants or None)

    explanation = or_exit(run)
    if as_json:
        click.echo(json.dumps(_record(explanation), indent=2, ensure_ascii=False))
    else:
        _print(explanation)


# --- what goes in -----------------------------------------------------------------------------------------------------


def _claims(option: str, value: str | bool, profile: "Profile") -> dict[str, Any]:
    """What an option says, in the claims of that kind of issuer."""
    if option == "--project":
        return dict.fromkeys([profile.stable_id, *(["job_project_id"] if "job_project_id" in set(profile.claims) else [])], value)
    if option == "--ref" and profile.refs:
        return _ref(str(value), profile)
    name = {"--protected": "ref_protected", "--source": profile.source, "--environment": "environment"}.get(option, "")
    if name in (profile.refs if option == "--protected" else set(profile.claims)):
        return {name: value}
    raise Refused(Code.REQUEST_INVALID, f"{option}: {profile.name} tokens have no such claim; name one with --claim")


def _ref(ref: str, profile: "Profile") -> dict[str, Any]:
    from broker.policy.claims_model import model_of

    spelled = model_of(profile.name).spelled
    assert spelled is not None
    for kind, prefixes in spelled.prefixes.items():
        for prefix in prefixes:
            if ref.startswith(prefix) and ref != prefix:
                rest = {spelled.rest: ref.removeprefix(prefix)} if spelled.rest else {}
                return {spelled.whole: ref, spelled.kind: kind} | rest
    raise Refused(Code.REQUEST_INVALID, f"--ref {ref!r} is no whole ref; write it as refs/heads/… or refs/tags/…")


def _more(pairs: tuple[str, ...], profile: "Profile") -> dict[str, Any]:
    """Values as the claim of that name has them."""
    found: dict[str, Any] = {}
    for pair in pairs:
        name, equals, text = pair.partition("=")
        if not (name and equals):
            raise Refused(Code.REQUEST_INVALID, f"--claim {pair!r} is not NAME=VALUE")
        found[name] = _typed(name, text, profile)
    return found


def _typed(name: str, text: str, profile: "Profile") -> Any:
    from broker.identity.profile import ClaimKind

    claim = profile.claims.get(name)
    if claim is not None and claim.kind is ClaimKind.TEXTS:
        return text.split(",")
    if claim is not None and claim.kind is ClaimKind.NUMBER:
        return int(text) if text.isascii() and text.isdecimal() and len(text) < 20 else text  # noqa: PLR2004 - a 64-bit number
    return text


def _issuer(asked: str | None, names: tuple[str, ...]) -> str:
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
        members = parse_token(text.decode("latin-1")).unverified_members
        return {name: value for name, value in members.items() if not name.startswith("/")}  # that is our spelling of a pointer
    try:
        return strict_object(text)
    except NotStrictError as error:
        raise Refused(Code.REQUEST_INVALID, f"the claims in {source!r} cannot be read: {error}") from None


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
    if explanation.trails and explanation.trails[0].missing:
        nearest = explanation.trails[0]
        wanted = "; ".join(f"{step.claim} {step.wanted}, and it is {_value(step)}" for step in nearest.missing)
        click.echo(f"nearest is {nearest.environment}; it wants {wanted}")


def _mark(step: "Step") -> str:
    return click.style("yes", fg="green") if step.met else click.style("NO ", fg="red")


def _value(step: "Step") -> str:
    return "absent" if step.value is None else repr(step.value)


def _record(explanation: "Explanation") -> dict[str, Any]:
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
