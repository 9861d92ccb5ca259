"""What ``calib8.open`` does: one way to open an ONNX model on the CPU and an engine on the GPU."""

from pathlib import Path
from typing import Any

from calib8.errors import ConfigError
from calib8.files import require_file, require_path
from calib8.graph.io import load
from calib8.runtime.base import Runtime
from calib8.runtime.cpu import open_cpu
from calib8.runtime.names import CpuRuntime

ENGINE_SUFFIXES = (".engine", ".plan", ".trt")


def is_engine(path: Path) -> bool:
    """Whether ``path`` is named like a TensorRT engine."""
    return path.suffix in ENGINE_SUFFIXES


def open(
    artefact: Path | str,
    *,
    runtime: CpuRuntime = "auto",
    threads: int | None = None,
    contexts: int | None = None,
    cuda_graphs: int | None = None,
    device: int | None = None,
    host_code: bool | None = None,
) -> Runtime:
    """Open an ONNX model on the CPU or an engine on the GPU; use the result in a ``with`` block.

    threads: of the CPU, for a model. contexts: runs that an engine can have under way (1), for several threads or for
    ``submit``. cuda_graphs: how many each context keeps (8), 0 for none. device: CUDA's number of the GPU. host_code:
    let a version-compatible engine run the code for the CPU that it brings. Raises ``ConfigError`` for one that does
    not apply.

    Example:

        >>> with calib8.open("model.onnx") as runtime:
        ...     found = runtime(input_ids=np.ones((1, 8), np.int64), attention_mask=np.ones((1, 8), np.int64))
        >>> found["last_hidden_state"].shape
        (1, 8, 64)
    """
    on_gpu: dict[str, Any] = {"cuda_graphs": cuda_graphs, "device": device, "host_code": host_code}
    return open_artefact(require_path(artefact), runtime, threads=threads, contexts=contexts, **on_gpu)


def open_artefact(  # noqa: PLR0913
    path: Path,
    runtime: CpuRuntime = "auto",
    *,
    threads: int | None = None,
    contexts: int | None = None,
    cuda_graphs: int | None = None,
    device: int | None = None,
    host_code: bool | None = None,
    throughput: bool = False,
) -> Runtime:
    """Open an ONNX model or an engine. Raises ``ModelError``, or ``SetupError`` with the reason it cannot run here.

    ``threads`` is for the CPU; ``contexts``, ``cuda_graphs``, ``device`` and ``host_code`` are for engines (see
    ``TensorRtRuntime``); None leaves the choice to the runtime. ``throughput``: on the CPU, several runs of those
    submitted go on at once. Raises ``ConfigError`` for an option that is not for this artefact.
    """
    on_gpu = {"contexts": contexts, "cuda_graphs": cuda_graphs, "device": device}
    given = {name: number for name, number in on_gpu.items() if number is not None}
    if is_engine(path):
        from calib8.runtime.tensorrt.runtime import TensorRtRuntime

        _require_fit(path, {"threads": threads}, "ONNX models on the CPU; an engine has contexts")
        for name, number in given.items():
            if number < (least := int(name == "contexts")):
                raise ConfigError(f"got {name}={number}, expected {least} or more.")
        return TensorRtRuntime(path, host_code=host_code, **given)
    require_file(path, "model or engine")
    engines = f"engines ({', '.join(ENGINE_SUFFIXES)}); on the CPU there are threads"
    _require_fit(path, {**on_gpu, "host_code": host_code}, engines)
    return open_cpu(load(path), runtime, threads=threads, throughput=throughput)


def _require_fit(path: Path, options: dict[str, int | None], what: str) -> None:
    given = [f"{name}={number}" for name, number in options.items() if number is not None]
    if given:
        raise ConfigError(f"{path} cannot be opened with {', '.join(given)}: that is for {what}.")
