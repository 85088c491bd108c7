"""A process that commits as fast as it can and prints the id of every entry it was told is durable. Made to be killed."""

import asyncio
import sys
from pathlib import Path

from tests.contract.ledger_stores import SCRIPT, SqliteStore, a_session, an_intent, issued, opening
from tests.unit.audit.samples import an_identity


async def _one(store: SqliteStore, name: str) -> None:
    ledger = store.ledgers[0]
    session = a_session(identity=an_identity(jti=name))
    for n in range(1_000_000):
        entry = SCRIPT.denied()
        change = [opening(session)] if n == 0 else [an_intent(session)] if n % 2 else []
        await ledger.commit(change, [entry])
        sys.stdout.write(entry.entry_id + "\n")
        sys.stdout.flush()
        if n % 10 == 0:
            await issued(ledger, session)


async def main(path: Path, name: str) -> None:
    store = SqliteStore(path)
    store.open()
    await asyncio.gather(*(_one(store, f"{name}-{n}") for n in range(8)))


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), sys.argv[2]))
