"""What runs on the GPU machine when TensorRT 10 calibrates: batches from files to device memory, and the cache file.

TensorRT calls ``IInt8Calibrator`` while it builds: first for the cache, without one for batch after batch, then to
write the cache. An exception in such a call would reach nobody, and TensorRT would go on with the data it has: it is
kept and raised when the build is over.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from calib8.engine.options import CalibratorName
from calib8.engine.phases import Stages
from calib8.engine.trt_api import TensorRtModule
from calib8.files import write_bytes
from calib8.gpu.buffers import Buffers
from calib8.gpu.device import Device

if TYPE_CHECKING:
    import tensorrt as trt

_Answer = TypeVar("_Answer")

#: TensorRT's class for each algorithm, and its name in the first line of a cache.
BASES: dict[CalibratorName, str] = {"minmax": "IInt8MinMaxCalibrator", "entropy2": "IInt8EntropyCalibrator2"}
ALGORITHMS: dict[CalibratorName, str] = {"minmax": "MinMaxCalibration", "entropy2": "EntropyCalibration2"}


def cache_header(version: str, algorithm: CalibratorName) -> str:
    """The first line of a cache: ``10.16.1.11``, minmax -> ``TRT-101601-MinMaxCalibration``."""
    major, minor, patch = (int(part) for part in [*re.findall(r"\d+", version), "0", "0"][:3])
    return f"TRT-{major * 10_000 + minor * 100 + patch}-{ALGORITHMS[algorithm]}"


@dataclass(frozen=True)
class CacheFile:
    """A calibration cache for one TensorRT and one algorithm."""

    path: Path | None
    header: str

    def read(self) -> bytes | None:
        """Its bytes, if it is there and TensorRT would take it."""
        content = self.path.read_bytes() if self.path is not None and self.path.is_file() else b""
        return content if content.splitlines()[:1] == [self.header.encode()] else None

    def write(self, content: bytes) -> None:
        """Keep what TensorRT found."""
        if self.path is not None:
            write_bytes(self.path, content)


class Calibration:
    """Answers the calls of one calibration.

    files: input name -> ``.npy`` file [batches x batch, ...]. ``stages`` are told how far it is.
    """

    def __init__(self, files: Mapping[str, str], batch: int, cache: CacheFile, target: str, stages: Stages) -> None:
        self.batch, self._cache, self._target, self._stages = batch, cache, target, stages
        self._arrays = {name: np.load(path, mmap_mode="r", allow_pickle=False) for name, path in files.items()}
        self._batches = min((len(array) // batch for array in self._arrays.values()), default=0)
        self._done = 0
        self._opened = ExitStack()
        self._device: Device | None = None
        self._error: Exception | None = None

    def get_batch(self, names: Sequence[str]) -> list[int]:
        """Device addresses of the next batch of these inputs, which hold until the next call; none at the end."""
        return self._guarded(lambda: self._copied(names), [])

    def read(self) -> bytes | None:
        """The cache to use instead of batches."""
        cache = self._guarded(self._cache.read, None)
        if cache is None and self._batches and not self._done:  # TensorRT asks again after the last batch
            self._stages.calibrates(self._batches)
        return cache

    def write(self, content: Any) -> None:
        """Keep the cache, a buffer of TensorRT's."""
        if self._error is None:  # of a part of the data, otherwise
            self._guarded(lambda: self._cache.write(bytes(content)), None)

    def close(self) -> None:
        """Free the GPU."""
        self._opened.close()

    def raise_for_failure(self) -> None:
        """Raise what went wrong inside a call."""
        if self._error is not None:
            raise self._error

    def _copied(self, names: Sequence[str]) -> list[int]:
        if self._done == self._batches:
            return []
        device, buffers = self._open()
        rows = slice(self._done * self.batch, (self._done + 1) * self.batch)
        held: list[NDArray[Any]] = [np.ascontiguousarray(self._arrays[name][rows]) for name in names]
        addresses = [buffers.room(name, array.nbytes) for name, array in zip(names, held, strict=True)]
        for address, array in zip(addresses, held, strict=True):
            device.copy_in(address, array)
        device.synchronise()
        self._done += 1
        self._stages.batch(self._done, self._batches)
        return addresses

    def _open(self) -> tuple[Device, Buffers]:
        if self._device is None:  # not before a batch is wanted: a cache needs no memory
            self._device = Device(self._target)
            self._device.use()
            self._opened.callback(self._device.close)
            self._buffers = Buffers(self._device)
            self._opened.callback(self._buffers.close)
        return self._device, self._buffers

    def _guarded(self, call: Callable[[], _Answer], otherwise: _Answer) -> _Answer:
        try:
            return otherwise if self._error else call()
        except Exception as error:  # kept, and raised by raise_for_failure
            self._error = error
            return otherwise


def make_calibrator(module: TensorRtModule, algorithm: CalibratorName, calibration: Calibration) -> trt.IInt8Calibrator:
    """TensorRT's calibrator of this algorithm, answering as ``calibration`` does."""
    if TYPE_CHECKING:
        from tensorrt import IInt8MinMaxCalibrator as Base  # mypy checks the methods against a base that it knows
    else:
        Base = getattr(module, BASES[algorithm])  # noqa: N806

    class Calibrator(Base):
        def __init__(self) -> None:
            Base.__init__(self)  # pybind11 wants it called like that

        def get_batch_size(self) -> int:
            return calibration.batch

        def get_batch(self, names: Sequence[str]) -> list[int]:
            return calibration.get_batch(names)

        def read_calibration_cache(self) -> bytes | None:
            return calibration.read()

        def write_calibration_cache(self, cache: Any) -> None:
            calibration.write(cache)

    return Calibrator()
