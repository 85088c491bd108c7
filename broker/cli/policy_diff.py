"""`credbroker policy diff` and `replay`: what another policy would change, for all jobs and for those that came."""

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from broker.errors import Code, Misconfigured

if TYPE_CHECKING:  # imported where they are used: `--help` needs none of it
    from collections.abc import Mapping
    from datetime import datetime

    from broker.policy.diff import Difference
    from broker.policy.replay import Case, Counted, Past
    from broker.store.reading import LogFile

_WIDER = 1
_SPAN = re.compile(r"([0-9]{1,6})([smhd])")
_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}
_JOBS_SHOWN = 3
_BY_POLICY = frozenset({"no_environment", "grant_denied", "grant_unknown"})


@click.command(epilog="\b\nExample:\n  credbroker policy diff main/policy.toml policy.toml > comment.md")
@click.argument("old")
@click.argument("new")
@click.option("--allow-widening", is_flag=True, help="Exit 0 also when a job may do what it could not before.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object instead of Markdown.")
def diff(old: str, new: str, allow_widening: bool, as_json: bool) -> None:
    """Show which jobs may do under NEW what they could not under OLD, and the reverse, each with the shortest such job.

    Markdown on stdout, for the merge request that changes the policy. Exit code 1 when anything widens.
    """
    from broker.cli.policy_files import loaded, or_exit
    from broker.policy.diff import TooComplexError, compare

    before, after = loaded(old), loaded(new)

    def run() -> "Difference":
        try:
            return compare(before, after)
        except TooComplexError:
            sentence = "neither a proof nor a witness within bounds: use fewer wildcards in one pattern, or exact values"
            raise Misconfigured(Code.CONFIG_INVALID, sentence) from None

    found = or_exit(run)
    if as_json:
        click.echo(json.dumps(_record(found, before.hash, after.hash), indent=2, ensure_ascii=False))
    else:
        click.echo("\n".join(_markdown(found, before.hash, after.hash)))
    if found.widens and not allow_widening:
        sys.exit(_WIDER)


@click.command(epilog="\b\nExample:\n  credbroker policy replay policy.toml --log broker.db --since 30d")
@click.argument("new")
@click.option("--log", "database", required=True, type=click.Path(exists=True, dir_okay=False, path_type=Path), metavar="DB")
@click.option("--since", default="30d", show_default=True, metavar="TIME|SPAN", help="2026-11-23T08:00:00Z, or 90m, 2h, 7d ago.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object instead of Markdown.")
def replay(new: str, database: Path, since: str, as_json: bool) -> None:
    """Decide again, under NEW, the jobs that the log in DB has seen: who gains, who loses, who is somewhere else.

    Reads the log; verifies nothing in it (`credbroker audit verify` does) and changes nothing.
    """
    from broker.cli.policy_files import loaded, or_exit
    from broker.policy.replay import replay as replayed
    from broker.store.reading import open_readonly

    policy, start = loaded(new), _time(since)

    def run() -> "dict[Case, Counted]":
        with open_readonly(database) as log:
            try:
                return replayed(policy, _past(log, start))
            except ValueError as damaged:
                raise Misconfigured(Code.CONFIG_INVALID, f"the log cannot be read: {damaged}") from None

    found = or_exit(run)
    if as_json:
        cases = [{**_case(case), "decisions": n.decisions, "jobs": list(n.jobs)} for case, n in _ordered(found)]
        click.echo(json.dumps({"policy": policy.hash, "since": start.isoformat(), "cases": cases}, indent=2, ensure_ascii=False))
    else:
        click.echo("\n".join(_replay_markdown(found, policy.hash, start)))


# --- the log ----------------------------------------------------------------------------------------------------------


def _time(given: str) -> "datetime":
    from datetime import UTC, datetime, timedelta

    span = _SPAN.fullmatch(given)
    if span:
        return datetime.now(UTC) - timedelta(**{_UNITS[span[2]]: int(span[1])})
    try:
        at = datetime.fromisoformat(given)
    except ValueError:
        raise click.BadParameter("give a time as 2026-11-23T08:00:00Z, or a span as 90m, 2h, 7d", param_hint="--since") from None
    return at if at.tzinfo else at.replace(tzinfo=UTC)


def _past(log: "LogFile", since: "datetime") -> "Iterator[Past]":
    from broker.audit.facets import parsed
    from broker.audit.query import Query

    for kind in ("session_opened", "denied"):
        for _, body in log.find(Query(kind=kind, since=since, limit=sys.maxsize)):
            past = _one(parsed(body)["unmapped"])
            if past is not None:
                yield past


