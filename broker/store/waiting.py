"""Who waits for the writer, and how they are told."""

import asyncio
import contextlib
from collections.abc import Sequence
from dataclasses import dataclass

from broker.audit.entry import Entry
from broker.errors import BrokerError
from broker.ledger import Change


@dataclass(frozen=True, slots=True)
class Item:
    """One commit on its way to the disk."""

    changes: Sequence[Change]
    entries: Sequence[Entry]
    loop: asyncio.AbstractEventLoop
    done: "asyncio.Future[None]"


def deliver(group: Sequence[Item], results: Sequence[BrokerError | None]) -> None:
    """One wake-up per event loop, however many waited."""
    loops: dict[asyncio.AbstractEventLoop, list[tuple[asyncio.Future[None], BrokerError | None]]] = {}
    for item, result in zip(group, results, strict=True):
        loops.setdefault(item.loop, []).append((item.done, result))
    for loop, settled in loops.items():
        with contextlib.suppress(RuntimeError):  # the loop has ended; nobody waits any more
            loop.call_soon_threadsafe(_settle, settled)


def _settle(settled: Sequence[tuple["asyncio.Future[None]", BrokerError | None]]) -> None:
    for done, refused in settled:
        if done.done():  # its caller was cancelled; the commit stands
            continue
        if refused is None:
            done.set_result(None)
        else:
            done.set_exception(refused)
