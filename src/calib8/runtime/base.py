"""What every runtime is: a context manager that maps named arrays to named arrays."""

from __future__ import annotations

from abc import ABC, abstractmethod
from types import TracebackType

from calib8.data.inputs import Arrays


class Runtime(ABC):
    """Runs one model. Use it in a ``with`` block; ``run`` may be called any number of times."""

    #: For people: runtime, version and arithmetic, e.g. ``OpenVINO 2026.4 on CPU``.
    description: str

    @abstractmethod
    def run(self, arrays: Arrays) -> Arrays:
        """Feed every input by name and return every output by name."""

    def __call__(self, **arrays: object) -> Arrays:
        """``run`` with keyword arguments."""
        return self.run(arrays)  # type: ignore[arg-type]

    @abstractmethod
    def close(self) -> None:
        """Free what the runtime holds. Called by ``with``; calling it twice is fine."""

    def __enter__(self) -> Runtime:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
