"""Device, Buffers and Graph on a CUDA that answers as told, whose functions have the parameters of the real ones."""

import inspect
import re
import sys

import numpy as np
import pytest
from fake_cuda import BROKEN_CAPTURE, NOT_READY, FakeCuda

from calib8.errors import SetupError
from calib8.gpu.buffers import Buffers
from calib8.gpu.device import Device
from calib8.gpu.graph import Graph
from calib8.gpu.hardware import gpus

FUNCTIONS = sorted(
    name for name in vars(FakeCuda) if re.fullmatch(r"cuda[A-Z]\w+", name) and callable(getattr(FakeCuda, name))
)


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> FakeCuda:
    fake = FakeCuda([("NVIDIA L4", 8, 9), ("NVIDIA A10", 8, 6)])
    monkeypatch.setitem(sys.modules, "cuda.bindings.runtime", fake)
    return fake


@pytest.mark.parametrize("function", FUNCTIONS)
def test_the_fake_has_the_parameters_of_the_real_one(function):
    real = pytest.importorskip("cuda.bindings.runtime", reason="cuda-python is not installed")
    first_line = getattr(real, function).__doc__.splitlines()[0]
    names = [re.sub(r":.*", "", part).split()[-1].strip("*") for part in _parts(first_line)]
    ours = list(inspect.signature(getattr(FakeCuda, function)).parameters)[1:]
    assert ours == names


def _parts(line: str) -> list[str]:
    inside = line[line.index("(") + 1 : line.rindex(")")]
    return [part.strip() for part in inside.split(",") if part.strip()]


def test_what_the_fake_names_the_real_one_has():
    real = pytest.importorskip("cuda.bindings.runtime", reason="cuda-python is not installed")
    for group in ("cudaError_t", "cudaMemcpyKind", "cudaMemoryType", "cudaStreamCaptureMode"):
        assert set(vars(getattr(FakeCuda, group))) <= set(getattr(real, group).__members__)
    for constant in ("cudaStreamNonBlocking", "cudaEventDisableTiming", "cudaHostAllocDefault", "cudaEventDefault"):
        assert getattr(real, constant) == getattr(FakeCuda, constant)
    assert int(real.cudaError_t.cudaErrorNotReady) == NOT_READY
    assert int(real.cudaError_t.cudaErrorStreamCaptureInvalidated) == BROKEN_CAPTURE


def test_the_gpu_is_chosen_by_capability(cuda):
    assert Device().name == "NVIDIA L4"
    device = Device("sm86")
    assert (device.name, device.index) == ("NVIDIA A10", 1)
    assert ("cudaSetDevice", 1) in cuda.calls
    assert cuda.cudaGetDevice() == (0, 0)  # the caller's own choice stays
    with pytest.raises(
        SetupError, match=r"no GPU that CUDA shows is sm90; it shows NVIDIA L4 \(sm89\), NVIDIA A10 \(s"
    ):
        Device("sm90")
    cuda.cards = []
    with pytest.raises(SetupError, match=r"no GPU that CUDA shows is there; it shows none\. Check CUDA_VISIBLE"):
        Device()


def test_a_device_beside_another_has_a_stream_of_its_own(cuda):
    device = Device("sm86")
    other = device.beside()
    assert other.stream != device.stream
    assert other.index == device.index
    other.close()
    device.synchronise()
    device.close()
    assert cuda.left_behind == {}


def test_active_brings_the_thread_back(cuda):
    device = Device("sm86")
    cuda.cudaSetDevice(0)
    with device.active():
        assert cuda.cudaGetDevice() == (0, 1)
    assert cuda.cudaGetDevice() == (0, 0)


