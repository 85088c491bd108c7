import hashlib
import json
import unicodedata
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.audit.canonical import canonical
from broker.audit.entry import About, Entry
from broker.audit.event import fresh_entry_id
from broker.audit.facets import facets_of, parsed
from broker.audit.fitting import MAX_ENTRY_BYTES, fitted, plain
from broker.audit.query import told
from broker.identity.claims import ClaimSet
from tests.strategies import NOON
from tests.unit.audit.samples import CLAIMS, Script, Step, an_identity

DAY = Script().day()
NASTY = st.text(st.characters(), max_size=50) | st.sampled_from(
    ["a\nb", "\x1b[31m", "x\u202ey", "\ud800", "\u2028", "\x00", "\x85"]
)


def _event(entry: Entry) -> dict[str, Any]:
    event: dict[str, Any] = json.loads(entry.body)
    return event


@pytest.mark.parametrize("entry", DAY, ids=[e.kind for e in DAY])
def test_the_bytes_say_what_the_entry_says(entry: Entry) -> None:
    """Canonical, with our id and kind in them, and found by what they say."""
    event = _event(entry)
    assert canonical(event) == entry.body
    assert (event["metadata"]["uid"], event["unmapped"]["kind"], event["time"]) == (entry.entry_id, entry.kind, entry.time_ms)
    assert event["unmapped"]["broker_id"] == "broker-1"
    assert facets_of(entry.body) == entry.facets


@pytest.mark.parametrize("entry", DAY, ids=[e.kind for e in DAY])
def test_every_entry_is_an_ocsf_event(entry: Entry) -> None:
    """What OCSF 1.8.0 requires of every event, and of each of the three classes (events/iam/*.json, objects/*.json)."""
    event = _event(entry)
    assert event["metadata"]["version"] == "1.8.0"
    assert event["metadata"]["product"]["name"] == "credbroker"
    assert event["category_uid"] == 3
    assert event["type_uid"] == event["class_uid"] * 100 + event["activity_id"]
    assert isinstance(event["severity_id"], int)
    assert isinstance(event["time"], int)
    assert event["status_id"] in {1, 2, 99}
    match event["class_uid"]:
        case 3002:
            assert event["user"].keys() & {"uid", "name"}
            assert "service" in event
            assert event["activity_id"] in {1, 2}
        case 3003:
            assert event["user"]["uid"] == "gitlab:4711:900"
            assert event["privileges"] == ["production/lake"]
            assert "group" not in event
        case 3004:
            assert event["entity"].keys() & {"name", "uid"}
            assert event["activity_id"] in {3, 4, 10}
        case other:
            pytest.fail(f"class {other}")


def test_each_kind_has_the_class_that_the_design_gives_it() -> None:
    classes = {entry.kind: _event(entry)["type_uid"] for entry in DAY if entry.kind != "denied"}
    assert classes == {
        "broker_started": 300410,
        "policy_loaded": 300410,
        "session_opened": 300201,
        "session_closed": 300202,
        "intent": 300301,
        "issued": 300301,
        "intent_failed": 300301,
        "renewed": 300403,
        "intent_swept": 300404,
        "revoked": 300404,
        "revoke_failed": 300404,
        "rollup": 300201,
    }
    assert _event(Script().denied())["type_uid"] == 300301
    assert _event(Script().denied(grant=""))["type_uid"] == 300201


def test_a_policy_that_was_refused_is_a_failure_with_the_first_of_its_problems() -> None:
    """And its `policy_hash` is the one that stays in force."""
    event = _event(Script().policy_refused())
    assert (event["type_uid"], event["status_id"], event["disposition_id"]) == (300410, 2, 2)
    assert event["entity"]["uid"] == "sha256:def"
    ours = event["unmapped"]
    assert (ours["policy_hash"], ours["refused_hash"]) == ("sha256:abc", "sha256:def")
    assert (len(ours["problems"]), ours["problem_count"]) == (20, 30)
    assert told(0, event).what == "30 problems; policy sha256:abc stays"


