"""TensorRtRuntime with a recording TensorRT and a recording GPU, and against the real TensorRT-RTX without a GPU."""

import hashlib
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest

from calib8.cuda.buffers import Buffers
from calib8.cuda.device import Device
from calib8.engine import sidecar as sidecar_module
from calib8.engine.hardware import Gpu
from calib8.engine.plan_check import PlanCheck
from calib8.engine.profiles import Profile
from calib8.engine.sidecar import Sidecar, TensorInfo, sidecar_path
from calib8.errors import DataError, InputError, ModelError, SetupError
from calib8.runtime import tensorrt as runtime_module
from calib8.runtime.tensorrt import TensorRtRuntime, profile_for, profile_sets

CONTENT = b"an engine"
A10 = Gpu("NVIDIA A10", "sm86")
ON_CPU = r"On the CPU use the ONNX model that it was built from\.$"


def ids_profile(low: str, high: str, name: str = "ids") -> Profile:
    small, large = (tuple(int(size) for size in text.split("x")) for text in (low, high))
    return Profile(name=name, min=small, opt=small, max=large)


class FakeGpu:
    """Stands in for ``Device``: real bytes at made-up addresses, every call in ``events``."""

    def __init__(self, events: list[Any], budget: int = 1 << 20) -> None:
        self.events = events
        self.budget = budget
        self.memory: dict[int, bytearray] = {}
        self.next_address = 256
        self.name, self.stream = "NVIDIA A10", 7
        self.closed = 0
        self.failing = ""

    def _record(self, name: str, *values: Any) -> None:
        self.events.append((name, *values))
        if name == self.failing:
            raise SetupError(f"CUDA: {name} failed on NVIDIA A10: out of luck.")

    def use(self) -> None:
        self._record("use")

    def malloc(self, size: int) -> int:
        self._record("malloc", size)
        if size > self.budget:
            raise SetupError("CUDA: allocating failed")
        address, self.next_address = self.next_address, self.next_address + size + 256
        self.memory[address] = bytearray(size)
        return address

    def free(self, address: int) -> None:
        self._record("free", len(self.memory.pop(address)))

    def copy_in(self, address: int, array: Any) -> None:
        assert array.flags.c_contiguous
        self._record("copy_in", array.nbytes)
        self.memory[address][: array.nbytes] = array.tobytes()

    def copy_out(self, array: Any, address: int) -> None:
        self._record("copy_out", array.nbytes)
        array[...] = np.frombuffer(bytes(self.memory[address][: array.nbytes]), array.dtype).reshape(array.shape)

    def synchronise(self) -> None:
        self._record("synchronise")

    def close(self) -> None:
        self.closed += 1
        self.events.append(("close",))


