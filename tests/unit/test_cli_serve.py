"""`credbroker serve`, as far as it goes before anything is served."""

import asyncio
import re
from pathlib import Path

import pytest
from click.testing import CliRunner

from broker.audit.checkpoint import LogSigner
from broker.cli.keys import keygen
from broker.cli.serve import serve
from broker.config import load
from broker.errors import ManyFaults, Misconfigured
from broker.keyfiles import format_symmetric, read_private, read_symmetric
from broker.store.sqlite import SqliteLedger
from broker.wiring import read_files
from tests.contract.ledger_stores import Hands, a_session, opening


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


def _lines(folder: Path) -> list[str]:
    result = CliRunner().invoke(serve, ["--config", str(folder / "broker.toml"), "--check"])
    if isinstance(result.exception, Misconfigured):  # a lone error, which the command line as a whole tells
        return [str(result.exception)]
    assert (result.exit_code, result.stdout) == (78, "")
    return result.stderr.splitlines()


def _spoil_keys(keys: Path) -> None:
    (keys / "log.pem").write_text("-----BEGIN nothing")
    (keys / "store.key").chmod(0o640)
    (issuer_key,) = (keys / "issuer").glob("*.pem")
    issuer_key.write_text("x")
    (keys / "issuer" / "z.pem").touch(0o600)


def test_check_finds_what_is_wrong_in_every_file_at_once(tmp_path: Path) -> None:
    """Each line names its file; the policy's problems have their line. Starting says the same."""
    check = _config(tmp_path, "vault")
    assert CliRunner().invoke(serve, check).exit_code == 0
    _spoil_keys(tmp_path / "keys")
    (tmp_path / "policy.toml").write_text(_POLICY.replace("role =", "rule ="))
    (tmp_path / "broker.db").mkdir()
    found = _lines(tmp_path)
    assert found[0].startswith("policy.toml:")
    for words in (
        "keys/log.pem: the log key is not an unencrypted PKCS #8 PEM",
        "keys/store.key is open to others (mode 0640); `chmod 600` it [config_invalid]",
        "keys/issuer/z.pem has to start with one line `activate_at: ",
        "broker.db cannot be read: it is not a file",
    ):
        assert [words in line for line in found].count(True) == 1, (words, found)
    assert len([line for line in found if "keys/issuer/" in line]) == 2
    with pytest.raises(ManyFaults) as start:
        read_files(load(tmp_path / "broker.toml"))
    assert len(start.value.faults) == 5
    assert all(fault.public in "\n".join(found) for fault in start.value.faults)


def test_a_configuration_with_problems_does_not_hide_those_of_the_other_files(tmp_path: Path) -> None:
    """And a file that is missing, or an issuer that is half written, is told once."""
    _config(tmp_path, "vault")
    _spoil_keys(tmp_path / "keys")
    (tmp_path / "keys" / "store.key").unlink()
    (tmp_path / "policy.toml").write_text(_POLICY.replace("role =", "rule ="))
    broken = (tmp_path / "broker.toml").read_text().replace('name = "gitlab"', 'name = "Git Lab"')
    (tmp_path / "broker.toml").write_text("listn = 1\n" + broken.replace("broker.example.com/log", "no log"))
    found = _lines(tmp_path)
    assert found[0].startswith("broker.toml:1: unknown key 'listn'")
    for words in ("store.key", "log.pem: the log key", "z.pem has to", "'Git Lab'", "'no log' cannot name a log"):
        assert [words in line for line in found].count(True) == 1, (words, found)
    assert any(re.match(r"policy\.toml:\d+: ", line) for line in found)
    assert not any("no [[issuer]] is called" in line for line in found)


@pytest.mark.parametrize("slip", ["", "listn = 1\n"])
def test_check_looks_at_the_store_with_the_keys_that_are_configured(tmp_path: Path, slip: str) -> None:
    """Another key, another log: each names both files, or the setting; the store itself is not touched."""
    check = _config(tmp_path, "vault")
    db, keys = tmp_path / "broker.db", tmp_path / "keys"
    signer = LogSigner.load(read_private(keys / "log.pem"), "broker.example.com/log")
    row_key = read_symmetric(keys / "store.key")

    async def stored() -> None:
        ledger = SqliteLedger.open(db, row_key=row_key, signer=signer, clock=Hands())
        await ledger.commit([opening(a_session())], [])
        await ledger.close()

    asyncio.run(stored())
    before = (sorted(path.name for path in tmp_path.iterdir()), db.read_bytes())
    assert CliRunner().invoke(serve, check).exit_code == 0
    (keys / "store.key").write_bytes(format_symmetric(bytes(32)))
    config = (tmp_path / "broker.toml").read_text()
    (tmp_path / "broker.toml").write_text(slip + config)
    (line,) = (line for line in _lines(tmp_path) if "listn" not in line)
    assert f"the store {db} were written with another key than {keys / 'store.key'}; put that key back" in line
    (tmp_path / "broker.toml").write_text(slip + config.replace("broker.example.com/log", "other.example.com/log"))
    (line,) = (line for line in _lines(tmp_path) if "listn" not in line)
    assert f"the log in {db} does not go with this [keys] log and [log] origin" in line
    assert (sorted(path.name for path in tmp_path.iterdir()), db.read_bytes()) == before


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
