"""`policy test`: cases that hold, cases that do not, and cases that cannot be run."""

import contextlib
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest
from click.testing import CliRunner, Result
from hypothesis import given, settings
from hypothesis import strategies as st

from broker.cli import cli
from broker.policy.cases import CasesInvalid, Report, parse_cases, run
from broker.policy.model import Policy
from tests.unit.policy.build import LAKE_JSON, WHOLE, policy

HEAD = """
[defaults]
issuer = "gitlab"
project_id = "4711"
job_project_id = "4711"
ref_path = "refs/heads/main"
ref_protected = true
environment = "production"
pipeline_source = "push"
"""
PRODUCTION = """
[[case]]
name = "protected main is production"
expect = { environment = "production", grants = ["lake", "warehouse"] }
"""
UNPROTECTED = """
[[case]]
name = "main without protection is nowhere"
claims = { ref_protected = false }
expect = { deny = "no_environment", missing = ["ref_protected"] }
"""
REVIEW = """
[[case]]
name = "a branch is review and gets no warehouse"
claims = { ref_path = "refs/heads/x", ref_protected = false }
without = ["environment"]
wants = ["warehouse"]
expect = { deny = "grant_denied" }
"""


@pytest.fixture(scope="module")
def whole() -> Policy:
    return policy(WHOLE)


def _report(rules: Policy, *cases: str) -> Report:
    return run(rules, parse_cases(HEAD + "".join(cases), "policy.cases.toml", rules))


def _differences(rules: Policy, case: str) -> tuple[str, ...]:
    (outcome,) = _report(rules, case).outcomes
    return outcome.differences


def test_cases_that_hold_have_no_differences(whole: Policy) -> None:
    report = _report(whole, PRODUCTION, UNPROTECTED, REVIEW)
    assert [outcome.case.name for outcome in report.outcomes] == [
        "protected main is production",
        "main without protection is nowhere",
        "a branch is review and gets no warehouse",
    ]
    assert [outcome.case.line for outcome in report.outcomes] == [11, 15, 20]
    assert not report.failed


def test_an_environment_that_no_case_ends_up_in_is_unselected(whole: Policy) -> None:
    """A denial selects nothing, wherever it was."""
    assert [e.name for e in _report(whole, PRODUCTION, REVIEW).unselected] == ["review"]
    assert [e.name for e in _report(whole, UNPROTECTED).unselected] == ["production", "review"]


@pytest.mark.parametrize(
    ("take", "put", "said"),
    [
        ('"production", grants', '"review", grants', "expected environment review, and is in production (policy.toml)"),
        ('["lake", "warehouse"]', '["lake"]', "grants differ: it gets warehouse too"),
        ('["lake", "warehouse"]', "[]", "grants differ: it gets lake, warehouse too"),
        (
            'environment = "production", grants = ["lake", "warehouse"]',
            'deny = "no_environment"',
            "expected to be denied with no_environment, and is in production (policy.toml)",
        ),
    ],
)
def test_a_job_that_gets_something_else_is_said_with_what(whole: Policy, take: str, put: str, said: str) -> None:
    assert _differences(whole, PRODUCTION) == ()
    assert take in PRODUCTION
    assert _differences(whole, PRODUCTION.replace(take, put)) == (said,)


@pytest.mark.parametrize(
    ("take", "put", "said"),
    [
        ('deny = "no_environment", missing = ["ref_protected"]', 'environment = "production"', "is denied with no_environment: "),
        (
            'deny = "no_environment", missing = ["ref_protected"]',
            'deny = "grant_denied"',
            "expected to be denied with grant_denied, and is denied with no_environment: ",
        ),
        ('["ref_protected"]', '["ref_path"]', "expected to be kept out by ref_path, and it is ref_protected"),
    ],
)
def test_a_job_that_is_denied_otherwise_is_said_with_why(whole: Policy, take: str, put: str, said: str) -> None:
    assert _differences(whole, UNPROTECTED) == ()
    (difference,) = _differences(whole, UNPROTECTED.replace(take, put))
    assert said in difference


def test_a_grant_less_than_expected_is_said(whole: Policy) -> None:
    case = REVIEW.replace('wants = ["warehouse"]', "").replace(
        'deny = "grant_denied"', 'environment = "review", grants = ["lake", "warehouse"]'
    )
    assert _differences(whole, case) == ("grants differ: it does not get warehouse",)


