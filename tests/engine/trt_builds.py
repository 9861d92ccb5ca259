"""The double of TensorRT, taught to build: it parses ONNX, calls monitor and calibrator as TensorRT does, makes bytes.

``install`` puts it, and a CUDA whose device memory is host memory, where a worker process imports them from.
"""

import ctypes
import json
import os
import struct
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto
from trt_double import double

#: TensorRT 10 writes layers like this: a convolution in INT8, one in FP16, a reformat.
LAYERS = """Layers:
Name: conv0 + relu, LayerType: CaskConvolution, Inputs: [ { Name: x, Dimensions: [-1,32,16,16], Format/Datatype: Int8 \
NC/32HW32 }], Outputs: [ { Name: r, Dimensions: [-1,32,16,16], Format/Datatype: Int8 }], \
Weights: {"Type": "Int8"}, TacticName: sm80_xmma_i8i8_i8i32_f32, \
Metadata: [ONNX Layer: conv0]
Name: conv1, LayerType: CaskConvolution, Inputs: [ { Name: r, Dimensions: [-1,32,16,16], Format/Datatype: Half }], \
Outputs: [ { Name: y, Dimensions: [-1,32,16,16], Format/Datatype: Half }], \
Weights: {"Type": "Half"}, TacticName: sm80_xmma_f16f16, Metadata: [ONNX Layer: conv1]
Name: out, LayerType: Reformat, Inputs: [ { Name: y, Dimensions: [1], Format/Datatype: Half }], Outputs: [], Metadata: b
"""
SHIM = """import sys
from pathlib import Path
from trt_builds import building
sys.modules[__name__] = building({version!r}, Path({calls!r}), {layers!r}, {inspected!r})
"""
#: In place of what the inspector tells: the process dies while it looks.
CRASH = "crash"


def building(
    version: str, calls: Path | None = None, layers: str = LAYERS, inspected: str | None = None
) -> SimpleNamespace:
    """A TensorRT of this version that builds; ``inspected`` is what its inspector tells, None if no engine loads."""
    behaviour: dict[str, Any] = {}
    module = double(version, behaviour, calls)
    keep = object.__setattr__

    class Tensor(module.ITensor):
        dtype = None  # of its own, since that of TensorRT 11 cannot be set

    def tensor(value: onnx.ValueInfoProto) -> Any:
        made = Tensor.__new__(Tensor)
        dims = value.type.tensor_type.shape.dim
        keep(made, "name", value.name)
        keep(made, "shape", [dim.dim_value if dim.HasField("dim_value") else -1 for dim in dims])
        kinds = {TensorProto.FLOAT16: module.DataType.HALF, TensorProto.INT64: module.DataType.INT64}
        keep(made, "dtype", kinds.get(value.type.tensor_type.elem_type, module.DataType.FLOAT))
        return made

    def parse(parser: Any, content: bytes, _: str = "") -> bool:
        graph = onnx.load_from_string(content).graph
        keep(parser.network, "ends", ([*map(tensor, graph.input)], [*map(tensor, graph.output)]))
        return True

    def timing_cache(_: Any, content: bytes) -> Any:
        cache = module.ITimingCache()
        keep(cache, "content", bytes(content))
        return None if content == b"garbage" else cache

    def attach(config: Any, cache: Any, _: bool) -> bool:
        keep(config, "timings", cache)
        return not cache.content.startswith(b"foreign")

    def build(builder: Any, network: Any, config: Any) -> Any:
        monitor = config.progress_monitor
        if calibrator := getattr(config, "int8_calibrator", None):
            _calibrate(module, calibrator, config, network, partial(_phases, monitor))
        _phases(monitor, "build")
        builder.logger_given.log(module.ILogger.Severity.VERBOSE, layers)
        return module.IHostMemory(b"an engine of TensorRT")

    def tell(inspector: Any, chosen: Any) -> str | None:
        assert chosen == module.LayerInformationFormat.JSON
        if inspected == CRASH:
            os._exit(9)
        return inspected

    behaviour.update(
        {
            "Builder.__init__": lambda builder, logger: keep(builder, "logger_given", logger),
            "Builder.build_serialized_network": build,
            "OnnxParser.__init__": lambda parser, network, logger: keep(parser, "network", network),
            "OnnxParser.parse": parse,
            "OnnxParser.parse_from_file": lambda parser, path: parse(parser, Path(path).read_bytes()),
            "INetworkDefinition.num_inputs": lambda network: len(network.ends[0]),
            "INetworkDefinition.num_outputs": lambda network: len(network.ends[1]),
            "INetworkDefinition.get_input": lambda network, index: network.ends[0][index],
            "INetworkDefinition.get_output": lambda network, index: network.ends[1][index],
            "IOptimizationProfile.set_shape": lambda profile, name, *dims: keep(
                profile, "shapes", {**getattr(profile, "shapes", {}), name: [each.sizes for each in dims]}
            ),
            "Dims.__init__": lambda dims, sizes: keep(dims, "sizes", list(sizes)),
            "IBuilderConfig.set_calibration_profile": lambda config, profile: (
                keep(config, "calibrated", profile) or True
            ),
            "IBuilderConfig.create_timing_cache": timing_cache,
            "IBuilderConfig.set_timing_cache": attach,
            "IBuilderConfig.get_timing_cache": lambda config: config.timings,
            "EngineInspector.get_engine_information": tell,
            "Runtime.deserialize_cuda_engine": lambda *_: (
                None if inspected is None else module.ICudaEngine.__new__(module.ICudaEngine)
            ),
            "ITimingCache.serialize": lambda cache: module.IHostMemory(cache.content + b"+timed"),
        }
    )
    return module


