"""`credbroker init`: everything a first broker needs, in one folder, checked."""

import json
import os
import re
import secrets
import shlex
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import click

from broker.cli.policy_files import or_exit
from broker.cli.policy_init import answers, drafted, is_asking, written
from broker.errors import Code, Misconfigured, Refused

if TYPE_CHECKING:  # imported where they are used: `--help` needs none of it
    from broker.policy.draft import Draft

_REGION = re.compile(r"[a-z]{2}(?:-[a-z]+)+-[0-9]{1,2}")
_SHORTEST = 8  # of the name it is made under
_HEAD = """\
# `credbroker serve --config broker.toml --check` says what is wrong with it. Jobs elsewhere need [listen] https.
public_url = {public_url}
policy     = "policy"

[listen]
unix  = "run/broker.sock"
http  = "127.0.0.1:8400"
admin = "admin/admin.sock"
admin_uids = [{uid}]

[store]
url = "sqlite:///broker.db"

[keys]
issuer = "keys/issuer"
log    = "keys/log.pem"
store  = "keys/store.key"

[log]
origin = {origin}

[[issuer]]
name    = "gitlab"
profile = "gitlab"
issuer  = {gitlab}
{upstreams}"""
_VAULT = """
[[upstream]]
name  = "vault"
kind  = "vault"
url   = {url}
mount = "jwt"
via   = "issuer"
maintenance_role = "credbroker-maintenance"
"""
_AWS = """
[[upstream]]
name   = "aws"
kind   = "aws"
region = {region}
via    = "issuer"
"""
_CI = """\
# A first job. `credbroker` has to be in its image, and the broker has to be where CREDBROKER_URL says.
{name}:
  id_tokens:
    CREDBROKER_ID_TOKEN:
      aud: {public_url}
  variables:
    CREDBROKER_URL: {public_url}
  environment:
    name: production
    action: access
  rules:
    - if: {rule}
  script:
    - credbroker exec --grant {grant} -- echo "this command has the credential"
"""


_EPILOG = """\b
Example:
  credbroker init broker/ --public-url https://broker.example.com --gitlab https://gitlab.example.com \\
    --project 4711 --aws-role 'arn:aws:iam::111122223333:role/etl-{environment}' --aws-region eu-central-1"""


@click.command(epilog=_EPILOG)
@click.argument("folder", metavar="DIR", type=click.Path(file_okay=False, path_type=Path))
@click.option("--public-url", metavar="URL", help="The broker's own address, which job tokens name as audience.")
@click.option("--gitlab", metavar="URL", help="The GitLab whose jobs come.")
@click.option("--project", metavar="ID", help="GitLab's number of the first project.")
@click.option("--branch", metavar="NAME", help="Its protected branch that is production.  [default: main]")
@click.option("--aws-role", metavar="ARN", help="The role for grant lake; with {environment} in it review gets one too.")
@click.option("--aws-region", metavar="REGION", help="AWS region, as in eu-central-1.")
@click.option("--vault-url", metavar="URL", help="Vault or OpenBao.")
@click.option("--vault-role", metavar="NAME", help="The Vault role for grant warehouse.")
@click.option("--vault-path", metavar="PATH", help="What is read from Vault, from the mount on.")
def init(
    folder: Path,
    public_url: str | None,
    gitlab: str | None,
    project: str | None,
    branch: str | None,
    aws_role: str | None,
    aws_region: str | None,
    vault_url: str | None,
    vault_role: str | None,
    vault_path: str | None,
) -> None:
    """Make DIR: broker.toml, keys, a policy with cases, files for Vault and AWS, and a first .gitlab-ci.yml.

    On a terminal, asks for what is not given. DIR has to be new or empty. What is written has passed `serve --check`.
    """

    def run() -> None:
        if folder.exists() and any(folder.iterdir()):
            raise Misconfigured(Code.CONFIG_INVALID, f"{folder} is not empty, and init replaces nothing")
        public = _url("public-url", public_url, "The broker's own https address")
        source = _url("gitlab", gitlab, "GitLab's address")
        draft = answers(
            project=project,
            issuer="gitlab",
            branch=branch,
            aws_role=aws_role,
            vault_role=vault_role,
            vault_path=vault_path,
            vault_engine="lease",
        )
        upstreams = ""
        if draft.vault_path is not None:
            upstreams += _VAULT.format(url=json.dumps(_url("vault-url", vault_url, "Vault's address")))
        if draft.aws_role is not None:
            upstreams += _AWS.format(region=json.dumps(_region(aws_region)))
        _make(folder, draft, public, source, upstreams)

    or_exit(run)