class FakeTensorRT:
    """A ``tensorrt`` module whose engines compute ``out = 2 * ids`` and, where ``refusing`` says so, refuse."""

    def __init__(self, gpu: FakeGpu, events: list[Any]) -> None:
        self.gpu, self.events = gpu, events
        self.refusing = ""
        self.reason = ""
        self.profiles = 1
        self.names = ("ids", "out")
        self.location = "DEVICE"
        self.out_shape: Any = None
        self.module = ModuleType("tensorrt_rtx")
        self.module.__dict__.update(
            __version__="1.7.1.116",
            ILogger=type("ILogger", (), {"__init__": lambda self: None}),
            TensorLocation=SimpleNamespace(DEVICE="DEVICE", HOST="HOST"),
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

    def runtime(self, log: Any) -> Any:
        self.log = log
        if not self.answer("runtime"):
            raise TypeError("pybind11::init(): factory function returned nullptr")
        return SimpleNamespace(deserialize_cuda_engine=self.deserialise)

    def deserialise(self, content: bytes) -> Any:
        assert content == CONTENT
        engine = SimpleNamespace(
            num_io_tensors=len(self.names),
            num_optimization_profiles=self.profiles,
            get_tensor_name=lambda index: self.names[index],
            get_tensor_location=lambda name: self.location,
            create_execution_context=lambda: FakeContext(self) if self.answer("context") else None,
        )
        return engine if self.answer("deserialise") else None


class FakeContext:
    def __init__(self, trt: FakeTensorRT) -> None:
        self.trt = trt
        self.shapes: dict[str, Any] = {}
        self.addresses: dict[str, int] = {}

    def set_optimization_profile_async(self, index: int, stream: int) -> bool:
        return self.trt.answer("profile", index, stream)

    def set_input_shape(self, name: str, shape: Any) -> bool:
        self.shapes[name] = tuple(shape)
        return self.trt.answer("shape", name, tuple(shape))

    def infer_shapes(self) -> list[str]:
        if not self.trt.answer("infer"):
            raise RuntimeError("shape inference failed")
        return []

    def get_tensor_shape(self, name: str) -> Any:
        assert name == "out"
        return self.trt.out_shape or self.shapes["ids"]

    def set_tensor_address(self, name: str, address: int) -> bool:
        assert address in self.trt.gpu.memory
        self.addresses[name] = address
        return self.trt.answer("address", name)

    def execute_async_v3(self, stream: int) -> bool:
        if not self.trt.answer("execute", stream):
            return False
        size = int(np.prod(self.shapes["ids"])) * 8
        given = np.frombuffer(bytes(self.trt.gpu.memory[self.addresses["ids"]][:size]), np.int64)
        self.trt.gpu.memory[self.addresses["out"]][: size // 2] = (2 * given).astype(np.float32).tobytes()
        return True


class World:
    """An engine file with its sidecar, and everything around it."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.path = folder / "x.engine"
        self.events: list[Any] = []
        self.gpu = FakeGpu(self.events)
        self.trt = FakeTensorRT(self.gpu, self.events)
        self.monkeypatch = monkeypatch
        self.targets: list[str | None] = []
        monkeypatch.setattr(sidecar_module, "gpus", lambda: (A10,))
        monkeypatch.setitem(sys.modules, "tensorrt_rtx", self.trt.module)
        monkeypatch.setattr(runtime_module, "Device", self._device)
        self.write()

    def _device(self, target: str | None) -> FakeGpu:
        self.targets.append(target)
        return self.gpu

    def write(self, **changes: Any) -> None:
        values: dict[str, Any] = {
            "engine_sha256": hashlib.sha256(CONTENT).hexdigest(),
            "engine_bytes": len(CONTENT),
            "family": "rtx",
            "tensorrt_version": "1.7.1.116",
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

    def open(self) -> TensorRtRuntime:
        return TensorRtRuntime(self.path)

    def names(self) -> list[str]:
        return [event[0] for event in self.events]

    def refusal(self) -> str:
        with pytest.raises(SetupError) as caught:
            self.open()
        assert "deserialise" not in self.names()
        return str(caught.value)


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    return World(tmp_path, monkeypatch)


def ids(rows: int, columns: int) -> Any:
    return np.arange(rows * columns, dtype=np.int64).reshape(rows, columns)


# Running


def test_it_runs_in_the_right_order(world):
    with world.open() as runtime:
        assert runtime.description == "TensorRT-RTX 1.7.1.116 on NVIDIA A10"
        out = runtime(ids=ids(2, 3))["out"]
    assert out.dtype == np.float32
    np.testing.assert_array_equal(out, 2 * ids(2, 3))
    assert world.targets == ["sm86"]
    assert world.events == [
        ("runtime",),
        ("deserialise",),
        ("context",),
        ("use",),
        ("profile", 0, 7),
        ("shape", "ids", (2, 3)),
        ("infer",),
        ("malloc", 48),
        ("malloc", 24),
        ("address", "ids"),
        ("address", "out"),
        ("copy_in", 48),
        ("execute", 7),
        ("copy_out", 24),
        ("synchronise",),
        ("free", 24),
        ("free", 48),
        ("close",),
    ]


def test_buffers_grow_and_never_shrink(world):
    with world.open() as runtime:
        for rows in (2, 1, 2, 4):
            np.testing.assert_array_equal(runtime(ids=ids(rows, 4))["out"], 2 * ids(rows, 4))
    sizes = [event for event in world.events if event[0] in ("malloc", "free")]
    assert sizes == [
        *[("malloc", 64), ("malloc", 32)],
        *[("free", 64), ("malloc", 128), ("free", 32), ("malloc", 64)],
        *[("free", 64), ("free", 128)],
    ]
    assert world.names().count("profile") == 1


def test_a_strided_input_is_run_as_it_looks(world):
    with world.open() as runtime:
        given = ids(4, 6)[::2, ::-3]
        np.testing.assert_array_equal(runtime(ids=given)["out"], 2 * given)


def test_the_tightest_profile_is_used(world):
    world.write(profiles=(ids_profile("1x1", "8x16"), ids_profile("1x1", "1x16"), ids_profile("64x1", "99x16")))
    world.trt.profiles = 3
    with world.open() as runtime:
        for shape in ((1, 4), (1, 5), (2, 4), (64, 1), (8, 16)):
            runtime(ids=ids(*shape))
    assert [event[1] for event in world.events if event[0] == "profile"] == [1, 0, 2, 0]


def test_the_profiles_of_a_sidecar_belong_to_optimisation_profiles_in_order():
    a0, b0, a1, b1 = (ids_profile("1", high, name) for high in ("2", "3") for name in ("a", "b"))
    assert profile_sets([]) == ({},)
    assert profile_sets([a0, b0, a1, b1]) == profile_sets([a0, a1, b0, b1]) == ({"a": a0, "b": b0}, {"a": a1, "b": b1})


def test_fixed_inputs_need_no_profile():
    assert profile_for({"x": np.ones((2, 3), np.float32)}, profile_sets([])) == 0


# Data that does not fit: nothing reaches the GPU


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({}, r"^got arrays for nothing, expected ids\.$"),
        ({"ids": ids(1, 1), "mask": ids(1, 1)}, r"^got arrays for ids, mask, expected ids\.$"),
        ({"ids": ids(1, 1).astype(np.float32)}, r"^ids has dtype float32, expected int64\. Convert it"),
        ({"ids": np.arange(3)}, r"^ids has rank 1 \(shape \[3\]\), expected rank 2 \[ids\[0\], ids\[1\]\]\.$"),
        ({"ids": ids(8, 16) + 1990}, r"^ids holds the index 2117, but the model's table has 2000 rows"),
        (
            {"ids": ids(9, 16)},
            r"^the engine was not built for ids 9x16: expected ids 1x1 to 8x16 or ids 64x1 to 99x16\. Split the batch "
            r"or cut the sequences, or build with larger --shapes\.$",
        ),
        ({"ids": ids(0, 4)}, r"the data is empty"),
    ],
)
def test_data_that_does_not_fit_never_reaches_the_gpu(world, arrays, message):
    tensors = (
        TensorInfo(name="ids", mode="input", dtype="int64", shape=(-1, -1), rows=2000),
        TensorInfo(name="out", mode="output", dtype="float32", shape=(-1, -1)),
    )
    world.write(tensors=tensors, profiles=(ids_profile("1x1", "8x16"), ids_profile("64x1", "99x16")))
    world.trt.profiles = 2
    with world.open() as runtime:
        world.events.clear()
        with pytest.raises(DataError, match=message):
            runtime.run(arrays)
        assert world.events == []
        np.testing.assert_array_equal(runtime(ids=ids(8, 16))["out"], 2 * ids(8, 16))


def test_the_longest_profile_bounds_what_the_engine_takes(world):
    world.write(profiles=(ids_profile("1x1", "8x16"), ids_profile("64x1", "99x24")))
    world.trt.profiles = 2
    with world.open() as runtime:
        assert (runtime.largest("ids", 1), runtime.largest("mask", 1)) == (24, None)


@pytest.mark.parametrize(
    ("refusing", "kind", "message"),
    [
        ("shape", DataError, r"TensorRT could not take ids 2x3: dimensions differ\.$"),
        ("infer", DataError, r"could not combine the shapes ids 2x3: dimensions differ\. Inputs usually share"),
        ("profile", SetupError, r"TensorRT could not take optimisation profile 0: dimensions differ\.$"),
        ("address", SetupError, r"TensorRT could not take the memory of 'ids': dimensions differ\.$"),
        ("execute", SetupError, r"TensorRT could not run on ids 2x3: dimensions differ\.$"),
    ],
)
def test_what_tensorrt_refuses_is_told_and_nothing_leaks(world, refusing, kind, message):
    with world.open() as runtime:
        world.trt.refusing, world.trt.reason = refusing, "dimensions differ."
        with pytest.raises(kind, match=message):
            runtime(ids=ids(2, 3))
        if refusing == "execute":
            assert world.names()[-1] == "synchronise"
        else:
            assert "copy_in" not in world.names()
        world.trt.refusing = ""
        np.testing.assert_array_equal(runtime(ids=ids(2, 3))["out"], 2 * ids(2, 3))
    assert world.gpu.memory == {}


def test_an_error_without_a_reason_says_so_and_old_reasons_are_forgotten(world):
    with world.open() as runtime:
        world.trt.refusing, world.trt.reason = "execute", "first"
        with pytest.raises(SetupError, match="first"):
            runtime(ids=ids(2, 3))
        world.trt.reason = ""
        with pytest.raises(SetupError, match=r"could not run on ids 2x3: no reason given; too little free GPU memory"):
            runtime(ids=ids(2, 3))


def test_an_output_that_depends_on_values_is_refused(world):
    world.trt.out_shape = (-1, 3)
    with world.open() as runtime, pytest.raises(ModelError, match="the shape of output 'out' depends on the values"):
        runtime(ids=ids(2, 3))


@pytest.mark.parametrize("failing", ["use", "copy_in", "copy_out", "synchronise", "malloc"])
def test_a_cuda_error_in_a_run_leaks_nothing(world, failing):
    with world.open() as runtime:
        world.gpu.failing = failing
        with pytest.raises(SetupError, match=f"CUDA: {failing} failed on NVIDIA A10"):
            runtime(ids=ids(2, 3))
        world.gpu.failing = ""
    assert world.gpu.memory == {}
    assert world.gpu.closed == 1


def test_too_little_memory_frees_the_rest_and_smaller_batches_still_run(world):
    with world.open() as runtime:
        runtime(ids=ids(2, 3))
        world.gpu.budget = 100
        with pytest.raises(SetupError, match="allocating failed"):
            runtime(ids=ids(8, 16))
        np.testing.assert_array_equal(runtime(ids=ids(2, 3))["out"], 2 * ids(2, 3))
    assert world.gpu.memory == {}


# Closing


def test_closing_twice_is_fine_and_a_closed_engine_says_so(world):
    runtime = world.open()
    runtime(ids=ids(2, 3))
    runtime.close()
    runtime.close()
    assert world.gpu.memory == {}
    assert world.gpu.closed == 1
    with pytest.raises(SetupError, match=r"the model was closed\. Open it again with calib8\.open\(\)"):
        runtime(ids=ids(2, 3))


def test_one_failing_free_does_not_keep_the_rest(world):
    runtime = world.open()
    runtime(ids=ids(2, 3))
    world.gpu.failing = "free"
    with pytest.raises(SetupError, match="free failed"):
        runtime.close()
    assert world.gpu.memory == {}
    assert world.gpu.closed == 1


# Refusals when opening


def test_without_such_a_gpu_nothing_is_imported_and_the_reason_is_told(world):
    world.monkeypatch.setitem(sys.modules, "tensorrt_rtx", None)
    world.monkeypatch.setattr(sidecar_module, "gpus", tuple)
    world.monkeypatch.setattr(runtime_module, "load", lambda family: pytest.fail("imported"))
    message = world.refusal()
    assert message.startswith(f"{world.path} cannot run here: the engine runs on sm86 (Ampere: A10, A40, RTX 30); ")
    assert "this machine has no NVIDIA GPU, or no driver (nvidia-smi finds none). On the CPU use" in message
    world.monkeypatch.setattr(sidecar_module, "gpus", lambda: (Gpu("NVIDIA H100 80GB HBM3", "sm90"),))
    assert "TensorRT-RTX does not run on NVIDIA H100 80GB HBM3 (sm90)" in world.refusal()


def test_a_missing_tensorrt_is_told(world):
    world.monkeypatch.setitem(sys.modules, "tensorrt_rtx", None)
    message = world.refusal()
    assert "cannot run here: the engine needs TensorRT-RTX 1.7.1.116, and there is no usable TensorRT" in message
    assert "Install that version: pip install tensorrt-rtx==1.7.1.116. On the CPU use" in message


@pytest.mark.parametrize(
    ("family", "built", "here", "message"),
    [
        (
            "rtx",
            "1.6.0.9",
            "1.7.1.116",
            "the engine was built with TensorRT-RTX 1.6.0.9 and runs only on that, but TensorRT-RTX 1.7.1.116 is "
            "installed. Install that version: pip install tensorrt-rtx==1.6.0.9. Or build the engine again. On the",
        ),
        ("tensorrt", "10.13.0.35", "10.13.2.6", "pip install tensorrt==10.13.0.35. Or build the engine again."),
    ],
)
def test_another_version_is_told(world, family, built, here, message):
    world.trt.module.__version__ = here
    world.monkeypatch.setitem(sys.modules, "tensorrt", world.trt.module)
    world.write(family=family, tensorrt_version=built)
    assert message in world.refusal()


def test_a_missing_cuda_python_is_told(world):
    world.monkeypatch.setattr(runtime_module, "Device", Device)
    world.monkeypatch.setitem(sys.modules, "cuda.bindings.runtime", None)
    message = world.refusal()
    assert "cannot run here: cuda-python is not usable on this machine (" in message
    assert "Install it: pip install cuda-python. On the CPU use" in message


@pytest.mark.parametrize(
    ("refusing", "what"),
    [("runtime", "start"), ("deserialise", "load the engine"), ("context", "make room to run the engine")],
)
def test_a_failing_start_is_told_and_frees_what_was_taken(world, refusing, what):
    world.trt.refusing, world.trt.reason = refusing, "out of memory"
    with pytest.raises(SetupError, match=rf"cannot run here: TensorRT could not {what}: out of memory\. {ON_CPU}"):
        world.open()
    assert world.gpu.closed == 1
    assert world.gpu.memory == {}


def test_a_null_from_tensorrt_without_a_reason_shows_what_python_said(world):
    world.trt.refusing = "runtime"
    with pytest.raises(SetupError, match=r"could not start: pybind11::init\(\): factory function returned nullptr\."):
        world.open()


@pytest.mark.parametrize(
    ("change", "kind", "message"),
    [
        (
            {"profiles": 2},
            InputError,
            r"has the tensors ids, out and 2 optimisation profiles, x\.engine\.json tells of",
        ),
        ({"names": ("ids", "y")}, InputError, r"has the tensors ids, y and 1 .* tells of ids, out and 1\. Build the"),
        ({"location": "HOST"}, ModelError, r"keeps ids, out on the CPU"),
    ],
)
def test_an_engine_that_is_not_what_its_sidecar_tells_is_refused(world, change, kind, message):
    vars(world.trt).update(change)
    with pytest.raises(kind, match=message):
        world.open()
    assert world.gpu.closed == 1


def test_a_missing_sidecar_is_told(world):
    sidecar_path(world.path).unlink()
    with pytest.raises(InputError, match=r"has no x\.engine\.json beside it"):
        world.open()


# Device, with a CUDA that answers as told


class FakeCuda(ModuleType):
    """``cuda.bindings.runtime``: every function succeeds unless ``status`` has another answer for it."""

    def __init__(self, cards: list[tuple[str, int, int]]) -> None:
        super().__init__("cuda.bindings.runtime")
        self.__dict__.update(
            cudaStreamNonBlocking=1,
            cudaError_t=SimpleNamespace(cudaSuccess=0),
            cudaMemcpyKind=SimpleNamespace(cudaMemcpyHostToDevice="in", cudaMemcpyDeviceToHost="out"),
        )
        self.cards = cards
        self.status: dict[str, int] = {}
        self.calls: list[Any] = []

    def __getattr__(self, name: str) -> Any:
        values = {"cudaStreamCreateWithFlags": (77,), "cudaMalloc": (4096,), "cudaMemGetInfo": (1234567, 9)}

        def call(*arguments: Any) -> Any:
            self.calls.append((name, *arguments))
            if status := self.status.get(name, 0):
                return (status, *[None] * len(values.get(name, ())))
            return (0, *values.get(name, ()))

        return call

    def cudaGetDeviceCount(self) -> Any:  # noqa: N802
        return self.status.get("cudaGetDeviceCount", 0), len(self.cards)

    def cudaGetDeviceProperties(self, index: int) -> Any:  # noqa: N802
        name, major, minor = self.cards[index]
        return 0, SimpleNamespace(name=name.encode(), major=major, minor=minor)

    def cudaGetErrorString(self, status: int) -> Any:  # noqa: N802
        return 0, f"error {status}".encode()


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> FakeCuda:
    fake = FakeCuda([("NVIDIA L4", 8, 9), ("NVIDIA A10", 8, 6)])
    monkeypatch.setitem(sys.modules, "cuda.bindings.runtime", fake)
    return fake


def test_the_gpu_is_chosen_by_capability(cuda):
    assert Device().name == "NVIDIA L4"
    device = Device("sm86")
    assert (device.name, device.stream) == ("NVIDIA A10", 77)
    assert ("cudaSetDevice", 1) in cuda.calls
    with pytest.raises(
        SetupError, match=r"no GPU that CUDA shows is sm90; it shows NVIDIA L4 \(sm89\), NVIDIA A10 \(s"
    ):
        Device("sm90")
    cuda.cards = []
    with pytest.raises(SetupError, match=r"no GPU that CUDA shows is there; it shows none\. Check CUDA_VISIBLE"):
        Device()


def test_every_status_is_looked_at(cuda):
    array = np.zeros(2, np.float32)
    device = Device("sm86")
    for function, call in (
        ("cudaSetDevice", device.use),
        ("cudaMemcpyAsync", lambda: device.copy_in(1, array)),
        ("cudaMemcpyAsync", lambda: device.copy_out(array, 1)),
        ("cudaStreamSynchronize", device.synchronise),
        ("cudaMemGetInfo", device.free_bytes),
    ):
        cuda.status = {function: 700}
        cuda.calls.clear()
        with pytest.raises(SetupError, match=f"CUDA: {function} failed on NVIDIA A10: error 700. Check the GPU"):
            call()
        assert cuda.calls[-1] == ("cudaGetLastError",)
    cuda.status = {"cudaGetDeviceCount": 35}
    with pytest.raises(SetupError, match=r"CUDA: cudaGetDeviceCount failed on this machine: error 35\."):
        Device()


def test_too_little_memory_says_how_much_there_is(cuda):
    device = Device("sm86")
    cuda.status = {"cudaMalloc": 2}
    with pytest.raises(
        SetupError,
        match=r"allocating 5,000,000 bytes failed on NVIDIA A10: error 2\. 1,234,567 bytes are free\. Use smaller b",
    ):
        device.malloc(5_000_000)


def test_releasing_complains_only_if_nothing_else_did(cuda):
    device = Device("sm86")
    cuda.status = {"cudaFree": 700, "cudaStreamDestroy": 700}
    with pytest.raises(SetupError, match="cudaFree failed"):
        device.free(1)
    device.free(1)
    device.close()
    device.close()
    assert [call for call in cuda.calls if call[0] == "cudaStreamDestroy"] == [("cudaStreamDestroy", 77)]


def test_an_empty_tensor_has_an_address():
    gpu = FakeGpu([])
    buffers = Buffers(gpu)  # type: ignore[arg-type]
    assert buffers.room("empty", 0) == buffers.room("empty", 1) > 0
    assert gpu.events == [("malloc", 1)]
    buffers.close()
    buffers.close()
    assert gpu.memory == {}


# The real thing, as far as it goes without a GPU


@pytest.fixture(scope="module")
def real_engine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny engine for sm86, built here by TensorRT-RTX."""
    pytest.importorskip("tensorrt_rtx", reason="TensorRT-RTX is not installed")
    import onnx
    from onnx import TensorProto, helper

    from calib8.engine.build import build_engine
    from calib8.engine.config import Build

    folder = tmp_path_factory.mktemp("engine")
    rows = [helper.make_tensor_value_info(name, TensorProto.FLOAT16, ["rows", 8]) for name in ("x", "y")]
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"], name="relu")], "tiny", rows[:1], rows[1:])
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10), folder / "model.onnx"
    )
    shapes = ("x:1x8:2x8:4x8",)
    config = Build(targets=("sm86",), shapes=shapes, allow_float=True)
    (built,) = build_engine(folder / "model.onnx", folder / "x.engine", config)
    return built.path


