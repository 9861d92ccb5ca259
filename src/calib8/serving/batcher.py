"""Sequences of many requests, run together.

Nothing waits for a batch to fill: a batch is what came while the runs before it went on, so that a lone request is
computed at once, and under load batches are full.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from types import TracebackType

import numpy as np

from calib8.console import visible
from calib8.data.rooms import most_rows
from calib8.progress import Progress
from calib8.serving.config import Serve
from calib8.serving.metrics import Metrics
from calib8.serving.refused import Refused, busy, failed, stopping
from calib8.serving.shapes import Shapes
from calib8.text.sentence import Embeddings, SentenceEncoder

#: A batch is chosen among those who wait the longest, as many as would fill this many: more of them save padding, fewer
#: keep those of a rare length from being overtaken.
SEEN = 8
#: How much the last batch counts in the estimate of the speed, and the longest wait that is told to a client.
NEWEST, LONGEST_RETRY = 0.1, 60
#: Runs that fail in a row until the server counts as broken. Three could be one client that tries one request again.
FAILURES = 5

#: Failures are for whoever runs the server, however quiet it is: Python writes them to stderr unless told otherwise.
log = logging.getLogger("calib8.serving")


class Job:
    """The sequences of one request. ``vectors``: float32 [sequences, width] when all are there."""

    def __init__(self, sequences: Sequence[Sequence[int]]) -> None:
        self.waiting = [_Waiting(self, row, tokens) for row, tokens in enumerate(sequences)]
        self.vectors: Future[Embeddings] = Future()
        self.vectors.set_running_or_notify_cancel()  # whoever loses interest calls Batcher.cancel
        self._rows: dict[int, Embeddings] = {}

    def put(self, row: int, vector: Embeddings) -> None:
        """The vector of sequence ``row`` is there."""
        self._rows[row] = vector
        if len(self._rows) == len(self.waiting) and not self.vectors.done():
            self.vectors.set_result(np.stack([self._rows[number] for number in range(len(self.waiting))]))

    def fail(self, error: Refused) -> None:
        """There will be no vectors."""
        if not self.vectors.done():
            self.vectors.set_exception(error)


@dataclass(frozen=True, eq=False)
class _Waiting:
    job: Job
    row: int
    tokens: Sequence[int]


class Batcher:
    """Runs sequences in batches of up to ``batch_tokens`` positions. Use it in a ``with`` block.

    On leaving it, what waits is finished first. Every stream of the runtime has a run under way and one more waits.
    """

    def __init__(self, encoder: SentenceEncoder, config: Serve, metrics: Metrics, progress: Progress) -> None:
        self._encoder, self._metrics, self._progress = encoder, metrics, progress
        self._capacity, self._seen = config.queue_tokens, SEEN * config.batch_tokens
        self._shapes = Shapes(config.batch_tokens, encoder.tokenizer.max_length, partial(most_rows, encoder.rooms))
        self._waiting: OrderedDict[_Waiting, None] = OrderedDict()  # the oldest first; any may leave
        self._tokens = 0
        self._seconds_per_token = 0.0
        self._failures = 0  # in a row
        self._closing = False
        self._changed = threading.Condition()
        self._workers = [
            threading.Thread(target=self._work, name=f"calib8-batch-{number}")
            for number in range(encoder.runtime.streams + 1)
        ]

    def warm_up(self) -> None:
        """Run every shape on every stream, so that later none is new."""
        streams = self._encoder.runtime.streams
        with ThreadPoolExecutor(streams) as threads:
            for done, (count, length) in enumerate(self._shapes):
                self._progress.update("warm up", done, len(self._shapes))
                batch = [[0] * length] * count
                list(threads.map(self._encoder.embed_batch, [batch] * streams, [length] * streams))
        self._progress.update("warm up", len(self._shapes), len(self._shapes))

    def submit(self, sequences: Sequence[Sequence[int]]) -> Job:
        """Queue the sequences of a request. Raises ``Refused`` (429) if there is no room for all of them."""
        job = Job(sequences)
        tokens = sum(map(len, sequences))
        with self._changed:
            if self._closing:
                raise stopping()
            if self._tokens + tokens > self._capacity:
                raise busy(f"{self._tokens} tokens are waiting, and there is room for {self._capacity}", self._wait())
            self._waiting.update(dict.fromkeys(job.waiting))
            self._count(tokens)
            self._changed.notify()
        return job

    @property
    def trouble(self) -> str | None:
        """Why nothing can be computed; None if it can."""
        if not all(worker.is_alive() for worker in self._workers):
            return "a worker ended, which is a bug in calib8: restart the server."
        if self._failures >= FAILURES:
            return f"the last {self._failures} runs failed; the log says why."
        return None

    def retry_after(self) -> int:
        """Seconds until what waits now should be done: 1 to ``LONGEST_RETRY``."""
        with self._changed:
            return self._wait()

    def cancel(self, job: Job) -> None:
        """Nobody waits for ``job`` any more: what was not started never will be."""
        with self._changed:
            self._drop(job)

    def _wait(self) -> int:
        seconds = self._tokens * self._seconds_per_token / len(self._workers)
        return min(max(1, math.ceil(seconds)), LONGEST_RETRY)

    def _count(self, change: int) -> None:
        self._tokens += change
        self._metrics.queue_tokens.set(self._tokens)

    def _drop(self, job: Job) -> None:
        for item in job.waiting:
            if item in self._waiting:
                del self._waiting[item]
                self._count(-len(item.tokens))

    def _work(self) -> None:
        while batch := self._next():
            self._run(batch)

    def _next(self) -> list[_Waiting]:
        """The next batch; empty when there will be none."""
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._closing)
            batch = self._chosen()
            for item in batch:
                del self._waiting[item]
                self._count(-len(item.tokens))
            if self._waiting:
                self._changed.notify()  # one worker wakes the next, only as many as there is work for
            return batch

    def _chosen(self) -> list[_Waiting]:
        """Who waits the longest, and those nearest to it in length: little padding, and nobody waits for ever."""
        seen = list(self._oldest())
        nearest = sorted(seen, key=lambda item: abs(len(item.tokens) - len(seen[0].tokens)))
        longest = count = 0
        for item in nearest:
            length = max(longest, self._shapes.padded(len(item.tokens)))
            if count >= self._shapes.most(length):
                break
            longest, count = length, count + 1
        return nearest[: self._shapes.count(count, longest)] if nearest else []

    def _oldest(self) -> Iterator[_Waiting]:
        tokens = 0
        for item in self._waiting:
            yield item
            tokens += len(item.tokens)
            if tokens >= self._seen:
                return

    def _run(self, batch: list[_Waiting]) -> None:
        try:
            vectors, seconds_per_token = self._computed([item.tokens for item in batch])
            with self._changed:
                self._failures = 0
                weight = NEWEST if self._seconds_per_token else 1
                self._seconds_per_token += weight * (seconds_per_token - self._seconds_per_token)
                for item, vector in zip(batch, vectors, strict=True):
                    item.job.put(item.row, vector)
        except Exception as error:  # whatever it is, these requests get an answer and the next ones a worker
            self._failed(batch, error)

    def _failed(self, batch: list[_Waiting], error: Exception) -> None:
        log.error("a batch of %d failed: %s: %s", len(batch), type(error).__name__, visible(str(error)))
        with self._changed:
            self._failures += 1
            for job in {item.job for item in batch}:
                self._drop(job)
                job.fail(failed())

    def _computed(self, sequences: list[Sequence[int]]) -> tuple[Embeddings, float]:
        """A vector for each of ``sequences``, and the seconds that a token took."""
        length = self._shapes.padded(max(map(len, sequences)))
        start = time.perf_counter()
        vectors = self._encoder.embed_batch(sequences, length)
        seconds, tokens = time.perf_counter() - start, sum(map(len, sequences))
        self._metrics.ran(len(sequences), tokens, len(sequences) * length, seconds)
        return vectors, seconds / tokens

    def __enter__(self) -> Batcher:
        for worker in self._workers:
            worker.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        for worker in self._workers:
            worker.join()
