"""Run a whole dataset and put the outputs back into the order of the samples."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from calib8.data.batching import Dataset
from calib8.data.inputs import Arrays
from calib8.errors import DataError
from calib8.progress import Progress
from calib8.runtime.base import Runtime


def run_all(runtime: Runtime, data: Dataset, progress: Progress) -> Arrays:
    """Every output [N, ...]. Batches of different length are padded with zeros to the longest along each axis."""
    pieces: dict[str, list[tuple[NDArray[np.int64], NDArray[np.generic]]]] = {}
    done = 0
    for rows, arrays in data.batches(runtime.rooms(data.leading)):
        for name, output in runtime.run(arrays).items():
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
