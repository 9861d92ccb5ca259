"""Device, Buffers and Graph on a real GPU."""

import threading
from typing import Any

import numpy as np
import pytest
from cuda.bindings import runtime as cuda
from kernels import launch

from calib8.errors import SetupError
from calib8.gpu.buffers import Buffers
from calib8.gpu.device import Device
from calib8.gpu.graph import Graph
from calib8.gpu.hardware import gpus

MIB = 1 << 20
IMPOSSIBLE = 1 << 44  # 16 TiB


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
def test_a_copy_comes_back_as_it_went(device, dtype):
    array = np.random.default_rng(0).integers(-100, 100, (64, 384)).astype(dtype)
    address = device.malloc(array.nbytes)
    assert there_and_back(device, address, array).tobytes() == array.tobytes()
    device.free(address)


def test_a_large_copy_comes_back_as_it_went(device, leaks_nothing):
    array = np.random.default_rng(0).integers(0, 255, 256 * MIB, dtype=np.uint8)

    def work() -> None:
        address = device.malloc(array.nbytes)
        assert np.array_equal(there_and_back(device, address, array), array)
        device.free(address)

    leaks_nothing(work)


def test_pinned_arrays_come_back_as_they_went(device, leaks_nothing):
    content = np.random.default_rng(0).standard_normal((4096, 1024), dtype=np.float32)

    def work() -> None:
        pinned, memory = Buffers(device, pinned=True), Buffers(device)
        there = pinned.array("there", content.shape, content.dtype)
        back = pinned.array("back", content.shape, content.dtype)
        there[...], back[...] = content, 0
        address = memory.room("x", content.nbytes)
        device.copy_in(address, there)
        device.copy_out(back, address)
        device.synchronise()
        assert np.array_equal(back, content)
        del there, back
        pinned.close()
        memory.close()

    leaks_nothing(work)


def test_buffers_grow_are_reused_and_free_everything(device, leaks_nothing):
    def work() -> None:
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

    leaks_nothing(work)


def test_an_impossible_allocation_is_told_and_does_no_harm(device):
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


def test_an_impossible_amount_of_pinned_memory_is_told_and_does_no_harm(device):
    with pytest.raises(SetupError, match=r"CUDA: pinning 17,592,186,044,416 bytes of host memory failed on .*ulimit"):
        device.malloc_host(IMPOSSIBLE)
    assert cuda.cudaPeekAtLastError()[0] == cuda.cudaError_t.cudaSuccess
    device.free_host(device.malloc_host(MIB))


def test_a_wrong_address_is_told_with_the_text_of_cuda(device):
    with pytest.raises(SetupError, match=r"CUDA: cudaFree failed on .*: invalid argument\. Check the GPU"):
        device.free(12345)


def test_which_addresses_lie_on_the_gpu(device):
    address, host = device.malloc(MIB), np.zeros(10)
    assert device.holds(address)
    assert device.holds(address + MIB - 1)
    assert not device.holds(host.ctypes.data)
    pinned = device.malloc_host(100)
    assert not device.holds(pinned)
    device.free_host(pinned)
    device.free(address)
    assert cuda.cudaPeekAtLastError()[0] == cuda.cudaError_t.cudaSuccess


def test_another_thread_gets_the_same_gpu(device):
    array, answers = np.arange(1000), []

    def work() -> None:
        with device.active():
            address = device.malloc(array.nbytes)
            answers.append(there_and_back(device, address, array))
            device.free(address)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert np.array_equal(answers[0], array)


def test_a_stream_waits_for_another(device):
    """The first stream has much to do before it writes what the second reads."""
    other, count = device.beside(), 64 * MIB
    x, y = device.malloc(4 * count), device.malloc(4 * count)
    ones, back = np.ones(count, np.float32), np.zeros(count, np.float32)
    device.copy_in(x, ones)
    for _ in range(20):
        assert launch("affine", device.stream, count, x, y, count)
        device.copy_across(x, y, 4 * count)
    other.wait_for(device.stream)
    assert not device.idle()
    other.copy_out(back, y)
    other.synchronise()
    assert np.array_equal(back, np.full(count, 2.0**21 - 1, np.float32))
    assert device.idle()
    for address in (x, y):
        device.free(address)
    other.close()


def test_a_graph_does_again_what_was_recorded(device, leaks_nothing):
    def work() -> None:
        address, back = device.malloc(4 * 1000), np.zeros(1000, np.float32)
        device.copy_in(address, back)
        assert launch("affine", device.stream, 1000, address, address, 1000)  # the kernel is loaded before a capture
        device.synchronise()
        graph = Graph(device, lambda: [launch("affine", device.stream, 1000, address, address, 1000) for _ in range(3)])
        device.copy_out(back, address)
        device.synchronise()
        assert set(back) == {1}  # recorded, not run
        for _ in range(2):
            graph.launch()
        device.copy_out(back, address)
        device.synchronise()
        assert set(back) == {2.0**7 - 1}
        graph.close()
        device.free(address)

    leaks_nothing(work)


def test_what_cannot_be_recorded_is_told_and_the_stream_goes_on(device):
    address = device.malloc(4)
    with pytest.raises(SetupError, match=r"CUDA: cudaStreamSynchronize failed on .*captur"):
        Graph(device, device.synchronise)
    assert cuda.cudaPeekAtLastError()[0] == cuda.cudaError_t.cudaSuccess
    assert there_and_back(device, address, np.float32([3])).tolist() == [3]
    graph = Graph(device, lambda: device.copy_across(address, address, 0))
    graph.close()
    device.free(address)


def test_other_threads_may_allocate_while_one_records(device):
    def elsewhere() -> None:
        with device.active():
            device.free(device.malloc(MIB))

    def enqueue() -> None:
        thread = threading.Thread(target=elsewhere)
        thread.start()
        thread.join()
        assert launch("affine", device.stream, 1, address, address, 1)

    address = device.malloc(4)
    assert launch("affine", device.stream, 1, address, address, 1)
    device.synchronise()
    graph = Graph(device, enqueue)
    graph.launch()
    device.synchronise()
    graph.close()
    device.free(address)