def _one(ours: dict[str, Any]) -> "Past | None":
    """A decision by policy; None for a refusal of another kind, which another policy does not undo."""
    from broker.identity.claims import ClaimSet
    from broker.policy.replay import Past

    identity = ours.get("identity")
    if identity is None or "claims" not in identity or (ours["kind"] == "denied" and ours["code"] not in _BY_POLICY):
        return None
    opened = ours["kind"] == "session_opened"
    return Past(
        issuer=identity["issuer_name"],
        profile=identity["profile"],
        claims=ClaimSet({name: tuple(v) if isinstance(v, list) else v for name, v in identity["claims"].items()}),
        project=identity["project_path"],
        ref=identity["ref_path"],
        job_id=identity["job_id"],
        environment=ours["environment"] if opened else "",
        grants=tuple(ours["grants"]) if opened else tuple(filter(None, [ours.get("grant", "")])),
        code=ours.get("code", ""),
    )


# --- what comes out ---------------------------------------------------------------------------------------------------


def _record(found: "Difference", old: str, new: str) -> dict[str, Any]:
    from broker.cli.policy_prove import claims_record

    def sides(name: str) -> list[dict[str, Any]]:
        return [
            {
                "environment": one.environment.name,
                "issuer": one.environment.issuer,
                "grants": list(one.grants),
                "other_policy_says": one.before,
                "job": claims_record(one.job),
            }
            for one in getattr(found, name)
        ]

    changed = [
        {name: getattr(c, name) for name in ("environment", "grant", "key", "old", "new", "wider")}
        | {"job": claims_record(c.job)}
        for c in found.changed
    ]
    return {"old": old, "new": new, "widens": found.widens, "gained": sides("gained"), "lost": sides("lost"), "changed": changed}


def _markdown(found: "Difference", old: str, new: str) -> Iterator[str]:
    from broker.cli.policy_prove import claims_record

    yield "### credbroker policy: " + ("**this widens what jobs may do**" if found.widens else "nothing widens")
    yield f"\n`{old[:19]}` to `{new[:19]}`. Each line shows the shortest job that it is true of; it stands for all like it."
    for title, sides, verb in (("Gained", found.gained, "before"), ("Lost", found.lost, "now")):
        if sides:
            yield f"\n#### {title}\n\n| environment | grants | such a job | {verb} |\n|---|---|---|---|"
            for one in sides:
                job = json.dumps(claims_record(one.job), ensure_ascii=False)
                grants = ", ".join(one.grants) or "(the environment itself)"
                yield _row(one.environment.name, grants, _code(job), one.before)
    if found.changed:
        yield "\n#### Changed for jobs that had it\n\n| environment | grant | what | before | now | |\n|---|---|---|---|---|---|"
        for c in found.changed:
            yield _row(
                c.environment, c.grant or "-", c.key, _code(c.old), _code(c.new), "may be wider" if c.wider else "narrower"
            )
    if not (found.gained or found.lost or found.changed):
        yield "\nProved: every job is decided as before, and gets the same."


def _case(case: "Case") -> dict[str, str]:
    return {name: getattr(case, name) for name in ("outcome", "issuer", "project", "ref", "before", "after")}


_ORDER = ("gained", "lost", "moved", "unclear", "same")


def _ordered(found: "Mapping[Case, Counted]") -> "list[tuple[Case, Counted]]":
    return sorted(found.items(), key=lambda item: (_ORDER.index(item[0].outcome), item[0].project, item[0].ref, item[0].before))


def _replay_markdown(found: "Mapping[Case, Counted]", policy: str, since: "datetime") -> Iterator[str]:
    totals = {outcome: sum(n.decisions for case, n in found.items() if case.outcome == outcome) for outcome in _ORDER}
    yield f"### credbroker policy: the jobs since {since:%Y-%m-%d %H:%M}Z, decided again under `{policy[:19]}`"
    yield "\n" + ", ".join(f"{count} {outcome}" for outcome, count in totals.items())
    told = [(case, n) for case, n in _ordered(found) if case.outcome != "same"]
    if told:
        yield "\n| | project | ref | then | now | decisions | jobs |\n|---|---|---|---|---|---|---|"
    for case, n in told:
        jobs = ", ".join(list(n.jobs)[-_JOBS_SHOWN:]) + (", …" if len(n.jobs) > _JOBS_SHOWN else "")
        yield _row(case.outcome, case.project, _code(case.ref), case.before, case.after, str(n.decisions), jobs)


def _row(*cells: str) -> str:
    return "| " + " | ".join(cells) + " |"


def _code(text: str) -> str:
    """Names come from whoever makes branches: nothing of them is Markdown, and none ends its cell."""
    quoted = text.replace("|", "\\|").replace("`", "'").replace("\n", " ")
    return f"`{quoted}`"
