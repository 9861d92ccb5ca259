"""Device, Buffers and the whole of TensorRtRuntime but TensorRT on a real GPU."""

import hashlib
import sys
import threading
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest

from calib8.cuda.buffers import Buffers
from calib8.cuda.device import Device
from calib8.engine.hardware import gpus
from calib8.engine.plan_check import PlanCheck
from calib8.engine.profiles import Profile
from calib8.engine.sidecar import Sidecar, TensorInfo, sidecar_path
from calib8.errors import DataError, SetupError
from calib8.runtime.tensorrt import TensorRtRuntime

cuda = pytest.importorskip("cuda.bindings.runtime", reason="cuda-python is not installed")
pytestmark = pytest.mark.skipif(not gpus(), reason="needs an NVIDIA GPU: nvidia-smi finds none")

MIB = 1 << 20
IMPOSSIBLE = 1 << 44  # 16 TiB


@pytest.fixture
def device():
    opened = Device()
    yield opened
    opened.close()


@pytest.fixture(scope="module")
def warm():
    """A device of the whole module, so that what CUDA itself keeps (context, streams, staging) is taken before."""
    opened, other = Device(), Device()
    address = opened.malloc(64 * MIB)
    there_and_back(opened, address, np.zeros(32 * MIB, np.uint8))
    kind = cuda.cudaMemcpyKind.cudaMemcpyDeviceToDevice
    cuda.cudaMemcpyAsync(address, address + 32 * MIB, 32 * MIB, kind, opened.stream)
    opened.synchronise()
    opened.free(address)
    other.close()
    yield opened
    opened.close()


@pytest.fixture
def nothing_leaks(warm):
    """The GPU has as much free memory after the test as before."""
    before = warm.free_bytes()
    yield
    assert warm.free_bytes() == before


def there_and_back(device: Device, address: int, array: Any) -> Any:
    back = np.empty_like(array)
    device.copy_in(address, array)
    device.copy_out(back, address)
    device.synchronise()
    return back


def test_the_gpu_is_the_one_that_nvidia_smi_names(device):
    assert device.name in [gpu.name for gpu in gpus()]
    assert device.stream != 0
    found = next(gpu for gpu in gpus() if gpu.name == device.name)
    named = Device(found.target)
    assert named.name == device.name
    named.close()
    with pytest.raises(SetupError, match=r"no GPU that CUDA shows is sm10; it shows .*\(sm\d+\)"):
        Device("sm10")


@pytest.mark.parametrize("dtype", ["float32", "float16", "int64", "int32", "int8", "bool"])
def test_a_copy_comes_back_as_it_went(nothing_leaks, device, dtype):
    array = np.random.default_rng(0).integers(-100, 100, (64, 384)).astype(dtype)
    address = device.malloc(array.nbytes)
    assert there_and_back(device, address, array).tobytes() == array.tobytes()
    device.free(address)


def test_a_large_copy_comes_back_as_it_went(nothing_leaks, device):
    array = np.random.default_rng(0).integers(0, 255, 256 * MIB, dtype=np.uint8)
    address = device.malloc(array.nbytes)
    assert np.array_equal(there_and_back(device, address, array), array)
    device.free(address)


def test_buffers_grow_are_reused_and_free_everything(nothing_leaks, device):
    before = device.free_bytes()
    buffers = Buffers(device)
    seen = []
    for size in (4 * MIB, 2 * MIB, 4 * MIB, 64 * MIB, MIB):
        address = buffers.room("x", size)
        array = np.full(size, size % 251, np.uint8)
        assert np.array_equal(there_and_back(device, address, array), array)
        seen.append((address, before - device.free_bytes()))
    addresses, taken = zip(*seen, strict=True)
    assert addresses[0] == addresses[1] == addresses[2]
    assert addresses[3] == addresses[4]
    assert taken[0] == taken[1] == taken[2] < 64 * MIB <= taken[3] == taken[4]
    assert buffers.room("empty", 0) != 0
    buffers.close()
    assert device.free_bytes() == before


def test_an_impossible_allocation_is_told_and_does_no_harm(nothing_leaks, device):
    buffers = Buffers(device)
    kept = buffers.room("kept", MIB)
    with pytest.raises(
        SetupError,
        match=r"CUDA: allocating 17,592,186,044,416 bytes failed on .*: out of memory\. [\d,]+ bytes are free\. Use",
    ):
        buffers.room("huge", IMPOSSIBLE)
    assert cuda.cudaPeekAtLastError()[0] == cuda.cudaError_t.cudaSuccess  # nobody else trips over it
    array = np.arange(1000)
    assert np.array_equal(there_and_back(device, kept, array), array)
    assert buffers.room("huge", MIB) != 0
    buffers.close()


