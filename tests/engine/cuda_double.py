# ruff: noqa: N801, N802, N815, N816  # the names are CUDA's
"""``cuda.bindings.runtime`` for one GPU whose memory is host memory, so that what was copied there can be read."""

import ctypes
import os
from enum import IntEnum
from types import SimpleNamespace
from typing import Any

cudaStreamNonBlocking = 1


class cudaError_t(IntEnum):
    """The two that are needed."""

    cudaSuccess = 0
    cudaErrorMemoryAllocation = 2


class cudaMemcpyKind(IntEnum):
    """Directions."""

    cudaMemcpyHostToDevice = 1
    cudaMemcpyDeviceToHost = 2


_held: dict[int, Any] = {}


def _answer(*values: Any) -> Any:
    return lambda *_: (cudaError_t.cudaSuccess, *values)


def cudaMalloc(size: int) -> tuple[Any, ...]:
    if size > int(os.environ.get("CUDA_DOUBLE_BYTES", "1000000000")):
        return cudaError_t.cudaErrorMemoryAllocation, None
    memory = ctypes.create_string_buffer(size)
    _held[ctypes.addressof(memory)] = memory
    return cudaError_t.cudaSuccess, ctypes.addressof(memory)


def cudaFree(address: int) -> tuple[Any, ...]:
    del _held[address]
    return (cudaError_t.cudaSuccess,)


def cudaMemcpyAsync(to: int, source: int, size: int, kind: Any, stream: Any) -> tuple[Any, ...]:
    ctypes.memmove(to, source, size)
    return (cudaError_t.cudaSuccess,)


cudaGetDevice = _answer(0)
cudaGetDeviceCount = _answer(1)
cudaGetDeviceProperties = _answer(SimpleNamespace(name=b"NVIDIA A10", major=8, minor=6))
cudaSetDevice = cudaStreamDestroy = cudaStreamSynchronize = cudaGetLastError = _answer()
cudaStreamCreateWithFlags = _answer(7)
cudaMemGetInfo = _answer(1_000, 2_000)
cudaGetErrorString = _answer(b"out of memory")
