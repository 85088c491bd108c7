"""`credbroker policy check` and `explain`, as a person runs them."""

import base64
import json
import re
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from broker.cli import cli
from tests.unit.policy.build import GOOD_OF_EVERY_KEY, LAKE_JSON, WHOLE

CLAIMS = {
    "project_id": "4711",
    "namespace_id": "72",
    "ref_path": "refs/heads/main",
    "ref_protected": "true",
    "environment": "production",
    "pipeline_source": "push",
    "user_login": "alice",
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "policy.toml").write_text(WHOLE)
    (tmp_path / "lake.json").write_text(LAKE_JSON)
    return tmp_path


def _run(*words: object, stdin: str | bytes | None = None) -> Result:
    result = CliRunner().invoke(cli, ["policy", *map(str, words)], input=stdin)
    assert "Traceback" not in result.output
    assert result.exception is None or isinstance(result.exception, SystemExit)
    return result


def _explain(folder: Path, claims: object, *words: str) -> Result:
    return _run("explain", "-", "--policy", folder / "policy.toml", *words, stdin=json.dumps(claims))


def _token(claims: object) -> str:
    parts = ({"alg": "RS256", "kid": "k", "typ": "JWT"}, claims)
    first, second = (base64.urlsafe_b64encode(json.dumps(part).encode()).decode().rstrip("=") for part in parts)
    return f"{first}.{second}.c2lnbmF0dXJl"


# --- check ----------------------------------------------------------------------------------------------------------------


def test_a_good_policy_is_good(folder: Path) -> None:
    result = _run("check", folder / "policy.toml")
    assert result.exit_code == 0
    assert result.stdout.startswith("policy.toml: good; 2 environments, 2 grants, no two environments can match one job; sha256:")
    assert result.stderr == ""


def test_one_environment_and_one_grant_are_counted_as_one(tmp_path: Path) -> None:
    (tmp_path / "policy.toml").write_text(
        'version = 1\nproject_id = ["1"]\n'
        '[[environment]]\nname = "a"\nwhen.issuer = "gitlab"\nwhen.ref_path = "refs/heads/main"\nwhen.ref_protected = true\n'
        '[[grant]]\nname = "g"\nenvironments = ["a"]\n[grant.vault]\nrole = "r"\npath = "database/creds/r"\n'
    )
    assert _run("check", tmp_path / "policy.toml").stdout.startswith("policy.toml: good; 1 environment, 1 grant, no two")


def test_a_bad_policy_exits_with_78_and_every_problem(folder: Path) -> None:
    (folder / "policy.toml").write_text(WHOLE.replace("max_ttl", "max_tll").replace("version = 1", "version = 2"))
    result = _run("check", folder / "policy.toml")
    assert result.exit_code == 78
    assert result.stdout == ""
    assert result.stderr.splitlines() == [
        "error: policy.toml:1: version is 2; write version = 1",
        "error: policy.toml:31: unknown key 'max_tll'; did you mean 'max_ttl'?",
        "policy.toml: 2 problems [config_invalid]",
    ]


def test_a_warning_is_shown_and_changes_no_exit_code(folder: Path) -> None:
    (folder / "policy.toml").write_text(WHOLE.replace('"refs/heads/**"', '"refs/heads/f*"'))
    result = _run("check", folder / "policy.toml")
    assert result.exit_code == 0
    assert "warning: policy.toml:16: 'refs/heads/f*' takes every name that starts like it" in result.stderr


def test_check_speaks_json(folder: Path) -> None:
    file = folder / "policy.toml"
    good = json.loads(_run("check", file, "--json").stdout)
    assert (good["ok"], good["problems"], good["warnings"]) == (True, [], [])
    assert good["hash"].startswith("sha256:")
    file.write_text("version = 1\nx = ")
    result = _run("check", file, "--json")
    assert result.exit_code == 78
    assert json.loads(result.stdout)["problems"] == [
        {"file": "policy.toml", "line": 2, "what": "this is not TOML: invalid value", "instead": ""}
    ]


def test_a_policy_that_is_not_there_exits_with_78(tmp_path: Path) -> None:
    for path, said in ((tmp_path / "none.toml", "the file cannot be read"), (tmp_path, "the folder has no *.toml file")):
        result = _run("check", path)
        assert result.exit_code == 78
        assert said in result.stderr


# --- explain --------------------------------------------------------------------------------------------------------------


def test_an_allowed_job_is_explained_condition_by_condition(folder: Path) -> None:
    result = _explain(folder, CLAIMS)
    assert result.exit_code == 0
    assert "ALLOW environment production: lake, warehouse" in result.stdout
    assert "production: matches" in result.stdout
    assert "yes when            ref_protected      'true'" in result.stdout
    assert "review: does not match" in result.stdout
    assert "not verified" in result.stderr
    assert "missing: project_path, pipeline_id, job_id, ref, ref_type, sha; a token without them is refused" in result.stderr


