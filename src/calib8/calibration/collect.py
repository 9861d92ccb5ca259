"""The streaming pass: run the model once over the data and keep statistics of the inputs of its weighted ops."""

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from calib8.calibration.sample import keep_rows
from calib8.calibration.statistics import TensorStatistics
from calib8.data.batching import Dataset
from calib8.errors import DataError
from calib8.graph.weighted import weighted_ops
from calib8.progress import Progress
from calib8.runtime.ort import OrtRuntime


def collect(model: ir.Model, data: Dataset, progress: Progress, *, sample: int = 0) -> dict[str, TensorStatistics]:
    """Statistics of every tensor that a weighted op reads, by name. One forward pass over ``data``.

    sample: about how many rows of each tensor to keep, drawn uniformly; all of them if there are fewer.

    ``model`` is prepared (see ``passes.prepare``) and not changed. Positions that the mask input marks as padding do
    not count. Raises ``DataError`` if a tensor turns out NaN or infinite.
    """
    names = list(dict.fromkeys(op.activation.name or "" for op in weighted_ops(model)))
    statistics = {name: TensorStatistics() for name in names}
    done, total = 0, len(data)
    counted = positions(data)
    with OrtRuntime(_observed(model, names)) as runtime:
        progress.update("calibrate", 0, total)
        for rows, arrays in data.batches():
            mask = np.asarray(arrays[data.mask]) != 0 if data.mask else None
            observed = runtime.run(arrays)
            for name in names:
                found = _finite_rows(name, observed[name] if name in observed else arrays[name], mask)
                statistics[name].add(found, _kept(rows, mask, found, sample / counted) if sample else None)
            done += len(rows)
            progress.update("calibrate", done, total)
    return statistics


def _kept(
    samples: NDArray[np.int64], mask: NDArray[np.bool_] | None, rows: NDArray[np.float32], fraction: float
) -> NDArray[np.bool_]:
    """Which of ``rows`` to keep. ``fraction`` is per position where there is a mask, per sample otherwise."""
    if mask is not None and len(rows) == np.count_nonzero(mask):
        return keep_rows(samples, mask.shape[1], fraction)[mask]
    per_sample = len(rows) // len(samples)
    return keep_rows(samples, per_sample, fraction / per_sample).reshape(-1)


def positions(data: Dataset) -> int:
    """Number of positions that count: real tokens where there is a mask, samples otherwise."""
    if data.mask is None:
        return len(data)
    return sum(int(np.count_nonzero(chunk[data.mask])) for chunk in data.chunks)


def _observed(model: ir.Model, names: list[str]) -> ir.Model:
    """A clone whose outputs are the tensors ``names`` and nothing else; model inputs among them need no output."""
    clone = model.clone()
    produced = {value.name: value for node in clone.graph for value in node.outputs}
    if observed := [produced[name] for name in names if name in produced]:  # a graph without outputs cannot run
        clone.graph.outputs.clear()
        clone.graph.outputs.extend(observed)
    return clone


def _finite_rows(name: str, tensor: NDArray[np.generic], mask: NDArray[np.bool_] | None) -> NDArray[np.float32]:
    """The rows that count, [n, values per row]."""
    array = np.asarray(tensor, np.float32)
    if mask is not None and array.ndim == 3 and array.shape[:2] == mask.shape:
        rows = array[mask] if not mask.all() else array.reshape(-1, array.shape[-1])
    elif mask is not None and array.ndim == 2 and len(array) == mask.size:  # [batch x sequence, width]
        rows = array[mask.reshape(-1)]
    elif array.ndim in (2, 3):
        rows = array.reshape(-1, array.shape[-1])
    else:
        rows = array.reshape(len(array), -1)
    if not np.isfinite(rows).all():
        raise DataError(
            f"tensor {name!r} became NaN or infinite during calibration. Check the data and that the model runs "
            "correctly in FP32 on it."
        )
    return rows
