"""Open a model, listen, answer until told to stop, finish what is under way."""

from __future__ import annotations

import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from calib8.errors import SetupError, install
from calib8.progress import Progress, Quiet
from calib8.runtime.names import CpuRuntime
from calib8.runtime.open import open_artefact
from calib8.serving.config import Serve
from calib8.text.sentence import SentenceEncoder

if TYPE_CHECKING:
    import uvicorn

#: Addresses that only this machine reaches.
LOOPBACK = ("127.0.0.1", "::1")
#: Connections that the system keeps until they are accepted.
BACKLOG = 2048
PACKAGES = {
    "starlette": "starlette", "uvicorn": "uvicorn", "prometheus_client": "prometheus-client", "httptools": "httptools"
}  # fmt: skip


def serve(
    artefact: Path | str,
    config: Serve | None = None,
    *,
    tokenizer: Path | str | None = None,
    runtime: CpuRuntime = "auto",
    progress: Progress | None = None,
) -> None:
    """Answer OpenAI's embedding requests until SIGINT or SIGTERM; what is under way then is finished.

    ``tokenizer`` is a folder; beside the artefact if None. Raises ``SetupError`` if the packages of ``calib8[serve]``
    are missing or the address is taken, ``ModelError`` if the artefact is no token encoder.

    Example:

        >>> calib8.serve("model.int8.onnx", calib8.Serve(port=8000))
    """
    artefact, config, progress = Path(artefact), Serve.of(config), progress or Quiet()
    _require_packages()
    folder = Path(tokenizer) if tokenizer is not None else artefact.parent
    name = config.name or artefact.stem
    with open_artefact(artefact, runtime, throughput=True) as opened:
        progress.note(f"{name} in {opened.description}")
        encoder = SentenceEncoder(folder, opened)
        created = int(artefact.stat().st_mtime)
        with serving(encoder, config, name, created, progress) as (server, listener):
            host, port = listener.getsockname()[:2]
            shown = f"[{host}]" if ":" in host else host
            if config.api_key is None and host not in LOOPBACK:
                progress.note(f"no API key: whoever reaches {host} is served")
            with _told_to_stop(server):
                progress.note(f"http://{shown}:{port}/v1")
                server.run(sockets=[listener])
        progress.note("stopped")


@contextmanager
def serving(
    encoder: SentenceEncoder, config: Serve, name: str, created: int, progress: Progress
) -> Iterator[tuple[uvicorn.Server, socket.socket]]:
    """A server that is ready to run, and the socket on which it listens already."""
    import uvicorn

    from calib8.serving.app import application
    from calib8.serving.batcher import Batcher
    from calib8.serving.connection import Connection, most_connections
    from calib8.serving.metrics import Metrics
    from calib8.serving.protocol import Protocol, smaller_of
    from calib8.serving.work import Work

    width = encoder.embed(["a"]).shape[1]  # the first run, and the proof that it is a token encoder
    protocol = Protocol(encoder, width, name, smaller_of(encoder.tokenizer.path.parent), config)
    metrics = Metrics()
    connections = most_connections(config.max_requests)
    if connections < config.max_requests:
        progress.note(f"at most {connections} connections, for as many files may be open: raise it with ulimit -n")
    with (
        _listening(config) as listener,
        Batcher(encoder, config, metrics, progress) as batcher,
        Work(config.max_body_bytes) as work,
    ):
        batcher.warm_up()
        settings = uvicorn.Config(
            application(protocol, batcher, work, config, metrics, created),
            http=Connection,
            limit_concurrency=connections,
            lifespan="off",
            ws="none",
            log_level="error",
            access_log=False,
            server_header=False,
            timeout_graceful_shutdown=config.grace_seconds,
        )
        yield uvicorn.Server(settings), listener


def _listening(config: Serve) -> socket.socket:
    """A listening socket that says it is TCP: only of such does asyncio switch Nagle's algorithm off, which would hold
    back the end of an answer until the client acknowledges its beginning, 40 ms later.
    """
    listener = None
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            config.host, config.port, type=socket.SOCK_STREAM, proto=socket.IPPROTO_TCP
        )[0]
        listener = socket.socket(family, kind, protocol)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(BACKLOG)
    except OSError as error:
        if listener is not None:
            listener.close()
        raise SetupError(
            f"cannot listen on {config.host}, port {config.port}: {error.strerror or error}. Name another with --host "
            "and --port, or stop who has it."
        ) from None
    return listener


@contextmanager
def _told_to_stop(server: uvicorn.Server) -> Iterator[None]:
    """Let SIGINT and SIGTERM end the server, and a second SIGINT what it still does: a normal end, no interruption.

    uvicorn has handlers of its own while it runs; when it has stopped it raises the signal again, for ours.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(number: int, frame: object) -> None:
        server.should_exit = True

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _require_packages() -> None:
    missing = [package for module, package in PACKAGES.items() if find_spec(module) is None]
    if missing:
        raise SetupError(f"{', '.join(missing)} not installed. Install what serving needs: {install('serve')}.")
