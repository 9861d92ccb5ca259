"""Counts every request: path, status, seconds."""

import time

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from calib8.serving.metrics import Metrics

#: Other paths are counted together, so that nobody can fill the memory by asking for many.
PATHS = ("/v1/embeddings", "/v1/models", "/health", "/metrics")


class Counted:
    """An ASGI middleware; it sees what clients see, errors included."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app, self._metrics = app, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        status = 500
        path = scope["path"] if scope["path"] in PATHS else "other"
        start = time.perf_counter()

        async def noted(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, noted)
        finally:
            self._metrics.requests.labels(path, str(status)).inc()
            self._metrics.request_seconds.labels(path).observe(time.perf_counter() - start)
