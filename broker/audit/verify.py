"""Whether a log is what its key signed, from the public key alone: every entry, the tree, every checkpoint, every promise.

What this cannot see: a log put back to an earlier checkpoint of its own, or one rewritten and signed again by whoever holds the
key. That takes somebody outside who keeps checkpoints (the witness).
"""

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from operator import itemgetter

from broker.audit.checkpoint import VerifierKey
from broker.audit.facets import Facets, facets_of, parsed
from broker.audit.fitting import MAX_ENTRY_BYTES
from broker.audit.kept import Kept, LogReader
from broker.audit.promises import Promises
from broker.audit.tree import Frontier, leaf_hash

PROMISE_PATIENCE = timedelta(minutes=10)
_MOST_PROBLEMS = 100


@dataclass(frozen=True, slots=True)
class Problem:
    """Something that is not as it was signed. `index` is None for what is not about one entry."""

    index: int | None
    entry_id: str
    what: str

    def __str__(self) -> str:
        where = "log" if self.index is None else f"entry {self.index}"
        return f"{where}{f' ({self.entry_id})' if self.entry_id else ''}: {self.what}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What was checked and what was wrong. `open_intents` are promises that still have time; they are not problems."""

    origin: str
    size: int
    root: bytes
    checkpoints: int
    open_intents: int
    problems: tuple[Problem, ...]  # the first one names the first bad entry
    more: int  # problems beyond those kept

    @property
    def sound(self) -> bool:
        return not self.problems


@dataclass(slots=True)
class _Findings:
    """Problems, to be told in this order: bytes that are not what was signed, by entry; then promises; then the rest."""

    kept: list[tuple[tuple[int, ...], Problem]] = field(default_factory=list)
    more: int = 0

    def entry(self, index: int, entry_id: str, what: str) -> None:
        self._add((0, index, 0), Problem(index, entry_id, what))

    def group(self, first: int, last: int, what: str) -> None:
        """One of these entries: told after one of them that is known to be bad by itself."""
        self._add((0, last, 1), Problem(first, "", what))

    def promise(self, index: int, entry_id: str, what: str) -> None:
        self._add((1, index), Problem(index, entry_id, what))

    def log(self, what: str) -> None:
        self._add((2,), Problem(None, "", what))

    def in_order(self) -> tuple[Problem, ...]:
        return tuple(problem for _, problem in sorted(self.kept, key=itemgetter(0)))

    def _add(self, order: tuple[int, ...], problem: Problem) -> None:
        if len(self.kept) < _MOST_PROBLEMS:
            self.kept.append((order, problem))
        else:
            self.more += 1


def verify(log: LogReader, key: VerifierKey, *, progress: Callable[[int], None] = lambda _: None) -> Report:
    """Reads the whole log once. Never raises for what is in it: everything wrong is in the report.

    Entries are checked as they come: no index is missing, the bytes are an entry of ours, hash to the stored leaf, and say what
    the index columns say. At every size that was signed, the root over the entries so far has to be
    the signed one: so every checkpoint is consistent with every other. Every intent has to come to one outcome, and every
    `issued` has to settle an intent of the same session and grant. `progress` is called with the number of entries read.
    """
    found = _Findings()
    signed = _Signed(log.checkpoints(), key, found)
    promises = Promises()
    texts: set[tuple[str, str]] = set()
    frontier = Frontier()
    signed.check(frontier)
    for kept in log.entries():
        if kept.index != frontier.size:
            found.entry(kept.index, "", f"entries {frontier.size} to {kept.index - 1} before it are missing")
            break  # every hash from here on is over another tree
        frontier = frontier.appended(leaf_hash(kept.body))
        said = _entry(kept, found)
        if said is not None:
            for what in promises.take(kept.index, said):
                found.promise(kept.index, said.entry_id, what)
            if said.kind == "policy_loaded":
                texts.update((text, said.policy_hash) for text in _text_hash(kept, found))
        signed.check(frontier)
        progress(frontier.size)
    signed.rest(frontier.size)
    _head(log, frontier, signed, found)
    _policies(log, texts, found)
    overdue = int(PROMISE_PATIENCE / timedelta(milliseconds=1))
    for index, entry_id in promises.overdue(overdue):
        what = "this intent never came to an outcome: a credential may exist that the log does not name"
        found.promise(index, entry_id, what)
    return Report(
        origin=key.name,
        size=frontier.size,
        root=frontier.root(),
        checkpoints=signed.count,
        open_intents=promises.open,
        problems=found.in_order(),
        more=found.more,
    )


