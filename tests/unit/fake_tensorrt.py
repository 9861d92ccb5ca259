"""A ``tensorrt`` module on ``FakeCuda`` whose engines compute ``out = 2 * ids``, and a file that opens as such one."""

import ctypes
import hashlib
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
from fake_cuda import FakeCuda

from calib8.engine import sidecar as sidecar_module
from calib8.engine.plan_check import PlanCheck
from calib8.engine.profiles import Profile
from calib8.engine.sidecar import Sidecar, TensorInfo, sidecar_path
from calib8.gpu.hardware import Gpu
from calib8.runtime.tensorrt.runtime import TensorRtRuntime

CONTENT = b"an engine"
A10 = Gpu("NVIDIA A10", "sm86")
SCRATCH = 512


def ids_profile(low: str, high: str, name: str = "ids") -> Profile:
    small, large = (tuple(int(size) for size in text.split("x")) for text in (low, high))
    return Profile(name=name, min=small, opt=small, max=large)


class FakeTensorRT:
    """Where ``refusing`` says so, it refuses and logs ``reason``. ``events`` has every call."""

    def __init__(self, cuda: FakeCuda) -> None:
        self.cuda = cuda
        self.events: list[Any] = []
        self.refusing = self.reason = ""
        self.profiles = 1
        self.names = ("ids", "out")
        self.location = "DEVICE"
        self.out_shape: Any = None
        #: What a profiler is told of each run, in turn, and what the inspector tells of the engine.
        self.timings: list[list[tuple[str, float]]] = []
        self.plan = '{"Layers": []}'
        self.contexts = 0
        self.module = ModuleType("tensorrt")
        self.module.__dict__.update(
            __version__="10.13.3.9",
            ILogger=type("ILogger", (), {"__init__": lambda self: None}),
            IProfiler=type("IProfiler", (), {"__init__": lambda self: None}),
            LayerInformationFormat=SimpleNamespace(JSON="as JSON"),
            TensorLocation=SimpleNamespace(DEVICE="DEVICE", HOST="HOST"),
            ExecutionContextAllocationStrategy=SimpleNamespace(USER_MANAGED="ours"),
            Runtime=self.runtime,
        )

    def answer(self, name: str, *values: Any) -> bool:
        """Record the call; log the reason and say no if it is the one to refuse."""
        self.events.append((name, *values))
        if name != self.refusing:
            return True
        if self.reason:
            self.log.log(SimpleNamespace(name="ERROR"), self.reason)
            self.log.log(SimpleNamespace(name="INFO"), "chatter")
        return False

    def named(self, *names: str) -> list[Any]:
        return [event for event in self.events if event[0] in names]

    def runtime(self, logger: Any) -> Any:
        self.log = logger
        if not self.answer("runtime"):
            raise TypeError("pybind11::init(): factory function returned nullptr")
        self.loader = SimpleNamespace(deserialize_cuda_engine=self.deserialise)
        return self.loader

    def deserialise(self, serialized_engine: bytes) -> Any:
        assert serialized_engine == CONTENT
        return self.engine() if self.answer("deserialise") else None

    def engine(self) -> Any:
        return FakeEngine(self)


class FakeEngine:
    def __init__(self, trt: FakeTensorRT) -> None:
        self.trt = trt
        self.num_io_tensors, self.num_optimization_profiles = len(trt.names), trt.profiles
        self.device_memory_size_v2 = SCRATCH

    def get_tensor_name(self, index: int) -> str:
        return self.trt.names[index]

    def get_tensor_location(self, name: str) -> str:
        return self.trt.location

    def create_execution_context(self, strategy: Any) -> Any:
        return FakeContext(self.trt) if self.trt.answer("context", strategy) else None

    def create_engine_inspector(self) -> Any:
        return FakeInspector(self.trt)


class FakeInspector:
    def __init__(self, trt: FakeTensorRT) -> None:
        self.trt = trt

    def get_engine_information(self, format: Any) -> str:
        assert format == "as JSON"
        return self.trt.plan


