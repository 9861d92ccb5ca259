"""Several runs at once on the CPU, each with its share of the cores (see ``open_choice``).

Two runs side by side, on a core each, wait for each other less often than one that is spread over both: there is no
meeting after every kernel.
"""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from contextlib import suppress

from numpy.typing import ArrayLike

from calib8.data.inputs import Arrays
from calib8.errors import SetupError
from calib8.runtime.base import Runtime
from calib8.runtime.pending import Pending


class Streams(Runtime):
    """``runtime``, whose ``run`` any thread may call, with ``count`` runs at once for those who ``submit``."""

    def __init__(self, runtime: Runtime, count: int) -> None:
        super().__init__(runtime.contract)
        self._runtime, self.streams = runtime, count
        self._threads = ThreadPoolExecutor(count, thread_name_prefix="calib8-stream")
        self.description = f"{runtime.description}, {count} streams"

    def submit(self, arrays: Mapping[str, ArrayLike]) -> Pending:
        """Start a run as soon as a stream is free. Raises as ``run`` does; what fails later is raised by ``result``."""
        fitted = self._fitted(arrays)
        with self._kept_open():
            return _Queued(self._threads.submit(self._runtime.run, fitted))

    def _run(self, arrays: Arrays) -> Arrays:
        return self._runtime.run(arrays)

    def _free(self) -> None:
        self._threads.shutdown(cancel_futures=True)
        self._runtime.close()


class _Queued:
    """A run that waits for a stream, is on one, or was."""

    def __init__(self, future: Future[Arrays]) -> None:
        self._future = future

    @property
    def done(self) -> bool:
        """Would ``result`` answer at once?"""
        return self._future.done()

    def wait(self) -> None:
        """Wait until it is over, well or not."""
        with suppress(CancelledError):
            self._future.exception()

    def result(self) -> Arrays:
        """Its outputs by name. Raises what ``run`` would have raised, ``SetupError`` if it was closed before."""
        try:
            return self._future.result()
        except CancelledError as error:
            raise SetupError("the runtime was closed before this run began. Wait for runs before you close.") from error