def test_every_status_is_looked_at(cuda):
    array = np.zeros(2, np.float32)
    device = Device("sm86")
    for function, call in (
        ("cudaSetDevice", device.use),
        ("cudaMemcpyAsync", lambda: device.copy_in(1, array)),
        ("cudaMemcpyAsync", lambda: device.copy_out(array, 1)),
        ("cudaMemcpyAsync", lambda: device.copy_across(1, 2, 3)),
        ("cudaEventRecord", lambda: device.wait_for(1)),
        ("cudaStreamWaitEvent", lambda: device.wait_for(1)),
        ("cudaStreamSynchronize", device.synchronise),
        ("cudaEventSynchronize", lambda: device.seconds(lambda: None)),
        ("cudaEventElapsedTime", lambda: device.seconds(lambda: None)),
        ("cudaMemGetInfo", device.free_bytes),
        ("cudaStreamCreateWithFlags", device.beside),
        ("cudaStreamBeginCapture", lambda: Graph(device, lambda: None)),
    ):
        cuda.status = {function: 700}
        cuda.calls.clear()
        with pytest.raises(SetupError, match=f"CUDA: {function} failed on NVIDIA A10: error 700. Check the GPU"):
            call()
        assert cuda.calls[-1] == ("cudaGetLastError",)
    assert cuda.events == {}
    cuda.status = {"cudaGetDeviceCount": 35}
    with pytest.raises(SetupError, match=r"CUDA: cudaGetDeviceCount failed on this machine: error 35\."):
        Device()


def test_seconds_of_the_gpu_are_those_of_what_was_enqueued(cuda):
    device, array = Device("sm86"), np.zeros(2, np.float32)
    address = device.malloc(8)
    device.copy_in(address, array)  # before: not part of it

    def enqueue() -> None:
        for _ in range(3):
            device.copy_in(address, array)

    assert device.seconds(enqueue) == 3e-3  # the fake clock counts a millisecond for each
    assert cuda.events == {}


def test_too_little_memory_says_how_much_there_is(cuda):
    device = Device("sm86")
    with pytest.raises(
        SetupError,
        match=r"allocating 5,000,000 bytes failed on NVIDIA A10: error 2\. 1,048,576 bytes are free\. Use smaller b",
    ):
        device.malloc(5_000_000)
    cuda.status = {"cudaHostAlloc": 2}
    with pytest.raises(
        SetupError, match=r"pinning 7,000 bytes of host memory failed on NVIDIA A10: error 2\. .*ulimit"
    ):
        device.malloc_host(7_000)


def test_releasing_complains_only_if_nothing_else_did(cuda):
    device = Device("sm86")
    cuda.status = {"cudaFree": 700, "cudaStreamDestroy": 700}
    with pytest.raises(SetupError, match="cudaFree failed"):
        device.free(1)
    device.free(1)
    device.close()
    device.close()
    assert len(cuda.named("cudaStreamDestroy")) == 1


def test_what_is_enqueued_is_done_when_waited_for(cuda):
    device = Device("sm86")
    address, back = device.malloc(8), np.zeros(2, np.float32)
    assert device.idle()
    device.copy_in(address, np.float32([1, 2]))
    device.copy_out(back, address)
    assert not device.idle()
    assert cuda.calls[-1] == ("cudaGetLastError",)  # "not ready" is no error that others should find
    device.synchronise()
    assert device.idle()
    assert back.tolist() == [1, 2]


def test_waiting_for_another_stream_orders_the_work(cuda):
    first = Device("sm86")
    second = first.beside()
    address, back = first.malloc(4), np.zeros(1, np.float32)
    given = np.float32([7])
    first.copy_in(address, given)
    second.wait_for(first.stream)
    second.copy_out(back, address)
    second.synchronise()
    assert back.tolist() == [7]
    assert cuda.events == {}


