"""Several lanes for several threads, with runs that are waited for later."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from calib8.errors import SetupError
from calib8.runtime.tensorrt.lane import Lane


class Started:
    """A run that was started: a ``Pending``. Any thread may wait for it, any number of times."""

    def __init__(self, pool: Pool, lane: Lane) -> None:
        self._pool, self.lane = pool, lane
        #: Whether somebody waits for it, and whether that is over; the pool keeps both.
        self.claimed = self.over = False
        self.results: dict[str, Any] = {}
        self.error: BaseException | None = None

    @property
    def done(self) -> bool:
        """Would ``result`` answer at once?"""
        return self.over or (not self.claimed and self.lane.idle())

    def wait(self) -> None:
        """Wait until it is over, well or not."""
        self._pool.finish(self)

    def result(self) -> dict[str, Any]:
        """Its outputs by name. Raises ``SetupError`` if it failed on the GPU."""
        self.wait()
        if self.error is not None:
            raise self.error
        return self.results


class Pool:
    """Hands out lanes. Where all are taken, whoever wants one finishes the oldest run first, so nothing can stall."""

    def __init__(self, lanes: Sequence[Lane]) -> None:
        self._count = len(lanes)
        self._free = list(lanes)
        self._started: list[Started] = []  # the oldest first
        self._changed = threading.Condition()
        self._closed = False

    def start(self, start: Callable[[Lane], None]) -> Started:
        """Do ``start`` with a free lane. Raises what it raises; the lane is then free again."""
        lane = self._take()
        try:
            start(lane)
        except BaseException:
            self._give_back(lane)
            raise
        with self._changed:
            run = Started(self, lane)
            self._started.append(run)
            self._changed.notify_all()
        return run

    @contextmanager
    def lent(self) -> Iterator[Lane]:
        """A free lane for a block, within which nothing stays under way on it."""
        lane = self._take()
        try:
            yield lane
        finally:
            self._give_back(lane)

    def finish(self, run: Started) -> None:
        """Wait for the run and free its lane; one thread does, others that want the same run wait for that one."""
        with self._changed:
            while run.claimed and not run.over:
                self._changed.wait()
            if run.over:
                return
            run.claimed = True
        try:
            run.results = run.lane.finish()
        except BaseException as error:
            run.error = error
            if not isinstance(error, Exception):  # Ctrl-C is for the thread that waits
                raise
        finally:
            with self._changed:
                run.over = True
                self._started.remove(run)
            self._give_back(run.lane)

    def close(self) -> None:
        """Finish all runs, whose results stay, and hand out no more lanes. Calling it twice is fine."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        while (run := self._next(lambda: len(self._free) == self._count)) is not None:
            self.finish(run)

    def _take(self) -> Lane:
        while True:
            run = self._next(lambda: bool(self._free) or self._closed)
            if run is not None:
                self.finish(run)
                continue
            with self._changed:
                if self._closed:
                    raise SetupError("the engine was closed while a run waited for it. Open it again.")
                if self._free:
                    return self._free.pop()  # the one that was used last has its buffers and graphs at hand

    def _next(self, enough: Callable[[], bool]) -> Started | None:
        """The oldest run that nobody waits for, once there is one; None as soon as it is ``enough``."""
        with self._changed:
            while not enough():
                run = next((run for run in self._started if not run.claimed), None)
                if run is not None:
                    return run
                self._changed.wait()
        return None

    def _give_back(self, lane: Lane) -> None:
        with self._changed:
            self._free.append(lane)
            self._changed.notify_all()