class FakeContext:
    def __init__(self, trt: FakeTensorRT) -> None:
        self.trt = trt
        self.number, trt.contexts = trt.contexts, trt.contexts + 1
        self.shapes: dict[str, Any] = {}
        self.addresses: dict[str, int] = {}
        self.fresh = True  # set to other shapes since it was enqueued plainly
        self.captured = False
        self.profiler: Any = None
        self.enqueue_emits_profile = True
        self.unreported = self.computed = 0  # runs that were enqueued, and of these those that are over

    def _touch(self) -> None:
        assert not self.captured, "TensorRT: a context whose graph is in use must not be changed"

    def set_device_memory(self, memory: int, size: int) -> None:
        assert size == SCRATCH <= len(self.trt.cuda.memory[memory])

    def set_optimization_profile_async(self, profile_index: int, stream_handle: int) -> bool:
        self._touch()
        return self.trt.answer("profile", profile_index, stream_handle)

    def set_input_shape(self, name: str, shape: Any) -> bool:
        self._touch()
        self.shapes[name], self.fresh = tuple(shape), True
        return self.trt.answer("shape", name, tuple(shape))

    def infer_shapes(self) -> list[str]:
        if not self.trt.answer("infer"):
            raise RuntimeError("shape inference failed")
        return []

    def get_tensor_shape(self, name: str) -> Any:
        assert name == "out"
        return self.trt.out_shape or self.shapes["ids"]

    def set_tensor_address(self, name: str, memory: int) -> bool:
        self._touch()
        assert memory % 256 == 0
        self.addresses[name] = memory
        return self.trt.answer("address", name)

    def execute_async_v3(self, stream_handle: int) -> bool:
        if not self.trt.answer("execute", stream_handle):
            return False
        cuda = self.trt.cuda
        if cuda.streams[stream_handle].captured is not None:
            assert not self.fresh, "TensorRT: enqueue plainly after a change of shapes, before a capture"
            self.captured = True
        self.fresh = False
        if self.profiler is not None:
            assert not self.enqueue_emits_profile, "TensorRT: enqueue waits for the GPU"
            assert cuda.streams[stream_handle].captured is None
        self.unreported += 1
        size, source, target = int(np.prod(self.shapes["ids"])) * 8, self.addresses["ids"], self.addresses["out"]
        cuda.put(stream_handle, lambda: self._compute(size, source, target))
        return True

    def report_to_profiler(self) -> bool:
        assert self.profiler is not None
        assert (self.unreported, self.computed) == (1, 1), "one run since the last report, and it is over"
        self.unreported = self.computed = 0
        if not self.trt.answer("report"):
            return False
        for layer, ms in self.trt.timings.pop(0):
            self.profiler.report_layer_time(layer, ms)
        return True

    def _compute(self, size: int, source: int, target: int) -> None:
        self.computed += 1
        given = self.trt.cuda.bytes_at(source, size).view(np.int64)
        result = (2 * given).astype(np.float32)
        ctypes.memmove(target, result.ctypes.data, result.nbytes)


class World:
    """An engine file with its sidecar, and everything around it."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.path = folder / "x.engine"
        self.cuda = FakeCuda([("NVIDIA L4", 8, 9), ("NVIDIA A10", 8, 6)])
        self.trt = FakeTensorRT(self.cuda)
        self.monkeypatch = monkeypatch
        monkeypatch.setattr(sidecar_module, "gpus", lambda: (A10,))
        monkeypatch.setitem(sys.modules, "tensorrt", self.trt.module)
        monkeypatch.setitem(sys.modules, "cuda.bindings.runtime", self.cuda)
        monkeypatch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
        self.write()

    def write(self, **changes: Any) -> None:
        values: dict[str, Any] = {
            "engine_sha256": hashlib.sha256(CONTENT).hexdigest(),
            "engine_bytes": len(CONTENT),
            "family": "tensorrt",
            "tensorrt_version": "10.13.3.9",
            "target": "sm86",
            "model_sha256": "0" * 64,
            "model_metadata": {},
            "profiles": (ids_profile("1x1", "8x16"),),
            "tensors": (
                TensorInfo(name="ids", mode="input", dtype="int64", shape=(-1, -1)),
                TensorInfo(name="out", mode="output", dtype="float32", shape=(-1, -1)),
            ),
            "plan": PlanCheck(target="sm86", expected=1, covered=1, planned_kernels=1),
            "workspace_mib": None,
            "optimization_level": None,
            "build_seconds": 1.0,
            "built_at": "2026-01-01T00:00:00+00:00",
            "calib8_version": "0.1.0",
        }
        self.path.write_bytes(CONTENT)
        sidecar_path(self.path).write_text(Sidecar(**{**values, **changes}).model_dump_json())

    def open(self, **options: int) -> TensorRtRuntime:
        return TensorRtRuntime(self.path, **options)


def ids(rows: int, columns: int) -> Any:
    return np.arange(rows * columns, dtype=np.int64).reshape(rows, columns)
