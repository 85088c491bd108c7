"""`credbroker serve`, as far as it goes before anything is served."""

from pathlib import Path

import pytest
from click.testing import CliRunner

from broker.cli.keys import keygen
from broker.cli.serve import serve
from broker.errors import Misconfigured


def test_check_prints_every_problem_and_exits_with_78(tmp_path: Path) -> None:
    """On stderr, one a line, no traceback."""
    path = tmp_path / "broker.toml"
    path.write_text('public_url = "http://x.example.com"\nlistn = 1\n')
    result = CliRunner().invoke(serve, ["--config", str(path), "--check"])
    assert result.exit_code == 78
    assert result.stdout == ""
    lines = result.stderr.splitlines()
    assert any(line.startswith("broker.toml:1: public_url") for line in lines)
    assert any("unknown key 'listn'; did you mean 'listen'?" in line for line in lines)
    assert "Traceback" not in result.output


def test_serving_a_bad_file_exits_the_same_way(tmp_path: Path) -> None:
    """Before anything is opened."""
    result = CliRunner().invoke(serve, ["--config", str(tmp_path / "none.toml")])
    assert result.exit_code == 78
    assert "cannot be read" in result.stderr


def test_help_has_an_example() -> None:
    """And a config has to be named."""
    result = CliRunner().invoke(serve, ["--help"])
    assert result.exit_code == 0
    assert "credbroker serve --config broker.toml --check" in result.stdout
    assert CliRunner().invoke(serve, []).exit_code == 2


_CONFIG = """
public_url = "http://127.0.0.1:8400"
policy = "policy.toml"
[listen]
http = "127.0.0.1:8400"
[store]
url = "sqlite:///broker.db"
[keys]
issuer = "keys/issuer"
log = "keys/log.pem"
store = "keys/store.key"
[log]
origin = "broker.example.com/log"
[[issuer]]
name = "gitlab"
profile = "gitlab"
issuer = "https://gitlab.example.com"
audience = ["http://127.0.0.1:8400"]
"""
_POLICY = """
version = 1
project_id = ["1"]
[[environment]]
name = "production"
when.issuer = "gitlab"
when.ref_path = "refs/heads/main"
when.ref_protected = true
[[grant]]
name = "warehouse"
environments = ["production"]
[grant.vault]
role = "r"
path = "database/creds/r"
"""


def _config(folder: Path, *vaults: str) -> list[str]:
    """A whole broker.toml, its keys and a policy with one Vault grant, in a folder; the arguments that check it."""
    assert CliRunner().invoke(keygen, [str(folder / "keys"), "--origin", "broker.example.com/log"]).exit_code == 0
    upstreams = ['[[upstream]]\nname = "aws"\nkind = "aws"\nregion = "eu-central-1"\n']
    upstreams += [f'[[upstream]]\nname = "{name}"\nkind = "vault"\nurl = "https://{name}.example.com"\n' for name in vaults]
    (folder / "broker.toml").write_text(_CONFIG + "".join(upstreams))
    (folder / "policy.toml").write_text(_POLICY)
    return ["--config", str(folder / "broker.toml"), "--check"]


def test_one_upstream_of_a_grants_kind_is_what_it_means(tmp_path: Path) -> None:
    result = CliRunner().invoke(serve, _config(tmp_path, "vault"))
    assert (result.exit_code, result.stdout) == (0, "ok\n")


@pytest.mark.parametrize(
    ("vaults", "says"),
    [
        ((), "grant 'warehouse' needs an [[upstream]] of kind vault, and broker.toml has none"),
        (("north", "south"), "grant 'warehouse' can mean north or south; say which in the policy, with upstream = …"),
    ],
)
def test_a_grant_without_an_upstream_or_with_two_is_named_with_what_to_do(
    tmp_path: Path, vaults: tuple[str, ...], says: str
) -> None:
    with pytest.raises(Misconfigured) as refused:
        CliRunner().invoke(serve, _config(tmp_path, *vaults), catch_exceptions=False)
    assert (refused.value.public, refused.value.code.exit_code) == (says, 78)
