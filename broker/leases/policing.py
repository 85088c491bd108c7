"""The policy in force, and what happens when its files change: all of the new one or nothing of it, and every session again."""

import asyncio
import contextlib
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from broker.audit.entry import Journal
from broker.errors import BrokerError, Misconfigured
from broker.leases.ending import Ending
from broker.leases.table import LiveSession, Table
from broker.ledger import Ledger
from broker.moment import Moment
from broker.policy.model import Deny, Policy
from broker.refusing import Refusing, about_session, answer_now
from broker.session import SessionState, new_id

log = logging.getLogger("credbroker.policy")

_LOOK_EVERY = 1.0  # seconds
POLICY_REASON = "the policy no longer gives this job what it had"


@dataclass(slots=True)
class InForce:
    """The policy that decides now. Only `Policing` puts another one in its place."""

    policy: Policy

    def __call__(self) -> Policy:
        return self.policy


class Files(Protocol):
    """Where the policy is read from. All of these may take their time and are called in a thread."""

    def read(self) -> Policy:
        """The policy as the files have it now, and fit for this broker. Raises Misconfigured."""

    def seen(self) -> object:
        """Something that differs when a file does; equal as long as nothing was touched."""

    def hash(self) -> str:
        """What a policy that `read` refuses would be called; `""` when its files cannot be read."""

    def commit(self) -> str:
        """The git commit that the files were checked out from, `""` where there is none."""


class Policing:
    """Puts a changed policy in force. What is bad is said and left: the policy that was there stays.

    A new policy is in force once its entry is durable, so that the hash in every decision's entry can be looked up.
    """

    def __init__(
        self,
        *,
        in_force: InForce,
        files: Files,
        table: Table,
        ending: Ending,
        refusing: Refusing,
        ledger: Ledger,
        journal: Journal,
        clock: Callable[[], Moment],
        asked: asyncio.Event,
    ) -> None:
        """`asked` is set by whoever wants the files read again whether or not they look changed."""
        self._in_force = in_force
        self._files = files
        self._table = table
        self._ending = ending
        self._refusing = refusing
        self._ledger = ledger
        self._journal = journal
        self._clock = clock
        self._one_at_a_time = asyncio.Lock()
        self._asked = asked
        self._seen: object = None  # what the files were when they were last read

    async def begin(self) -> None:
        """At start: the entry of the policy in force, and every session of the store decided again.

        What the files were when it was read is not known here: `run` reads them once more.
        """
        await self._write_loaded(self._in_force.policy)
        await self._decide_all_again()

    async def run(self) -> None:
        """Until cancelled. A change is taken when the files have been still from one look to the next.

        A look that fails is tried again at the next one, asked for or not: nobody else watches the files.
        """
        before = self._seen
        while True:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._asked.wait(), _LOOK_EVERY)
            asked = self._asked.is_set()
            self._asked.clear()
            try:
                before = await self._look(before, asked)
            except BrokerError as error:
                log.warning("policy.reload_waits", extra={"code": error.code.word, "detail": error.detail})
            except Exception:
                log.exception("policy.reload_broke")
            else:
                continue
            await asyncio.sleep(_LOOK_EVERY)
            if asked:
                self._asked.set()

    async def reload(self) -> bool:
        """Whether the files' policy is in force now. Raises what the ledger raises; then nothing has changed."""
        async with self._one_at_a_time:
            seen = await asyncio.to_thread(self._files.seen)
            try:
                policy = await asyncio.to_thread(self._files.read)
            except Misconfigured as refused:
                await self._write_refused(refused)
                self._seen = seen
                return False
            if policy.hash != self._in_force.policy.hash:
                await self._write_loaded(policy)
                self._in_force.policy = policy
                log.info("policy.loaded", extra={"policy_hash": policy.hash})
                await self._decide_all_again()
            self._seen = seen
            return True

    # --- how ---------------------------------------------------------------------------------------------------------

    async def _look(self, before: object, asked: bool) -> object:
        now = await asyncio.to_thread(self._files.seen)
        if asked or (now != self._seen and now == before):
            await self.reload()
        return now

    async def _write_loaded(self, policy: Policy) -> None:
        commit = await asyncio.to_thread(self._files.commit)
        entry = self._journal.policy_loaded(at=self._clock().wall, policy_hash=policy.hash, text=policy.text, git_commit=commit)
        await self._ledger.commit([], [entry])

    async def _write_refused(self, refused: Misconfigured) -> None:
        problems = refused.public.splitlines()
        log.error("policy.refused", extra={"problems": problems[:20], "count": len(problems)})
        refused_hash, commit = await asyncio.to_thread(lambda: (self._files.hash(), self._files.commit()))
        entry = self._journal.policy_refused(
            at=self._clock().wall,
            policy_hash=self._in_force.policy.hash,
            refused_hash=refused_hash,
            problems=problems,
            git_commit=commit,
        )
        await self._ledger.commit([], [entry])

    async def _decide_all_again(self) -> None:
        for live in self._table:
            if live.state is SessionState.LIVE:
                await self._decide_again(live)

    async def _decide_again(self, live: LiveSession) -> None:
        policy = self._in_force.policy
        answer = answer_now(policy, live.session, live.session.grants)
        if not isinstance(answer, Deny):
            return
        self._ending.start(live, SessionState.REVOKED, POLICY_REASON)
        about = about_session(live.session, new_id(), policy_hash=policy.hash)
        try:
            await self._refusing.denied(answer, about, "session", self._clock())
        except BrokerError as error:  # revoking never waits for the log (DESIGN 3.11)
            log.warning("policy.denial_unwritten", extra={"session_id": live.session.session_id, "code": error.code.word})