@pytest.mark.parametrize(
    ("take", "put", "line", "said"),
    [
        ('name = "protected main is production"\n', "", 11, "name is missing"),
        ('expect = { environment = "production", grants = ["lake", "warehouse"] }', "", 11, "expect is missing"),
        ('"production", grants', '"prodution", grants', 13, "there is no environment 'prodution'; did you mean 'production'?"),
        ('"warehouse"]', '"warehose"]', 13, "there is no grant 'warehose'; did you mean 'warehouse'?"),
        ('environment = "production", grants = ["lake", "warehouse"]', "", 13, "expect says neither `environment` nor `deny`"),
        ('"production", grants', '"production", deny = "grant_denied", grants', 13, "says both `environment` and `deny`"),
        ('"production", grants', '"production", missing = ["ref"], grants', 13, "missing says something only beside `deny`"),
        (
            'environment = "production", grants',
            'deny = "no_environment", grants',
            13,
            "grants says something only beside `environment`",
        ),
        ('"production", grants', '"production", file = "x.toml", grants', 13, "the policy has no file 'x.toml'"),
        ("expect =", "expcet =", 13, "unknown key 'expcet'; did you mean 'expect'?"),
        ("expect =", 'claims = { ref_pth = "x" }\nexpect =', 13, "gitlab tokens have no claim 'ref_pth'; did you mean"),
        ("expect =", 'claims = { ref_protected = "true" }\nexpect =', 13, "ref_protected is true or false, and 'true' is not"),
        ("expect =", "claims = { project_id = 4711 }\nexpect =", 13, "project_id is text, and 4711 is not"),
        ("expect =", 'claims = { groups_direct = "a" }\nexpect =', 13, "groups_direct is a list of texts"),
        ("expect =", "claims = { runner_id = true }\nexpect =", 13, "runner_id is a whole number, and True is not"),
        ("expect =", 'claims = { issuer = "other" }\nexpect =', 13, "no environment is of issuer 'other'"),
        ("expect =", 'without = ["ref_pat"]\nexpect =', 13, "without: no such claim 'ref_pat'; did you mean 'ref_path'?"),
    ],
)
def test_a_case_that_cannot_be_run_is_refused_with_its_line(whole: Policy, take: str, put: str, line: int, said: str) -> None:
    assert take in PRODUCTION
    with pytest.raises(CasesInvalid) as caught:
        _report(whole, PRODUCTION.replace(take, put, 1))
    found = [str(problem) for problem in caught.value.problems]
    assert [p for p in found if p.startswith(f"policy.cases.toml:{line}: ") and said in p], found


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "there is no [[case]]"),
        ("[[case]", "this is not TOML"),
        ("case = 3", "case is a whole number"),
        (HEAD + PRODUCTION + PRODUCTION, "case 'protected main is production' stands twice"),
        (HEAD + PRODUCTION + "[deny]\n", "unknown key 'deny'"),
        (PRODUCTION + UNPROTECTED.replace("no_environment", "no"), "deny is 'no'"),
    ],
)
def test_a_file_without_cases_is_refused(whole: Policy, text: str, said: str) -> None:
    with pytest.raises(CasesInvalid, match=said.replace("[", r"\[")):
        parse_cases(text, "policy.cases.toml", whole)


def test_claims_of_every_kind_can_be_written(whole: Policy) -> None:
    claims = 'claims = { groups_direct = ["a"], runner_id = 7, ref_protected = true }\nexpect ='
    assert _differences(whole, PRODUCTION.replace("expect =", claims)) == ()


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=200) | st.sampled_from([PRODUCTION, REVIEW, UNPROTECTED]).flatmap(
    lambda case: st.integers(0, len(case)).map(lambda at: HEAD + case[:at] + case[at + 3 :])
))  # fmt: skip
def test_no_text_makes_the_runner_crash(text: str) -> None:
    rules = policy(WHOLE)
    with contextlib.suppress(CasesInvalid):
        run(rules, parse_cases(text, "policy.cases.toml", rules))


# --- the command ------------------------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "policy.toml").write_text(WHOLE)
    (tmp_path / "lake.json").write_text(LAKE_JSON)
    (tmp_path / "policy.cases.toml").write_text(HEAD + PRODUCTION + UNPROTECTED)
    return tmp_path


def _test(*words: object) -> Result:
    result = CliRunner().invoke(cli, ["policy", "test", *map(str, words)])
    assert result.exception is None or isinstance(result.exception, SystemExit)
    return result


