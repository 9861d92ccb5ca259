"""A client's connection, as uvicorn handles it, with limits that uvicorn lacks: before a request is there it takes any
number of connections, bytes and seconds, and afterwards it waits for as long as a client does not read.
"""

from __future__ import annotations

import asyncio
import json
import sys
from http import HTTPStatus
from typing import Any

from uvicorn import Config
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState

from calib8.serving.refused import Refused, busy

#: Of one request's line and headers.
HEAD_BYTES, HEADERS = 16_384, 100
#: For a head to arrive, from when the connection is there or has had its answer.
HEAD_SECONDS = 15
#: For a client to take an answer, from when it is slower than the server.
ANSWER_SECONDS = 60
#: Connections beyond two for each request that may be under way: for /health, /metrics and refusals.
SPARE = 64
#: Files that the process has open for itself.
OWN_FILES = 64


class Connection(HttpToolsProtocol):
    """As many as uvicorn's ``limit_concurrency`` says; others are answered with 429 and closed.

    There is one deadline at a time: for the head of a request, then, once the application has answered, for the answer.
    In between the application has deadlines of its own.
    """

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self._most, self._grace = config.limit_concurrency, config.timeout_graceful_shutdown
        self.limit_concurrency = None  # uvicorn would count when a head is there, and refuse in plain text
        self._refusal: Refused | None = None
        self._silent, self._heard = 0, False
        self._deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """A client is there."""
        super().connection_made(transport)
        self._within(HEAD_SECONDS)
        if self._most is not None and len(self.connections) > self._most:
            self._end(busy(f"{self._most} connections are open", 1))

    def connection_lost(self, exc: Exception | None) -> None:
        """It is gone."""
        self._within(None)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Parse what came. What the parser says nothing of, it keeps: of that there may be as much as of a head."""
        self._heard = False
        super().data_received(data)
        self._silent = 0 if self._heard else self._silent + len(data)
        if self._silent > HEAD_BYTES:
            self._end(_head_too_large())

    def on_header(self, name: bytes, value: bytes) -> None:
        """A header, or a trailer behind a body."""
        super().on_header(name, value)
        if len(self.headers) > HEADERS:
            self._refuse(_head_too_large())

    def on_headers_complete(self) -> None:
        """The head is there, which may be large all the same if it came at once."""
        self._heard = True
        if len(self.url) + sum(len(name) + len(value) for name, value in self.headers) > HEAD_BYTES:
            self._refuse(_head_too_large())
        if self.cycle is not None and not self.cycle.response_complete:
            self._refuse(Refused(400, "got a request before the one before was answered; expected one at a time."))
        self._within(None)
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """A piece of the body, which the application limits."""
        self._heard = True
        super().on_body(body)

    def on_message_complete(self) -> None:
        """The request is there."""
        self._heard = True
        super().on_message_complete()

    def on_response_complete(self) -> None:
        """The answer is on its way, but for what the client has not taken; the next head may come."""
        super().on_response_complete()
        self._within(HEAD_SECONDS)

    def pause_writing(self) -> None:
        """The client takes less than the server sends."""
        super().pause_writing()
        if self._deadline is None:
            self._within(ANSWER_SECONDS)

    def shutdown(self) -> None:
        """The server stops. When its grace is over, uvicorn ends what is computed, and this what is not taken."""
        super().shutdown()
        if self._grace is not None:
            self.loop.call_later(self._grace, self._stop_sending)

    def send_400_response(self, msg: str) -> None:
        """uvicorn's answer to what is no HTTP and to what is refused here, in the form that OpenAI's clients read."""
        self._end(self._refusal or Refused(400, "got bytes that are no HTTP request; expected HTTP/1.1, not TLS."))

    def _refuse(self, why: Refused) -> None:
        """End the parser's work, of which ``send_400_response`` tells the client."""
        self._refusal = why
        raise why

    def _end(self, why: Refused) -> None:
        """Tell the client and close. If it came behind a whole request, that is answered first, and this not told:
        uvicorn would keep thousands of small requests that came at once, and forget the first if their client goes.
        """
        cycle = self.cycle
        if self.transport.is_closing():
            return
        if cycle is not None and not cycle.response_complete and not cycle.more_body:
            cycle.keep_alive = False
            return
        if cycle is not None and cycle.response_started and not cycle.response_complete:
            self.transport.abort()  # the client would take it for a part of the answer
            return
        body = json.dumps(why.body()).encode()
        told = {"content-type": "application/json", "content-length": len(body), "connection": "close", **why.headers}
        head = [f"HTTP/1.1 {why.status} {HTTPStatus(why.status).phrase}", *(f"{name}: {told[name]}" for name in told)]
        self.transport.write("\r\n".join([*head, "", ""]).encode("ascii") + body)
        self.transport.close()

    def _stop_sending(self) -> None:
        if self.cycle is None or self.cycle.response_started:
            self.transport.abort()

    def _within(self, seconds: float | None) -> None:
        """End the connection after ``seconds`` (None: never), unless this is called again."""
        if self._deadline is not None:
            self._deadline.cancel()
        self._deadline = None if seconds is None else self.loop.call_later(seconds, self.transport.abort)


def most_connections(max_requests: int) -> int:
    """Enough to refuse as many requests as are served, in words, or as many as the process may have files open for."""
    wanted = 2 * max_requests + SPARE
    if sys.platform == "win32":
        return wanted
    import resource

    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return wanted if files == resource.RLIM_INFINITY else max(1, min(wanted, files - OWN_FILES))


def _head_too_large() -> Refused:
    return Refused(431, f"the request's line and headers are more than {HEAD_BYTES} bytes or {HEADERS} headers.")
