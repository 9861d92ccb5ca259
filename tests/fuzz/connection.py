"""The bytes of a connection to ``calib8 serve``: request lines, headers and bodies, through uvicorn and its limits."""

import asyncio
import json
from functools import cache
from pathlib import Path
from typing import Any

from server import BODIES, KEY, LOOP, REFUSALS, application_in
from tokens import put_tokenizer
from uvicorn import Config
from uvicorn.server import ServerState

from calib8.errors import DataError
from calib8.serving.connection import Connection

#: What a connection may be told besides: a head that is too large.
TOLD = REFUSALS | {431}
HEADERS = (
    f"Host: localhost:8000\r\nAuthorization: Bearer {KEY}\r\nContent-Type: application/json\r\nAccept: */*\r\n"
    "User-Agent: OpenAI/Python 2.0\r\nX-Forwarded-For: 10.0.0.1\r\nX-Forwarded-Proto: https\r\n"
)


def seeds() -> list[bytes]:
    """Bodies of stated length and in chunks, pages, two requests at once, and questions before a body."""
    bodies = [json.dumps(body) for body in BODIES]
    post = f"POST /v1/embeddings HTTP/1.1\r\n{HEADERS}"
    asked = [f"{post}Content-Length: {len(body)}\r\n\r\n{body}" for body in bodies]
    pages = [f"GET {path} HTTP/1.1\r\n{HEADERS}\r\n" for path in ("/health", "/v1/models/tiny?a=b")]
    first, second = bodies[0][:9], bodies[0][9:]
    pieces = f"9\r\n{first}\r\n{len(second):x};x=y\r\n{second}\r\n0\r\nA: b\r\n\r\n"
    chunks = f"{post}Transfer-Encoding: chunked\r\n\r\n{pieces}"
    expecting = asked[0].replace("\r\n\r\n", "\r\nExpect: 100-continue\r\nConnection: close\r\n\r\n")
    upgrade = f"GET /health HTTP/1.1\r\n{HEADERS}Connection: upgrade\r\nUpgrade: websocket\r\n\r\n"
    return [one.encode() for one in (*asked, *pages, pages[0] + asked[1], chunks, expecting, upgrade)]


def connection(data: bytes, folder: Path) -> None:
    """Send it all, go away, and look at what was answered first. A refusal is a ``DataError``, as in other parsers."""
    put_tokenizer(folder)
    told = LOOP.run_until_complete(_told(_config(folder), data)).removeprefix(b"HTTP/1.1 100 Continue\r\n\r\n")
    if not told:
        raise DataError("no whole request")
    head, _, rest = told.partition(b"\r\n\r\n")
    status = int(head.split()[1])
    assert status == 200 or status in TOLD, told
    assert b"HTTP/1.1 500" not in told, told
    if status != 200:
        length = next(int(line[16:]) for line in head.lower().split(b"\r\n") if line.startswith(b"content-length: "))
        if rest[:length]:  # of a HEAD nothing
            assert set(json.loads(rest[:length])["error"]) == {"message", "type", "param", "code"}
        raise DataError(f"{status}: {rest!r:.200}")


class _Client(asyncio.Transport):
    """A socket whose other end takes all that is written."""

    def __init__(self) -> None:
        super().__init__({"peername": ("127.0.0.1", 1), "sockname": ("127.0.0.1", 8000)})
        self.taken, self.closed = bytearray(), False

    def write(self, data: Any) -> None:
        self.taken += data

    def close(self) -> None:
        self.closed = True

    abort = close

    def is_closing(self) -> bool:
        return self.closed

    def pause_reading(self) -> None:
        pass

    resume_reading = pause_reading


async def _told(config: Config, data: bytes) -> bytes:
    state, client = ServerState(), _Client()
    server = Connection(config, state, {})
    server.connection_made(client)
    for piece in (data[: len(data) // 2], data[len(data) // 2 :]):
        if not client.closed:
            server.data_received(piece)
            await asyncio.sleep(0)
    if server.cycle is not None and server.cycle.more_body:
        server.connection_lost(None)  # or the application would wait for the rest
    while state.tasks:
        await asyncio.wait(state.tasks)
    server.connection_lost(None)
    return bytes(client.taken)


@cache
def _config(folder: Path) -> Config:
    config = Config(application_in(folder), http=Connection, lifespan="off", ws="none", log_level="error")
    config.load()
    return config
