"""The time of a kernel: what its multiplications take, or what its bytes take, and a floor that every kernel has.

A roofline (Williams, Waterman and Patterson, 2009) with two roofs for bytes. What a kernel writes and the next one
reads stays in the L2 cache where there is room, so only what is more, and weights, go through memory; everything goes
through the multiprocessors, whose loads and stores are what bounds a norm on GPUs with fast memory.
"""

from calib8.cost.gpus import Gpu
from calib8.cost.kernels import Kernel
from calib8.engine.groups import ATTENTION
from calib8.precision import Precision

#: The share of its data sheet's bandwidth that memory gives: assumed, no measured time here depends on it alone.
REACHED = 0.8
#: GB/s through a streaming multiprocessor: fitted with the H200's numbers, by whose norms it goes.
EACH = 16.0


def peak(gpu: Gpu, precision: Precision | None) -> float:
    """Tera operations a second of products in ``precision``, None is FP16; those of FP16 where there are no units."""
    told = {"int8": gpu.int8, "fp8": gpu.fp8}.get(precision or "", gpu.fp16)
    return told or gpu.fp16


def milliseconds(kernel: Kernel, gpu: Gpu) -> float:
    """What ``kernel`` takes on ``gpu``."""
    share = gpu.fit.share * (gpu.fit.attention if kernel.group == ATTENTION else 1)
    multiplied = kernel.operations / (peak(gpu, kernel.precision) * share * 1e9)
    beyond = kernel.constant + max(0.0, kernel.moved - kernel.constant - gpu.cache * 1e6)
    fetched = beyond / (gpu.memory * REACHED * 1e6)
    passed = kernel.moved / (gpu.multiprocessors * EACH * 1e6)
    return gpu.fit.floor_us / 1e3 + max(multiplied, fetched, passed)
