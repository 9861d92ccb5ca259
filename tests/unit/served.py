"""A real server in a thread, and a runtime that waits until it is told to go on."""

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import openai
from httpx2 import Client

from calib8.data.inputs import Arrays
from calib8.progress import Quiet
from calib8.runtime.base import Runtime
from calib8.runtime.ort import OrtRuntime
from calib8.serving.config import Serve
from calib8.serving.server import serving
from calib8.testing import tiny_encoder
from calib8.text.sentence import SentenceEncoder


class Held(Runtime):
    """Runs a model, but only while ``go`` is set. ``shapes`` keeps [sequences, tokens] of each run."""

    def __init__(self, runtime: Runtime) -> None:
        super().__init__(runtime.contract)
        self.description = "held"
        self.go = threading.Event()
        self.go.set()
        self.started = threading.Semaphore(0)
        self.shapes: list[tuple[int, ...]] = []
        self._runtime = runtime

    def _run(self, arrays: Arrays) -> Arrays:
        self.shapes.append(arrays["input_ids"].shape)
        self.started.release()
        assert self.go.wait(20)
        return self._runtime.run(arrays)

    def _free(self) -> None:
        self._runtime.close()


@dataclass
class Served:
    """A running server, and clients for it. ``warm``: the shapes that it ran before."""

    url: str
    encoder: SentenceEncoder
    runtime: Held
    server: Any
    listener: socket.socket
    thread: threading.Thread
    warm: list[tuple[int, ...]]
    clients: dict[str, openai.OpenAI] = field(default_factory=dict)

    @property
    def port(self) -> int:
        return int(self.url.rpartition(":")[2])

    def openai(self, key: str = "none") -> openai.OpenAI:
        """One client for each key, closed with the server."""
        if key not in self.clients:
            self.clients[key] = openai.OpenAI(base_url=f"{self.url}/v1", api_key=key, max_retries=0, timeout=20)
        return self.clients[key]

    def http(self, key: str = "none") -> Client:
        return Client(base_url=self.url, timeout=20, headers={"Authorization": f"Bearer {key}"})

    def stop(self) -> None:
        """Begin to shut down."""
        self.server.should_exit = True


@contextmanager
def served(folder: Path, config: Serve | None = None, notes: Any = None, positions: int = 16) -> Iterator[Served]:
    """A server of the tiny encoder, as model ``tiny``, on a free port."""
    config = config or Serve(port=0)
    with Held(OrtRuntime(tiny_encoder(positions=positions))) as runtime:
        encoder = SentenceEncoder(folder, runtime)
        with serving(encoder, config, "tiny", 1_700_000_000, notes or Quiet()) as (server, listener):
            warm, runtime.shapes, runtime.started = runtime.shapes[1:], [], threading.Semaphore(0)
            thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
            thread.start()
            url = f"http://127.0.0.1:{listener.getsockname()[1]}"
            found = Served(url, encoder, runtime, server, listener, thread, warm)
            try:
                yield found
            finally:
                runtime.go.set()
                found.stop()
                thread.join(20)
                assert not thread.is_alive()
                for client in found.clients.values():
                    client.close()


def until(condition: Callable[[], bool]) -> None:
    """Wait for it."""
    end = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < end, "it did not happen within 20 s"
        time.sleep(0.01)


def metric(server: Served, name: str) -> float:
    """The value of a metric that the server tells, 0 if it has none."""
    with server.http() as client:
        lines = client.get("/metrics").text.splitlines()
    return next((float(line.rpartition(" ")[2]) for line in lines if line.startswith(name)), 0.0)
