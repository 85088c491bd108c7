"""`[secrets]` of luigi.cfg: all of it, and nothing else."""

from pathlib import Path

import pytest
from luigi.configuration import LuigiTomlParser
from luigi.configuration.cfg_parser import LuigiConfigParser

from luigi_contrib_secrets import SecretMisconfigured
from luigi_contrib_secrets.settings import Pinning, Settings, load


@pytest.fixture(autouse=True)
def _clean(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("CREDBROKER_URL", "CREDBROKER_CA_FILE", "CI_SERVER_TLS_CA_FILE", "LUIGI_CONFIG_PARSER"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(LuigiConfigParser, "_config_paths", [str(tmp_path / "luigi.cfg")])
    monkeypatch.setattr(LuigiConfigParser, "_instance", None)


def configured(tmp_path: Path, text: str) -> Settings:
    (tmp_path / "luigi.cfg").write_text(text)
    return load()


def test_everything_has_a_default(tmp_path: Path) -> None:
    assert configured(tmp_path, "") == Settings(url="", environment="", wait=120, pinning=Pinning(idle=2, cap=30), ca_file="")


def test_everything_can_be_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CREDBROKER_URL", "unix:///environment.sock")
    monkeypatch.setenv("CI_SERVER_TLS_CA_FILE", "/ci.pem")
    text = "[secrets]\nurl = unix:///b.sock\nenvironment = production\nwait = 7\npin_idle = 0.5\npin_cap = 9\n"
    assert configured(tmp_path, text) == Settings(
        url="unix:///b.sock", environment="production", wait=7, pinning=Pinning(idle=0.5, cap=9), ci_ca_file="/ci.pem"
    )


def test_the_environment_says_what_luigi_cfg_does_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CREDBROKER_URL", "unix:///environment.sock")
    monkeypatch.setenv("CREDBROKER_CA_FILE", "/ours.pem")
    monkeypatch.setenv("CI_SERVER_TLS_CA_FILE", "/ci.pem")
    found = configured(tmp_path, "[secrets]\n")
    assert (found.url, found.ca_file, found.ci_ca_file) == ("unix:///environment.sock", "/ours.pem", "/ci.pem")


def test_a_mistyped_key_is_refused(tmp_path: Path) -> None:
    """`enviroment = production` would guard nothing."""
    with pytest.raises(SecretMisconfigured, match=r"unknown key 'enviroment'; there are url, environment, wait"):
        configured(tmp_path, "[secrets]\nenviroment = production\n")


def test_a_key_that_default_lends_to_every_section_is_not_ours_to_refuse(tmp_path: Path) -> None:
    assert configured(tmp_path, "[DEFAULT]\nteam = data\n[secrets]\nwait = 1\n").wait == 1


@pytest.mark.parametrize("line", ["wait = soon", "wait = -1", "wait = nan", "wait = 1e9", "pin_idle = x", "pin_cap = 301"])
def test_a_length_that_is_none_is_refused(tmp_path: Path, line: str) -> None:
    key = line.split(" ", 1)[0]
    with pytest.raises(SecretMisconfigured, match=rf"\[secrets\] in luigi.cfg: {key} must be a number of seconds from 0 to"):
        configured(tmp_path, f"[secrets]\n{line}\n")


def test_the_section_is_read_from_toml_as_well(monkeypatch: pytest.MonkeyPatch) -> None:
    """Luigi's TOML parser has its own store; a mistyped key is seen there too."""
    parser = LuigiTomlParser()
    parser.data = {"secrets": {"environment": "production", "wait": 7}}
    monkeypatch.setattr(LuigiTomlParser, "enabled", True)
    monkeypatch.setattr(LuigiTomlParser, "_instance", parser)
    monkeypatch.setenv("LUIGI_CONFIG_PARSER", "toml")
    assert (load().environment, load().wait) == ("production", 7)
    parser.data = {"secrets": {"enviroment": "production"}}
    with pytest.raises(SecretMisconfigured, match="unknown key 'enviroment'"):
        load()
