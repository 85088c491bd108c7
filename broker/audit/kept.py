"""The log as somebody reads it: what a store, an export or a URL has to give to whoever verifies or searches it."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

from broker.audit.facets import Facets


@dataclass(frozen=True, slots=True)
class Kept:
    """One stored entry: its bytes are the truth, the rest is what the store claims about them."""

    index: int
    leaf: bytes
    body: bytes
    facets: Facets


@dataclass(frozen=True, slots=True)
class KeptHead:
    size: int
    nodes: bytes
    note: bytes


@dataclass(frozen=True, slots=True)
class KeptPolicy:
    text_sha256: str
    policy_hash: str
    text: str


class LogReader(Protocol):
    """One consistent view of a log; nothing in it is believed yet. Indexes and sizes ascend."""

    def head(self) -> KeptHead | None: ...

    def entries(self) -> Iterator[Kept]: ...

    def checkpoints(self) -> Iterator[tuple[int, bytes]]: ...

    def policies(self) -> Iterator[KeptPolicy]: ...
