"""What runs in the process in which TensorRT builds: request on stdin, events on stdout.

A process of its own, because TensorRT's logger is global to a process, its libraries print to the terminal, a build
cannot be interrupted between two progress callbacks, and a crash inside it must not take the caller along.

Request, JSON: ``model``, ``engine`` (path to write), ``family``, ``target``, ``stage`` (name of the work in progress
reports), ``profiles`` [{name: [min, opt, max]}], ``options`` (``Options``), ``timings`` (``Timings``, or null),
``calibration`` (``CalibrationData.request``, or null). Or only ``model``, ``weights`` (the path that the model would
have beside its external weights, or null if it has it), ``family`` and ``options``: then it is parsed, not built.
Events, one JSON list a line: ``["log", severity, text]``, ``["progress", stage, done, total]``, ``["note", text]``, and
at last one of ``["built", {seconds, tensors}]``, ``["parsed"]``, ``["failed", [reason, …]]``, ``["setup", text]``,
``["disk", errno, text, path]``. After ``built`` there may be ``["layers", JSON]``, what the engine's inspector tells of
its kernels: whatever goes wrong with that, the engine is there.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from calib8.engine.calibrator import CacheFile, Calibration, make_calibrator
from calib8.engine.family import TensorRT, load
from calib8.engine.options import Options
from calib8.engine.phases import Stages
from calib8.engine.timings import kept_timings
from calib8.engine.trt_api import TensorRtModule
from calib8.errors import SetupError

if TYPE_CHECKING:
    import tensorrt as trt

Emit = Callable[..., None]
DTYPES = {"FLOAT": "float32", "HALF": "float16", "BF16": "bfloat16"}


class RefusedError(Exception):
    """TensorRT did not parse or build; the arguments are its reasons, if it gave any."""


def main() -> None:
    """Serve one request."""
    emit = _event_stream()
    request = json.loads(sys.stdin.read())
    try:
        (_build if "engine" in request else _only_parse)(load(request["family"]), request, emit)
    except RefusedError as refused:
        emit("failed", list(refused.args))
    except SetupError as error:
        emit("setup", str(error))
    except OSError as error:
        emit("disk", error.errno, error.strerror, error.filename)


def _event_stream() -> Emit:
    """Take stdout for the events, and send whatever a library prints there to stderr."""
    stream = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    lock = threading.Lock()  # TensorRT logs from several threads

    def emit(*event: Any) -> None:
        try:
            with lock:
                print(json.dumps(event), file=stream, flush=True)
        except OSError:
            os._exit(1)  # nobody listens any more: the caller is gone

    return emit


def _only_parse(tensorrt: TensorRT, request: dict[str, Any], emit: Emit) -> None:
    logger = _logger(tensorrt.module, emit)
    network = _builder(tensorrt.module, logger).create_network(tensorrt.network_flags(Options(**request["options"])))
    _parse(tensorrt.module.OnnxParser(network, logger), network, request["model"], request["weights"])
    emit("parsed")


def _build(tensorrt: TensorRT, request: dict[str, Any], emit: Emit) -> None:
    module, started, options = tensorrt.module, time.monotonic(), Options(**request["options"])
    logger = _logger(module, emit)
    builder = _builder(module, logger)
    network = builder.create_network(tensorrt.network_flags(options))
    _parse(module.OnnxParser(network, logger), network, request["model"])
    config = builder.create_builder_config()
    config.profiling_verbosity = module.ProfilingVerbosity.DETAILED  # for the plan check
    tensorrt.aim(config, request["target"])
    tensorrt.apply(config, options)
    for shapes in request["profiles"]:
        if config.add_optimization_profile(_profile(module, builder, shapes)) < 0:
            raise RefusedError("TensorRT did not accept the optimisation profile")
    stages = Stages(request["stage"], partial(emit, "progress"))
    config.progress_monitor = monitor = _monitor(module, stages)  # TensorRT keeps no reference to it
    with kept_timings(config, request["timings"], emit), _calibrator(tensorrt, builder, config, request, stages):
        engine = builder.build_serialized_network(network, config)
    del monitor
    if engine is None:
        raise RefusedError()
    Path(request["engine"]).write_bytes(engine)
    emit("built", {"seconds": time.monotonic() - started, "tensors": _tensors(network)})
    if tensorrt.targets() is None:  # else it is for GPUs that this machine need not have
        _inspect(module, logger, engine, options, emit)


def _builder(module: TensorRtModule, logger: trt.ILogger) -> trt.Builder:
    try:
        return module.Builder(logger)
    except TypeError as error:  # pybind11's answer to a null pointer: no CUDA, or no kernels for the GPU
        raise RefusedError("TensorRT did not start") from error


def _inspect(
    module: TensorRtModule, logger: trt.ILogger, content: trt.IHostMemory, options: Options, emit: Emit
) -> None:
    runtime = module.Runtime(logger)
    if options.version_compatible:
        runtime.engine_host_code_allowed = True  # the engine brings the runtime that it was built for
    engine = runtime.deserialize_cuda_engine(content)
    if engine is not None:
        emit("layers", engine.create_engine_inspector().get_engine_information(module.LayerInformationFormat.JSON))


def _profile(
    module: TensorRtModule, builder: trt.Builder, shapes: dict[str, list[list[int]]]
) -> trt.IOptimizationProfile:
    profile = builder.create_optimization_profile()
    for name, (low, usual, high) in shapes.items():
        profile.set_shape(name, module.Dims(low), module.Dims(usual), module.Dims(high))
    return profile


@contextmanager
def _calibrator(
    tensorrt: TensorRT, builder: trt.Builder, config: trt.IBuilderConfig, request: dict[str, Any], stages: Stages
) -> Iterator[None]:
    """Lend a build a calibrator, if it is to have one; raise what went wrong inside it."""
    asked = request["calibration"]
    if asked is None:
        yield
        return
    cache = CacheFile(Path(asked["cache"]) if asked["cache"] else None, asked["header"])
    with closing(Calibration(asked["files"], asked["batch"], cache, request["target"], stages)) as calibration:
        calibrator = make_calibrator(tensorrt.module, asked["algorithm"], calibration)
        config.int8_calibrator = calibrator  # TensorRT keeps no reference to it
        if asked["profile"]:
            shapes = {name: [shape] * 3 for name, shape in asked["profile"].items()}
            if not config.set_calibration_profile(_profile(tensorrt.module, builder, shapes)):
                raise RefusedError("TensorRT did not accept the shapes of the calibration data")
        yield
        calibration.raise_for_failure()
        del calibrator


def _parse(parser: trt.OnnxParser, network: trt.INetworkDefinition, model: str, weights: str | None = None) -> None:
    """Both ways find external weights. An empty file parses without an error, so outputs are counted."""
    parsed = parser.parse_from_file(model) if weights is None else parser.parse(Path(model).read_bytes(), weights)
    errors = [_describe(parser.get_error(index)) for index in range(parser.num_errors)]
    if not parsed or errors:
        raise RefusedError(*errors)
    if network.num_outputs == 0:
        raise RefusedError("the model has no outputs: the file is empty or no ONNX model")


def _describe(error: trt.ParserError) -> str:
    # "false" is all that the check for unsupported operators says
    text = error.desc() if error.desc() != "false" else f"TensorRT does not know the operator {error.node_operator()}"
    if error.node_name():
        return f"node {error.node_name()!r} ({error.node_operator()}): {text}"
    operator = error.func().partition("import")[2]  # "importScatterElements", where no node is named
    return f"{operator}: {text}" if operator else text


def _tensors(network: trt.INetworkDefinition) -> list[dict[str, Any]]:
    inputs = [(network.get_input(index), "input") for index in range(network.num_inputs)]
    outputs = [(network.get_output(index), "output") for index in range(network.num_outputs)]
    return [
        {
            "name": tensor.name,
            "mode": mode,
            "dtype": DTYPES.get(tensor.dtype.name, tensor.dtype.name.lower()),
            "shape": list(tensor.shape[:]),
        }
        for tensor, mode in inputs + outputs
    ]


def _logger(module: TensorRtModule, emit: Emit) -> trt.ILogger:
    if TYPE_CHECKING:
        from tensorrt import ILogger  # mypy checks the methods against a base class that it knows
    else:
        ILogger = module.ILogger  # noqa: N806

    class Logger(ILogger):
        def __init__(self) -> None:
            ILogger.__init__(self)  # pybind11 wants it called like that

        def log(self, severity: trt.ILogger.Severity, msg: str) -> None:
            emit("log", severity.name, msg)

    return Logger()


def _monitor(module: TensorRtModule, stages: Stages) -> trt.IProgressMonitor:
    if TYPE_CHECKING:
        from tensorrt import IProgressMonitor
    else:
        IProgressMonitor = module.IProgressMonitor  # noqa: N806

    class Monitor(IProgressMonitor):
        def __init__(self) -> None:
            IProgressMonitor.__init__(self)

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            stages.phases.start(phase_name, parent_phase, num_steps)

        def step_complete(self, phase_name: str, step: int) -> bool:
            stages.step(phase_name, step)
            return True

        def phase_finish(self, phase_name: str) -> None:
            stages.phases.finish(phase_name)

    return Monitor()
