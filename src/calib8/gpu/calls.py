"""Calls of the CUDA runtime whose every status is looked at.

cuda-python's functions answer ``(status, *values)``; anything but success becomes one ``SetupError`` with CUDA's own
text. ``cuda.bindings.runtime`` has no type stubs: ``Any`` ends here.
"""

from __future__ import annotations

import importlib
from typing import Any

from calib8.errors import SetupError

INSTALL = "Install it: pip install cuda-python."
LOOK = "Check the GPU and its driver with nvidia-smi."


class Calls:
    """The CUDA runtime of this process. ``place`` says in messages where a call failed."""

    def __init__(self) -> None:
        self.api = _cuda_runtime()
        self.success = self.api.cudaError_t.cudaSuccess
        self.place = "this machine"
        self._failed = False

    def __call__(self, function: str, *arguments: Any) -> list[Any]:
        """The values that ``function`` answers. Raises ``SetupError`` unless it succeeded."""
        status, values = self.status(function, *arguments)
        if status != self.success:
            raise self.error(f"{function} failed", status)
        return values

    def status(self, function: str, *arguments: Any) -> tuple[Any, list[Any]]:
        """Status and values, for a caller who has an answer to a failure."""
        answer: tuple[Any, ...] = getattr(self.api, function)(*arguments)
        status, *values = answer
        return status, values

    def release(self, function: str, argument: Any) -> None:
        """A call that gives something back: silent after a failure was told, as a broken context fails every call."""
        status, _ = self.status(function, argument)
        if status != self.success and not self._failed:
            raise self.error(f"{function} failed", status)

    def error(self, what: str, status: Any, advice: str = LOOK) -> SetupError:
        """What to raise for ``status``."""
        self._failed = True
        self.forget()
        _, text = self.api.cudaGetErrorString(status)
        return SetupError(f"CUDA: {what} on {self.place}: {text.decode('utf-8', 'replace')}. {advice}")

    def forget(self) -> None:
        """CUDA remembers its last error, and the next library that asks would take it for its own."""
        self.api.cudaGetLastError()


def _cuda_runtime() -> Any:
    try:
        return importlib.import_module("cuda.bindings.runtime")
    except (ImportError, OSError, RuntimeError) as error:  # OSError, RuntimeError: a shared library is missing
        raise SetupError(f"cuda-python is not usable on this machine ({error}). {INSTALL}") from error
