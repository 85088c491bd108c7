"""What the pages show is run, parsed or looked up: a page that lies fails here."""

import json
import re
import shlex
from pathlib import Path

import check_jsonschema
import click
import pytest
import tomllib
import yaml
from click.testing import CliRunner

from broker.cli import cli
from broker.cli.policy_explain import EXAMPLE
from broker.config import load
from broker.demo.iam import check_trust
from broker.errors import Code
from broker.policy.cases import parse_cases
from broker.policy.cases import run as run_cases
from broker.policy.language import load as load_policy
from broker.policy.language import parse as parse_policy
from tests.contract.vault_servers import MAINTENANCE
from tests.docs.pages import PAGES, ROOT, Block, blocks

_COMMANDS = [
    (block, line)
    for block in blocks("console")
    for line in block.text.replace("\\\n", " ").splitlines()
    if re.match(r"\$ (\S*/)?credbroker ", line)
]


@pytest.mark.parametrize(("block", "line"), _COMMANDS, ids=[f"{b}-{line[2:40]}" for b, line in _COMMANDS])
def test_every_command_shown_exists_with_every_option_shown(block: Block, line: str) -> None:
    words = shlex.split(line.removeprefix("$ "))[1:]
    context = click.Context(cli)
    command: click.Command = cli
    while isinstance(command, click.Group):
        found = command.get_command(context, words[0])
        assert found is not None, f"{block}: there is no command {words[0]!r}"
        command, words = found, words[1:]
    known = {name for parameter in command.params for name in parameter.opts}
    ours = words[: words.index("--")] if "--" in words else words
    shown = {word.partition("=")[0] for word in ours if word.startswith("--")}
    assert shown <= known, f"{block}: {command.name} has no {shown - known}"


def test_pages_show_commands_at_all() -> None:
    """The pattern above still finds what it is there for."""
    assert len(_COMMANDS) > 8


@pytest.mark.parametrize("block", blocks("toml"), ids=str)
def test_every_toml_shown_is_taken(block: Block, tmp_path: Path) -> None:
    """A policy is parsed as one, its cases hold for the example's; a part of broker.toml is put into a whole one."""
    shown = tomllib.loads(block.text)
    if "case" in shown:
        example = load_policy(ROOT / "deploy/policy/policy.toml")
        assert not run_cases(example, parse_cases(block.text, "policy.cases.toml", example)).failed
        return
    if "version" in shown:
        assert parse_policy(block.text, "policy.toml", lambda name: (ROOT / "deploy/policy" / name).read_text()).environments
        return
    (tmp_path / "broker.toml").write_text(_WHOLE + block.text + ("" if "upstream" in shown else _UPSTREAM))
    (tmp_path / "policy.toml").write_text("")
    for name in ("log.pem", "store.key"):
        (tmp_path / name).touch(mode=0o600)
    (tmp_path / "issuer").mkdir()
    assert load(tmp_path / "broker.toml").upstreams


_WHOLE = """
public_url = "https://broker.example.com"
policy = "policy.toml"
[listen]
http = "127.0.0.1:0"
[store]
url = "sqlite:///broker.db"
[keys]
issuer = "issuer"
log = "log.pem"
store = "store.key"
[log]
origin = "broker.example.com/log"
[[issuer]]
name = "gitlab"
profile = "gitlab"
issuer = "https://gitlab.example.com"
audience = ["https://broker.example.com"]
max_lifetime = "24h"
leeway = "30s"
"""
_UPSTREAM = """
[[upstream]]
name = "aws"
kind = "aws"
region = "eu-central-1"
"""


@pytest.mark.parametrize("block", [b for b in blocks("yaml") if not b.text.startswith("volumes:")], ids=str)
def test_every_gitlab_yaml_shown_is_valid(block: Block, tmp_path: Path) -> None:
    """By GitLab's own schema, and it asks for the ID token in the variable that the client reads."""
    jobs = yaml.safe_load(block.text)
    if "id_tokens" in jobs:  # only the lines that a job is to gain
        jobs = {"job": {**jobs, "script": ["true"]}}
    path = tmp_path / ".gitlab-ci.yml"
    path.write_text(yaml.safe_dump(jobs))
    assert_gitlab(path)
    assert any("CREDBROKER_ID_TOKEN" in job.get("id_tokens", {}) for job in jobs.values())


def test_gitlab_s_schema_would_refuse_a_slip(tmp_path: Path) -> None:
    """The refused twin: the check above can fail."""
    path = tmp_path / ".gitlab-ci.yml"
    path.write_text('job: { script: ["true"], id_tokens: { CREDBROKER_ID_TOKEN: { audience: "x" } } }\n')
    with pytest.raises(AssertionError, match="id_tokens"):
        assert_gitlab(path)
    path.write_text(path.read_text().replace("audience", "aud"))
    assert_gitlab(path)


def assert_gitlab(path: Path) -> None:
    """Raises unless GitLab's published schema takes the file."""
    checked = CliRunner().invoke(
        check_jsonschema.main, ["--builtin-schema", "vendor.gitlab-ci", "--data-transform", "gitlab-ci", str(path)]
    )
    assert checked.exit_code == 0, checked.output


