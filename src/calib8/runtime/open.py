"""One way to open whatever calib8 made: an ONNX model on the CPU, an engine on the GPU."""

from pathlib import Path

from calib8.files import require_file
from calib8.graph.io import load
from calib8.runtime.base import Runtime
from calib8.runtime.cpu import open_cpu
from calib8.runtime.names import CpuRuntime

ENGINE_SUFFIXES = (".engine", ".plan", ".trt")


def is_engine(path: Path) -> bool:
    """Whether ``path`` is named like a TensorRT engine."""
    return path.suffix in ENGINE_SUFFIXES


def open_artefact(path: Path, runtime: CpuRuntime = "auto", *, threads: int | None = None) -> Runtime:
    """Open an ONNX model or an engine. Raises ``ModelError``, or ``SetupError`` with the reason it cannot run here."""
    if is_engine(path):
        from calib8.runtime.tensorrt import TensorRtRuntime

        return TensorRtRuntime(path)
    require_file(path, "model or engine")
    return open_cpu(load(path), runtime, threads=threads)
