"""Run batches of any number of rows, and a whole dataset whose outputs come back in the order of the samples."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from calib8.data.batching import Dataset
from calib8.data.inputs import Arrays
from calib8.data.rooms import filled
from calib8.errors import DataError
from calib8.progress import Progress
from calib8.runtime.base import Runtime


def filled_up(runtime: Runtime, arrays: Arrays, leading: str) -> Arrays:
    """A batch with as many rows as ``runtime`` takes, an engine from 4 on, say: the last one is repeated.

    Rows are those of the input ``leading``, axis 0 of every input.
    """
    shape = np.shape(arrays[leading])
    rows, length = shape[0], shape[1] if len(shape) > 1 else 1
    enough = filled(runtime.rooms(leading), rows, length)
    if enough == rows:
        return arrays
    return {name: array[np.minimum(np.arange(enough), rows - 1)] for name, array in arrays.items()}


def run_filled(runtime: Runtime, arrays: Arrays, data: Dataset) -> Arrays:
    """``runtime.run`` for a batch of ``data``, its outputs by sample.

    A batch may have fewer rows than the runtime takes: what was filled up is cut off again. All that comes out of a
    model which takes one sample at a time is of that sample.
    """
    if data.alone:
        outputs = {name: np.asarray(out) for name, out in runtime.run(arrays).items()}
        return {name: out if out.ndim and len(out) == 1 else out[np.newaxis] for name, out in outputs.items()}
    given = filled_up(runtime, arrays, data.leading)
    rows, enough = (len(batch[data.leading]) for batch in (arrays, given))
    outputs = runtime.run(given)
    return {name: out[:rows] if out.ndim and len(out) == enough else out for name, out in outputs.items()}


def run_all(runtime: Runtime, data: Dataset, progress: Progress) -> Arrays:
    """Every output [N, ...]. Batches of different length are padded with zeros to the longest along each axis."""
    pieces: dict[str, list[tuple[NDArray[np.int64], NDArray[np.generic]]]] = {}
    done = 0
    progress.update("run", done, len(data))
    for rows, arrays in data.batches(runtime.rooms(data.leading)):
        for name, output in run_filled(runtime, arrays, data).items():
            if output.ndim == 0 or len(output) != len(rows):
                raise DataError(
                    f"output {name!r} has shape {list(output.shape)} for a batch of {len(rows)}; expected one row per "
                    "sample. Run the model on single batches through calib8.open()."
                )
            pieces.setdefault(name, []).append((rows, output))
        done += len(rows)
        progress.update("run", done, len(data))
    return {name: _assembled(found, len(data)) for name, found in pieces.items()}


def _assembled(pieces: list[tuple[NDArray[np.int64], NDArray[np.generic]]], count: int) -> NDArray[np.generic]:
    widest = np.max([output.shape[1:] for _, output in pieces], axis=0).astype(int)
    whole = np.zeros((count, *widest), pieces[0][1].dtype)
    for rows, output in pieces:
        index: tuple[Any, ...] = (rows, *(slice(size) for size in output.shape[1:]))
        whole[index] = output
    return whole