@pytest.mark.parametrize("block", blocks("json"), ids=str)
def test_every_trust_policy_shown_is_one_that_iam_takes(block: Block) -> None:
    document = json.loads(block.text)
    if "Principal" in str(document.get("Statement")):
        check_trust(document)


def test_the_vault_policies_shown_are_those_that_the_contract_suite_gives() -> None:
    """No path less, or the broker could not renew and revoke; no path more."""
    shown = [dict(_HCL.findall(block.text)) for block in blocks("hcl") if block.page == "docs/quickstart.md"]
    maintenance = {path: json.dumps(able) for path, able in MAINTENANCE.items()}
    job = {"database/creds/etl-production": '["read"]', "sys/leases/revoke": '["update"]'}
    assert [{path: able.replace(" ", "") for path, able in one.items()} for one in shown] == [maintenance, job]


_HCL = re.compile(r'^path "([^"]+)"\s+\{ capabilities = (\[[^]]*\]) \}$', re.MULTILINE)


@pytest.mark.parametrize("block", blocks("python"), ids=str)
def test_every_python_shown_compiles(block: Block) -> None:
    compile(block.text, str(block), "exec")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_leads_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text()):
        if not target.startswith(("http://", "https://")):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_code_shown_is_in_the_table(page: Path) -> None:
    """Words in backquotes that look like one of our codes are one of our codes."""
    prefixes = {code.word.partition("_")[0] for code in Code} - {"session", "path", "clock", "job", "log", "config", "broker"}
    known = {code.word for code in Code}
    for word in re.findall(r"`([a-z]+_[a-z_]+)`", page.read_text()):
        if word.partition("_")[0] in prefixes:
            assert word in known | _NOT_CODES, f"{page.name}: {word} is no code"


_NOT_CODES = {
    "environment_action",
    "environment_node_id",
    "environment_protected",
    "issuer_url",
    "token_type",
    "token_ttl",
    "token_explicit_max_ttl",
    "token_no_default_policy",
    "token_chars",
    "upstream_ids",
}


def test_readme_shows_a_refusal_s_exit_code_as_the_table_has_it() -> None:
    rows = re.findall(r"^\| [^|]+ \| ([^|]+) \| (\d+) \|$", (ROOT / "README.md").read_text(), re.MULTILINE)
    assert len(rows) >= 10
    for cell, exit_code in rows:
        for word in re.findall(r"`([a-z_]+)`", cell):
            if word in {code.word for code in Code}:
                assert Code.of(word).exit_code == int(exit_code), word


def test_the_make_targets_shown_exist() -> None:
    targets = set(re.findall(r"^([a-z]+):.*##", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for page in PAGES:
        for shown in re.findall(r"`make ([a-z]+)`|^\$ make ([a-z]+)", page.read_text(), re.MULTILINE):
            assert (shown[0] or shown[1]) in targets


_BY_NAME = re.compile(
    r"\b(pip3? install|pipx (install|run)|uv (add|tool install)|uvx)\b(\\\n|[^\n`])*?[\s\"']credbroker(?![-/.\w])", re.IGNORECASE
)


@pytest.mark.parametrize(
    "line",
    [
        "pip install credbroker awscli",
        'pip install "credbroker[luigi]" boto3',
        "pip install 'credbroker[demo]', or",
        "pip3 install -U Credbroker",
        "pip install --user \\\n  credbroker",
        "uvx credbroker",
        "uv pip install credbroker",
        "pipx install credbroker",
    ],
)
def test_an_install_by_name_is_found(line: str) -> None:
    assert _BY_NAME.search(line)


@pytest.mark.parametrize(
    "line",
    [
        'pip install ".[luigi]" boto3',
        "pip install --no-deps --no-build-isolation .",
        "pip install ./dist/credbroker-0.1.0-py3-none-any.whl",
    ],
)
def test_an_install_from_what_we_built_is_none(line: str) -> None:
    assert not _BY_NAME.search(line)


def test_nothing_tells_anybody_to_install_a_stranger_of_our_name() -> None:
    """`credbroker` on PyPI is another project: installed by name, its code would run beside the job's ID token."""
    told = [
        *ROOT.glob("*.md"),
        *ROOT.glob("docs/**/*.md"),
        *ROOT.glob("deploy/**/*"),
        *ROOT.glob("broker/cli/*.py"),
        *ROOT.glob("luigi_contrib_secrets/*.py"),
    ]
    found = [f"{path.name}: {hit[0]}" for path in told if path.is_file() for hit in _BY_NAME.finditer(path.read_text())]
    assert found == []


_EXPLAINED = [
    pytest.param(line, id=f"{block}")
    for block, line in _COMMANDS
    if line.startswith("$ credbroker policy explain --policy policy.toml --project")
]


@pytest.mark.parametrize(
    "line", [*_EXPLAINED, pytest.param(EXAMPLE.partition("claims.json --policy policy.toml\n")[2], id="--help")]
)
def test_the_job_that_is_explained_first_is_one_that_is_allowed(line: str) -> None:
    """By the policy that ships: a first look at `explain` must not be a denial."""
    words = shlex.split(line.replace("\\\n", " ").removeprefix("$ "))[1:]
    shipped = str(ROOT / "deploy/policy/policy.toml")
    said = CliRunner().invoke(cli, [shipped if word == "policy.toml" else word for word in words])
    assert said.exit_code == 0, said.output
    assert "ALLOW environment production" in said.output
