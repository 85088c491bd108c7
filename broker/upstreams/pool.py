"""The threads in which hvac and boto3 block, and the total deadline that neither library has."""

import asyncio
import contextlib
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from broker.errors import Code, Unavailable

R = TypeVar("R")

DEFAULT_SIZE = 16


class UpstreamPool:
    """At most `size` upstream calls at a time, for all upstreams together; the connection pools are sized like it.

    Not bounded here: how many callers wait for a thread. Their waiting counts against their deadline.
    """

    def __init__(self, size: int = DEFAULT_SIZE) -> None:
        self.size = size
        self._threads = ThreadPoolExecutor(size, thread_name_prefix="upstream")

    async def run(self, fn: Callable[..., R], *args: object, deadline: float, late: Callable[[R], object] | None = None) -> R:
        """What `fn(*args)` returns or raises, from a thread, within `deadline` seconds in total.

        Raises Unavailable(upstream_unavailable) when the deadline passes. A call that no thread has begun by then never
        begins. One that is under way cannot be stopped; if it ends well after all, `late` gets its result in a thread, so
        that what nobody waits for any more can be taken back. The same holds when the caller is cancelled.
        """
        job = self._threads.submit(fn, *args)
        waiting = asyncio.wrap_future(job)
        try:
            done, _ = await asyncio.wait({waiting}, timeout=deadline)
        except asyncio.CancelledError:
            self._abandon(job, late)
            raise
        if not done:
            waiting.cancel()
            self._abandon(job, late)
            raise Unavailable(
                Code.UPSTREAM_UNAVAILABLE,
                "the upstream did not answer in time; try again",
                detail=f"no answer within {deadline:g} s",
            )
        return waiting.result()

    def close(self) -> None:
        """Nothing new begins. Calls that are under way end by their own time-outs."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _abandon(self, job: Future[R], late: Callable[[R], object] | None) -> None:
        if job.cancel() or late is None:
            return

        def take_back(ended: Future[R]) -> None:
            if ended.cancelled() or ended.exception() is not None:
                return
            # Not in place: this may run on the event loop, and `late` blocks. After `close` there is no thread to ask.
            with contextlib.suppress(RuntimeError):
                self._threads.submit(late, ended.result())

        job.add_done_callback(take_back)
