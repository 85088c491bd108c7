"""What the command's environment is made of, and references."""

import configparser
import stat
import sys
from datetime import datetime, timezone
from pathlib import Path

import pytest

from broker.errors import Code, Misconfigured, Refused
from broker.job.environment import SHADOWS, AwsSetup, command_environment, private_folder, write_secret_file
from broker.job.references import Wanted, parse_env, parse_file, parse_wanted
from broker.job.session_file import KeptSession
from broker.secret import Secret

SESSION = KeptSession(
    url="unix:///b.sock",
    handle=Secret("h"),
    session_id="s",
    environment="e",
    expires_at=datetime(2026, 1, 1, tzinfo=timezone.utc),
)
AWS = AwsSetup(
    grants=["lake", "lake-two"],
    default="lake",
    endpoint_url="http://127.0.0.1:1/v1/aws/lake",
    endpoint_token=Secret("endpoint-token"),
    regions={"lake": "eu-central-1"},
)


def made(folder: Path, *, aws: AwsSetup | None = AWS, extra: dict[str, Secret] | None = None, **inherited: str) -> dict[str, str]:
    return command_environment(
        inherited,
        session=SESSION,
        session_file=folder / "s.json",
        token_env="MY_TOKEN",
        job_token=Secret("the.job.token"),
        aws=aws,
        folder=folder,
        extra=extra or {},
    )


def test_no_name_of_the_job_token_is_left(tmp_path: Path) -> None:
    made_of = made(tmp_path, CREDBROKER_ID_TOKEN="x", MY_TOKEN="y", COPY="the.job.token\n", CI_JOB_TOKEN="glcbt-z", HOME="/h")
    assert not {"CREDBROKER_ID_TOKEN", "MY_TOKEN", "COPY"} & made_of.keys()
    assert (made_of["CI_JOB_TOKEN"], made_of["HOME"]) == ("glcbt-z", "/h")


def test_every_shadow_is_replaced_or_removed(tmp_path: Path) -> None:
    made_of = made(tmp_path, aws=AWS, extra=None, **dict.fromkeys(SHADOWS, "shadow"))
    assert "shadow" not in made_of.values()


def test_the_profiles_ask_us_and_none_of_them_is_the_default(tmp_path: Path) -> None:
    folder = tmp_path / "with space"
    folder.mkdir()
    config = configparser.RawConfigParser()
    config.read(made(folder)["AWS_CONFIG_FILE"])
    assert config.sections() == ["profile lake", "profile lake-two"]
    assert config["profile lake"]["credential_process"].endswith(" get lake --format aws")
    assert config["profile lake"]["region"] == "eu-central-1"
    assert "region" not in config["profile lake-two"]


def test_the_profiles_command_is_a_module_when_we_were_started_as_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "my program"
    program.touch()
    (tmp_path / "one").mkdir()
    (tmp_path / "two").mkdir()
    monkeypatch.setattr(sys, "argv", [str(program)])
    assert f"'{program}' get lake" in Path(made(tmp_path / "one")["AWS_CONFIG_FILE"]).read_text()
    monkeypatch.setattr(sys, "argv", [str(tmp_path / "__main__.py")])
    assert "-m broker get lake" in Path(made(tmp_path / "two")["AWS_CONFIG_FILE"]).read_text()


def test_the_loopback_is_added_to_what_no_proxy_says(tmp_path: Path) -> None:
    made_of = made(tmp_path, aws=None, NO_PROXY="a.example,127.0.0.1", no_proxy="")
    assert made_of["NO_PROXY"] == "a.example,127.0.0.1,localhost"
    assert made_of["no_proxy"] == "127.0.0.1,localhost"


def test_a_value_with_a_nul_byte_is_refused_with_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(Misconfigured, match="holds a NUL byte, which no variable can; use --file"):
        made(tmp_path, extra={"V": Secret("a\x00b")})


def test_a_secret_file_is_private_and_replaces_only_its_own_kind(tmp_path: Path) -> None:
    path = tmp_path / "f"
    write_secret_file(path, Secret("one\r\n"))
    write_secret_file(path, Secret("two\r\n"))  # what a killed exec left
    assert path.read_bytes() == b"two\r\n"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    path.chmod(0o644)
    with pytest.raises(Misconfigured, match="something else is there already") as caught:
        write_secret_file(path, Secret("three"))
    assert caught.value.code is Code.CONFIG_INVALID
    (tmp_path / "link").symlink_to(path)
    with pytest.raises(Misconfigured, match="something else is there already"):
        write_secret_file(tmp_path / "link", Secret("three"))
    with pytest.raises(Misconfigured, match="cannot be written: No such file"):
        write_secret_file(tmp_path / "none" / "f", Secret("three"))


def test_the_private_folder_is_private_and_removed(tmp_path: Path) -> None:
    with private_folder(tmp_path / "s.json") as name:
        assert stat.S_IMODE(Path(name).stat().st_mode) == 0o700
    assert not Path(name).exists()


# --- references -------------------------------------------------------------------------------------------------------


def test_references_are_read_in_all_their_parts() -> None:
    one = parse_env("DB=secret://warehouse#password")
    assert (one.name, one.wanted, one.field) == ("DB", Wanted(grant="warehouse"), "password")
    two = parse_file("/run/x=secret://kv/team/one#a.b-c_d")
    assert (two.path, two.wanted, two.field) == (Path("/run/x"), Wanted(grant="kv", subpath="team/one"), "a.b-c_d")
    assert str(parse_wanted("kv/team/one")) == "kv/team/one"
    assert str(parse_wanted("lake")) == "lake"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "DB",
        "DB=",
        "=secret://g#f",
        "DB=secret://g",
        "DB=secret://g#",
        "DB=vault://g#f",
        "DB=secret://g#f#h",
        "DB=secret://#f",
    ],
)
def test_a_text_that_is_no_reference_is_refused_with_its_form(text: str) -> None:
    with pytest.raises(Misconfigured, match="is not of the form --env NAME=secret://grant#field"):
        parse_env(text)


def test_a_name_that_is_no_variable_or_no_grant_is_refused() -> None:
    with pytest.raises(Misconfigured, match="is no name of a variable"):
        parse_env("1X=secret://g#f")
    for text in ("Lake", "", "-x", "x" * 33, "kv/../x", "kv//x", "kv/./x"):
        with pytest.raises(Refused, match="names no grant"):
            parse_wanted(text)
