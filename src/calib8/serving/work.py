"""Work that would hold up the event loop: large bodies are read, and large answers written, in threads."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from types import TracebackType
from typing import ParamSpec, TypeVar

from calib8.runtime.processor import cores
from calib8.serving.refused import busy

#: Bytes of text or numbers for which a thread costs more than the work that it would do.
SMALL = 4096
#: Bodies of the largest size that may be under way at once. Tokenising a text takes about 100 times its size.
LARGE_BODIES = 4
#: Seconds after which there should be room for a large body again: what tokenising the largest takes.
RETRY_SECONDS = 2

P = ParamSpec("P")
T = TypeVar("T")


class Work:
    """Threads that read and threads that write, and how many bytes of large bodies are under way. Use it in a ``with``
    block.

    Reading has half of the cores, so that the model and the event loop have the others. Writing is apart from it: an
    answer that is computed does not wait for what somebody else only asks.
    """

    def __init__(self, max_body_bytes: int) -> None:
        self._most, self._under_way = LARGE_BODIES * max(max_body_bytes, SMALL), 0
        self._readers = ThreadPoolExecutor(max(1, cores() // 2), thread_name_prefix="calib8-read")
        self._writers = ThreadPoolExecutor(1, thread_name_prefix="calib8-write")

    def body(self) -> Body:
        """Room for one body, to be used in a ``with`` block."""
        return Body(self)

    async def read(self, size: int, work: Callable[P, T], *given: P.args, **named: P.kwargs) -> T:
        """What ``work`` on a body of ``size`` bytes returns."""
        return await _done(self._readers, size, partial(work, *given, **named))

    async def write(self, size: int, work: Callable[P, T], *given: P.args, **named: P.kwargs) -> T:
        """What ``work`` on vectors of ``size`` bytes returns."""
        return await _done(self._writers, size, partial(work, *given, **named))

    def take(self, change: int) -> None:
        """Count ``change`` bytes of large bodies. Raises ``Refused`` (429) if there is no room for them."""
        if change > 0 and self._under_way + change > self._most:
            raise busy(
                f"{self._under_way} bytes of large requests are being read, and there is room for {self._most}",
                RETRY_SECONDS,
            )
        self._under_way += change

    def __enter__(self) -> Work:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for threads in (self._readers, self._writers):
            threads.shutdown(cancel_futures=True)


class Body:
    """The room that one body takes, from its first bytes until it is tokenised. A small one takes none."""

    def __init__(self, work: Work) -> None:
        self._work, self._counted = work, 0

    def grown_to(self, size: int) -> None:
        """So much of it is there. Raises ``Refused`` (429) if there is no room for it."""
        if size > SMALL:
            self._work.take(size - self._counted)
            self._counted = size

    def __enter__(self) -> Body:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._work.take(-self._counted)


async def _done(threads: ThreadPoolExecutor, size: int, work: Callable[[], T]) -> T:
    if size <= SMALL:
        return work()
    return await asyncio.get_running_loop().run_in_executor(threads, work)
