"""The HTTP side: who may ask, how much, and what is answered."""

from __future__ import annotations

import asyncio
import hmac
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any

from fastapi import Depends, FastAPI, Request
from fastapi.responses import JSONResponse, Response
from starlette.exceptions import HTTPException

from calib8.models.sentence import Embeddings
from calib8.serving.batcher import Batcher, Job
from calib8.serving.config import Serve
from calib8.serving.measured import Measured
from calib8.serving.metrics import Metrics
from calib8.serving.protocol import Protocol
from calib8.serving.refused import Refused, busy, failed

#: A body that takes longer is not waited for.
BODY_SECONDS = 30
#: What web servers log for a client that did not wait; nobody receives it.
CLIENT_GONE = 499


def application(protocol: Protocol, batcher: Batcher, config: Serve, metrics: Metrics, created: int) -> FastAPI:
    """The ASGI application for one model; ``created`` is when the model was made, in seconds since 1970."""
    app = FastAPI(title="calib8", docs_url=None, redoc_url=None, openapi_url=None)
    app.add_middleware(Measured, metrics=metrics)
    for error in (Refused, HTTPException, Exception):
        app.add_exception_handler(error, _refusal)
    endpoint = _Embeddings(protocol, batcher, config, metrics)
    model = {"id": protocol.name, "object": "model", "created": created, "owned_by": "calib8"}
    known_only = [Depends(_authorised_by(config))]

    @app.get("/health")
    async def health() -> dict[str, str]:
        if not batcher.at_work:
            raise Refused(503, "a worker ended, which is a bug in calib8: restart the server.", kind="server_error")
        return {"status": "ok"}

    @app.get("/metrics")
    async def measured() -> Response:
        return Response(metrics.text(), media_type=metrics.content_type)

    @app.get("/v1/models", dependencies=known_only)
    async def models() -> dict[str, object]:
        return {"object": "list", "data": [model]}

    @app.get("/v1/models/{name:path}", dependencies=known_only)
    async def model_of(name: str) -> dict[str, object]:
        if name != protocol.name:
            raise Refused(404, f"The model '{name}' does not exist; this server has '{protocol.name}'.",
                          code="model_not_found", param="model")  # fmt: skip
        return model

    app.post("/v1/embeddings", dependencies=known_only)(endpoint.answer)
    return app


class _Embeddings:
    """One request after the other, many at once."""

    def __init__(self, protocol: Protocol, batcher: Batcher, config: Serve, metrics: Metrics) -> None:
        self._protocol, self._batcher, self._config, self._metrics = protocol, batcher, config, metrics
        self._under_way = 0

    async def answer(self, request: Request) -> Response:
        """From body to answer; texts and JSON are worked on in threads, so that others are answered meanwhile."""
        with self._admitted():
            body = await self._body(request)
            asked, sequences = await asyncio.to_thread(self._protocol.read, body)
            job = self._batcher.submit(sequences)
            try:
                vectors = await _unless_gone(request, job)
            finally:
                self._batcher.cancel(job)  # of a job that is done nothing is left to cancel
            if vectors is None:
                return Response(status_code=CLIENT_GONE)
            content = await asyncio.to_thread(self._protocol.answer, asked, sequences, vectors)
            return Response(content, media_type="application/json")

    @contextmanager
    def _admitted(self) -> Iterator[None]:
        if self._under_way >= self._config.max_requests:
            raise busy(f"{self._under_way} requests are under way", self._batcher.retry_after())
        self._under_way += 1
        self._metrics.under_way.set(self._under_way)
        try:
            yield
        finally:
            self._under_way -= 1
            self._metrics.under_way.set(self._under_way)

    async def _body(self, request: Request) -> bytes:
        try:
            return await asyncio.wait_for(_limited(request, self._config.max_body_bytes), BODY_SECONDS)
        except asyncio.TimeoutError:
            raise Refused(408, f"the body did not arrive within {BODY_SECONDS} s.") from None


async def _limited(request: Request, most: int) -> bytes:
    """The body, of which never more than ``most`` bytes are kept."""
    too_large = Refused(413, f"the body is larger than {most} bytes. Send fewer inputs in one request.")
    announced = request.headers.get("content-length", "")
    if announced.isdecimal() and int(announced) > most:
        raise too_large
    body = bytearray()
    async for piece in request.stream():
        body += piece
        if len(body) > most:
            raise too_large
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


def _authorised_by(config: Serve) -> Callable[[Request], Awaitable[None]]:
    expected = None if config.api_key is None else config.api_key.get_secret_value().encode()

    async def authorised(request: Request) -> None:
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
