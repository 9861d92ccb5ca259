"""Where TensorRT would be: a module of its names whose engines launch real CUDA kernels on the stream they are given.

It plugs in where calib8 imports TensorRT; everything else is what runs engines. ``chain`` computes y = 2x + 1 several
times over, through the scratch memory that it is given; ``matmul`` multiplies by weights in GPU memory. Like TensorRT
it wants one plain enqueue between a change of shapes and a capture, and no change to a context whose graph is in use.
"""

import hashlib
import math
import weakref
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
from cuda.bindings import runtime as cuda
from kernels import launch

from calib8.engine.plan_check import PlanCheck
from calib8.engine.profiles import Profile
from calib8.engine.sidecar import Sidecar, TensorInfo, sidecar_path
from calib8.gpu.device import Device
from calib8.gpu.hardware import gpus

MIB = 1 << 20
CONTENT = b"an engine"
INNER, COLUMNS = 64, 32
WEIGHTS = (np.arange(INNER * COLUMNS).reshape(INNER, COLUMNS) % 5 - 2).astype(np.float32)


class Engine:
    """``kind`` is ``chain``, ``matmul``, or ``broken``, which reads where nothing is."""

    num_io_tensors, num_optimization_profiles = 2, 2

    def __init__(self, kind: str, layers: int, scratch: int) -> None:
        self.kind, self.layers, self.device_memory_size_v2 = kind, layers, scratch
        self.executed = self.contexts = 0
        device = Device()
        self._weights = device.malloc(WEIGHTS.nbytes)
        device.copy_in(self._weights, WEIGHTS)
        device.synchronise()
        self._device = device

    def __del__(self) -> None:
        self._device.free(self._weights)
        self._device.close()

    @property
    def weights(self) -> int:
        return self._weights

    def get_tensor_name(self, index: int) -> str:
        return "xy"[index]

    def get_tensor_location(self, name: str) -> str:
        return "DEVICE"

    def create_execution_context(self, strategy: Any) -> Any:
        assert strategy == "ours"
        self.contexts += 1
        return Context(self)


class Context:
    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.shape: tuple[int, ...] = ()
        self.addresses: dict[str, int] = {}
        self.scratch = 0
        self.fresh, self.captured = True, False

    def set_device_memory(self, memory: int, size: int) -> None:
        assert size == self.engine.device_memory_size_v2
        self.scratch = memory

    def set_optimization_profile_async(self, profile_index: int, stream_handle: int) -> bool:
        assert not self.captured
        return 0 <= profile_index < 2 and stream_handle != 0

    def set_input_shape(self, name: str, shape: Any) -> bool:
        assert not self.captured
        self.shape, self.fresh = tuple(shape), True
        return name == "x"

    def infer_shapes(self) -> list[str]:
        return []

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return (self.shape[0], COLUMNS) if self.engine.kind == "matmul" else self.shape

    def set_tensor_address(self, name: str, memory: int) -> bool:
        assert not self.captured
        assert memory % 256 == 0
        self.addresses[name] = memory
        return True

    def execute_async_v3(self, stream_handle: int) -> bool:
        _, capturing = cuda.cudaStreamIsCapturing(stream_handle)
        if capturing != cuda.cudaStreamCaptureStatus.cudaStreamCaptureStatusNone:
            assert not self.fresh
            self.captured = True
        self.fresh = False
        self.engine.executed += 1
        x, y = self.addresses["x"], self.addresses["y"]
        if self.engine.kind == "matmul":
            rows = self.shape[0]
            return launch("matmul", stream_handle, rows * COLUMNS, x, self.engine.weights, y, rows, INNER, COLUMNS)
        count = math.prod(self.shape)
        if self.engine.kind == "broken":
            return launch("affine", stream_handle, count, 8, y, count)
        assert self.engine.layers == 1 or 4 * count <= self.engine.device_memory_size_v2
        places = [y if left % 2 == 0 else self.scratch for left in reversed(range(self.engine.layers))]
        return all(
            launch("affine", stream_handle, count, source, target, count)
            for source, target in zip([x, *places], places, strict=False)
        )


def expected(kind: str, x: Any, layers: int = 3) -> Any:
    """What an engine computes; exact for small integers."""
    if kind == "matmul":
        return x @ WEIGHTS
    for _ in range(layers):
        x = np.float32(2) * x + np.float32(1)
    return x


class Workshop:
    """Writes engine files for this GPU, and a ``tensorrt`` module that makes stand-ins of them."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "x.engine"
        self.target = gpus()[0].target
        self.module = ModuleType("tensorrt")
        self.module.__dict__.update(
            __version__="0.0.0",
            ILogger=type("ILogger", (), {"__init__": lambda self: None}),
            TensorLocation=SimpleNamespace(DEVICE="DEVICE"),
            ExecutionContextAllocationStrategy=SimpleNamespace(USER_MANAGED="ours"),
            Runtime=lambda log: SimpleNamespace(deserialize_cuda_engine=self._deserialised),
        )
        self.write()

    def write(self, kind: str = "chain", *, layers: int = 3, scratch: int = 64 * MIB, largest: int = 512 * MIB) -> Path:
        """An engine for x [rows, columns] (matmul: [rows, 64]) of at most ``largest`` elements."""
        self._made = (kind, layers, scratch)
        columns = (INNER, INNER, INNER) if kind == "matmul" else (1, 64, 4096)
        rows = (1, 8, largest // columns[2])
        small = Profile(name="x", min=(1, columns[0]), opt=(1, columns[1]), max=(1, columns[2]))
        large = Profile(name="x", min=(1, columns[0]), opt=(rows[1], columns[1]), max=(rows[2], columns[2]))
        sidecar = Sidecar(
            engine_sha256=hashlib.sha256(CONTENT).hexdigest(),
            engine_bytes=len(CONTENT),
            family="tensorrt",
            tensorrt_version="0.0.0",
            target=self.target,
            model_sha256="0" * 64,
            model_metadata={},
            profiles=(small, large),
            tensors=(
                TensorInfo(name="x", mode="input", dtype="float32", shape=(-1, -1)),
                TensorInfo(name="y", mode="output", dtype="float32", shape=(-1, -1)),
            ),
            plan=PlanCheck(target=self.target, expected=0, covered=0, planned_kernels=0),
            build_seconds=1.0,
            built_at="2026-01-01T00:00:00+00:00",
            calib8_version="0.1.0",
        )
        self.path.write_bytes(CONTENT)
        sidecar_path(self.path).write_text(sidecar.model_dump_json())
        return self.path

    def _deserialised(self, content: bytes) -> Engine:
        assert content == CONTENT
        engine = Engine(*self._made)
        self._engine = weakref.ref(engine)
        return engine

    @property
    def executed(self) -> int:
        """How often the open engine was enqueued, graphs not counted."""
        engine = self._engine()
        assert engine is not None
        return engine.executed
