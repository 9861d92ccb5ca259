"""A connection to Ray that leaves the process as it was."""

import contextlib
import os
import signal
import threading
from collections.abc import Iterator

from calib8.cluster.config import Ray
from calib8.errors import SetupError

#: Nothing is reported to anybody, no web server is started, and Ray's C++ half keeps to errors that end it.
ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_BACKEND_LOG_LEVEL": "fatal",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
}


def require_ray() -> None:
    """Raise ``SetupError`` where Ray, or what it needs to handle data, is not installed."""
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    try:
        import ray.data  # noqa: F401
    except ImportError as error:
        raise SetupError("Ray is not installed. Install it: pip install 'calib8[ray]'.") from error


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
    try:
        with _signals_kept():
            own = {"include_dashboard": False} if cluster.address == "local" else {}
            ray.init(address=cluster.address, log_to_driver=False, logging_level="ERROR", **own)
    except (ConnectionError, TimeoutError, RuntimeError, ValueError, ImportError) as error:
        reason = " ".join(str(error).split())[:300].rstrip(".")
        raise SetupError(
            f"could not connect to Ray at {cluster.address!r}: {reason}. Start a cluster with `ray start --head` and "
            "give 'auto' or its address, or give 'local'."
        ) from error
    try:
        yield
    finally:
        ray.shutdown()


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
