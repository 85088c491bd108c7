"""`credbroker policy prove` and `replay` as commands, on real files and a real log."""

import json
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from broker.audit.entry import About, Entry, Journal
from broker.cli import cli
from broker.policy import satisfy
from tests.contract.ledger_stores import SqliteStore
from tests.strategies import NOON
from tests.unit.policy.build import HEAD, LAKE, PRODUCTION, job

REVIEW = """
[[environment]]
name = "review"
when.issuer = "gitlab"
when.project_id = "4711"
when.ref_path = "refs/heads/**"
unless.ref_path = "refs/heads/main"

[[invariant]]
name = "no unprotected ref reaches production"
never.environment = "production"
never.claim.ref_protected = false
"""
POLICY = HEAD + PRODUCTION + REVIEW + LAKE.replace('["production"]', '["production", "review"]')


def _run(*words: object) -> Result:
    return CliRunner().invoke(cli, ["policy", *map(str, words)])


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "policy.toml"
    path.write_text(POLICY)
    return path


# --- prove ----------------------------------------------------------------------------------------------------------------


def test_without_a_question_it_says_what_was_proved_at_load(file: Path) -> None:
    ran = _run("prove", file)
    assert ran.exit_code == 0
    assert ran.stdout == "proved: no two environments match one job\nproved: no unprotected ref reaches production\n"


def test_a_question_is_proved_or_answered_with_a_job_and_exit_code_1(file: Path) -> None:
    ran = _run("prove", file, "--never", "environment=production,claim.ref_protected=false")
    assert (ran.exit_code, ran.stdout) == (0, "proved: never environment=production,claim.ref_protected=false\n")
    ran = _run("prove", file, "--never", "environment=review,claim.ref_protected=false")
    assert ran.exit_code == 1
    assert ran.stdout.startswith("possible: never environment=review,claim.ref_protected=false\n")
    assert "this job is in environment review (policy.toml:10, issuer gitlab):" in ran.stderr
    witness = json.loads(ran.stdout.splitlines()[1])
    assert witness["ref_protected"] is False
    found = json.loads(_run("prove", file, "--never", "grant=lake,claim.ref_type=branch", "--json").stdout)
    assert [answer["witness"]["grants"] for answer in found["answers"]] == [["lake"]]


def test_a_witness_can_be_fed_to_explain(file: Path, tmp_path: Path) -> None:
    witness = _run("prove", file, "--never", "environment=review").stdout.splitlines()[1]
    (tmp_path / "claims.json").write_text(witness)
    explained = json.loads(_run("explain", tmp_path / "claims.json", "--policy", file, "--json").stdout)
    assert (explained["decision"], explained["environment"]) == ("allow", "review")


def test_who_can_have_a_grant(file: Path) -> None:
    ran = _run("prove", file, "--who-can", "lake@review", "--who-can", "lake")
    assert ran.exit_code == 0
    assert '  policy.toml:10: environment review\n      project_id "4711"\n' in ran.stdout
    assert ran.stdout.count("least job: {") == 3
    other = _run("prove", file, "--who-can", "lake@review", "--json")
    assert [reach["environment"] for reach in json.loads(other.stdout)["answers"][0]["reaches"]] == ["review"]


@pytest.mark.parametrize(
    ("question", "words"),
    [
        (("--never", "environment=prod"), "--never environment=prod: never.environment: there is no environment 'prod'"),
        (("--never", "what"), "--never what: 'what' is not KEY=VALUE; write environment=NAME,claim.NAME=VALUE"),
        (("--who-can", "lak"), "--who-can lak: there is no grant 'lak'; did you mean"),
        (("--who-can", "lake@prod"), "--who-can lake@prod: there is no environment 'prod'"),
    ],
)
def test_a_question_that_makes_no_sense_exits_65(file: Path, question: tuple[str, str], words: str) -> None:
    ran = _run("prove", file, *question)
    assert ran.exit_code == 65
    assert words in ran.stderr


