"""A connection to Ray that leaves the process as it was."""

import contextlib
import os
import signal
import socket
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

from calib8 import telemetry
from calib8.cluster.config import Ray
from calib8.errors import SetupError, install

#: No web server is started, and Ray's C++ half keeps to errors that end it.
ENVIRONMENT = {
    "RAY_BACKEND_LOG_LEVEL": "fatal",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
}
#: What it says of that on stderr, whatever the level.
SAID = b"Set ray log level from environment variable"
#: Seconds within which a cluster takes a connection.
ANSWER_WITHIN = 5.0


def require_ray() -> None:
    """Raise ``SetupError`` where Ray, or what it needs to handle data, is not installed."""
    telemetry.switch_off(telemetry.RAY)
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    try:
        import ray.data  # noqa: F401
    except ImportError as error:
        raise SetupError(f"Ray is not installed. Install it: {install('ray')}.") from error


@contextlib.contextmanager
def connected(cluster: Ray) -> Iterator[None]:
    """Be connected to ``cluster``, and disconnected afterwards; a connection that is there already is used and kept.

    Raises ``SetupError`` where Ray is not installed or nothing answers at the address.
    """
    require_ray()
    import ray

    if ray.is_initialized():
        yield
        return
    _require_answer(cluster.address)
    try:
        with _signals_kept(), _without_line(SAID):
            own = {"include_dashboard": False} if cluster.address == "local" else {}
            ray.init(address=cluster.address, log_to_driver=False, logging_level="ERROR", **own)
    except (ConnectionError, TimeoutError, RuntimeError, ValueError, ImportError) as error:
        raise _no_cluster(repr(cluster.address), " ".join(str(error).split())[:300].rstrip(".")) from error
    try:
        yield
    finally:
        ray.shutdown()


def _require_answer(address: str) -> None:
    """Raise ``SetupError`` where nothing listens: Ray would try for minutes, and not end when it is told to."""
    told, where = repr(address), address
    if address == "auto":
        where, found_in = _auto()
        told = f"{address!r} ({where}, from {found_in})"
    host, colon, port = where.removeprefix("ray://").rpartition(":")
    if not (colon and port.isdecimal()):  # 'local', or for Ray to judge
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=ANSWER_WITHIN).close()
    except (OSError, OverflowError) as error:
        raise _no_cluster(told, f"nothing listens there ({error})") from error


def _auto() -> tuple[str, str]:
    """The address that Ray would take for ``auto``, empty if there is none, and where it is told."""
    if address := os.environ.get("RAY_ADDRESS"):
        return address, "RAY_ADDRESS"
    folder = os.environ.get("RAY_TMPDIR") or os.environ.get("TMPDIR") or "/tmp"
    told = Path(folder) / "ray" / "ray_current_cluster"
    try:
        return told.read_text(encoding="utf-8").strip(), str(told)
    except OSError:
        return "", str(told)


def _no_cluster(address: str, reason: str) -> SetupError:
    return SetupError(
        f"could not connect to Ray at {address}: {reason}. Start a cluster with `ray start --head` and give 'auto' or "
        "its address, or give 'local'."
    )


@contextlib.contextmanager
def _signals_kept() -> Iterator[None]:
    """Ray puts a handler of its own in place of the caller's, which would change the exit code."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    handler = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, handler)


@contextlib.contextmanager
def _without_line(said: bytes) -> Iterator[None]:
    """Leave out the lines with ``said`` of what is written to stderr meanwhile, by C++, too; the rest comes late."""
    try:
        stderr = os.dup(2)
    except OSError:  # closed
        yield
        return
    with tempfile.TemporaryFile() as written:
        os.dup2(written.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(stderr, 2)
            os.close(stderr)
            written.seek(0)
            with open(2, "wb", closefd=False) as again:
                again.writelines(line for line in written if said not in line)
