"""`credbroker audit`, on real files."""

import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from broker.audit.entry import Journal
from broker.cli import audit as command
from broker.cli.audit import audit
from tests.contract.ledger_stores import SqliteStore
from tests.unit.audit.samples import SIGNER, Script


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[SqliteStore]:
    made = SqliteStore(tmp_path / "broker.db")
    ledger = made.open()
    await ledger.commit([], Script().day())
    yield made
    await made.close()


def _run(*words: object) -> Result:
    return CliRunner().invoke(audit, [str(word) for word in words])


def test_a_sound_log_exits_0_with_the_key_given_or_in_a_file(store: SqliteStore, tmp_path: Path) -> None:
    keyfile = tmp_path / "log.vkey"
    keyfile.write_text(SIGNER.vkey + "\n")
    for key in (SIGNER.vkey, keyfile):
        result = _run("verify", store.path, "--key", key, "--origin", "broker.example.com/log")
        assert result.exit_code == 0
        assert "sound: every entry is what was signed" in result.stdout
        assert "entries      18" in result.stdout


def test_a_changed_log_exits_65_and_names_the_first_bad_entry(store: SqliteStore) -> None:
    store.tamper("UPDATE entry SET body = CAST(replace(CAST(body AS TEXT), 'accessor-1', 'accessor-2') AS BLOB) WHERE idx >= 9")
    result = _run("verify", store.path, "--key", SIGNER.vkey)
    assert result.exit_code == 65
    assert result.stdout.startswith("entry 9 (entry-")
    assert "NOT what was signed; the first bad entry is 9" in result.stdout


def test_the_result_can_be_read_by_a_machine(store: SqliteStore) -> None:
    said = json.loads(_run("verify", store.path, "--key", SIGNER.vkey, "--json").stdout)
    assert (said["sound"], said["size"], said["problems"]) == (True, 18, [])
    store.tamper("DELETE FROM head")
    result = _run("verify", store.path, "--key", SIGNER.vkey, "--json")
    assert result.exit_code == 65
    assert json.loads(result.stdout)["problems"] == [{"index": None, "entry_id": "", "what": "the head is gone"}]
    assert "NOT what was signed\n" in _run("verify", store.path, "--key", SIGNER.vkey).stdout


def test_a_kind_that_there_is_not_is_a_usage_error_and_not_an_empty_answer(store: SqliteStore) -> None:
    """Its twin: one that there is finds its entries."""
    result = _run("query", store.path, "--kind", "isued")
    assert result.exit_code == 2  # 64 from the program: see broker.cli.main
    assert "there are no entries of kind 'isued'; there are session_opened, " in result.stderr
    assert _run("query", store.path, "--kind", "issued").stdout.count("issued") >= 1


def test_many_problems_are_counted(store: SqliteStore) -> None:
    store.tamper("UPDATE checkpoint SET note = x'00'")
    for n in range(200):
        store.tamper("INSERT INTO checkpoint VALUES (?, x'00')", 1000 + n)
    assert "more problems" in _run("verify", store.path, "--key", SIGNER.vkey).stdout


async def test_issuances_under_way_are_told(store: SqliteStore) -> None:
    script = Script(journal=Journal("broker-1", "0.1.0"))
    await store.ledgers[0].commit([], [script.intent()])
    assert "1 issuances are under way" in _run("verify", store.path, "--key", SIGNER.vkey).stdout


@pytest.mark.parametrize(
    ("key", "words"),
    [("x", "not a verifier key"), (SIGNER.vkey + " --origin other", "the key is of the log 'broker.example.com/log'")],
)
def test_a_wrong_key_or_origin_is_a_usage_error(store: SqliteStore, key: str, words: str) -> None:
    result = _run("verify", store.path, "--key", *key.split())
    assert result.exit_code == 2  # 64 by `credbroker`, which is where click's own number is changed
    assert words in result.stderr


def test_a_file_that_is_no_store_exits_65_with_one_sentence(tmp_path: Path, store: SqliteStore) -> None:
    path = tmp_path / "other.db"
    path.write_text("something else" * 99)
    result = _run("query", path)
    assert result.exit_code == 65
    assert result.stderr.count("\n") == 1
    store.tamper("UPDATE entry SET body = x'00' WHERE idx = 3")
    result = _run("query", store.path)
    assert result.exit_code == 65
    assert "entry 3" in result.stderr


def test_a_long_log_shows_progress_where_somebody_looks(store: SqliteStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "_PROGRESS_FROM", 1)
    monkeypatch.setattr(command, "_PROGRESS_EVERY", 1)
    monkeypatch.setattr(command, "_watched", lambda _: True)
    monkeypatch.setenv("FORCE_COLOR", "1")
    result = _run("verify", store.path, "--key", SIGNER.vkey)
    assert result.exit_code == 0
    assert "verifying" in result.stderr


def test_entries_are_lines_for_a_program_and_a_table_for_a_person(store: SqliteStore, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = _run("query", store.path, "--kind", "issued", "--project", "4711").stdout.splitlines()
    assert [line.split("\t")[:5] for line in lines] == [
        ["4", "2026-11-23 12:00:00", "issued", "group/etl#900", "production/lake"]
    ]
    monkeypatch.setattr(command, "_watched", lambda _: True)
    table = _run("query", store.path, "--kind", "denied")
    assert "time (UTC)" in table.stdout
    assert "no_environment" in table.stdout
    assert "2 entries" in table.stderr


def test_entries_can_be_read_by_a_machine(store: SqliteStore) -> None:
    lines = _run("query", store.path, "--credential", "req-1", "--json").stdout.splitlines()
    assert [json.loads(line)["entry"]["unmapped"]["kind"] for line in lines] == ["issued"]


@pytest.mark.parametrize(
    ("since", "found"),
    [("2026-11-23T12:00:00Z", 18), ("2026-11-23T12:00:01Z", 0), ("2026-11-23", 18), ("2026-11-23T13:00:00+01:00", 18)],
)
def test_a_time_may_be_given_in_several_ways(store: SqliteStore, since: str, found: int) -> None:
    assert len(_run("query", store.path, "--since", since).stdout.splitlines()) == found
    assert len(_run("query", store.path, "--until", since).stdout.splitlines()) == 18 - found


def test_a_time_may_be_a_span(store: SqliteStore) -> None:
    for span in ("36500d", "90m", "1h30m"):
        assert _run("query", store.path, "--since", span).exit_code == 0
    for odd in ("soon", "0s", "5", "999999d"):  # the last would be before the year 1
        result = _run("query", store.path, "--since", odd)
        assert result.exit_code == 2
        assert "give a time as" in result.stderr