def test_a_real_engine_says_why_it_cannot_run_without_its_gpu(real_engine):
    if any(gpu.target == "sm86" for gpu in sidecar_module.gpus()):
        pytest.skip("this machine has the GPU that the engine is for")
    with pytest.raises(SetupError, match=rf"x\.engine cannot run here: .*(no NVIDIA GPU|this machine has).* {ON_CPU}"):
        TensorRtRuntime(real_engine)


def test_the_real_tensorrt_refuses_a_real_engine_without_a_gpu(real_engine, monkeypatch):
    """Past our own checks: TensorRT itself answers None and its log has the reason."""
    if sidecar_module.gpus():
        pytest.skip("this machine has a GPU")
    gpu = FakeGpu([])
    monkeypatch.setattr(sidecar_module, "gpus", lambda: (A10,))
    monkeypatch.setattr(runtime_module, "Device", lambda target: gpu)
    with pytest.raises(SetupError, match=r"TensorRT could not load the engine: .*CUDA driver version is insufficient"):
        TensorRtRuntime(real_engine)
    assert gpu.closed == 1


def test_the_real_cuda_without_a_driver_is_told():
    pytest.importorskip("cuda.bindings.runtime", reason="cuda-python is not installed")
    if sidecar_module.gpus():
        pytest.skip("this machine has a GPU")
    with pytest.raises(SetupError, match=r"CUDA: cudaGetDeviceCount failed on this machine: (CUDA driver|no CUDA)"):
        Device()


def test_importing_the_runtime_imports_neither_cuda_nor_tensorrt():
    import subprocess

    code = (
        "import sys, calib8.runtime.tensorrt;"
        "print([m for m in sys.modules if m.split('.')[0] in ('cuda', 'tensorrt', 'tensorrt_rtx', 'onnxruntime')])"
    )
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "[]"
