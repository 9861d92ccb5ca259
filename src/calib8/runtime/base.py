"""What every runtime is: a context manager that maps named arrays to named arrays."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from threading import Condition
from types import TracebackType
from typing import Any, ClassVar, TypeVar

from numpy.typing import ArrayLike

from calib8.data.inputs import Arrays
from calib8.data.rooms import Rooms
from calib8.errors import ConfigError, SetupError
from calib8.runtime.contract import Contract
from calib8.runtime.layer_time import LayerTime
from calib8.runtime.pending import Finished, Pending

Own = TypeVar("Own", bound="Runtime")


class Runtime(ABC):
    """Runs one model. Use it in a ``with`` block; ``run`` may be called any number of times."""

    #: For people: runtime, version and arithmetic, e.g. ``OpenVINO 2026.4 on CPU``.
    description: str
    #: Whether a model with an FP16 remainder computes in FP16; on the CPU it does where it is to be judged.
    computes_fp16: bool = False
    #: Whether it computes on a GPU, whose clock ``gpu_ms`` reads.
    on_gpu: ClassVar[bool] = False
    #: How many runs of those submitted go on at once.
    streams: int = 1

    def __init__(self, contract: Contract) -> None:
        #: What the model may be fed.
        self.contract = contract
        self._closed = False
        self._under_way = 0
        self._change = Condition()

    def run(self, arrays: Mapping[str, ArrayLike]) -> Arrays:
        """Feed every input by name and return every output by name.

        Raises ``DataError`` if the arrays are not what the model takes (see ``Contract``), ``SetupError`` if the
        runtime was closed.
        """
        fitted = self._fitted(arrays)
        with self._kept_open():
            return self._run(fitted)

    def submit(self, arrays: Mapping[str, ArrayLike]) -> Pending:
        """Start a run and wait for it later. On the CPU, which is busy with it anyway, it is over at once.

        Raises as ``run`` does.
        """
        return Finished(self.run(arrays))

    def run_on_gpu(self, arrays: Mapping[str, Any]) -> dict[str, Any]:
        """``run``, and leave the outputs on the GPU. Raises ``ConfigError``: only an engine computes there."""
        raise ConfigError(
            f"{self.description}: no output is on a GPU. Use run(), or build an engine and open that: calib8.build()."
        )

    def layer_times(self, arrays: Mapping[str, Any], *, runs: int = 25, warm_up: int = 5) -> list[LayerTime]:
        """What each layer takes. Raises ``ConfigError``: only TensorRT tells."""
        raise ConfigError(
            f"{self.description}: it does not tell what its layers take. Build an engine and open that: calib8.build()."
        )

    def gpu_ms(self, arrays: Mapping[str, Any], *, least: float = 0.02) -> float:
        """What the GPU computes for on one run. Raises ``ConfigError``: only an engine computes there."""
        raise ConfigError(f"{self.description}: it computes on no GPU. Build an engine and open that: calib8.build().")

    def not_finite_from(self, arrays: Arrays) -> str | None:
        """Where in the model NaN or infinity came up first with these inputs, for people; None if nobody knows."""
        return None

    def __call__(self, **arrays: ArrayLike) -> Arrays:
        """``run`` with keyword arguments."""
        return self.run(arrays)

    def largest(self, name: str, axis: int) -> int | None:
        """How large the input may be along ``axis``; None if nothing is known to bound it."""
        return self.contract.largest(name, axis)

    def rooms(self, name: str) -> Rooms:
        """The batches that it takes, as rows and lengths (axes 0 and 1) of the input ``name``."""
        return (self.contract.room(name),)

    def close(self) -> None:
        """Free what the runtime holds, after the runs that other threads have under way; no more begin.

        Called by ``with``; calling it twice is fine.
        """
        with self._change:
            if self._closed:
                return
            self._closed = True
            self._change.wait_for(lambda: not self._under_way)
        self._free()

    def _fitted(self, arrays: Mapping[str, Any]) -> Any:
        """What ``_run`` takes. Raises ``DataError`` for what the model does not, ``SetupError`` after ``close``."""
        self._require_open()
        return self.contract.fitted(arrays)

    @contextmanager
    def _kept_open(self) -> Iterator[None]:
        """A block that ``close`` waits for. Raises ``SetupError`` after ``close``."""
        with self._change:
            self._require_open()
            self._under_way += 1
        try:
            yield
        finally:
            with self._change:
                self._under_way -= 1
                self._change.notify_all()

    def _require_open(self) -> None:
        if self._closed:
            raise SetupError(f"{self.description}: the model was closed. Open it again with calib8.open().")

    @abstractmethod
    def _run(self, arrays: Any) -> Arrays:
        """Compute with what ``_fitted`` answered."""

    @abstractmethod
    def _free(self) -> None:
        """Let go of everything, once."""

    def __enter__(self: Own) -> Own:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