def test_a_denied_job_is_told_the_nearest_environment_and_what_is_missing(folder: Path) -> None:
    result = _explain(folder, CLAIMS | {"ref_protected": "false"})
    assert result.exit_code == 0
    assert "DENY no_environment: " in result.stdout
    assert "nearest is production; it wants ref_protected true, and it is 'false'" in result.stdout


def test_another_projects_job_is_told_what_the_pins_are(folder: Path) -> None:
    result = _explain(folder, CLAIMS | {"project_id": "9"})
    assert "No environment is pinned to these ids; the nearest of others:" in result.stdout
    assert "NO  file            project_id         '9'" in result.stdout
    assert "DENY no_environment: this job is in no environment of this broker's policy" in result.stdout


def test_a_claim_of_a_wrong_type_counts_as_absent_and_is_remarked(folder: Path) -> None:
    result = _explain(folder, CLAIMS | {"project_id": 4711, "ref_protected": "True", "groups_direct": [1]})
    assert "project_id is not text: a token with it is refused" in result.stderr
    assert "ref_protected is not true or false" in result.stderr
    assert "groups_direct is not a list of texts" in result.stderr
    assert "project_id absent" in result.stdout


def test_explain_speaks_json_and_takes_json_booleans(folder: Path) -> None:
    record = json.loads(
        _explain(folder, CLAIMS | {"ref_protected": True, "groups_direct": ["a"], "runner_id": 3}, "--json").stdout
    )
    assert (record["decision"], record["environment"], record["grants"]) == ("allow", "production", ["lake", "warehouse"])
    assert record["verified"] is False
    assert record["environments"][0]["name"] == "production"
    assert record["environments"][0]["matches"] is True
    assert record["environments"][0]["steps"][0] == {
        "clause": "file", "claim": "project_id", "value": "4711", "wanted": '"4711"', "met": True,
    }  # fmt: skip
    denied = json.loads(_explain(folder, CLAIMS | {"environment": None}, "--json").stdout)
    assert (denied["decision"], denied["code"]) == ("deny", "no_environment")


def test_a_token_is_decoded_and_never_printed(folder: Path) -> None:
    """Nor is whoever started the pipeline."""
    token = _token(CLAIMS | {"iss": "https://gitlab.example.com"})
    file = folder / "token"
    file.write_text(token + "\n")
    for words in ([], ["--json"]):
        result = _run("explain", file, "--policy", folder / "policy.toml", *words)
        assert result.exit_code == 0
        assert "production" in result.stdout
        for part in (*token.split("."), "alice"):
            assert part not in result.output


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (b"", "is empty"),
        (b"{", "cannot be read"),
        (b'{"a": 1, "a": 2}', "a member twice"),
        (b"not.a", "the job token cannot be read"),
        (b"\xff\xfe", "the job token cannot be read"),
        (b"glcbt-secret", "the job token cannot be read"),
        (b" " * 1_000_002, "is empty"),
        (b"x" * 1_000_002, "is too long"),
    ],
)
def test_what_is_no_token_and_no_claims_exits_with_65_and_is_not_quoted(folder: Path, text: bytes, words: str) -> None:
    result = _run("explain", "-", "--policy", folder / "policy.toml", stdin=text)
    assert result.exit_code == 65
    assert words in result.stderr
    assert "glcbt" not in result.output


def test_a_token_file_that_is_not_there_exits_with_65(folder: Path) -> None:
    result = _run("explain", folder / "none", "--policy", folder / "policy.toml")
    assert result.exit_code == 65
    assert "cannot be read (No such file or directory)" in result.stderr


def test_the_issuer_is_named_when_there_are_several(folder: Path) -> None:
    second = WHOLE.partition("[[grant]]")[0].partition("[[environment]]")[2].partition("[[environment]]")[0]
    second = "\n[[environment]]" + second.replace('"production"', '"second"', 1).replace('"gitlab"', '"gitlab-two"')
    (folder / "policy.toml").write_text(WHOLE + second)
    result = _explain(folder, CLAIMS)
    assert result.exit_code == 78
    assert "several issuers (gitlab, gitlab-two); say which with --issuer" in result.stderr
    assert "ALLOW environment second: no grants" in _explain(folder, CLAIMS, "--issuer", "gitlab-two").stdout
    assert "ALLOW environment production" in _explain(folder, CLAIMS, "--issuer", "gitlab").stdout
    assert "no environment is of issuer 'x'" in _explain(folder, CLAIMS, "--issuer", "x").stderr


