"""A runtime for tests: answers what it was told to, and remembers what it was asked."""

from collections.abc import Callable

from calib8.data.inputs import Arrays
from calib8.runtime.base import Runtime


class NullRuntime(Runtime):
    """Calls ``answer`` instead of a model; ``asked`` keeps the arrays of every run."""

    def __init__(self, answer: Callable[[Arrays], Arrays]) -> None:
        self.answer = answer
        self.asked: list[Arrays] = []
        self.closed = False
        self.description = "null runtime"

    def run(self, arrays: Arrays) -> Arrays:
        """Return ``answer(arrays)``."""
        self.asked.append(arrays)
        return self.answer(arrays)

    def close(self) -> None:
        """Remember that it was closed."""
        self.closed = True