def _phases(monitor: Any, name: str) -> None:
    monitor.phase_start(name, None, 4)
    for step in range(4):
        monitor.step_complete(name, step)
    monitor.phase_finish(name)


def _calibrate(
    module: SimpleNamespace, calibrator: Any, config: Any, network: Any, phases: Callable[[str], None]
) -> None:
    """As TensorRT does: the cache, or an engine, batches and then a cache; of the largest magnitudes that it saw."""
    algorithm = "MinMax" if isinstance(calibrator, module.IInt8MinMaxCalibrator) else "Entropy"
    assert calibrator.get_batch_size() > 0
    cached = calibrator.read_calibration_cache()
    if cached is not None:
        module.recorder.add("calibrated from cache", bytes(cached).decode())
        return
    phases("calibration")
    names = [tensor.name for tensor in network.ends[0]]
    shapes = [getattr(config, "calibrated", None) and config.calibrated.shapes[name][1] for name in names]
    shapes = [shape or tensor.shape for shape, tensor in zip(shapes, network.ends[0], strict=True)]
    dtypes = [{"FLOAT": "f4", "HALF": "f2", "INT64": "i8"}[tensor.dtype.name] for tensor in network.ends[0]]
    largest = dict.fromkeys(names, 0.0)
    while addresses := calibrator.get_batch(names):
        for name, shape, dtype, address in zip(names, shapes, dtypes, addresses, strict=True):
            content = ctypes.string_at(address, int(np.prod(shape)) * np.dtype(dtype).itemsize)
            array = np.frombuffer(content, dtype).reshape(shape)
            module.recorder.add("batch", name, array.reshape(shape[0], -1)[:, 0].tolist())
            largest[name] = max(largest[name], float(np.abs(array).max()))
    lines = [f"{name}: {struct.pack('>f', amax / 127).hex()}" for name, amax in largest.items()]
    header = f"TRT-101601-{'MinMaxCalibration' if algorithm == 'MinMax' else 'EntropyCalibration2'}"
    calibrator.write_calibration_cache(memoryview("\n".join([header, *lines, ""]).encode()))


def install(folder: Path, version: str, layers: str = LAYERS, inspected: str | None = None) -> Path:
    """Write modules ``tensorrt`` and ``cuda`` into ``folder``; returns the file that will hold the calls."""
    calls = folder / "calls.jsonl"
    (folder / "cuda" / "bindings").mkdir(parents=True)
    for package in ("cuda", "cuda/bindings"):
        (folder / package / "__init__.py").write_text("")
    (folder / "cuda" / "bindings" / "runtime.py").write_text("from cuda_double import *\n")
    shim = SHIM.format(version=version, calls=str(calls), layers=layers, inspected=inspected)
    (folder / "tensorrt.py").write_text(shim)
    return calls


def recorded(calls: Path) -> list[list[Any]]:
    """What the worker recorded."""
    return [json.loads(line) for line in calls.read_text().splitlines()] if calls.is_file() else []
