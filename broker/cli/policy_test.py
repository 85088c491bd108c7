"""`credbroker policy test`: the cases beside a policy, decided by it."""

import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING
from xml.etree import ElementTree as ET

import click

from broker.cli.policy_files import loaded, or_exit

if TYPE_CHECKING:  # imported where they are used: `--help` needs none of it
    from broker.policy.cases import Case, Outcome, Report
    from broker.policy.model import Policy

_FAILED = 1
_NOT_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


@click.command(epilog="\b\nExample:\n  credbroker policy test policy.toml --fail-unselected --junit report.xml")
@click.argument("policy_file", metavar="POLICY")
@click.argument("case_files", metavar="[CASES]...", nargs=-1)
@click.option("--fail-unselected", is_flag=True, help="Also fail when no case ends up in some environment.")
@click.option("--junit", metavar="FILE", help="Write the results as JUnit XML (GitLab: artifacts:reports:junit).")
def test(policy_file: str, case_files: tuple[str, ...], fail_unselected: bool, junit: str | None) -> None:
    """Decide every case, and say which are not as expected, with what was looked at.

    Without CASES: NAME.cases.toml beside a policy NAME.toml, or every *.cases.toml in a folder.

    Exit code 1 when a case fails, 78 when policy or cases cannot be read.
    """
    from broker.policy.cases import run

    policy = loaded(policy_file)
    cases = _cases(policy, [Path(file) for file in case_files] or _beside(Path(policy_file)))
    report = run(policy, cases)
    if junit is not None:
        or_exit(lambda: _write(Path(junit), report))
    for outcome in report.failed:
        _show(outcome)
    for environment in report.unselected:
        place = f"{environment.file}:{policy.line(environment.place)}"
        colour = "red" if fail_unselected else "yellow"
        click.echo(f"{click.style('unselected', fg=colour)}: {place}: no case is in environment {environment.name!r}", err=True)
    failed, all_of_them = len(report.failed), len(report.outcomes)
    click.echo(f"{all_of_them - failed} of {all_of_them} cases are as expected, {len(report.unselected)} environments unselected")
    if failed or (fail_unselected and report.unselected):
        sys.exit(_FAILED)


def _beside(policy: Path) -> list[Path]:
    from broker.policy.language import CASES

    if policy.is_dir():
        return sorted(path for path in policy.iterdir() if path.name.endswith(CASES) and not path.name.startswith("."))
    return [policy.with_name(policy.name.removesuffix(".toml") + CASES)]


def _cases(policy: "Policy", files: Sequence[Path]) -> list["Case"]:
    """Every case of every file, or every problem on stderr and exit code 78."""
    from broker.errors import Code
    from broker.policy.cases import parse_cases
    from broker.toml_source import Problem, SourceInvalid, read_text

    cases: list[Case] = []
    problems: list[Problem] = []
    if not files:
        problems.append(Problem("*.cases.toml", 1, "there are no cases beside the policy", "write some, or name their file"))
    for file in files:
        try:
            cases += parse_cases(read_text(file), file.name, policy)
        except SourceInvalid as invalid:
            problems += invalid.problems
    for problem in problems:
        click.echo(f"{click.style('error', fg='red')}: {problem}", err=True)
    if problems:
        sys.exit(Code.CONFIG_INVALID.exit_code)
    return cases


def _show(outcome: "Outcome") -> None:
    click.echo("\n".join([click.style("FAILED", fg="red", bold=True) + f" {outcome.case.name}", *_said(outcome), ""]))


def _said(outcome: "Outcome") -> Iterator[str]:
    yield f"  {outcome.case.file}:{outcome.case.line}"
    yield from (f"  {difference}" for difference in outcome.differences)
    for trail in outcome.trails:
        yield f"  {trail.environment} ({trail.file})" + ("" if trail.pinned_here else ", of another project")
        for step in trail.steps:
            value = "absent" if step.value is None else repr(step.value)
            yield f"    {'yes' if step.met else 'NO '} {step.clause:<15} {step.claim:<18} {value:<28} wanted {step.wanted}"


# --- JUnit ------------------------------------------------------------------------------------------------------------


def _write(path: Path, report: "Report") -> None:
    from broker.errors import Code, Misconfigured

    try:
        path.write_bytes(junit_xml(report))
    except OSError as error:
        raise Misconfigured(Code.CONFIG_INVALID, f"{str(path)!r} cannot be written ({error.strerror})") from None


def junit_xml(report: "Report") -> bytes:
    """As GitLab reads it: one suite, a case each, what an environment without a case is as a skipped one."""
    skipped = len(report.unselected)
    counts = {"tests": str(len(report.outcomes) + skipped), "failures": str(len(report.failed)), "skipped": str(skipped)}
    suites = ET.Element("testsuites", counts)
    suite = ET.SubElement(suites, "testsuite", {"name": "credbroker policy", "errors": "0", **counts})
    for outcome in report.outcomes:
        case = ET.SubElement(suite, "testcase", {"classname": _xml(outcome.case.file), "name": _xml(outcome.case.name)})
        case.set("file", _xml(outcome.case.file))
        if outcome.differences:
            failure = ET.SubElement(case, "failure", {"message": _xml("; ".join(outcome.differences))})
            failure.text = _xml("\n".join(_said(outcome)))
    for environment in report.unselected:
        case = ET.SubElement(suite, "testcase", {"classname": _xml(environment.file), "name": f"{environment.name} is selected"})
        ET.SubElement(case, "skipped", {"message": "no case is in this environment"})
    return bytes(ET.tostring(suites, encoding="utf-8", xml_declaration=True)) + b"\n"


def _xml(text: str) -> str:
    """Without the characters that XML has no way to write."""
    return _NOT_XML.sub(lambda found: f"\\u{{{ord(found[0]):x}}}", text)
