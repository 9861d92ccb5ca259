"""The streaming pass: run the model once over the data and keep statistics of the inputs of its weighted ops.

Reductions happen inside the graph: what comes out of a batch has the size of what is kept of it.
"""

import numpy as np
import onnx_ir as ir

from calib8.calibration.kept import Batch
from calib8.calibration.layout import Shapes, first
from calib8.calibration.observed import Observed, observed_tensors
from calib8.calibration.reductions import Reductions
from calib8.calibration.sample import Spool
from calib8.calibration.statistics import TensorStatistics
from calib8.data.batching import Dataset
from calib8.data.inputs import Arrays
from calib8.progress import Progress
from calib8.runtime.ort import OrtRuntime


def collect(
    model: ir.Model, data: Dataset, progress: Progress, *, sample: int = 0, histograms: bool = False
) -> dict[str, TensorStatistics]:
    """Statistics of every tensor that a weighted op reads, by name. One forward pass over ``data``.

    sample: about how many rows of each tensor that a site reads (see ``graph.site``) to keep, drawn uniformly; all of
        them if there are fewer. histograms: whether to count the values of each tensor too.

    ``model`` is prepared (see ``passes.prepare``) and not changed. Positions that the mask input marks as padding do
    not count. Raises ``DataError`` if a tensor turns out NaN or infinite.
    """
    tensors = observed_tensors(model, Spool())
    shapes = _shapes(model, tensors, data, sampled=sample > 0)
    graph = Reductions(model)
    for tensor in tensors:
        tensor.reduce(graph, histogram=histograms, sampled=sample > 0)
    done, total = 0, len(data)
    shares = sample / total, sample / positions(data)
    progress.update("calibrate", 0, total)
    with OrtRuntime(graph.model) as runtime:
        for rows, arrays in data.batches():
            mask = np.asarray(arrays[data.mask]) != 0 if data.mask else None
            _add(tensors, runtime, arrays, Batch(rows, mask, *shares), shapes)
            done += len(rows)
            progress.update("calibrate", done, total)
    return {tensor.name: tensor.statistics for tensor in tensors}


def positions(data: Dataset) -> int:
    """Number of positions that count: real tokens where there is a mask, samples otherwise."""
    if data.mask is None:
        return len(data)
    return sum(int(np.count_nonzero(chunk[data.mask])) for chunk in data.chunks)


def _shapes(model: ir.Model, tensors: list[Observed], data: Dataset, *, sampled: bool) -> Shapes:
    """Tell every tensor its layout; the shapes of all batches, where they are needed to sample rows.

    They are found before the pass begins, so that no two sessions hold memory at a time.
    """
    _, arrays = next(data.batches())
    two = first(arrays, 2)  # no shape is that of one sample
    shapes = Shapes(model, [tensor.name for tensor in tensors])
    with shapes:
        found = shapes.of(two)
        for tensor in tensors:
            tensor.settle(found[tensor.name], two[data.mask].shape if data.mask else None)
        if sampled and any(tensor.needs_shape for tensor in tensors):
            for _, arrays in data.batches():
                shapes.of(arrays)
    return shapes


def _add(tensors: list[Observed], runtime: OrtRuntime, arrays: Arrays, batch: Batch, shapes: Shapes) -> None:
    """Run a batch, and keep of every tensor what is to be kept."""
    found = shapes.of(arrays) if any(tensor.needs_shape and tensor.sampled for tensor in tensors) else {}
    asked = {tensor.name: tensor.ask(batch, found.get(tensor.name, ())) for tensor in tensors}
    feeds = dict(arrays)
    for indices, _ in asked.values():
        feeds |= indices
    outputs = runtime.compute(feeds)
    for tensor in tensors:
        tensor.add(outputs, asked[tensor.name][1])
