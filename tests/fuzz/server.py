"""Requests to ``calib8 serve``, through the whole application but for sockets and the model.

A request is three lines: ``METHOD path``, what is in ``Authorization``, and the body.
"""

import asyncio
import json
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from starlette.applications import Starlette
from tokens import put_tokenizer

from calib8.errors import DataError
from calib8.serving.app import application
from calib8.serving.batcher import Job
from calib8.serving.config import Serve
from calib8.serving.metrics import Metrics
from calib8.serving.protocol import Protocol, Smaller
from calib8.serving.work import Work
from calib8.text.tokenizer import TextTokenizer

WIDTH, KEY = 8, "key"
#: Refusals that a request may meet; 500 and 503 would be faults of the server.
REFUSALS = {400, 401, 404, 405, 413}
BODY = {"model": "tiny", "input": ["a b", "c"], "encoding_format": "float", "dimensions": 4, "user": "u"}
BODIES = (BODY, {"model": "tiny", "input": "a"}, {"model": "tiny", "input": [1, 4, 2], "encoding_format": "base64"},
          {"model": "tiny", "input": [[1, 4, 2], [1, 2]]})  # fmt: skip


def seeds() -> list[bytes]:
    """Of every route one, and every form of input."""
    asked = [f"POST /v1/embeddings\nBearer {KEY}\n{json.dumps(body)}".encode() for body in BODIES]
    others = [
        f"GET {path}\nBearer {KEY}\n".encode() for path in ("/health", "/metrics", "/v1/models", "/v1/models/tiny")
    ]
    return asked + others


def request(data: bytes, folder: Path) -> None:
    """Ask, and look at the answer. A refusal is a ``DataError``, as in other parsers."""
    put_tokenizer(folder)
    start, _, rest = data.partition(b"\n")
    key, _, body = rest.partition(b"\n")
    method, _, path = start.decode("latin-1").partition(" ")
    status, answer = LOOP.run_until_complete(_asked(application_in(folder), method, path, key, body))
    if status != 200:
        assert status in REFUSALS, (status, answer)
        if method != "HEAD":
            assert set(json.loads(answer)["error"]) == {"message", "type", "param", "code"}
        raise DataError(f"{status}: {answer.decode()}")
    if method == "POST":
        _check_vectors(json.loads(body), json.loads(answer))


def _check_vectors(asked: dict[str, Any], told: dict[str, Any]) -> None:
    given = asked["input"]
    count = len(given) if isinstance(given, list) and not isinstance(given[0], int) else 1
    assert [one["index"] for one in told["data"]] == list(range(count))
    assert told["usage"]["prompt_tokens"] >= count
    if asked.get("encoding_format") != "base64":
        width = asked.get("dimensions") or WIDTH
        assert all(len(one["embedding"]) == width for one in told["data"])


async def _asked(server: Starlette, method: str, path: str, key: bytes, body: bytes) -> tuple[int, bytes]:
    """Status and body of the answer."""
    scope = {
        "type": "http", "http_version": "1.1", "method": method, "path": path, "raw_path": path.encode("latin-1"),
        "query_string": b"", "headers": [(b"authorization", key), (b"host", b"h")], "scheme": "http", "root_path": "",
        "server": ("h", 80), "client": ("c", 1),
    }  # fmt: skip
    incoming = [{"type": "http.request", "body": body, "more_body": False}]
    sent: list[Any] = []

    async def receive() -> Any:
        return incoming.pop() if incoming else await asyncio.Event().wait()  # the client stays

    async def send(message: Any) -> None:
        sent.append(message)

    await server(scope, receive, send)
    return sent[0]["status"], b"".join(message.get("body", b"") for message in sent[1:])


class _AtOnce:
    """In the place of a ``Batcher``: every vector is there when it is asked for."""

    trouble = None

    def submit(self, sequences: list[list[int]]) -> Job:
        job = Job(sequences)
        for row in range(len(sequences)):
            job.put(row, np.full(WIDTH, row, np.float32))
        return job

    def cancel(self, job: Job) -> None:
        pass

    def retry_after(self) -> int:
        return 1


@cache
def application_in(folder: Path) -> Starlette:
    """The server, with the tokenizer that lies in ``folder``."""
    config, encoder = (
        Serve(api_key=KEY, max_inputs=64),
        SimpleNamespace(tokenizer=TextTokenizer(folder, 16), normalise=True),
    )
    protocol = Protocol(encoder, WIDTH, "tiny", Smaller(listed=(4,)), config)  # type: ignore[arg-type]
    return application(protocol, _AtOnce(), Work(config.max_body_bytes), config, Metrics(), 0)  # type: ignore[arg-type]


LOOP = asyncio.new_event_loop()
