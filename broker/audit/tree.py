"""The Merkle tree of RFC 6962 section 2.1: hashes, an append-only frontier, inclusion and consistency proofs. Pure."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from hashlib import sha256

HASH_BYTES = 32
EMPTY_ROOT = sha256(b"").digest()


def leaf_hash(entry: bytes) -> bytes:
    """The hash of an entry's exact bytes. The prefix keeps a leaf from ever passing for a node."""
    return sha256(b"\x00" + entry).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    return sha256(b"\x01" + left + right).digest()


@dataclass(frozen=True, slots=True)
class Frontier:
    """All that appending needs: the roots of the largest full subtrees, left to right, one per set bit of `size`."""

    size: int = 0
    nodes: tuple[bytes, ...] = ()

    def appended(self, leaf: bytes) -> "Frontier":
        """The frontier with one more leaf hash."""
        nodes, full = list(self.nodes), self.size
        while full & 1:  # a subtree of this height is complete already: the two become one of the next
            leaf = node_hash(nodes.pop(), leaf)
            full >>= 1
        return Frontier(self.size + 1, (*nodes, leaf))

    def root(self) -> bytes:
        """The tree head of everything appended so far."""
        if not self.nodes:
            return EMPTY_ROOT
        *rest, root = self.nodes
        for node in reversed(rest):
            root = node_hash(node, root)
        return root

    def to_bytes(self) -> bytes:
        """The nodes end to end, as the store keeps them beside the size."""
        return b"".join(self.nodes)

    @classmethod
    def from_bytes(cls, size: int, nodes: bytes) -> "Frontier":
        """The frontier that `to_bytes` wrote. Raises ValueError when there are not as many nodes as `size` has bits.

        Does not check that the nodes are true: whoever has a signed checkpoint compares `root()` with it.
        """
        if size < 0 or len(nodes) != HASH_BYTES * size.bit_count():
            raise ValueError(f"a frontier of {size} leaves has {max(size, 0).bit_count()} nodes, not {len(nodes)} bytes")
        return cls(size, tuple(nodes[at : at + HASH_BYTES] for at in range(0, len(nodes), HASH_BYTES)))


def root_of(leaves: Sequence[bytes]) -> bytes:
    """The tree head over these leaf hashes."""
    return _root(leaves, 0, len(leaves)) if leaves else EMPTY_ROOT


def inclusion_proof(leaves: Sequence[bytes], index: int) -> list[bytes]:
    """The audit path of one leaf in the tree over all of `leaves`, lowest sibling first (RFC 6962 2.1.1)."""
    if not 0 <= index < len(leaves):
        raise ValueError(f"there is no leaf {index} in a tree of {len(leaves)}")
    return list(_path(leaves, index, 0, len(leaves)))


def consistency_proof(leaves: Sequence[bytes], old: int) -> list[bytes]:
    """That the tree over the first `old` leaves is a prefix of the tree over all (RFC 6962 2.1.2)."""
    if not 0 <= old <= len(leaves):
        raise ValueError(f"a tree of {len(leaves)} leaves was never one of {old}")
    return [] if old in {0, len(leaves)} else list(_subproof(leaves, old, 0, len(leaves), whole=True))


def includes(root: bytes, size: int, index: int, leaf: bytes, proof: Sequence[bytes]) -> bool:
    """Whether `proof` shows `leaf` at `index` of the tree with this size and root (RFC 9162 2.1.3.2)."""
    if not 0 <= index < size:
        return False
    at, last, hashed = index, size - 1, leaf
    for sibling in proof:
        if last == 0:
            return False  # longer than the way up
        if at & 1 or at == last:
            hashed = node_hash(sibling, hashed)
            at, last = _skipped(at, last)
        else:
            hashed = node_hash(hashed, sibling)
        at, last = at >> 1, last >> 1
    return last == 0 and hashed == root


def consistent(old_root: bytes, old: int, root: bytes, size: int, proof: Sequence[bytes]) -> bool:
    """Whether `proof` shows the tree (`old`, `old_root`) to be a prefix of (`size`, `root`) (RFC 9162 2.1.4.2)."""
    if not 0 < old < size:
        return not proof and (old_root == root if old == size else old == 0 < size and old_root == EMPTY_ROOT)
    path = [old_root, *proof] if old.bit_count() == 1 else list(proof)  # a full subtree is its own first node
    if not path:
        return False
    at, last = old - 1, size - 1
    while at & 1:
        at, last = at >> 1, last >> 1
    was = now = path[0]
    for node in path[1:]:
        if last == 0:
            return False
        if at & 1 or at == last:
            was, now = node_hash(node, was), node_hash(node, now)
            at, last = _skipped(at, last)
        else:
            now = node_hash(now, node)
        at, last = at >> 1, last >> 1
    return last == 0 and was == old_root and now == root


def _skipped(at: int, last: int) -> tuple[int, int]:
    """Up past the levels at which a node on the right edge has no sibling."""
    while at & 1 == 0 and at != 0:
        at, last = at >> 1, last >> 1
    return at, last


def _split(width: int) -> int:
    """The largest power of two below `width`."""
    return 1 << ((width - 1).bit_length() - 1)


def _root(leaves: Sequence[bytes], low: int, high: int) -> bytes:
    if high - low == 1:
        return leaves[low]
    middle = low + _split(high - low)
    return node_hash(_root(leaves, low, middle), _root(leaves, middle, high))


def _path(leaves: Sequence[bytes], index: int, low: int, high: int) -> Iterator[bytes]:
    if high - low == 1:
        return
    middle = low + _split(high - low)
    if index < middle:
        yield from _path(leaves, index, low, middle)
        yield _root(leaves, middle, high)
    else:
        yield from _path(leaves, index, middle, high)
        yield _root(leaves, low, middle)


def _subproof(leaves: Sequence[bytes], old: int, low: int, high: int, *, whole: bool) -> Iterator[bytes]:
    if old == high:
        if not whole:  # the verifier has the old root itself when it is a full subtree
            yield _root(leaves, low, high)
        return
    middle = low + _split(high - low)
    if old <= middle:
        yield from _subproof(leaves, old, low, middle, whole=whole)
        yield _root(leaves, middle, high)
    else:
        yield from _subproof(leaves, old, middle, high, whole=False)
        yield _root(leaves, low, middle)