def test_cases_beside_the_policy_are_found_and_counted(folder: Path) -> None:
    result = _test(folder / "policy.toml")
    assert result.exit_code == 0
    assert result.stdout == "2 of 2 cases are as expected, 1 environments unselected\n"
    assert result.stderr == "unselected: policy.toml:13: no case is in environment 'review'\n"


def test_an_unselected_environment_fails_where_that_is_asked(folder: Path) -> None:
    assert _test(folder / "policy.toml", "--fail-unselected").exit_code == 1
    branch = REVIEW.replace('wants = ["warehouse"]', "").replace('deny = "grant_denied"', 'environment = "review"')
    (folder / "more.cases.toml").write_text(HEAD + branch)
    files = (folder / "policy.cases.toml", folder / "more.cases.toml")
    assert _test(folder / "policy.toml", *files, "--fail-unselected").exit_code == 0


def test_a_failure_says_what_was_looked_at_and_exits_with_1(folder: Path) -> None:
    (folder / "policy.cases.toml").write_text(HEAD + UNPROTECTED.replace('["ref_protected"]', '["ref_path"]'))
    result = _test(folder / "policy.toml")
    assert result.exit_code == 1
    assert "FAILED main without protection is nowhere\n  policy.cases.toml:11\n" in result.stdout
    assert "expected to be kept out by ref_path, and it is ref_protected" in result.stdout
    assert "NO  when            ref_protected      'false'                      wanted true" in result.stdout
    assert "0 of 1 cases are as expected" in result.stdout


def test_a_folder_s_cases_are_all_of_its_files(folder: Path) -> None:
    second = WHOLE.replace('"4711"', '"41"')
    (folder / "second.toml").write_text(second)
    (folder / "second.cases.toml").write_text(
        HEAD.replace("4711", "41") + PRODUCTION.replace("grants =", 'file = "second.toml", grants =')
    )
    result = _test(folder)
    assert result.exit_code == 0, result.output
    assert "3 of 3 cases" in result.stdout
    (folder / "second.cases.toml").write_text(
        HEAD.replace("4711", "41") + PRODUCTION.replace("grants =", 'file = "policy.toml", grants =')
    )
    assert "expected the rule in policy.toml, and is in production (second.toml)" in _test(folder).stdout


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda f: (f / "policy.cases.toml").unlink(), "the file cannot be read"),
        (lambda f: (f / "policy.cases.toml").write_text("x = 1"), "unknown key 'x'"),
        (lambda f: (f / "policy.toml").write_text("version = 2"), "version is 2"),
    ],
)
def test_what_cannot_be_run_exits_with_78(folder: Path, spoil: "object", said: str) -> None:
    assert callable(spoil)
    spoil(folder)
    result = _test(folder / "policy.toml")
    assert (result.exit_code, result.stdout) == (78, "")
    assert said in result.stderr


def test_a_folder_without_cases_is_told_apart_from_one_that_passes(folder: Path) -> None:
    (folder / "policy.cases.toml").unlink()
    result = _test(folder)
    assert result.exit_code == 78
    assert "there are no cases beside the policy" in result.stderr


def test_junit_has_a_case_each_and_its_trail(folder: Path) -> None:
    odd = UNPROTECTED.replace('"ref_protected"]', '"ref_path"]').replace("nowhere", "now\\u0000here <&> \\u001b")
    (folder / "policy.cases.toml").write_text(HEAD + PRODUCTION + odd)
    report = folder / "report.xml"
    assert _test(folder / "policy.toml", "--junit", report).exit_code == 1
    (suite,) = ET.fromstring(report.read_bytes())
    assert (suite.get("tests"), suite.get("failures"), suite.get("skipped")) == ("3", "1", "1")
    good, bad, unselected = suite
    assert (good.get("name"), good.get("classname"), len(good)) == ("protected main is production", "policy.cases.toml", 0)
    assert bad.get("name") == "main without protection is now\\u{0}here <&> \\u{1b}"
    assert "wanted true" in (bad[0].text or "")
    assert unselected[0].tag == "skipped"


def test_junit_that_cannot_be_written_exits_with_78(folder: Path) -> None:
    result = _test(folder / "policy.toml", "--junit", folder / "none" / "report.xml")
    assert result.exit_code == 78
    assert "cannot be written (No such file or directory)" in result.stderr
