"""`keygen` and `issuer export`, as they are typed."""

import json
import os
import subprocess
import sys
from pathlib import Path

import jwt
import pytest

from broker.audit.checkpoint import LogSigner
from broker.keyfiles import read_private, read_symmetric
from broker.signing import Keyring
from tests.strategies import NOON

ORIGIN = "broker.example.com/log"


def credbroker(*arguments: str | Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "broker", *map(str, arguments)],
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])},
    )


@pytest.fixture
def keys(tmp_path: Path) -> Path:
    made = credbroker("keygen", tmp_path / "keys", "--origin", ORIGIN, cwd=tmp_path)
    assert made.returncode == 0, made.stderr
    return tmp_path / "keys"


def test_keygen_makes_what_a_broker_loads(tmp_path: Path) -> None:
    """Three private keys; stdout is the log's public key and nothing else."""
    folder = tmp_path / "new" / "keys"
    made = credbroker("keygen", folder, "--origin", ORIGIN, cwd=tmp_path)
    assert made.returncode == 0, made.stderr
    assert made.stdout == LogSigner.load(read_private(folder / "log.pem"), ORIGIN).vkey + "\n"
    assert len(read_symmetric(folder / "store.key")) == 32
    (key,) = (folder / "issuer").glob("*.pem")
    assert read_private(key).startswith(b"activate_at: ")
    assert Keyring.load(folder / "issuer", NOON.replace(year=2100)).signer(NOON.replace(year=2100)).algorithm == "ES256"
    assert folder.stat().st_mode & 0o777 == 0o700
    assert "PRIVATE" not in made.stdout + made.stderr


def test_keygen_replaces_nothing(keys: Path) -> None:
    """Neither a whole set nor one key of it."""
    before = {path: path.read_bytes() for path in keys.rglob("*") if path.is_file()}
    again = credbroker("keygen", keys, "--origin", ORIGIN, cwd=keys)
    assert again.returncode == 78
    assert "is there already; keygen is for a new broker and replaces nothing: name another folder" in again.stderr
    next((keys / "issuer").iterdir()).unlink()
    again = credbroker("keygen", keys, "--origin", ORIGIN, cwd=keys)
    assert again.returncode == 78
    assert "is there already" in again.stderr
    assert "Traceback" not in again.stderr
    assert all(path.read_bytes() == content for path, content in before.items() if path.exists())


@pytest.mark.parametrize("name", ["log.pem", "store.key"])
def test_keygen_beside_one_key_writes_no_half_of_a_set(tmp_path: Path, name: str) -> None:
    """Its public key would have been told nobody, and it would stand in the way of the next keygen."""
    (tmp_path / "keys").mkdir()
    (tmp_path / "keys" / name).touch()
    made = credbroker("keygen", tmp_path / "keys", "--origin", ORIGIN, cwd=tmp_path)
    assert (made.returncode, made.stdout) == (78, "")
    assert f"{name} is there already" in made.stderr
    assert [path.name for path in (tmp_path / "keys").rglob("*")] == [name]


@pytest.mark.parametrize("origin", ["", "has space", "plus+plus"])
def test_an_origin_that_cannot_name_a_log_is_refused_before_anything_is_written(tmp_path: Path, origin: str) -> None:
    """A log cannot change its name later."""
    made = credbroker("keygen", tmp_path / "keys", "--origin", origin, cwd=tmp_path)
    assert made.returncode == 78
    assert "cannot name a log" in made.stderr
    assert not (tmp_path / "keys").exists()


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    """A file is in the way."""
    (tmp_path / "file").touch()
    made = credbroker("keygen", tmp_path / "file" / "keys", "--origin", ORIGIN, cwd=tmp_path)
    assert made.returncode == 78
    assert "cannot be made" in made.stderr


def test_the_origin_has_to_be_said(tmp_path: Path) -> None:
    """sysexits.h: usage."""
    assert credbroker("keygen", tmp_path / "keys", cwd=tmp_path).returncode == 64


def test_export_writes_what_a_relying_party_fetches(keys: Path, tmp_path: Path) -> None:
    """Discovery document and keys, readable by everybody, and written again over the old ones."""
    (tmp_path / "policy.toml").write_text("version = 1\n")
    config = tmp_path / "broker.toml"
    config.write_text(CONFIG)
    for _ in range(2):
        done = credbroker("issuer", "export", tmp_path / "public", "--config", config, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
    discovery = json.loads((tmp_path / "public" / ".well-known" / "openid-configuration").read_text())
    assert discovery["issuer"] == "https://keys.example.com"
    assert discovery["jwks_uri"] == "https://keys.example.com/jwks"
    published = jwt.PyJWKSet.from_json((tmp_path / "public" / "jwks").read_text())
    assert [key.key_id for key in published.keys] == [
        Keyring.load(keys / "issuer", NOON.replace(year=2100)).signer(NOON.replace(year=2100)).kid
    ]
    assert (tmp_path / "public" / "jwks").stat().st_mode & 0o777 == 0o644
    assert done.stdout.split() == [
        str(tmp_path / "public" / ".well-known" / "openid-configuration"),
        str(tmp_path / "public" / "jwks"),
    ]


def test_export_with_a_config_that_does_not_load_says_why(tmp_path: Path) -> None:
    """And writes nothing."""
    (tmp_path / "broker.toml").write_text("nonsense = 1\n")
    done = credbroker("issuer", "export", tmp_path / "public", "--config", tmp_path / "broker.toml", cwd=tmp_path)
    assert done.returncode == 78
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "public").exists()


CONFIG = """
public_url = "https://broker.example.com"
issuer_url = "https://keys.example.com"
policy = "policy.toml"
[listen]
unix = "broker.sock"
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
audience = ["https://broker.example.com"]
[[upstream]]
name = "vault"
kind = "vault"
url = "https://vault.example.com:8200"
mount = "jwt"
via = "issuer"
"""