def test_the_gpu_is_chosen_by_number_and_by_name(cuda):
    cuda.cards = [("NVIDIA H100", 9, 0), ("NVIDIA L4", 8, 9), ("NVIDIA H200", 9, 0)]
    assert Device("sm90").index == 0
    assert Device("sm90", name="NVIDIA H200").index == 2
    assert Device("sm90", name="NVIDIA GH200").index == 0
    assert (Device(number=1).name, Device("sm90", number=2).name) == ("NVIDIA L4", "NVIDIA H200")
    with pytest.raises(
        SetupError, match=r"GPU 1, of those that CUDA shows, is not sm90; it shows NVIDIA H100 \(sm90\)"
    ):
        Device("sm90", number=1)
    with pytest.raises(SetupError, match=r"GPU 3, of those that CUDA shows, is not there; it shows .*VISIBLE_DEVICES"):
        Device(number=3)


def test_which_addresses_lie_on_the_gpu(cuda):
    device = Device("sm86")
    device.use()
    address = device.malloc(100)
    assert device.holds(address + 50)
    assert not device.holds(address + 100)
    cuda.status = {"cudaPointerGetAttributes": 1}
    assert not device.holds(address)
    assert cuda.calls[-1] == ("cudaGetLastError",)


# Buffers


def test_an_empty_tensor_has_an_address(cuda):
    buffers = Buffers(Device("sm86"))
    assert buffers.room("empty", 0) == buffers.room("empty", 1) > 0
    assert cuda.named("cudaMalloc") == [("cudaMalloc", 1)]
    buffers.close()
    buffers.close()
    assert cuda.memory == {}


def test_a_pinned_array_is_the_start_of_a_reused_buffer(cuda):
    buffers = Buffers(Device("sm86"), pinned=True)
    large = buffers.array("x", (2, 3), np.dtype(np.float32))
    large[...] = 7
    small = buffers.array("x", (2,), np.dtype(np.float32))
    assert small.tolist() == [7, 7]
    assert small.ctypes.data == large.ctypes.data == next(iter(cuda.pinned))
    assert buffers.moves == 1
    assert buffers.array("none", (0, 3), np.dtype(np.int64)).shape == (0, 3)
    buffers.array("x", (2, 4), np.dtype(np.float32))
    assert buffers.moves == 3
    buffers.close()
    assert cuda.pinned == {}
    assert cuda.memory == {}


# Graphs


def test_a_graph_does_again_what_was_recorded(cuda):
    device = Device("sm86")
    done = []
    graph = Graph(device, lambda: cuda.put(device.stream, lambda: done.append(1)))
    device.synchronise()
    assert done == []  # recorded, not done
    for _ in range(3):
        graph.launch()
    device.synchronise()
    assert done == [1, 1, 1]
    graph.close()
    graph.close()
    device.close()
    assert cuda.left_behind == {}


@pytest.mark.parametrize("failing", ["cudaStreamEndCapture", "cudaGraphInstantiate"])
def test_a_graph_that_cannot_be_made_leaves_nothing(cuda, failing):
    device = Device("sm86")
    cuda.status = {failing: BROKEN_CAPTURE}
    with pytest.raises(SetupError, match=f"{failing} failed on NVIDIA A10: error 901"):
        Graph(device, lambda: None)
    cuda.status = {}
    assert cuda.graphs == cuda.executables == {}
    assert cuda.streams[device.stream].captured is None


@pytest.mark.parametrize("broken", [0, BROKEN_CAPTURE])
def test_an_error_while_recording_ends_the_recording(cuda, broken):
    device = Device("sm86")

    def enqueue() -> None:
        raise SetupError("no")

    cuda.status = {"cudaStreamEndCapture": broken}
    with pytest.raises(SetupError, match="^no$"):
        Graph(device, enqueue)
    assert cuda.graphs == {}
    assert cuda.streams[device.stream].captured is None
    assert cuda.calls[-1] == ("cudaGetLastError",)


def test_the_real_cuda_without_a_driver_is_told():
    pytest.importorskip("cuda.bindings.runtime", reason="cuda-python is not installed")
    if gpus():
        pytest.skip("this machine has a GPU")
    with pytest.raises(SetupError, match=r"CUDA: cudaGetDeviceCount failed on this machine: (CUDA driver|no CUDA)"):
        Device()