def test_a_promise_is_no_success_yet() -> None:
    """Who counts successes of 3003 counts credentials."""
    assert {e.kind for e in DAY if (_event(e)["class_uid"], _event(e)["status_id"]) == (3003, 1)} == {"issued"}


def test_a_second_holder_of_a_token_is_an_alarm() -> None:
    assert _event(Script().denied(code="session_exists", grant=""))["severity_id"] == 4
    assert _event(Script().denied())["severity_id"] == 2


def test_of_a_person_only_the_number_is_kept() -> None:
    """Login and e-mail are claims, and a policy may even ask for them: neither they nor what was wanted is written."""
    trail = [Step(claim="user_login", value="jo-the-login", wanted="jo-the-admin"), Step(claim="user_email", value=None)]
    for entry in [*DAY, Script().denied(trail=trail)]:
        assert b"jo-the" not in entry.body
        assert b"jo@example.com" not in entry.body
    assert _event(Script().denied())["actor"] == {"user": {"uid": "gitlab:42"}}
    steps = _event(Script().denied(trail=trail))["unmapped"]["trail"]
    assert [(s["value"], s["wanted"]) for s in steps] == [("(withheld: personal)",) * 2, (None, "(withheld: personal)")]


def test_a_pipeline_without_a_user_has_no_actor() -> None:
    entry = Script().denied(identity=an_identity(user_id=""))
    assert "actor" not in _event(entry)


def test_every_decision_keeps_the_claims_it_used() -> None:
    kept = {n: list(v) if isinstance(v, tuple) else v for n, v in CLAIMS.items() if not n.startswith("user_")}
    for entry in DAY:
        if entry.kind in {"session_opened", "intent", "issued", "denied"}:
            assert _event(entry)["unmapped"]["identity"]["claims"] == kept
    trail = _event(Script().denied())["unmapped"]["trail"]
    assert trail == [
        {
            "claim": "ref_path",
            "clause": "when",
            "environment": "production",
            "met": False,
            "value": "refs/heads/x",
            "wanted": "refs/heads/main",
        }
    ]


def test_an_issued_entry_names_everything_other_logs_know() -> None:
    script = Script()
    ours = _event(script.issued("intent-1", luigi_task="Load_2026"))["unmapped"]
    assert ours["intent_id"] == "intent-1"
    assert ours["lease_id"] == "lease-1"
    assert ours["version"] == 1
    assert ours["revocable"] == "lease"
    assert ours["policy_hash"] == "sha256:abc"
    assert ours["expires_at"] == "2026-11-23T13:00:00Z"
    assert ours["upstream_expires_at"] == "2026-11-23T14:00:00Z"
    assert ours["claimed"] == {"luigi_task": "Load_2026"}
    assert "claimed" not in _event(script.issued("intent-1"))["unmapped"]
    found_by = script.issued("intent-1").facets.credentials
    assert found_by == ("accessor-1", "database/creds/etl/abc", "lease-1", "req-1")


def test_a_policy_is_named_by_its_hash_and_its_text_by_its_own() -> None:
    entry = Script().policy("version = 1\n")
    assert entry.policy_text == "version = 1\n"
    assert _event(entry)["unmapped"]["text_sha256"] == hashlib.sha256(b"version = 1\n").hexdigest()
    assert b"version = 1" not in entry.body


def test_a_session_opened_over_the_network_says_from_where() -> None:
    script = Script()
    entry = script.journal.session_opened(
        at=NOON,
        about=About(correlation_id="c", identity=an_identity(), session_id="s", environment="production"),
        grants=("lake",),
        expires_at=NOON,
        trail=(),
        listener="https",
        peer_uid=None,
        peer_address="192.0.2.7",
        replaces="session-0",
    )
    event = _event(entry)
    assert event["src_endpoint"] == {"ip": "192.0.2.7"}
    assert event["is_remote"] is True
    assert event["unmapped"]["replaces"] == "session-0"
    assert _event(script.opened())["src_endpoint"] == {"name": "unix"}


