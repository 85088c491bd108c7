import re
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from datetime import timedelta
from hashlib import sha256

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from broker.audit.checkpoint import LogSigner, VerifierKey
from broker.audit.entry import Entry
from broker.audit.facets import facets_of
from broker.audit.kept import Kept, KeptHead, KeptPolicy
from broker.audit.tree import Frontier, leaf_hash
from broker.audit.verify import Report, verify
from tests.strategies import NOON
from tests.unit.audit.samples import SIGNER, Script


@dataclass
class ListLog:
    """A log in lists, as a store would have it, and open to every kind of tampering."""

    kept: list[Kept] = field(default_factory=list)
    notes: list[tuple[int, bytes]] = field(default_factory=list)
    texts: list[KeptPolicy] = field(default_factory=list)
    end: KeptHead | None = None

    @classmethod
    def of(cls, entries: list[Entry], group: int = 3) -> "ListLog":
        """Signed after every `group` entries, and at size 0."""
        log, frontier = cls(), Frontier()
        log._sign(frontier)
        for at, entry in enumerate(entries):
            log.kept.append(Kept(at, leaf_hash(entry.body), entry.body, entry.facets))
            frontier = frontier.appended(leaf_hash(entry.body))
            if entry.policy_text:
                named = sha256(entry.policy_text.encode()).hexdigest()
                log.texts.append(KeptPolicy(named, entry.facets.policy_hash, entry.policy_text))
            if (at + 1) % group == 0 or at + 1 == len(entries):
                log._sign(frontier)
        return log

    def _sign(self, frontier: Frontier) -> None:
        note = SIGNER.sign(frontier.size, frontier.root())
        self.notes.append((frontier.size, note))
        self.end = KeptHead(frontier.size, frontier.to_bytes(), note)

    def head(self) -> KeptHead | None:
        return self.end

    def entries(self) -> Iterator[Kept]:
        yield from self.kept

    def checkpoints(self) -> Iterator[tuple[int, bytes]]:
        yield from self.notes

    def policies(self) -> Iterator[KeptPolicy]:
        yield from self.texts


def _verified(log: ListLog) -> Report:
    return verify(log, SIGNER.verifier)


def _problems(log: ListLog) -> list[str]:
    return [str(problem) for problem in _verified(log).problems]


def _day() -> ListLog:
    return ListLog.of(Script().day())


def _forged(kept: Kept, body: bytes) -> Kept:
    """An entry with other bytes and everything beside the tree made to fit: what a writer of the database would do."""
    return Kept(kept.index, leaf_hash(body), body, facets_of(body))


def test_an_ordinary_day_is_sound() -> None:
    log = _day()
    seen: list[int] = []
    report = verify(log, SIGNER.verifier, progress=seen.append)
    assert report.sound
    assert (report.size, report.checkpoints, report.more) == (len(log.kept), len(log.notes), 0)
    assert report.open_intents == 0
    assert seen[-1] == report.size


def test_an_empty_log_is_sound() -> None:
    assert _verified(ListLog.of([])).sound


def test_a_changed_entry_is_named() -> None:
    """The writer of the database made leaf and index fit; the signed root does not, and says which group it was in."""
    log = _day()
    log.kept[4] = _forged(log.kept[4], log.kept[4].body.replace(b"accessor-1", b"accessor-2"))
    assert _problems(log) == [
        "entry 3: it or another one before 6 is not what was signed: the root over 6 entries is another",
        *_HEAD,
    ]


_HEAD = ["log: the head's tree is not that of the entries"]


def test_a_changed_entry_in_a_group_of_one_is_named_exactly() -> None:
    log = ListLog.of(Script().day(), group=1)
    log.kept[4] = _forged(log.kept[4], log.kept[4].body.replace(b"accessor-1", b"accessor-2"))
    assert _problems(log) == ["entry 4: it is not what was signed: the root over 5 entries is another", *_HEAD]


def test_a_leaf_that_was_left_behind_names_the_entry() -> None:
    log = _day()
    log.kept[4] = replace(log.kept[4], body=log.kept[4].body.replace(b"accessor-1", b"accessor-2"))
    assert "entry 4 (entry-7): its bytes do not hash to the stored leaf" in _problems(log)


def test_bytes_that_are_no_entry_are_named() -> None:
    log = _day()
    log.kept[2] = replace(log.kept[2], body=b"{}")
    assert "entry 2" in _problems(log)[0]
    assert "not an entry" in _problems(log)[0]


def test_an_oversized_entry_is_named() -> None:
    log = _day()
    log.kept[0] = replace(log.kept[0], body=log.kept[0].body + b" " * 66_000)
    assert "65535 is the most" in _problems(log)[0]


def test_an_index_that_lies_is_found() -> None:
    """Otherwise `audit query` could be made blind without touching the tree."""
    log = _day()
    log.kept[3] = replace(log.kept[3], facets=replace(log.kept[3].facets, project_id="1"))
    assert ["index beside the log says something else" in problem for problem in _problems(log)] == [True]


def test_a_gap_is_named() -> None:
    log = _day()
    del log.kept[5:7]
    assert _problems(log)[0] == "entry 7: entries 5 to 6 before it are missing"


def test_truncation_is_found() -> None:
    log = _day()
    del log.kept[-2:]
    assert any("was signed, and only 16 are there" in problem for problem in _problems(log))
    assert any("the head counts 18 entries, and 16 could be read" in problem for problem in _problems(log))


def test_truncation_with_its_checkpoints_is_found_by_the_head() -> None:
    log = _day()
    del log.kept[-3:]
    del log.notes[-1]
    assert _problems(log) == ["log: the head counts 18 entries, and 15 could be read"]


