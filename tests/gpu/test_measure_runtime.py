"""How fast the runtime's parts are: printed, not judged. The engines are stand-ins: these are no speeds of models."""

import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np
import pytest
from standin import INNER, expected

import calib8
from calib8.gpu.buffers import Buffers
from calib8.runtime.base import Runtime
from calib8.runtime.pending import Pending

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")
MIB = 1 << 20


def seconds(work: Callable[[], object], repeats: int) -> np.ndarray:
    """Of each repetition, after a few that do not count."""
    times = []
    for _ in range(5 + repeats):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return np.array(times[5:])


@pytest.mark.parametrize("direction", ["host to GPU", "GPU to host"])
def test_bandwidth_of_pinned_and_pageable_memory(device, measured, direction):
    size = 64 * MIB
    with_pinned, memory = Buffers(device, pinned=True), Buffers(device)
    address = memory.room("x", size)
    copy = {
        "host to GPU": lambda array: device.copy_in(address, array),
        "GPU to host": lambda array: device.copy_out(array, address),
    }
    arrays = {"pinned": with_pinned.array("x", (size,), np.dtype(np.uint8)), "pageable": np.ones(size, np.uint8)}
    rates = []
    for kind, array in arrays.items():
        array[...] = 1

        def copied(array: np.ndarray = array) -> None:
            copy[direction](array)
            device.synchronise()

        rates.append(f"{kind} {size / np.median(seconds(copied, 20)) / 1e9:.1f} GB/s")
    measured(f"{direction}, 64 MiB: {', '.join(rates)}")
    arrays.clear()
    with_pinned.close()
    memory.close()


@pytest.mark.parametrize("layers", [1, 41, 121])
def test_latency_of_a_run_with_and_without_a_graph(workshop, measured, layers):
    """8 x 64 floats through so many small kernels, in and out of host memory."""
    workshop.write(layers=layers)
    given = np.zeros((8, 64), np.float32)
    times = {}
    for graphs in (8, 0):
        with calib8.open(workshop.path, cuda_graphs=graphs) as runtime:
            times[graphs] = 1e6 * seconds(partial(runtime, x=given), 500)
            assert np.array_equal(runtime(x=given)["y"], expected("chain", given, layers))
    text = (
        f"{name} {np.median(times[graphs]):.0f} us (p99 {np.percentile(times[graphs], 99):.0f})"
        for graphs, name in ((8, "with a graph"), (0, "without"))
    )
    measured(f"run of {layers} kernels on 8x64: {', '.join(text)}")


def test_latency_of_inputs_and_outputs_on_the_gpu(workshop, measured):
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    if not torch.cuda.is_available():
        pytest.skip("this PyTorch has no CUDA")
    given = np.zeros((1024, 4096), np.float32)  # 16 MiB
    with calib8.open(workshop.path) as runtime:
        there = torch.from_numpy(given).cuda()
        host = 1e6 * np.median(seconds(lambda: runtime(x=given), 30))
        gpu = 1e6 * np.median(seconds(lambda: runtime.run_on_gpu({"x": there}), 30))
    measured(f"run of 3 kernels on 16 MiB: host to host {host:.0f} us, GPU to GPU {gpu:.0f} us")


@pytest.mark.parametrize("contexts", [1, 2, 4])
def test_throughput_of_threads(workshop, measured, contexts):
    workshop.write("matmul")
    given = np.ones((4096, INNER), np.float32)  # 1 MiB
    with calib8.open(workshop.path, contexts=contexts) as runtime:
        rates = []
        for count in (1, 2, 4, 8):
            each = 800 // count

            def work(_: int, runtime: Runtime = runtime, each: int = each) -> None:
                for _ in range(each):
                    runtime(x=given)

            with ThreadPoolExecutor(count) as threads:
                list(threads.map(work, range(count)))  # warm
                start = time.perf_counter()
                list(threads.map(work, range(count)))
                rates.append(f"{count} threads {count * each / (time.perf_counter() - start):.0f}")
    measured(f"runs a second, 1 MiB in, {contexts} contexts: {', '.join(rates)}")


@pytest.mark.parametrize("contexts", [1, 2, 4])
def test_throughput_of_submitted_runs(workshop, measured, contexts):
    """One thread keeps every context busy and takes results as they come: 800 kept ones cost more than 800 runs,
    as each is fresh memory that the operating system has to map."""
    workshop.write("matmul")
    given = np.ones((4096, INNER), np.float32)
    with calib8.open(workshop.path, contexts=contexts) as runtime:
        under_way: deque[Pending] = deque()

        def work() -> None:
            if len(under_way) == contexts:
                under_way.popleft().result()
            under_way.append(runtime.submit({"x": given}))

        rate = 1 / np.mean(seconds(work, 800))
    measured(f"runs a second, 1 MiB in, submitted by one thread: {contexts} contexts {rate:.0f}")