def test_a_question_beyond_the_bounds_is_not_answered(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither "proved" nor a witness."""
    file.write_text(HEAD + PRODUCTION + LAKE)  # nothing to prove at load
    monkeypatch.setattr(satisfy, "_MAX_CASES", 0)
    ran = _run("prove", file, "--never", "environment=production")
    assert (ran.exit_code, ran.stdout) == (78, "")
    assert "neither a proof nor a witness within bounds" in ran.stderr
    assert _run("diff", file, file).exit_code == 78


# --- replay ---------------------------------------------------------------------------------------------------------------


def _opened(journal: Journal, environment: str, *grants: str, **claims: Any) -> Entry:
    about = About(correlation_id="c", identity=job(**claims), session_id="s", environment=environment, policy_hash="sha256:x")
    return journal.session_opened(
        at=NOON, about=about, grants=grants, expires_at=NOON + timedelta(hours=1), trail=(), listener="unix", peer_uid=None,
        peer_address="", replaces="",
    )  # fmt: skip


def _denied(journal: Journal, code: str, **claims: Any) -> Entry:
    about = About(correlation_id="c", identity=job(**claims), policy_hash="sha256:x")
    return journal.denied(at=NOON, about=about, code=code, trail=(), listener="unix")


@pytest.fixture
async def log(tmp_path: Path) -> AsyncIterator[Path]:
    made, journal = SqliteStore(tmp_path / "broker.db"), Journal("broker-1", "0.1.0")
    branch = {"ref_path": "refs/heads/x|y", "ref": "x|y"}
    entries = [
        _opened(journal, "production", "lake"),
        _opened(journal, "production", "lake", "warehouse"),
        _opened(journal, "production", "lake", job_id="303", **branch),
        _denied(journal, "no_environment", job_id="304", **branch),
        _denied(journal, "no_environment", job_id="305", **branch),
        _denied(journal, "rate_limited"),
    ]
    await made.open().commit([], entries)
    yield made.path
    await made.close()


def test_the_jobs_of_the_log_are_decided_again(file: Path, log: Path) -> None:
    ran = _run("replay", file, "--log", log, "--since", "2026-11-01")
    assert ran.exit_code == 0, ran.output
    assert "\n2 gained, 1 lost, 1 moved, 0 unclear, 1 same\n" in ran.stdout
    assert "| gained | acme/data | `refs/heads/x\\|y` | no_environment | review: lake | 2 | 304, 305 |" in ran.stdout
    assert "| lost | acme/data | `refs/heads/main` | production: lake, warehouse | production: lake | 1 | 302 |" in ran.stdout
    assert "| moved | acme/data | `refs/heads/x\\|y` | production: lake | review: lake | 1 | 303 |" in ran.stdout


def test_a_replay_can_be_read_by_a_machine_and_looks_no_further_back(file: Path, log: Path) -> None:
    said = json.loads(_run("replay", file, "--log", log, "--since", "2026-11-23T11:00:00Z", "--json").stdout)
    assert [(case["outcome"], case["decisions"]) for case in said["cases"]] == [
        ("gained", 2),
        ("lost", 1),
        ("moved", 1),
        ("same", 1),
    ]
    assert json.loads(_run("replay", file, "--log", log, "--since", "2026-11-24", "--json").stdout)["cases"] == []
    assert _run("replay", file, "--log", log, "--since", "1d").exit_code == 0


def test_what_cannot_be_replayed_says_why(file: Path, log: Path, tmp_path: Path) -> None:
    assert "give a time as" in _run("replay", file, "--log", log, "--since", "yesterday").stderr
    (tmp_path / "no.db").write_text("no database")
    ran = _run("replay", file, "--log", tmp_path / "no.db")
    assert ran.exit_code == 78
    assert "cannot be read as a credbroker store" in ran.stderr
    assert _run("replay", tmp_path / "none.toml", "--log", log).exit_code == 78
