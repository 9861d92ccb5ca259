"""What a server counts, for Prometheus."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

#: Sequences of a batch.
SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)
#: Seconds, from a tiny model on a GPU to a long queue on a CPU.
SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)


class Metrics:
    """Counters of one server, in a registry of their own."""

    content_type = CONTENT_TYPE_LATEST

    def __init__(self) -> None:
        own = self._registry = CollectorRegistry()
        ProcessCollector(registry=own)
        self.requests = Counter("calib8_requests", "Requests that were answered.", ["path", "status"], registry=own)
        self.request_seconds = Histogram(
            "calib8_request_seconds", "From request to answer.", ["path"], buckets=SECONDS, registry=own
        )
        self.under_way = Gauge("calib8_requests_under_way", "Embedding requests under way.", registry=own)
        self.queue_tokens = Gauge("calib8_queue_tokens", "Tokens that wait for a run.", registry=own)
        self._sequences = Histogram("calib8_batch_sequences", "Sequences of a run.", buckets=SIZES, registry=own)
        self._run_seconds = Histogram("calib8_run_seconds", "Seconds of a run.", buckets=SECONDS, registry=own)
        self._tokens = Counter("calib8_tokens", "Tokens that were computed.", registry=own)
        self._padding = Counter("calib8_padding_tokens", "Positions that were computed in vain.", registry=own)

    def ran(self, sequences: int, tokens: int, positions: int, seconds: float) -> None:
        """A batch was computed; ``positions`` are its tokens and its padding."""
        self._sequences.observe(sequences)
        self._run_seconds.observe(seconds)
        self._tokens.inc(tokens)
        self._padding.inc(positions - tokens)

    def text(self) -> bytes:
        """All of them in Prometheus' text format."""
        return generate_latest(self._registry)
