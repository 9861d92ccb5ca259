"""The HTTP side: who may ask, how much, and what is answered."""

from __future__ import annotations

import asyncio
import hmac
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, TypeAlias

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from calib8.serving.batcher import Batcher, Job
from calib8.serving.config import Serve
from calib8.serving.counted import Counted
from calib8.serving.metrics import Metrics
from calib8.serving.protocol import Protocol
from calib8.serving.refused import Refused, busy, failed, stopping
from calib8.serving.work import Body, Work
from calib8.text.sentence import Embeddings

#: A body that takes longer is not waited for.
BODY_SECONDS = 30
#: What web servers log for a client that did not wait; nobody receives it.
CLIENT_GONE = 499
#: Bytes of an answer that are given to the connection at a time.
PIECE = 65_536
#: Bytes of answers that clients have not taken yet, for which the next request is refused: one may be 30 MB.
UNSENT = 2**28

#: Raises ``Refused`` unless the request brings the key.
Authorise: TypeAlias = Callable[[Request], None]


def application(
    protocol: Protocol, batcher: Batcher, work: Work, config: Serve, metrics: Metrics, created: int
) -> Starlette:
    """The ASGI application for one model; ``created`` is when the model was made, in seconds since 1970."""
    authorise = _authorised_by(config)
    model = {"id": protocol.name, "object": "model", "created": created, "owned_by": "calib8"}

    async def health(_: Request) -> Response:
        if (trouble := batcher.trouble) is not None:
            raise Refused(503, trouble, kind="server_error")
        return JSONResponse({"status": "ok"})

    async def measured(_: Request) -> Response:
        return Response(metrics.text(), media_type=metrics.content_type)

    async def models(request: Request) -> Response:
        authorise(request)
        return JSONResponse({"object": "list", "data": [model]})

    async def model_of(request: Request) -> Response:
        authorise(request)
        protocol.require_name(request.path_params["name"])
        return JSONResponse(model)

    embeddings = _Embeddings(protocol, batcher, work, config, metrics, authorise)
    app = Starlette(
        routes=[
            Route("/v1/embeddings", embeddings, methods=["POST"]),
            Route("/v1/models", models),
            Route("/v1/models/{name:path}", model_of),
            Route("/health", health),
            Route("/metrics", measured),
        ],
        middleware=[Middleware(Counted, metrics=metrics)],
        exception_handlers=dict.fromkeys((Refused, HTTPException, Exception), _refusal),
    )
    app.router.redirect_slashes = False  # to wherever the client's Host header says, and without OpenAI's error
    return app


class _Embeddings:
    """One request after the other, many at once. An ASGI application, because a request is under way until its answer
    is sent.
    """

    def __init__(
        self, protocol: Protocol, batcher: Batcher, work: Work, config: Serve, metrics: Metrics, authorise: Authorise
    ) -> None:
        self._protocol, self._batcher, self._work = protocol, batcher, work
        self._config, self._metrics, self._authorise = config, metrics, authorise
        self._under_way = self._unsent = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """From the head of a request to the end of its answer."""
        request = Request(scope, receive)
        self._authorise(request)
        with self._admitted():
            answer = await self._answered(request)
            with self._sending(answer), suppress(asyncio.CancelledError):  # grace_seconds are over, too late for a 503
                await answer(scope, receive, send)

    async def _answered(self, request: Request) -> Response:
        try:
            return await self._answer(request)
        except ClientDisconnect:
            return Response(status_code=CLIENT_GONE)
        except asyncio.CancelledError:  # uvicorn's, when grace_seconds are over
            raise stopping() from None

    async def _answer(self, request: Request) -> Response:
        with self._work.body() as room:
            body = await self._body(request, room)
            asked, sequences = await self._work.read(len(body), self._protocol.read, body)
        job = self._batcher.submit(sequences)
        try:
            vectors = await _unless_gone(request, job)
        finally:
            self._batcher.cancel(job)  # of a job that is done nothing is left to cancel
        if vectors is None:
            raise ClientDisconnect
        return _Answer(await self._work.write(vectors.nbytes, self._protocol.answer, asked, sequences, vectors))

    @contextmanager
    def _admitted(self) -> Iterator[None]:
        if self._under_way >= self._config.max_requests:
            raise busy(f"{self._under_way} requests are under way", self._batcher.retry_after())
        if self._unsent > UNSENT:
            raise busy(f"clients have not taken {self._unsent} bytes of answers yet", self._batcher.retry_after())
        self._under_way += 1
        self._metrics.under_way.set(self._under_way)
        try:
            yield
        finally:
            self._under_way -= 1
            self._metrics.under_way.set(self._under_way)

    @contextmanager
    def _sending(self, answer: Response) -> Iterator[None]:
        self._unsent += len(answer.body)
        try:
            yield
        finally:
            self._unsent -= len(answer.body)

    async def _body(self, request: Request, room: Body) -> bytes:
        try:
            return await asyncio.wait_for(_limited(request, self._config.max_body_bytes, room), BODY_SECONDS)
        except asyncio.TimeoutError:
            raise Refused(408, f"the body did not arrive within {BODY_SECONDS} s.") from None


class _Answer(Response):
    """Sent as fast as the client takes it, and no faster: what is sent is out of this process, but for two pieces."""

    media_type = "application/json"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it. The last message waits, as every one does, until the connection has little left of those before."""
        if len(self.body) <= PIECE:
            return await super().__call__(scope, receive, send)
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        body = memoryview(self.body)
        for start in range(0, len(body), PIECE):
            end = start + PIECE
            await send({"type": "http.response.body", "body": body[start:end], "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})


async def _limited(request: Request, most: int, room: Body) -> bytes:
    """The body, of which never more than ``most`` bytes are kept, nor more than there is ``room`` for."""
    too_large = Refused(413, f"the body is larger than {most} bytes. Send fewer inputs in one request.")
    announced = request.headers.get("content-length", "")
    if announced.isdecimal() and int(announced) > most:
        raise too_large
    body = bytearray()
    async for piece in request.stream():
        body += piece
        if len(body) > most:
            raise too_large
        room.grown_to(len(body))
    return bytes(body)


async def _unless_gone(request: Request, job: Job) -> Embeddings | None:
    """The vectors of ``job``; None as soon as the client closes the connection."""
    vectors = asyncio.wrap_future(job.vectors)
    gone = asyncio.ensure_future(request.receive())  # after the body there is only one more message
    either: tuple[asyncio.Future[Any], ...] = (vectors, gone)
    try:
        await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        return await vectors if vectors.done() else None
    finally:
        gone.cancel()


def _authorised_by(config: Serve) -> Authorise:
    expected = None if config.api_key is None else config.api_key.get_secret_value().encode()

    def authorised(request: Request) -> None:
        scheme, _, key = request.headers.get("authorization", "").partition(" ")
        given = key.strip().encode("latin-1") if scheme.lower() == "bearer" else b""
        if expected is not None and not hmac.compare_digest(given, expected):
            raise Refused(
                401,
                "Incorrect API key provided: expected 'Authorization: Bearer KEY' with the key of this server.",
                code="invalid_api_key",
                headers={"WWW-Authenticate": "Bearer"},
            )

    return authorised


async def _refusal(request: Request, error: Exception) -> JSONResponse:
    if isinstance(error, HTTPException):  # no such path, or not with this method
        problem = f"{request.method} {request.url.path}: {error.detail}."
        error = Refused(error.status_code, problem, headers=error.headers)
    elif not isinstance(error, Refused):
        error = failed()
    return JSONResponse(error.body(), error.status, error.headers)