def test_a_wrong_address_is_told_with_the_text_of_cuda(device):
    with pytest.raises(SetupError, match=r"CUDA: cudaFree failed on .*: invalid argument\. Check the GPU"):
        device.free(12345)


def test_another_thread_gets_the_same_gpu(nothing_leaks, device):
    array, answers = np.arange(1000), []

    def work() -> None:
        device.use()
        address = device.malloc(array.nbytes)
        answers.append(there_and_back(device, address, array))
        device.free(address)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert np.array_equal(answers[0], array)


class CopyingContext:
    """Stands in for TensorRT's context: ``y = x``, copied on the GPU and on the stream that it is given."""

    def __init__(self) -> None:
        self.shape: tuple[int, ...] = ()
        self.addresses: dict[str, int] = {}

    def set_optimization_profile_async(self, index: int, stream: int) -> bool:
        return index == 0 and stream != 0

    def set_input_shape(self, name: str, shape: Any) -> bool:
        self.shape = tuple(shape)
        return name == "x"

    def infer_shapes(self) -> list[str]:
        return []

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return self.shape

    def set_tensor_address(self, name: str, address: int) -> bool:
        self.addresses[name] = address
        return True

    def execute_async_v3(self, stream: int) -> bool:
        size = 4 * int(np.prod(self.shape))
        kind = cuda.cudaMemcpyKind.cudaMemcpyDeviceToDevice
        (status,) = cuda.cudaMemcpyAsync(self.addresses["y"], self.addresses["x"], size, kind, stream)
        return bool(status == cuda.cudaError_t.cudaSuccess)


@pytest.fixture
def copying_engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An engine file for this GPU, and a ``tensorrt`` module that makes a ``CopyingContext`` of it."""
    engine = SimpleNamespace(
        num_io_tensors=2,
        num_optimization_profiles=1,
        get_tensor_name=lambda index: "xy"[index],
        get_tensor_location=lambda name: "DEVICE",
        create_execution_context=CopyingContext,
    )
    module = ModuleType("tensorrt")
    module.__dict__.update(
        __version__="0.0.0",
        ILogger=type("ILogger", (), {"__init__": lambda self: None}),
        TensorLocation=SimpleNamespace(DEVICE="DEVICE"),
        Runtime=lambda log: SimpleNamespace(deserialize_cuda_engine=lambda content: engine),
    )
    monkeypatch.setitem(sys.modules, "tensorrt", module)
    path, target = tmp_path / "x.engine", gpus()[0].target
    path.write_bytes(b"an engine")
    description = Sidecar(
        engine_sha256=hashlib.sha256(b"an engine").hexdigest(),
        engine_bytes=9,
        family="tensorrt",
        tensorrt_version="0.0.0",
        target=target,
        model_sha256="0" * 64,
        model_metadata={},
        profiles=(Profile(name="x", min=(1, 1), opt=(8, 64), max=(4096, 4096)),),
        tensors=(
            TensorInfo(name="x", mode="input", dtype="float32", shape=(-1, -1)),
            TensorInfo(name="y", mode="output", dtype="float32", shape=(-1, -1)),
        ),
        plan=PlanCheck(target=target, expected=0, covered=0, planned_kernels=0),
        workspace_mib=None,
        optimization_level=None,
        build_seconds=1.0,
        built_at="2026-01-01T00:00:00+00:00",
        calib8_version="0.1.0",
    )
    sidecar_path(path).write_text(description.model_dump_json())
    return path


def test_the_runtime_brings_data_through_the_gpu_in_order(nothing_leaks, copying_engine):
    random = np.random.default_rng(0)
    with TensorRtRuntime(copying_engine) as runtime:
        assert runtime.description == f"TensorRT 0.0.0 on {gpus()[0].name}"
        for shape in ((1, 1), (8, 64), (4096, 4096), (3, 5), (64, 384)):
            given = random.standard_normal(shape, dtype=np.float32)
            assert np.array_equal(runtime(x=given)["y"], given)
            assert np.array_equal(runtime(x=given[::-1, ::-1])["y"], given[::-1, ::-1])
        with pytest.raises(DataError, match="the engine was not built for x 5000x1"):
            runtime(x=np.zeros((5000, 1), np.float32))
    runtime.close()


def test_the_runtime_frees_its_memory_after_an_error(nothing_leaks, copying_engine, monkeypatch):
    with TensorRtRuntime(copying_engine) as runtime:
        runtime(x=np.ones((1024, 1024), np.float32))
        monkeypatch.setattr(CopyingContext, "execute_async_v3", lambda self, stream: False)
        with pytest.raises(SetupError, match="TensorRT could not run on x 2x2"):
            runtime(x=np.ones((2, 2), np.float32))
