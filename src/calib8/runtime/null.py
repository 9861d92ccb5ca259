"""A runtime for tests: answers what it was told to, and remembers what it was asked."""

from collections.abc import Callable, Collection, Mapping

import numpy as np
from numpy.typing import ArrayLike

from calib8.data.inputs import Arrays
from calib8.runtime.base import Runtime
from calib8.runtime.contract import Contract


class NullRuntime(Runtime):
    """Calls ``answer`` instead of a model; ``asked`` keeps the arrays of every run.

    Without a ``contract`` it takes whatever it is fed.
    """

    description = "null runtime"

    def __init__(self, answer: Callable[[Arrays], Arrays], contract: Contract | None = None) -> None:
        super().__init__(contract or Anything((), (), {}))
        self.answer = answer
        self.asked: list[Arrays] = []
        self.closed = False

    def _run(self, arrays: Arrays) -> Arrays:
        self.asked.append(arrays)
        return self.answer(arrays)

    def _free(self) -> None:
        self.closed = True


class Anything(Contract):
    """Takes all arrays as they are."""

    def fitted(self, arrays: Mapping[str, ArrayLike], *, unseen: Collection[str] = ()) -> Arrays:
        """``arrays``, unchecked."""
        return {name: np.asarray(array) for name, array in arrays.items()}
