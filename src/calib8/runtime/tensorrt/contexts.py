"""How TensorRT is asked for a context: each family has its own way to memory, kernels and CUDA graphs.

TensorRT: the context takes the scratch memory that we give it, so that several can share it, and we capture graphs.
TensorRT-RTX: it compiles kernels for the shapes that it meets, while it runs, and knows when that is over: so it
captures its graphs itself, and keeps the kernels in a runtime cache ("Working with RTX CUDA Graphs", "Working with
Runtime Cache"). That part of its API is in no TensorRT: ``Any`` ends here.
"""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from calib8.engine.sidecar import Sidecar
from calib8.errors import SetupError
from calib8.files import default_cache, write_bytes
from calib8.gpu.buffers import Buffers
from calib8.runtime.tensorrt.engine import Engine

if TYPE_CHECKING:
    import tensorrt as trt


class Contexts(Protocol):
    """Makes the contexts of one engine."""

    #: Whether graphs of these contexts are ours to capture.
    capturable: bool

    def make(self, memory: Buffers, *, timed: bool = False) -> trt.IExecutionContext | None:
        """A context that works in scratch memory of ``memory``, or None with the reason in TensorRT's log.

        ``timed``: its layers are to be timed one by one, so it makes no graphs.
        """

    def close(self) -> None:
        """Keep what is worth keeping."""


def contexts_of(engine: Engine, sidecar: Sidecar, *, graphs: bool) -> Contexts:
    """The way that the engine's TensorRT has."""
    if sidecar.family != "rtx" or not hasattr(engine.loaded, "create_runtime_config"):
        return OfTensorRt(engine)
    config: Any = engine.loaded.create_runtime_config()
    if hasattr(config, "create_runtime_cache"):
        return OfRtx(engine, config, cache_path(sidecar), graphs=graphs)
    return OfTensorRt(engine)


class OfTensorRt:
    """Contexts that share scratch memory."""

    capturable = True

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._size = engine.loaded.device_memory_size_v2

    def make(self, memory: Buffers, *, timed: bool = False) -> trt.IExecutionContext | None:
        """See ``Contexts``."""
        address = memory.room("scratch", self._size)
        ours = self._engine.module.ExecutionContextAllocationStrategy.USER_MANAGED
        context = self._engine.loaded.create_execution_context(ours)
        if context is not None:
            context.set_device_memory(address, self._size)
        return context

    def close(self) -> None:
        """Nothing to keep."""


class OfRtx:
    """Contexts with memory of their own, that capture graphs themselves and share compiled kernels.

    The kernels are kept in ``path`` for the next process. TensorRT-RTX refuses those of another GPU, driver or version
    of itself, and compiles anew; a cache that cannot be read or written costs time only, so that is no error.
    """

    capturable = False

    def __init__(self, engine: Engine, config: Any, path: Path | None, *, graphs: bool) -> None:
        self._engine, self._config, self._path = engine, config, path
        self._graphs = graphs
        self._cache = config.create_runtime_cache()
        self._kept = b""
        with contextlib.suppress(OSError):
            content = path.read_bytes() if path is not None else b""
            self._kept = content if self._cache.deserialize(content) else b""
        engine.require(config.set_runtime_cache(self._cache), "use a cache of compiled kernels")

    def make(self, memory: Buffers, *, timed: bool = False) -> trt.IExecutionContext | None:
        """See ``Contexts``."""
        if hasattr(self._config, "cuda_graph_strategy"):
            strategy = vars(self._engine.module)["CudaGraphStrategy"]
            captures = self._graphs and not timed
            self._config.cuda_graph_strategy = strategy.WHOLE_GRAPH_CAPTURE if captures else strategy.DISABLED
        return self._engine.loaded.create_execution_context(self._config)

    def close(self) -> None:
        """Write the compiled kernels, if there are new ones."""
        content = bytes(self._cache.serialize() or b"")
        if self._path is not None and content not in (b"", self._kept):
            with contextlib.suppress(SetupError):
                write_bytes(self._path, content)
        self._cache = self._config = None


def cache_path(sidecar: Sidecar) -> Path | None:
    """Where an engine's compiled kernels are kept: in the user's cache, as beside the engine nobody may write.

    None where the user has none.
    """
    try:
        return default_cache() / "rtx" / f"{sidecar.engine_sha256}.kernels"
    except SetupError:
        return None
