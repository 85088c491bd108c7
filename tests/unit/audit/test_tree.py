from itertools import pairwise

import pymerkle
import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.audit.tree import (
    EMPTY_ROOT,
    Frontier,
    consistency_proof,
    consistent,
    includes,
    inclusion_proof,
    leaf_hash,
    node_hash,
    root_of,
)

MOST = 128
LEAVES = [leaf_hash(bytes([n])) for n in range(MOST)]
ROOTS = [root_of(LEAVES[:n]) for n in range(MOST + 1)]

# The test vectors of the Certificate Transparency reference implementation (merkle_tree_test).
PUBLISHED = [b"", b"\x00", b"\x10", b" !", b"01", b"@ABC", b"PQRSTUVW", b"`abcdefghijklmno"]
PUBLISHED_ROOTS = [
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
]


def test_an_empty_tree_has_the_hash_of_nothing() -> None:
    assert EMPTY_ROOT.hex() == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    assert Frontier().root() == root_of([]) == EMPTY_ROOT


@pytest.mark.parametrize("size", range(1, 9))
def test_roots_are_the_published_ones(size: int) -> None:
    frontier = Frontier()
    for entry in PUBLISHED[:size]:
        frontier = frontier.appended(leaf_hash(entry))
    assert frontier.root().hex() == PUBLISHED_ROOTS[size - 1]
    assert root_of([leaf_hash(entry) for entry in PUBLISHED[:size]]) == frontier.root()


def test_the_frontier_and_pymerkle_agree_at_every_size() -> None:
    """An independent implementation as oracle."""
    oracle, frontier = pymerkle.InmemoryTree(algorithm="sha256"), Frontier()
    for n in range(MOST):
        oracle.append_entry(bytes([n]))
        frontier = frontier.appended(LEAVES[n])
        assert frontier.root() == oracle.get_root() == ROOTS[n + 1]


def test_a_frontier_survives_the_store() -> None:
    frontier = Frontier()
    for leaf in LEAVES:
        assert Frontier.from_bytes(frontier.size, frontier.to_bytes()) == frontier
        frontier = frontier.appended(leaf)


@pytest.mark.parametrize(("size", "nodes"), [(3, b"x" * 32), (0, b"x"), (1, b"x" * 31), (-1, b"")])
def test_a_frontier_with_another_number_of_nodes_is_refused(size: int, nodes: bytes) -> None:
    with pytest.raises(ValueError, match="nodes"):
        Frontier.from_bytes(size, nodes)


def test_every_inclusion_proof_holds_and_only_where_it_was_made() -> None:
    for size in range(1, MOST + 1):
        for index in range(size):
            proof = inclusion_proof(LEAVES[:size], index)
            assert includes(ROOTS[size], size, index, LEAVES[index], proof)
            assert not includes(ROOTS[size], size, (index + 1) % (size + 1), LEAVES[index], proof)
            assert not includes(ROOTS[size], size, index, node_hash(LEAVES[index], LEAVES[index]), proof)
            assert not includes(ROOTS[size], size, index, LEAVES[index], [*proof, proof[0] if proof else EMPTY_ROOT])
            if proof:
                assert not includes(ROOTS[size], size, index, LEAVES[index], proof[:-1])


def test_every_consistency_proof_holds_and_only_for_its_sizes() -> None:
    for size in range(MOST + 1):
        for old in range(size + 1):
            proof = consistency_proof(LEAVES[:size], old)
            assert consistent(ROOTS[old], old, ROOTS[size], size, proof)
            assert not consistent(ROOTS[old], old, ROOTS[size], size, [*proof, EMPTY_ROOT])
            if 0 < old < size:
                assert not consistent(ROOTS[old - 1], old, ROOTS[size], size, proof)
                assert not consistent(ROOTS[old], old, ROOTS[size - 1], size, proof)
                assert not consistent(ROOTS[old], old, ROOTS[size], size, proof[:-1])


def test_a_rewritten_past_is_not_consistent() -> None:
    """The one thing a consistency proof is for: no proof makes a tree with another first entry the continuation."""
    forged = [leaf_hash(b"forged"), *LEAVES[1:]]
    for size in range(2, 40):
        for old in range(1, size):
            assert not consistent(ROOTS[old], old, root_of(forged[:size]), size, consistency_proof(forged[:size], old))


@pytest.mark.parametrize(("old", "size"), [(-1, 3), (4, 3)])
def test_a_proof_from_a_size_that_never_was_is_refused(old: int, size: int) -> None:
    assert not consistent(ROOTS[0], old, ROOTS[size], size, [])
    with pytest.raises(ValueError, match="never"):
        consistency_proof(LEAVES[:size], old)


def test_a_leaf_that_is_not_there_has_no_proof() -> None:
    with pytest.raises(ValueError, match="no leaf 3"):
        inclusion_proof(LEAVES[:3], 3)


@given(st.lists(st.binary(max_size=8), min_size=1, max_size=40), st.data())
def test_no_bit_can_change_unseen(entries: list[bytes], data: st.DataObject) -> None:
    """Flipping any bit of any entry changes the root."""
    index = data.draw(st.integers(0, len(entries) - 1))
    whole = int.from_bytes(b"\x01" + entries[index])
    bit = data.draw(st.integers(0, max(0, 8 * len(entries[index]) - 1)))
    flipped = (whole ^ (1 << bit)).to_bytes(len(entries[index]) + 1)[1:] if entries[index] else b"\x00"
    changed = [*entries[:index], flipped, *entries[index + 1 :]]
    assert root_of([leaf_hash(e) for e in entries]) != root_of([leaf_hash(e) for e in changed])


@given(st.lists(st.binary(max_size=8), max_size=40))
def test_roots_of_growing_trees_differ(entries: list[bytes]) -> None:
    """Truncation, too, is another root."""
    leaves = [leaf_hash(entry) for entry in entries]
    roots = [root_of(leaves[:n]) for n in range(len(leaves) + 1)]
    assert all(one != other for one, other in pairwise(roots))
