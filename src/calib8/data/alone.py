"""Models that take one sample at a time: of a fixed batch, or with inputs that have none, as states and rates have.

Each run is a sample then. Of its data every input has an array of samples, whatever its own first axis is; everything
that goes over data sees an axis of samples in front, and only what is fed to the model lacks it.
"""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from calib8.data.inputs import Arrays, InputSpec, of_chunk
from calib8.data.selected import Selected
from calib8.data.sources import Source
from calib8.errors import DataError
from calib8.progress import Progress

#: The axis in front.
SAMPLES = "calib8.samples"


def takes_one(specs: tuple[InputSpec, ...]) -> bool:
    """Whether a model with these inputs takes one sample at a time: one of them has no free first dimension."""
    return any(not spec.shape or isinstance(spec.shape[0], int) for spec in specs)


def by_sample(specs: tuple[InputSpec, ...]) -> tuple[InputSpec, ...]:
    """``specs`` with the axis of samples in front."""
    return tuple(replace(spec, shape=(SAMPLES, *spec.shape)) for spec in specs)


class Samples:
    """``source`` with the axis of samples in front of what each of the inputs ``specs`` takes in a run.

    An array may be given as [samples, *shape]; as [samples, *shape[1:]] where the model takes one row, or as many times
    that as it takes rows; or as one that all samples share, which is just as the input is. A float input of fixed shape
    without an array is a state: zeros, as at the start of a stream, and a note.
    """

    def __init__(self, source: Source, specs: tuple[InputSpec, ...], progress: Progress) -> None:
        self.source, self.specs, self._progress = source, specs, progress
        self._told = False

    def chunks(self) -> Iterator[Arrays]:
        """The chunks of the source. Raises ``DataError`` where no array tells how many samples there are."""
        for chunk in self.source.chunks():
            given = {spec.name: _in_front(chunk[spec.name], spec) for spec in self.specs if spec.name in chunk}
            counts = [len(array) for array, whole in given.values() if not whole]
            if given and not counts:
                raise DataError(
                    f"every array of {', '.join(given)} has the shape of one run of the model, which does not tell "
                    "samples apart. Put an axis of samples in front, [samples, ...]."
                )
            samples = counts[0] if counts else 0
            arrays = {name: _repeated(array, samples) if whole else array for name, (array, whole) in given.items()}
            yield of_chunk({**chunk, **arrays, **self._states(chunk, samples)}, chunk)

    def fingerprint(self) -> str:
        """That of the source."""
        return self.source.fingerprint()

    def _states(self, chunk: Arrays, samples: int) -> Arrays:
        """The inputs that were left out and can be: see the class."""
        states = [spec for spec in self.specs if spec.name not in chunk and _is_state(spec)]
        if states and samples and not self._told:
            self._told = True
            self._progress.note(f"no data for {', '.join(map(str, states))}: zeros, as at the start of a stream")
        return {s.name: _repeated(np.zeros(_least(s), s.dtype), samples) for s in states if samples}


def _is_state(spec: InputSpec) -> bool:
    """Float, and of a fixed first dimension with no more than one that is free, which is the batch."""
    free = [dim for dim in spec.shape if not isinstance(dim, int)]
    return bool(spec.shape) and isinstance(spec.shape[0], int) and len(free) <= 1 and spec.dtype.kind == "f"


def _least(spec: InputSpec) -> tuple[int, ...]:
    return tuple(dim if isinstance(dim, int) else 1 for dim in spec.shape)


def _in_front(array: NDArray[np.generic], spec: InputSpec) -> tuple[NDArray[np.generic], bool]:
    """``array`` with samples in front, False; or as it is and True, where it is what every sample has."""
    rank, shape = np.ndim(array), np.shape(array)
    if isinstance(array, Selected) or rank == len(spec.shape) + 1:
        return array, False
    if rank != len(spec.shape):
        return array, rank < len(spec.shape)  # of another rank than is known: to be refused
    rows = spec.shape[0] if spec.shape and isinstance(spec.shape[0], int) else 1
    if not spec.shape or (rows > 1 and shape[0] == rows):
        return array, True
    whole = array[: len(array) // rows * rows]  # a batch is full
    return whole.reshape(len(whole) // rows, rows, *shape[1:]), False


def _repeated(array: NDArray[np.generic], samples: int) -> NDArray[np.generic]:
    return np.broadcast_to(array, (samples, *np.shape(array)))