def test_a_missing_or_older_head_is_found() -> None:
    log = _day()
    log.end = None
    assert _problems(log) == ["log: the head is gone"]
    log = _day()
    assert log.end is not None
    log.end = replace(log.end, note=log.notes[-2][1])
    assert _problems(log) == ["log: the head's checkpoint is not the last one that was signed"]


def test_a_checkpoint_of_another_key_is_found() -> None:
    log = _day()
    stranger = LogSigner(Ed25519PrivateKey.generate(), SIGNER.origin)
    log.notes[2] = (log.notes[2][0], stranger.sign(log.notes[2][0], bytes(32)))
    assert "the checkpoint of 6 entries is not valid: not signed by" in _problems(log)[0]


def test_the_key_of_another_log_is_one_problem_and_not_one_for_each_checkpoint() -> None:
    log = _day()
    stranger = LogSigner(Ed25519PrivateKey.generate(), SIGNER.origin)
    report = verify(log, VerifierKey.parse(stranger.vkey))
    assert not report.sound
    (problem,) = report.problems
    assert re.fullmatch(
        rf"none of the {len(log.notes)} checkpoints is valid: not signed by .*; this is not the key of this log, or not its log",
        problem.what,
    )


def test_a_checkpoint_at_the_wrong_size_is_found() -> None:
    log = _day()
    log.notes[2] = (6, log.notes[3][1])
    assert _problems(log) == ["log: a checkpoint stored as of 6 entries was signed for 9"]


def test_a_signed_fork_is_found() -> None:
    """Two heads of one size, both signed: the key was used twice."""
    log = _day()
    log.notes.insert(3, (6, SIGNER.sign(6, bytes(32))))
    assert ["the root over 6 entries is another" in problem for problem in _problems(log)] == [True]


def test_something_issued_without_a_promise_is_named() -> None:
    script = Script()
    log = ListLog.of([script.started(), script.issued("no-such-intent")])
    assert _problems(log) == [
        "entry 1 (entry-1): issued without an open intent 'no-such-intent': it was never promised, or has an outcome already"
    ]


def test_a_second_outcome_is_named() -> None:
    script = Script()
    intent = script.intent()
    log = ListLog.of([intent, script.issued(intent.entry_id), script.failed(intent.entry_id)])
    assert "intent_failed without an open intent" in _problems(log)[0]


def test_something_issued_on_anothers_promise_is_named() -> None:
    script = Script()
    intent = script.intent()
    log = ListLog.of([intent, script.issued(intent.entry_id, grant="warehouse")])
    assert "but its intent was for another" in _problems(log)[0]


def test_a_promise_that_is_still_in_time_is_counted_and_no_problem() -> None:
    script = Script()
    report = _verified(ListLog.of([script.intent(), script.denied()]))
    assert report.sound
    assert report.open_intents == 1


def test_a_promise_without_an_outcome_is_named() -> None:
    script = Script()
    report = _verified(ListLog.of([script.intent(at=NOON - timedelta(minutes=11)), script.denied()]))
    assert [str(p) for p in report.problems] == [
        "entry 0 (entry-0): this intent never came to an outcome: a credential may exist that the log does not name"
    ]
    assert report.open_intents == 0


def test_a_policy_text_that_was_swapped_or_lost_is_found() -> None:
    log = _day()
    log.texts[0] = replace(log.texts[0], text="version = 1\n# everything allowed\n")
    assert _problems(log) == ["log: the kept text of policy sha256:abc is not the one that was loaded"]
    log.texts.clear()
    assert _problems(log) == ["log: the text of policy sha256:abc is not kept"]


def test_many_problems_are_counted_past_a_hundred() -> None:
    script = Script()
    report = _verified(ListLog.of([script.issued("x") for _ in range(130)]))
    assert (len(report.problems), report.more) == (100, 30)


@given(st.integers(0, 17), st.data())
def test_any_changed_bit_is_found(index: int, data: st.DataObject) -> None:
    """Even when leaf and index are made to fit."""
    log = _day()
    kept = log.kept[index]
    bit = data.draw(st.integers(0, 8 * len(kept.body) - 1))
    body = bytearray(kept.body)
    body[bit // 8] ^= 1 << bit % 8
    try:
        log.kept[index] = _forged(kept, bytes(body))
    except ValueError:
        log.kept[index] = Kept(index, leaf_hash(bytes(body)), bytes(body), kept.facets)
    report = _verified(log)
    assert not report.sound
    first = report.problems[0].index
    assert first is not None
    assert first <= index


def test_a_policy_s_entry_that_is_no_longer_text_is_found_and_no_crash() -> None:
    """In a name that nothing reads, where a quick look at an entry would not see it."""
    log = _day()
    kept = log.kept[1]
    body = kept.body.replace(b'"category_uid"', b'"category_ui\xe4"', 1)
    log.kept[1] = Kept(kept.index, leaf_hash(body), body, kept.facets)
    report = _verified(log)
    assert not report.sound
    assert any("its bytes are not an entry" in problem.what for problem in report.problems)


@given(st.data(), st.sampled_from(["remove", "swap", "duplicate", "truncate"]), st.booleans())
def test_any_other_history_is_found(data: st.DataObject, how: str, renumber: bool) -> None:
    """Removal, reordering, duplication and truncation, with the indexes made to fit or not."""
    log = _day()
    at = data.draw(st.integers(0, len(log.kept) - 2))
    match how:
        case "remove":
            del log.kept[at]
        case "swap":
            log.kept[at], log.kept[at + 1] = log.kept[at + 1], log.kept[at]
        case "duplicate":
            log.kept.insert(at, log.kept[at])
        case _:
            del log.kept[at + 1 :]
    if renumber:
        log.kept = [replace(kept, index=n) for n, kept in enumerate(log.kept)]
    assert not _verified(log).sound
