"""`credbroker policy init`: a first policy for a project, its cases and its invariants, in a folder of policies."""

import re
import shlex
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import click

from broker.cli.policy_files import or_exit
from broker.errors import Code, Misconfigured, Refused

if TYPE_CHECKING:  # imported where they are used: `--help` needs none of it
    from broker.policy.draft import Draft

_PROJECT = re.compile(r"[1-9][0-9]{0,18}")
_BRANCH = re.compile(r"[A-Za-z0-9._/-]{1,200}")


_EPILOG = (
    "\b\nExample:\n  credbroker policy init policy/ --project 41 --aws-role 'arn:aws:iam::111122223333:role/etl-{environment}'"
)


@click.command("init", epilog=_EPILOG)
@click.argument("folder", metavar="DIR", type=click.Path(file_okay=False, path_type=Path))
@click.option("--project", metavar="ID", help="GitLab's number of the project.")
@click.option("--issuer", default="gitlab", show_default=True, metavar="NAME", help="The [[issuer]] of broker.toml.")
@click.option("--branch", metavar="NAME", help="The protected branch that is production.  [default: main]")
@click.option("--aws-role", metavar="ARN", help="The role for grant lake; with {environment} in it review gets one too.")
@click.option("--vault-role", metavar="NAME", help="The Vault role for grant warehouse.")
@click.option("--vault-path", metavar="PATH", help="What is read from Vault, from the mount on.")
@click.option("--vault-engine", type=click.Choice(["lease", "kv1", "kv2"]), default="lease", show_default=True, help="Its kind.")
def init(
    folder: Path,
    project: str | None,
    issuer: str,
    branch: str | None,
    aws_role: str | None,
    vault_role: str | None,
    vault_path: str | None,
    vault_engine: str,
) -> None:
    """Write project-ID.toml and project-ID.cases.toml into DIR. On a terminal, asks for what is not given.

    Touches no other file, and writes nothing unless check and test pass with it, together with what is in DIR already.
    """

    def run() -> list[Path]:
        draft = answers(
            project=project,
            issuer=issuer,
            branch=branch,
            aws_role=aws_role,
            vault_role=vault_role,
            vault_path=vault_path,
            vault_engine=vault_engine,
        )
        texts = drafted(folder, draft)
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise Misconfigured(Code.CONFIG_INVALID, f"{folder} cannot be made ({error.strerror})") from None
        return written(folder, texts)

    for path in or_exit(run):
        click.echo(str(path))
    click.echo(f"check and test pass; try: credbroker policy test {shlex.quote(str(folder))}", err=True)


def answers(
    *,
    project: str | None,
    issuer: str,
    branch: str | None,
    aws_role: str | None,
    vault_role: str | None,
    vault_path: str | None,
    vault_engine: str,
) -> "Draft":
    """The options, and on a terminal what a person says to the rest. Raises Refused for what makes no policy."""
    from broker.policy.draft import Draft

    if is_asking():
        project = project or _ask("GitLab's number of the project (Settings > General)")
        branch = branch or _ask("Protected branch that is production", "main")
        if aws_role is None and vault_path is None:
            aws_role = _ask("AWS role, e.g. arn:aws:iam::111122223333:role/etl-{environment}; empty for none", "") or None
            vault_path = _ask("Vault path, e.g. database/creds/etl-{environment}; empty for none", "") or None
            vault_role = (vault_role or _ask("Vault role", "etl-{environment}")) if vault_path else None
    branch = branch or "main"
    if project is None or not _PROJECT.fullmatch(project):
        raise Refused(
            Code.REQUEST_INVALID, f"--project {project or 'is missing'}: give GitLab's number of the project, as in 4711"
        )
    if not _BRANCH.fullmatch(branch):
        raise Refused(Code.REQUEST_INVALID, f"--branch {branch!r} is not the plain name of one branch, as in main")
    if aws_role is None and vault_path is None:
        raise Refused(Code.REQUEST_INVALID, "a policy grants something: give --aws-role, or --vault-role and --vault-path")
    if (vault_role is None) != (vault_path is None):
        raise Refused(Code.REQUEST_INVALID, "--vault-role and --vault-path belong together")
    return Draft(
        project=project,
        issuer=issuer,
        branch=branch,
        aws_role=aws_role,
        vault_role=vault_role,
        vault_path=vault_path,
        vault_engine=vault_engine,
    )


def drafted(folder: Path, draft: "Draft") -> Mapping[str, str]:
    """Name and text of each new file. Raises PolicyInvalid unless all of the folder is a policy with it, and its cases hold."""
    from broker.policy.cases import parse_cases, run
    from broker.policy.draft import cases_text, policy_text
    from broker.policy.language import CASES, PolicyInvalid, parse_files
    from broker.toml_source import SourceInvalid, reader_beside, texts_at

    name, cases_name = f"project-{draft.project}.toml", f"project-{draft.project}{CASES}"
    there = {}
    if folder.is_dir() and any(path.suffix == ".toml" and not path.name.startswith(".") for path in folder.iterdir()):
        try:
            there = texts_at(folder, leaving_out=CASES)
        except SourceInvalid as invalid:
            raise PolicyInvalid(invalid.problems) from None
    for taken in (name, cases_name):
        if (folder / taken).exists():
            raise Misconfigured(Code.CONFIG_INVALID, f"{folder / taken} is there already, and init replaces nothing")
    text = policy_text(draft)
    policy = parse_files({**there, name: text}, reader_beside(folder / name))
    cases = cases_text(draft, policy, name)
    failed = run(policy, parse_cases(cases, cases_name, policy)).failed
    if failed:
        what = f"{failed[0].case.name}: {'; '.join(failed[0].differences)}"
        raise Misconfigured(Code.CONFIG_INVALID, f"beside the files of {folder} the new one would not say what it has to: {what}")
    return {name: text, cases_name: cases}


def written(folder: Path, texts: Mapping[str, str]) -> list[Path]:
    """All of them, or none. Raises Misconfigured when one is there already or cannot be written."""
    done: list[Path] = []
    for name, text in texts.items():
        path = folder / name
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("x", encoding="utf-8") as file:
                done.append(path)
                file.write(text)
        except OSError as error:
            for half in done:
                half.unlink(missing_ok=True)
            raise Misconfigured(Code.CONFIG_INVALID, f"{path} cannot be written ({error.strerror})") from None
    return done


def is_asking() -> bool:
    """Whether somebody is there to be asked."""
    return sys.stdin.isatty()


def _ask(question: str, default: str | None = None) -> str:
    return str(click.prompt(question, default=default, show_default=bool(default), err=True)).strip()
