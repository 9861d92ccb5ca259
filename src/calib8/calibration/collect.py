"""The streaming pass: run the model once over the data and keep statistics of the inputs of its weighted ops."""

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from calib8.calibration.sample import keep_rows
from calib8.calibration.statistics import TensorStatistics
from calib8.data.batching import Dataset
from calib8.errors import DataError
from calib8.graph.site import sites
from calib8.graph.weighted import weighted_ops
from calib8.progress import Progress
from calib8.runtime.ort import OrtRuntime


def collect(model: ir.Model, data: Dataset, progress: Progress, *, sample: int = 0) -> dict[str, TensorStatistics]:
    """Statistics of every tensor that a weighted op reads, by name. One forward pass over ``data``.

    sample: about how many rows of each tensor that a site reads (see ``graph.site``) to keep, drawn uniformly; all of
        them if there are fewer.

    ``model`` is prepared (see ``passes.prepare``) and not changed. Positions that the mask input marks as padding do
    not count. Raises ``DataError`` if a tensor turns out NaN or infinite.
    """
    names = list(dict.fromkeys(op.activation.name or "" for op in weighted_ops(model)))
    multiplied = {site.name for site in sites(model)}
    statistics = {name: TensorStatistics() for name in names}
    done, total = 0, len(data)
    counted = positions(data)
    with OrtRuntime(_observed(model, names)) as runtime:
        progress.update("calibrate", 0, total)
        for rows, arrays in data.batches():
            mask = np.asarray(arrays[data.mask]) != 0 if data.mask else None
            observed = runtime.run(arrays)
            for name in names:
                tensor = observed[name] if name in observed else arrays[name]
                found = _finite_rows(name, tensor, mask, split=name in multiplied)
                wanted = sample > 0 and name in multiplied
                fractions = (sample / total, sample / counted)
                statistics[name].add(found, _kept(rows, mask, found, fractions) if wanted else None)
            done += len(rows)
            progress.update("calibrate", done, total)
    return statistics


def _kept(
    samples: NDArray[np.int64],
    mask: NDArray[np.bool_] | None,
    rows: NDArray[np.float32],
    fractions: tuple[float, float],
) -> NDArray[np.bool_]:
    """Which of ``rows`` to keep. ``fractions``: of the samples and of the positions that count, if a row were each."""
    per_sample, per_position = fractions
    if mask is not None and len(rows) == np.count_nonzero(mask):
        return keep_rows(samples, mask.shape[1], per_position)[mask]
    count, rest = divmod(len(rows), len(samples))
    if rest or not count:  # rows of no sample in particular
        return keep_rows(samples[:1], len(rows), per_sample * len(samples) / max(len(rows), 1)).reshape(-1)
    return keep_rows(samples, count, per_sample / count).reshape(-1)


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


def _finite_rows(
    name: str, tensor: NDArray[np.generic], mask: NDArray[np.bool_] | None, *, split: bool
) -> NDArray[np.float32]:
    """The rows that count, [n, values per row]; ``split`` makes the last axis a row whatever the rank."""
    array = np.asarray(tensor, np.float32)
    if mask is not None and array.ndim >= 3 and array.shape[:2] == mask.shape and (split or array.ndim == 3):
        array = array if mask.all() else array[mask]
        rows = array.reshape(-1, array.shape[-1])
    elif mask is not None and array.ndim == 2 and len(array) == mask.size:  # [batch x sequence, width]
        rows = array[mask.reshape(-1)]
    elif split or array.ndim in (2, 3):
        rows = array.reshape(-1, array.shape[-1])
    else:
        rows = array.reshape(len(array), -1)
    if not np.isfinite(rows).all():
        raise DataError(
            f"tensor {name!r} became NaN or infinite during calibration. Check the data and that the model runs "
            "correctly in FP32 on it."
        )
    return rows
