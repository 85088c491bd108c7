"""`credbroker policy render`: what upstreams and jobs need for a policy, as files to read and to apply."""

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from broker.errors import Code, Misconfigured

if TYPE_CHECKING:  # imported where they are used: `--help` needs none of it
    from collections.abc import Sequence

    from broker.policy.render_aws import AwsSide
    from broker.policy.render_check import Finding
    from broker.policy.render_vault import VaultSide

_DIFFERENT = 1
_URL = click.option(
    "--issuer-url", required=True, metavar="URL", help="`issuer_url` of broker.toml: `iss` of what the broker signs."
)
_OUT = click.option(
    "--out", type=click.Path(file_okay=False, path_type=Path), metavar="DIR", help="Write files here, not stdout."
)
_STOP = click.option("--stop", "stopping", is_flag=True, help="Print the commands that stop everything without the broker.")
_CHECK = click.option(
    "--check",
    "exports",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    metavar="DIR",
    help="Compare with deployed roles instead: ROLE.json each, as the vendor's tool exports it. Exit code 1 on a difference.",
)
_UPSTREAM = click.option("--upstream", metavar="NAME", help="Only grants of this [[upstream]]; needed when there are several.")


@click.group()
def render() -> None:
    """Write what Vault, AWS and GitLab need for a policy. Nothing is applied, and nothing is contacted."""


@render.command(
    epilog="\b\nExample:\n  credbroker policy render vault policy.toml --issuer-url https://broker.example.com \\\n"
    "    --audience https://vault.example.com:8200 --out vault/"
)
@click.argument("file")
@_URL
@click.option("--audience", required=True, metavar="TEXT", help="`audience` of the upstream; unless it is set, its `url`.")
@click.option("--mount", default="jwt", show_default=True, help="Where the JWT auth method is mounted.")
@click.option("--maintenance-role", default="credbroker-maintenance", show_default=True, help="The role for upkeep; '' for none.")
@click.option("--database", default="database", show_default=True, help="The mount whose creds/ are PostgreSQL roles.")
@click.option("--connection", default="postgres", show_default=True, help="`db_name` of the rendered PostgreSQL roles.")
@_UPSTREAM
@_STOP
@_CHECK
@_OUT
def vault(
    file: str,
    issuer_url: str,
    audience: str,
    mount: str,
    maintenance_role: str,
    database: str,
    connection: str,
    upstream: str | None,
    stopping: bool,
    exports: Path | None,
    out: Path | None,
) -> None:
    """JWT auth, roles, policies and database roles for Vault or OpenBao: JSON, HCL, a script and Terraform."""
    from broker.cli.policy_files import loaded, or_exit
    from broker.policy import render_vault
    from broker.policy.render_exports import check_vault

    policy = loaded(file)

    def run() -> None:
        side: VaultSide = render_vault.VaultSide(
            issuer_url=_url(issuer_url),
            audience=audience,
            mount=mount,
            maintenance_role=maintenance_role or None,
            database=database,
            connection=connection,
            upstream=upstream,
        )
        if exports is not None:
            _tell(check_vault(policy, side, _exported(exports)))
        elif stopping:
            click.echo("\n".join(render_vault.stop(policy, side)))
        else:
            _write(render_vault.files(render_vault.vault(policy, side)), out)

    or_exit(run)


@render.command(
    epilog="\b\nExample:\n  credbroker policy render aws policy.toml --issuer-url https://broker.example.com --out aws/"
)
@click.argument("file")
@_URL
@click.option("--audience", default="sts.amazonaws.com", show_default=True, help="`audience` of the upstream.")
@click.option("--revoke-role", default="credbroker-revoke", show_default=True, help="The role that writes denials; '' for none.")
@_UPSTREAM
@_STOP
@_CHECK
@_OUT
def aws(
    file: str,
    issuer_url: str,
    audience: str,
    revoke_role: str,
    upstream: str | None,
    stopping: bool,
    exports: Path | None,
    out: Path | None,
) -> None:
    """OIDC provider, roles with trust and permissions, and the role that revokes, for `via = "issuer"`: JSON and Terraform."""
    from broker.cli.policy_files import loaded, or_exit
    from broker.policy import render_aws
    from broker.policy.render_exports import check_aws

    policy = loaded(file)

    def run() -> None:
        side: AwsSide = render_aws.AwsSide(
            issuer_url=_url(issuer_url), audience=audience, revoke_role=revoke_role or None, upstream=upstream
        )
        if exports is not None:
            _tell(check_aws(policy, side, _exported(exports)))
        elif stopping:
            click.echo("\n".join(render_aws.stop(policy, side)))
        else:
            _write(render_aws.files(render_aws.aws(policy, side)), out)

    or_exit(run)


@render.command(epilog="\b\nExample:\n  credbroker policy render gitlab policy.toml --audience https://broker.example.com")
@click.argument("file")
@click.option("--audience", required=True, metavar="URL", help="What the job's token has to name: the broker's `public_url`.")
@_OUT
def gitlab(file: str, audience: str, out: Path | None) -> None:
    """What `.gitlab-ci.yml` has to say for each environment."""
    from broker.cli.policy_files import loaded, or_exit
    from broker.policy.render_gitlab import gitlab as rendered

    policy = loaded(file)
    or_exit(lambda: _write({"credbroker.gitlab-ci.yml": rendered(policy, audience)}, out))


def _url(given: str) -> str:
    """As `iss` has it."""
    url = given.rstrip("/")
    if not url.startswith("https://") or not url.removeprefix("https://") or any(c in url for c in "?#\"' "):
        raise Misconfigured(Code.CONFIG_INVALID, f"--issuer-url {given!r} is no https URL such as https://broker.example.com")
    return url


def _exported(folder: Path) -> dict[str, Mapping[str, Any]]:
    """Role name -> what the file of that name says."""
    found: dict[str, Mapping[str, Any]] = {}
    for path in sorted(folder.glob("*.json")):
        try:
            body = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError):
            body = None
        if not isinstance(body, dict):
            raise Misconfigured(
                Code.CONFIG_INVALID, f"{path} is not JSON with one role in it, as `vault read -format=json` writes"
            )
        found[path.stem] = body
    if not found:
        raise Misconfigured(Code.CONFIG_INVALID, f"{folder} has no ROLE.json in it")
    return found


def _tell(findings: "Sequence[Finding]") -> None:
    for finding in findings:
        click.echo(f"{click.style(finding.kind, fg='red')}: role {finding.role}: {finding.what}")
        if finding.witness is not None:
            click.echo(f"  {json.dumps(finding.witness, ensure_ascii=False)}")
    if findings:
        sys.exit(_DIFFERENT)
    click.echo("proved: the deployed roles admit what the policy says, no more and no less")


def _write(files: Mapping[str, str], out: Path | None) -> None:
    """To a folder, or one after the other to stdout."""
    if out is None:
        for name, text in files.items():
            click.echo(f"# --- {name}\n{text}" if len(files) > 1 else text)
        return
    for name, text in files.items():
        path = out / name
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
        except OSError as error:
            raise Misconfigured(Code.CONFIG_INVALID, f"{path} cannot be written ({error.strerror})") from None
        click.echo(str(path))