def _make(folder: Path, draft: "Draft", public: str, source: str, upstreams: str) -> None:
    """All of it, or nothing: it is made and checked beside the folder, and then takes its name."""
    try:
        folder.absolute().parent.mkdir(parents=True, exist_ok=True)
        # As long as the name it will have, since a socket's path has a most length.
        making = folder.absolute().parent / f".{secrets.token_hex(len(folder.name))[: max(len(folder.name), _SHORTEST) - 1]}"
        making.mkdir(mode=0o700)
    except OSError as error:
        raise Misconfigured(Code.CONFIG_INVALID, f"{folder} cannot be made ({error.strerror})") from None
    try:
        vkey, warnings = _fill(making, draft, public, source, upstreams)
        making.chmod(0o755)
        making.replace(folder)
    finally:
        shutil.rmtree(making, ignore_errors=True)
    for warning in warnings:
        click.echo(f"warning: {warning}", err=True)
    click.echo(f"{folder} passes serve --check, policy check and policy test.", err=True)
    click.echo(f"Apply what is in {folder / 'upstream'}, then:", err=True)
    click.echo(f"  credbroker serve --config {shlex.quote(str(folder / 'broker.toml'))}", err=True)
    click.echo("The log's public key, for whoever verifies the log:", err=True)
    click.echo(vkey)


def _fill(folder: Path, draft: "Draft", public: str, source: str, upstreams: str) -> tuple[str, list[str]]:
    """The log's public key, and warnings of the check."""
    from broker.checking import check
    from broker.cli.keys import make_keys

    origin = f"{urlsplit(public).hostname}/log"
    texts = {f"policy/{name}": text for name, text in drafted(folder / "policy", draft).items()}
    texts["policy/policy.schema.json"] = _schema()
    texts["broker.toml"] = _HEAD.format(
        public_url=json.dumps(public), origin=json.dumps(origin), gitlab=json.dumps(source), uid=os.getuid(), upstreams=upstreams
    )
    texts[".gitlab-ci.yml"] = _ci(draft, public)
    written(folder, texts)
    for name, mode in (("run", 0o755), ("admin", 0o700)):
        (folder / name).mkdir(mode=mode)
    vkey = make_keys(folder / "keys", origin)
    warnings = list(dict.fromkeys(check(folder / "broker.toml")))
    written(folder / "upstream", _rendered(folder, draft, public, upstreams))
    return vkey, warnings


def _rendered(folder: Path, draft: "Draft", public: str, upstreams: str) -> Mapping[str, str]:
    """What Vault and AWS need for this policy, from the same functions as `policy render`."""
    import tomllib

    from broker.policy import render_aws, render_vault
    from broker.policy.language import load

    policy = load(folder / "policy")
    found: dict[str, str] = {}
    urls = {one["kind"]: one.get("url", "") for one in tomllib.loads(upstreams)["upstream"]}
    if draft.vault_path is not None:
        side = render_vault.VaultSide(
            issuer_url=public,
            audience=urls["vault"],
            mount="jwt",
            maintenance_role="credbroker-maintenance",
            database="database",
            connection="postgres",
            upstream=None,
        )
        found |= {f"vault/{name}": text for name, text in render_vault.files(render_vault.vault(policy, side)).items()}
    if draft.aws_role is not None:
        cloud = render_aws.AwsSide(issuer_url=public, audience="sts.amazonaws.com", revoke_role=None, upstream=None)
        found |= {f"aws/{name}": text for name, text in render_aws.files(render_aws.aws(policy, cloud)).items()}
    return found


def _schema() -> str:
    from broker.policy.schema import schema

    return json.dumps(schema(), indent=2, ensure_ascii=False) + "\n"


def _ci(draft: "Draft", public: str) -> str:
    return _CI.format(
        name="pipeline",
        public_url=json.dumps(public),
        rule=json.dumps(f'$CI_COMMIT_BRANCH == "{draft.branch}"'),
        grant="lake" if draft.aws_role is not None else "warehouse",
    )


# --- what is asked ----------------------------------------------------------------------------------------------------


def _url(option: str, given: str | None, question: str) -> str:
    url = _given(option, given, question).rstrip("/")
    if not url.startswith("https://") or not urlsplit(url).hostname:
        raise Refused(Code.REQUEST_INVALID, f"--{option} {url!r} is no https URL, as in https://{option}.example.com")
    return url


def _region(given: str | None) -> str:
    region = _given("aws-region", given, "AWS region, as in eu-central-1")
    if not _REGION.fullmatch(region):
        raise Refused(Code.REQUEST_INVALID, f"--aws-region {region!r} is no region, as in eu-central-1")
    return region


def _given(option: str, given: str | None, question: str) -> str:
    if given is None and is_asking():
        given = str(click.prompt(question, err=True)).strip()
    if not given:
        raise Refused(Code.REQUEST_INVALID, f"--{option} is missing: {question}")
    return given
