"""`policy init` and `init`: what they write passes check and test, and touches nothing that is there."""

import json
import os
import shlex
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import tomllib
from click.testing import CliRunner, Result

from broker.cli import cli, policy_init
from broker.policy.cases import parse_cases, run
from broker.policy.language import load
from broker.policy.model import Policy
from tests.docs.test_pages import assert_gitlab

AWS = "arn:aws:iam::111122223333:role/etl-{environment}"
BOTH = ("--aws-role", AWS, "--vault-role", "etl-{environment}", "--vault-path", "database/creds/etl-{environment}")


def _run(*words: object, stdin: str | None = None) -> Result:
    result = CliRunner().invoke(cli, [*map(str, words)], input=stdin)
    assert "Traceback" not in result.output
    assert result.exception is None or not isinstance(result.exception, AssertionError | KeyError)
    return result


def _init(folder: Path, project: str = "4711", *words: object) -> Result:
    return _run("policy", "init", folder, "--project", project, *(words or BOTH))


def _tested(folder: Path) -> Policy:
    policy = load(folder)
    for path in folder.glob("*.cases.toml"):
        report = run(policy, parse_cases(path.read_text(), path.name, policy))
        assert len(report.outcomes) == 9
        assert not report.failed
    return policy


def test_what_it_writes_passes_check_and_test(tmp_path: Path) -> None:
    result = _init(tmp_path / "policy")
    assert result.exit_code == 0, result.output
    assert sorted(p.name for p in (tmp_path / "policy").iterdir()) == ["project-4711.cases.toml", "project-4711.toml"]
    policy = _tested(tmp_path / "policy")
    assert [(e.name, [*policy.granted(e)]) for e in policy.environments] == [
        ("production", ["lake", "warehouse"]),
        ("review", ["lake", "warehouse"]),
    ]
    assert len(policy.invariants) == 1
    tested = _run("policy", "test", tmp_path / "policy", "--fail-unselected")
    assert tested.exit_code == 0, tested.output


def test_the_command_it_names_can_be_pasted_also_for_a_folder_with_a_space(tmp_path: Path) -> None:
    folder = tmp_path / "our policies"
    said = _init(folder).stderr.strip()
    words = shlex.split(said.partition("try: credbroker ")[2])
    assert words == ["policy", "test", str(folder)]
    assert _run(*words).exit_code == 0


def test_a_target_without_the_environment_in_it_is_production_s_alone(tmp_path: Path) -> None:
    """Or review would have production's role."""
    _init(tmp_path, "4711", "--aws-role", "arn:aws:iam::111122223333:role/etl")
    policy = _tested(tmp_path)
    assert [[*policy.granted(e)] for e in policy.environments] == [["lake"], []]
    assert "Not for review" in (tmp_path / "project-4711.toml").read_text()


def test_project_forty_one_touches_no_other_file_and_has_nobody_else_s_grants(tmp_path: Path) -> None:
    _init(tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert _init(tmp_path, "41", "--vault-role", "x-{environment}", "--vault-path", "kv/{environment}/x").exit_code == 0
    after = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert {name: after[name] for name in before} == before
    assert sorted(after.keys() - before.keys()) == ["project-41.cases.toml", "project-41.toml"]
    policy = _tested(tmp_path)
    granted = {e.file: [*policy.granted(e)] for e in policy.environments}
    assert granted == {"project-41.toml": ["warehouse"], "project-4711.toml": ["lake", "warehouse"]}


def test_what_others_share_is_expected_in_its_cases(tmp_path: Path) -> None:
    grant = '[[grant]]\nname = "wiki"\nenvironments = ["production"]\nshared = true\n'
    shared = f'version = 1\n{grant}[grant.vault]\nrole = "w"\npath = "kv/w"\n'
    _init(tmp_path)
    (tmp_path / "project-4711.cases.toml").unlink()
    (tmp_path / "common.toml").write_text(shared)
    assert _init(tmp_path, "41").exit_code == 0
    assert '"wiki"' in (tmp_path / "project-41.cases.toml").read_text()
    _tested(tmp_path)


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("--project", "x", *BOTH), 65, "--project x: give GitLab's number"),
        (BOTH, 65, "--project is missing"),
        (("--project", "4711"), 65, "a policy grants something"),
        (("--project", "4711", "--vault-path", "kv/x"), 65, "--vault-role and --vault-path belong together"),
        (("--project", "4711", "--branch", "*", *BOTH), 65, "--branch '*' is not the plain name of one branch"),
        (("--project", "4711", "--branch", 'a"b', *BOTH), 65, "is not the plain name"),
        (("--project", "4711", "--issuer", "Git Lab", *BOTH), 78, "'Git Lab' is not a name"),
        (("--project", "4711", "--aws-role", "etl"), 78, "is not the ARN of a role"),
        (("--project", "4711", "--aws-role", 'a"\nversion = 2'), 78, "is not the ARN of a role"),
        (("--project", "4711", "--vault-role", "x", "--vault-path", "x"), 78, "is not a path from a mount on"),
    ],
)
def test_what_makes_no_policy_writes_nothing(tmp_path: Path, words: tuple[str, ...], code: int, said: str) -> None:
    result = _run("policy", "init", tmp_path / "new", *words)
    assert (result.exit_code, result.stdout) == (code, "")
    assert said in result.stderr
    assert not (tmp_path / "new").exists()