def test_a_bad_policy_is_not_explained(folder: Path) -> None:
    (folder / "policy.toml").write_text("version = 2")
    result = _explain(folder, CLAIMS)
    assert result.exit_code == 78
    assert "version is 2" in result.stderr


# --- explain, by options --------------------------------------------------------------------------------------------------

MAIN = ("--project", "4711", "--ref", "refs/heads/main", "--protected", "--source", "push", "--environment", "production")


def _flags(folder: Path, *words: str) -> Result:
    return _run("explain", "--policy", folder / "policy.toml", *words)


def test_a_job_can_be_described_by_options(folder: Path) -> None:
    assert "ALLOW environment production: lake, warehouse" in _flags(folder, *MAIN).stdout
    denied = _flags(folder, *MAIN, "--unprotected")
    assert "nearest is production; it wants ref_protected true, and it is 'false'" in denied.stdout
    review = _flags(folder, "--project", "4711", "--ref", "refs/heads/x", "--source", "web", "--json")
    assert json.loads(review.stdout)["environment"] == "review"


def test_options_change_what_a_file_says(folder: Path) -> None:
    result = _explain(folder, CLAIMS | {"ref_protected": "false"}, "--protected")
    assert "ALLOW environment production" in result.stdout


def test_any_claim_can_be_given_in_its_own_type(folder: Path) -> None:
    claims = ("--claim", "runner_id=7", "--claim", "groups_direct=a,b", "--claim", "ref_type=branch", "--claim", "sha=12")
    result = _flags(folder, *MAIN, *claims)
    assert "ALLOW" in result.stdout
    assert "it counts as absent" not in result.stderr
    assert "runner_id is not a whole number" in _flags(folder, *MAIN, "--claim", "runner_id=x").stderr


def test_a_grant_can_be_asked_for_alone(folder: Path) -> None:
    assert "ALLOW environment production: lake\n" in _flags(folder, *MAIN, "--grant", "lake").stdout
    denied = _flags(folder, *MAIN, "--ref", "refs/heads/x", "--environment", "x", "--grant", "warehouse")
    assert "DENY grant_denied" in denied.stdout
    assert "nearest is" not in denied.stdout
    assert "DENY grant_unknown" in _flags(folder, *MAIN, "--grant", "pond").stdout


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((), "there is nothing to explain"),
        (("--ref", "main"), "--ref 'main' is no whole ref; write it as refs/heads/…"),
        (("--ref", "refs/heads/"), "is no whole ref"),
        (("--claim", "x"), "--claim 'x' is not NAME=VALUE"),
        (("--claim", "=x"), "--claim '=x' is not NAME=VALUE"),
    ],
)
def test_options_that_describe_no_job_exit_with_65(folder: Path, words: tuple[str, ...], said: str) -> None:
    result = _flags(folder, *words)
    assert (result.exit_code, result.stdout) == (65, "")
    assert said in result.stderr


def test_check_says_who_reaches_a_shared_grant(folder: Path) -> None:
    (folder / "second.toml").write_text(WHOLE.replace('"4711"', '"41"').replace('"lake"', '"pond"'))
    (folder / "policy.toml").write_text(WHOLE.replace('name = "lake"\n', 'name = "lake"\nshared = true\n'))
    result = _run("check", folder)
    assert result.exit_code == 0, result.stderr
    assert "shared grant 'lake' is reached by 4 environments: production (policy.toml: project_id 4711); " in result.stdout
    assert len(json.loads(_run("check", folder, "--json").stdout)["shared"]["lake"]) == 4


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_no_bytes_make_check_crash(folder: Path, data: st.DataObject) -> None:
    """A good policy with bytes exchanged, left out, doubled and put in: it is good, or it has problems with lines."""
    raw = bytearray(GOOD_OF_EVERY_KEY.encode())
    for _ in range(data.draw(st.integers(1, 6))):
        at, length = data.draw(st.integers(0, len(raw) - 1)), data.draw(st.integers(0, 8))
        match data.draw(st.integers(0, 2)):
            case 0:
                raw[at : at + length] = data.draw(st.binary(max_size=8))
            case 1:
                del raw[at : at + length]
            case _:
                raw[at:at] = raw[at : at + length * 8]
    (folder / "policy.toml").write_bytes(bytes(raw))
    result = _run("check", folder / "policy.toml")
    assert result.exit_code in {0, 78}
    if result.exit_code:
        assert re.search(r"^error: policy\.toml:\d+: ", result.stderr, re.MULTILINE), result.stderr


def test_each_command_helps_with_an_example() -> None:
    for command in ("check", "explain", "test", "init"):
        assert f"credbroker policy {command}" in _run(command, "--help").stdout
