"""What `deploy/` ships, each checked by the tool that will read it."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.docs.pages import ROOT
from tests.docs.test_pages import assert_gitlab

DEPLOY = ROOT / "deploy"


def run(*command: str, **more: Any) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(command, capture_output=True, text=True, check=False, **more)


def tool(name: str) -> str:
    """Its path. With CI=true a missing one fails; on a user's machine the test is skipped, and says so."""
    found = shutil.which(name, path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}{os.pathsep}/usr/bin:/bin")
    if found is None and not os.environ.get("CI"):
        pytest.skip(f"{name} is not on this machine")
    assert found is not None, f"{name} is missing, and CI=true"
    return found


# --- the example broker.toml and policy -----------------------------------------------------------------------------


@pytest.fixture
def example(tmp_path: Path) -> Path:
    """A copy of the example, with the keys and certificates that it names."""
    shutil.copytree(DEPLOY / "policy", tmp_path / "policy")
    text = (DEPLOY / "broker.toml").read_text()
    for folder in ("/run/credbroker-admin", "/run/credbroker", "/var/lib/credbroker"):
        here = tmp_path / Path(folder).name.replace("credbroker-", "") / Path(folder).parent.name
        here.mkdir(parents=True, mode=0o700)
        text = text.replace(f"{folder}/", f"{here}/")
    (tmp_path / "broker.toml").write_text(text)
    made = run(sys.executable, "-m", "broker", "keygen", str(tmp_path / "keys"), "--origin", "broker.example.com/log")
    assert made.returncode == 0, made.stderr
    certificate = run(
        *(tool("openssl"), "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"),
        *("-subj", "/CN=broker.example.com", "-keyout", "tls.key", "-out", "tls.crt"),
        cwd=tmp_path,
    )
    assert certificate.returncode == 0, certificate.stderr
    return tmp_path


def test_the_example_broker_toml_passes_its_check(example: Path) -> None:
    checked = run(sys.executable, "-m", "broker", "serve", "--config", str(example / "broker.toml"), "--check")
    assert checked.returncode == 0, checked.stderr
    assert "ok" in checked.stdout


def test_the_same_example_with_a_slip_does_not(example: Path) -> None:
    """The refused twin."""
    path = example / "broker.toml"
    path.write_text(path.read_text().replace("max_lifetime", "max_lifetme"))
    checked = run(sys.executable, "-m", "broker", "serve", "--config", str(path), "--check")
    assert checked.returncode == 78
    assert re.search(r"broker\.toml:\d+: .*max_lifetme", checked.stderr + checked.stdout)


def test_the_example_policy_passes_its_check() -> None:
    checked = run(sys.executable, "-m", "broker", "policy", "check", str(DEPLOY / "policy/policy.toml"))
    assert checked.returncode == 0, checked.stdout + checked.stderr


def test_the_example_policy_says_what_its_cases_say(tmp_path: Path) -> None:
    """And no environment is without a case."""
    report = tmp_path / "report.xml"
    tested = run(
        *(sys.executable, "-m", "broker", "policy", "test", str(DEPLOY / "policy/policy.toml")),
        *("--fail-unselected", "--junit", str(report)),
    )
    assert tested.returncode == 0, tested.stdout + tested.stderr
    assert "0 environments unselected" in tested.stdout
    assert report.read_text().count("<testcase ") > 10


# --- systemd, container ---------------------------------------------------------------------------------------------


def test_systemd_takes_the_unit_and_calls_its_exposure_small(tmp_path: Path) -> None:
    unit = tmp_path / "credbroker.service"
    text = (DEPLOY / "systemd/credbroker.service").read_text()
    unit.write_text(text.replace("/opt/credbroker/bin/credbroker", shutil.which("true") or "/bin/true"))
    verified = run(tool("systemd-analyze"), "verify", str(unit))
    assert (verified.returncode, verified.stderr) == (0, "")
    security = run(tool("systemd-analyze"), "security", "--offline=true", "--threshold=20", str(unit))
    assert security.returncode == 0, security.stdout[-400:]