def test_a_file_that_is_there_is_not_replaced_and_a_bad_folder_is_not_added_to(tmp_path: Path) -> None:
    _init(tmp_path)
    before = (tmp_path / "project-4711.toml").read_bytes()
    again = _init(tmp_path)
    assert again.exit_code == 78
    assert "is there already, and init replaces nothing" in again.stderr
    assert (tmp_path / "project-4711.toml").read_bytes() == before
    (tmp_path / "project-4711.toml").rename(tmp_path / "mine.toml")
    overlapping = _init(tmp_path)
    assert overlapping.exit_code == 78
    assert "project-4711.cases.toml is there already" in overlapping.stderr
    (tmp_path / "project-4711.cases.toml").unlink()
    overlapping = _init(tmp_path)
    assert "can have a project in common" in overlapping.stderr
    (tmp_path / "mine.toml").write_text("version = 2")
    assert "version is 2" in _init(tmp_path).stderr
    assert [path.name for path in tmp_path.iterdir()] == ["mine.toml"]


def test_on_a_terminal_it_asks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    answers = ["4711", "trunk", AWS, ""]
    monkeypatch.setattr(policy_init, "is_asking", lambda: True)
    result = _run("policy", "init", tmp_path / "policy", stdin="\n".join(answers) + "\n")
    assert result.exit_code == 0, result.output
    assert 'when.ref_path = "refs/heads/trunk"' in (tmp_path / "policy/project-4711.toml").read_text()


# --- credbroker init --------------------------------------------------------------------------------------------------

WHOLE = (
    *("--public-url", "https://broker.example.com", "--gitlab", "https://gitlab.example.com", "--project", "4711"),
    *("--aws-region", "eu-central-1", "--vault-url", "https://vault.example.com:8200", *BOTH),
)


@pytest.fixture
def short() -> Iterator[Path]:
    """A folder whose path leaves room for a socket's."""
    with tempfile.TemporaryDirectory() as made:
        yield Path(made)


def test_everything_a_first_broker_needs_is_made_and_checked(short: Path) -> None:
    home = short / "a broker"
    result = _run("init", home, *WHOLE)
    assert result.exit_code == 0, result.output
    assert result.stdout.startswith("broker.example.com/log+")
    _tested(home / "policy")
    assert _run("serve", "--config", home / "broker.toml", "--check").stdout == "ok\n"
    assert _run("policy", "check", home / "policy").exit_code == 0
    assert_gitlab(home / ".gitlab-ci.yml")
    assert (home / "keys" / "log.pem").stat().st_mode & 0o077 == 0
    assert (home / "admin").stat().st_mode & 0o077 == 0
    assert tomllib.loads((home / "broker.toml").read_text())["listen"]["admin_uids"] == [os.getuid()]
    rendered = {path.relative_to(home / "upstream").parts[0] for path in (home / "upstream").rglob("*")}
    assert rendered == {"aws", "vault"}
    json.loads((home / "policy" / "policy.schema.json").read_text())
    assert [path.name for path in short.iterdir()] == ["a broker"]
    (command,) = [line for line in result.stderr.splitlines() if "credbroker serve" in line]
    assert shlex.split(command) == ["credbroker", "serve", "--config", str(home / "broker.toml")]


def test_one_upstream_is_enough_and_an_empty_folder_will_do(short: Path) -> None:
    home = short / "broker"
    home.mkdir()
    words = [word for word in WHOLE if word not in ("--aws-role", AWS, "--aws-region", "eu-central-1")]
    assert _run("init", home, *words).exit_code == 0
    assert [upstream["kind"] for upstream in tomllib.loads((home / "broker.toml").read_text())["upstream"]] == ["vault"]
    assert "exec --grant warehouse" in (home / ".gitlab-ci.yml").read_text()


@pytest.mark.parametrize(
    ("take", "put", "code", "said"),
    [
        (
            "https://broker.example.com",
            "http://broker.example.com",
            65,
            "--public-url 'http://broker.example.com' is no https URL",
        ),
        ("https://gitlab.example.com", "gitlab", 65, "--gitlab 'gitlab' is no https URL"),
        ("https://vault.example.com:8200", "", 65, "--vault-url is missing"),
        ("eu-central-1", "", 65, "--aws-region is missing"),
        ("eu-central-1", "Frankfurt am Main", 65, "--aws-region 'Frankfurt am Main' is no region"),
        ("4711", "0", 65, "--project 0"),
        (AWS, "role", 78, "is not the ARN of a role"),
    ],
)
def test_a_bad_answer_leaves_nothing_behind(short: Path, take: str, put: str, code: int, said: str) -> None:
    assert take in WHOLE
    result = _run("init", short / "broker", *[put if word == take else word for word in WHOLE])
    assert (result.exit_code, result.stdout) == (code, "")
    assert said in result.stderr
    assert list(short.iterdir()) == []


def test_a_folder_with_something_in_it_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("x")
    result = _run("init", tmp_path, *WHOLE)
    assert result.exit_code == 78
    assert "is not empty, and init replaces nothing" in result.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]