def test_a_number_that_not_every_reader_can_hold_is_text() -> None:
    entry = Script().denied(identity=an_identity(claims=ClaimSet({"runner_id": 2**60, "small": -5})))
    assert _event(entry)["unmapped"]["identity"]["claims"] == {"runner_id": str(2**60), "small": -5}


@given(NASTY, NASTY, NASTY)
def test_nothing_a_job_says_starts_a_new_line(ref: str, task: str, claim: str) -> None:
    """No control, bidi, separator or surrogate reaches the bytes, nor a terminal that prints the parsed values."""
    identity = an_identity(ref_path=ref, project_path=ref, claims=ClaimSet({"sha": claim, claim: ref}))
    script = Script()
    entry = script.issued("i", luigi_task=task, identity=identity)
    text = entry.body.decode()
    assert len(text.splitlines()) == 1
    for value in _texts(json.loads(text)):
        assert not {unicodedata.category(c) for c in value} & {"Cc", "Cf", "Cs", "Zl", "Zp"}


def _texts(value: Any) -> list[str]:
    if isinstance(value, str):
        return [value]
    if isinstance(value, dict):
        return [text for item in value.items() for part in item for text in _texts(part)]
    return [text for item in value for text in _texts(item)] if isinstance(value, list) else []


def test_what_is_spelled_out_can_be_read() -> None:
    assert plain("a\nb\u202ec") == "a\\u{a}b\\u{202e}c"
    assert plain("größe/ß 雪") == "größe/ß 雪"


def test_a_long_trail_is_cut_with_a_count() -> None:
    trail = [Step(environment=f"env-{n}", value="v" * 100) for n in range(2000)]
    entry = Script().denied(trail=trail)
    ours = _event(entry)["unmapped"]
    assert MAX_ENTRY_BYTES - 500 < len(entry.body) <= MAX_ENTRY_BYTES
    assert len(ours["trail"]) + ours["trail_cut"] == 2000
    assert [step["environment"] for step in ours["trail"][:2]] == ["env-0", "env-1"]


def test_claims_that_do_not_fit_are_cut_with_a_count() -> None:
    """The widest token there can be: 20 000 characters, each of which grows when it is spelled out."""
    claims = {f"claim_{n}": "\u202e" * 400 for n in range(45)} | {"groups_direct": tuple(f"group-{n}" for n in range(50))}
    entry = Script().denied(identity=an_identity(claims=ClaimSet(claims)), trail=[Step()] * 3)
    ours = _event(entry)["unmapped"]
    assert len(entry.body) <= MAX_ENTRY_BYTES
    assert ours["trail_cut"] == 3
    assert ours["identity"]["claims"]["claim_0"].endswith("…+2176")
    assert ours["identity"]["claims"]["groups_direct"][-1] == "…+42"
    assert entry.facets.job_id == "900"


def test_an_event_of_nothing_but_too_many_names_is_refused() -> None:
    with pytest.raises(ValueError, match="does not fit"):
        fitted({"unmapped": {f"name-{n:060}": "" for n in range(2000)}})


@pytest.mark.parametrize("body", [b"", b"{}", b"[]", b"\xff", b'{"time":1,"metadata":{"uid":1},"unmapped":{"kind":"x"}}'])
def test_bytes_that_are_no_entry_have_no_facets(body: bytes) -> None:
    with pytest.raises(ValueError, match="not an entry"):
        facets_of(body)


def test_bytes_that_are_no_json_are_not_parsed() -> None:
    with pytest.raises(ValueError, match="not JSON"):
        parsed(b"{")


def test_entry_ids_do_not_repeat() -> None:
    ids = {fresh_entry_id() for _ in range(1000)}
    assert len(ids) == 1000
    assert all(len(name) == 26 and name == name.lower() for name in ids)