def test_systemd_would_refuse_a_unit_with_a_slip(tmp_path: Path) -> None:
    """The refused twin: the check above can fail."""
    unit = tmp_path / "credbroker.service"
    unit.write_text((DEPLOY / "systemd/credbroker.service").read_text())  # its ExecStart is not on this machine
    assert run(tool("systemd-analyze"), "verify", str(unit)).returncode != 0


def test_hadolint_takes_the_containerfile() -> None:
    linted = run(tool("hadolint"), str(DEPLOY / "Containerfile"))
    assert linted.returncode == 0, linted.stdout


def test_the_containerfile_copies_what_the_package_is_made_of() -> None:
    text = (DEPLOY / "Containerfile").read_text()
    for source in re.findall(r"^COPY (?!--from)(.+) \S+$", text, re.MULTILINE):
        for name in source.split():
            assert (ROOT / name).exists(), name
    assert re.search(r"^USER 10001", text, re.MULTILINE)


# --- the GitLab component -------------------------------------------------------------------------------------------

COMPONENT = DEPLOY / "gitlab/templates/run.yml"
COMMANDS = ['echo "it\'s $HOME"', "printf '%s\\n' \"two  words\"\nexit 3"]


def filled(inputs: dict[str, Any]) -> str:
    """The component as GitLab makes it: the text after `---`, with inputs put in; what is no string becomes JSON.

    Source: gitlabhq, lib/gitlab/ci/config/interpolation/text_template.rb.
    """
    header, _, body = COMPONENT.read_text().partition("\n---\n")
    spec = yaml.safe_load(header)["spec"]["inputs"]
    values = {name: inputs.get(name, declared.get("default")) for name, declared in spec.items()}
    assert not inputs.keys() - spec.keys()
    assert None not in values.values(), "an input without a default is missing"
    for name, declared in spec.items():
        if "regex" in declared:
            assert re.search(declared["regex"], values[name])

    def value(match: "re.Match[str]") -> str:
        given = values[match.group(1)]
        return given if isinstance(given, str) else json.dumps(given)

    return re.sub(r"\$\[\[ inputs\.(\w+) \]\]", value, body)


INPUTS = {
    "broker_url": "https://broker.example.com",
    "environment": "production",
    "script": COMMANDS,
    "grants": ["lake"],
    "image": "registry.example.com/data/pipeline",
}


def test_gitlab_s_schema_takes_this_repository_s_own_pipeline() -> None:
    assert_gitlab(ROOT / ".gitlab-ci.yml")


def test_gitlab_s_schema_takes_the_component_with_its_inputs_filled(tmp_path: Path) -> None:
    path = tmp_path / ".gitlab-ci.yml"
    path.write_text(filled(INPUTS))
    assert_gitlab(path)
    (job,) = yaml.safe_load(filled(INPUTS)).values()
    assert job["id_tokens"] == {"CREDBROKER_ID_TOKEN": {"aud": "https://broker.example.com"}}
    assert job["retry"] == {"max": 2, "exit_codes": [69]}


def test_the_component_has_no_image_of_its_own() -> None:
    """No public image has credbroker in it, and one that fetched it by name would fetch a stranger's."""
    with pytest.raises(AssertionError, match="without a default"):
        filled({name: value for name, value in INPUTS.items() if name != "image"})


def test_the_component_s_job_hands_the_user_s_script_to_exec_as_it_was_written(tmp_path: Path) -> None:
    """With a `credbroker` that shows what it was given and then runs it, as `exec` does."""
    (job,) = yaml.safe_load(filled(INPUTS)).values()
    stand_in = tmp_path / "credbroker"
    stand_in.write_text('#!/bin/sh\necho "given: $1 $2 $3 $4"\nshift 4\nexec "$@"\n')
    stand_in.chmod(0o755)
    variables = {name: value["value"] if isinstance(value, dict) else value for name, value in job["variables"].items()}
    environment = {**os.environ, **variables, "PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}", "HOME": "/home/me"}
    done = run("sh", "-e", "-c", "\n".join(job["script"]), env=environment)
    assert done.stdout == "given: exec --grant lake --\nit's /home/me\ntwo  words\n"
    assert done.returncode == 3