class _Signed:
    """The stored checkpoints, met one by one as the tree grows past their sizes."""

    def __init__(self, checkpoints: Iterator[tuple[int, bytes]], key: VerifierKey, found: _Findings) -> None:
        self._left = checkpoints
        self._key = key
        self._found = found
        self.count = 0
        self.last: bytes | None = None
        self._good = 0  # how many entries a checkpoint vouched for
        self._forked = False
        self._refused = 0
        self._refusals: list[tuple[int, str]] = []
        self._next = next(self._left, None)

    def check(self, frontier: Frontier) -> None:
        """Every checkpoint of this size signs this very tree."""
        while self._next is not None and self._next[0] <= frontier.size:
            size, note = self._next
            self._one(size, note, frontier)
            self._next = next(self._left, None)

    def rest(self, size: int) -> None:
        """What is left signs more than there is."""
        while self._next is not None:
            self._found.log(f"a checkpoint of {self._next[0]} entries was signed, and only {size} are there to check it")
            self._next = next(self._left, None)
        if 1 < self._refused == self.count:  # once, not once for each: it is the key
            why = self._refusals[0][1]
            self._found.log(
                f"none of the {self.count} checkpoints is valid: {why}; this is not the key of this log, or not its log"
            )
            return
        for refused_size, why in self._refusals:
            self._found.log(f"the checkpoint of {refused_size} entries is not valid: {why}")
        self._found.more += self._refused - len(self._refusals)

    def _one(self, size: int, note: bytes, frontier: Frontier) -> None:
        self.count += 1
        self.last = note
        try:
            checkpoint = self._key.open(bytes(note))
        except (ValueError, TypeError) as error:
            self._refused += 1
            if len(self._refusals) < _MOST_PROBLEMS:
                self._refusals.append((size, str(error)))
            return
        if checkpoint.size != size or size != frontier.size:
            self._found.log(f"a checkpoint stored as of {size} entries was signed for {checkpoint.size}")
        elif checkpoint.root == frontier.root():
            self._good = size
        elif not self._forked:  # every later root differs as well, and says nothing new
            self._forked = True
            which = "is" if size - self._good == 1 else f"or another one before {size} is"
            what = f"it {which} not what was signed: the root over {size} entries is another"
            self._found.group(self._good, size - 1, what)


def _entry(kept: Kept, found: _Findings) -> Facets | None:
    if len(kept.body) > MAX_ENTRY_BYTES:
        found.entry(kept.index, "", f"an entry of {len(kept.body)} bytes; {MAX_ENTRY_BYTES} is the most there can be")
    try:
        said = facets_of(kept.body)
    except ValueError as error:
        found.entry(kept.index, kept.facets.entry_id, f"its bytes are not an entry: {error}")
        return None
    if leaf_hash(kept.body) != kept.leaf:
        found.entry(kept.index, said.entry_id, "its bytes do not hash to the stored leaf")
    if said != kept.facets:
        found.entry(kept.index, said.entry_id, "the index beside the log says something else than the entry")
    return said


def _text_hash(kept: Kept, found: _Findings) -> list[str]:
    """Of the policy that the entry says was loaded; none when its bytes can be read in part only."""
    try:
        return [str(parsed(kept.body)["unmapped"].get("text_sha256"))]
    except ValueError as error:
        found.entry(kept.index, kept.facets.entry_id, f"its bytes are not an entry: {error}")
        return []


def _head(log: LogReader, frontier: Frontier, signed: _Signed, found: _Findings) -> None:
    head = log.head()
    if head is None:
        found.log("the head is gone")
    elif head.size != frontier.size:
        found.log(f"the head counts {head.size} entries, and {frontier.size} could be read")
    elif head.nodes != frontier.to_bytes():
        found.log("the head's tree is not that of the entries")
    elif head.note != signed.last:
        found.log("the head's checkpoint is not the last one that was signed")


def _policies(log: LogReader, texts: set[tuple[str, str]], found: _Findings) -> None:
    kept = set()
    for policy in log.policies():
        name = (policy.text_sha256, policy.policy_hash)
        kept.add(name)
        if hashlib.sha256(policy.text.encode()).hexdigest() != policy.text_sha256:
            found.log(f"the kept text of policy {policy.policy_hash} is not the one that was loaded")
    for _, policy_hash in sorted(texts - kept):
        found.log(f"the text of policy {policy_hash} is not kept")
