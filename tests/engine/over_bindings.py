"""What calib8 does with NVIDIA's own bindings of TensorRT, as JSON: ``python over_bindings.py 10.16 callbacks``.

In a process of its own, as one can hold one version only. Python's calls to the methods of TensorRT's base classes take
the way that TensorRT's take: through C++ to the methods of calib8's classes.
"""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from calib8.engine import family, worker
from calib8.engine.calibrator import BASES, CacheFile, Calibration, make_calibrator
from calib8.engine.options import Options
from calib8.engine.phases import Stages
from calib8.errors import Calib8Error
from calib8.runtime.tensorrt.engine import Engine
from calib8.runtime.tensorrt.log import log_of
from calib8.runtime.tensorrt.profiler import profiler_for
from trt_bindings import load as load_bindings

OPTIONS = Options(
    workspace_mib=3,
    optimization_level=4,
    tf32=False,
    version_compatible=True,
    hardware_compatibility="ampere+",
    weight_streaming=True,
)
#: What may be asked for, each by itself.
ASKED = (
    *({name: value} for name, value in vars(OPTIONS).items() if value is not None),
    *({"hardware_compatibility": level} for level in family.LEVELS),
    *({"calibrator": algorithm} for algorithm in BASES),
)


class Config:
    """Stands in for ``IBuilderConfig``, which nobody but a builder can make: writes down what it is told."""

    def __init__(self) -> None:
        self.__dict__["told"] = []

    def __getattr__(self, name: str) -> Callable[..., None]:
        return lambda *values: self.told.append([name, *map(str, values)])

    def __setattr__(self, name: str, value: object) -> None:
        self.told.append([name, str(value)])


def refused(call: Callable[[], object]) -> str | None:
    """The error's text, if there was one."""
    try:
        call()
    except (Calib8Error, worker.RefusedError) as error:
        return str(error)
    return None


def options() -> dict[str, Any]:
    """What becomes of the options of a build."""
    tensorrt, config = family.load("tensorrt"), Config()
    tensorrt.apply(config, OPTIONS)
    strong = int(tensorrt.module.NetworkDefinitionCreationFlag.STRONGLY_TYPED)
    return {
        "title": tensorrt.title,
        "targets": tensorrt.targets(),
        "told": config.told,
        "strongly typed": tensorrt.network_flags(Options()) == 1 << strong,
        "refused": list(filter(None, (refused(lambda a=asked: tensorrt.require(a)) for asked in ASKED))),
        "calibrators": {name: hasattr(tensorrt.module, base) for name, base in BASES.items()},
    }


def callbacks() -> dict[str, Any]:
    """What calib8's classes are told when TensorRT calls them."""
    trt: Any = family.load("tensorrt").module
    events: list[Any] = []
    logger = worker._logger(trt, lambda *event: events.append(event))
    trt.ILogger.log(logger, trt.ILogger.Severity.WARNING, "hot")
    monitor = worker._monitor(trt, Stages("build", lambda *told: events.append(("progress", *told))))
    trt.IProgressMonitor.phase_start(monitor, "all", None, 2)
    goes_on = [trt.IProgressMonitor.step_complete(monitor, "all", step) for step in (0, 1)]
    trt.IProgressMonitor.phase_finish(monitor, "all")
    seen, reasons = log_of(trt)
    for severity in (trt.ILogger.Severity.ERROR, trt.ILogger.Severity.INFO):
        trt.ILogger.log(seen, severity, f" of {severity.name}")
    profiler, heard = profiler_for(trt)
    trt.IProfiler.report_layer_time(profiler, "gemm", 0.5)
    return {"events": events, "goes on": goes_on, "reasons": reasons.take(), "layers": heard.take()}


def calibrators() -> dict[str, Any]:
    """What TensorRT takes a calibrator for. Its other methods, unlike this one's size, cannot be called through C++."""
    trt: Any = family.load("tensorrt").module
    calibration = Calibration({}, 4, CacheFile(None, ""), "sm90", Stages("", print))
    made: dict[str, Any] = {name: make_calibrator(trt, name, calibration) for name in BASES}
    return {
        name: [calibrator.get_algorithm().name, trt.IInt8Calibrator.get_batch_size(calibrator)]
        for name, calibrator in made.items()
    }


def without_cuda() -> dict[str, Any]:
    """What a build and an engine say where TensorRT makes no builder and no runtime."""
    request = {"options": {}, "model": "none.onnx", "stage": "build"}
    tensorrt = family.load("tensorrt")
    sidecar: Any = type("Sidecar", (), {"tensors": ()})()
    return {
        "build": refused(lambda: worker._build(tensorrt, request, print)),
        "run": refused(lambda: Engine(tensorrt, Path("x.engine"), b"", sidecar)),
    }


if __name__ == "__main__":
    load_bindings(sys.argv[1])
    print(json.dumps(globals()[sys.argv[2]]()))
