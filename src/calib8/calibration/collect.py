"""The streaming pass: run the model once over the data and keep statistics of the inputs of its weighted ops."""

from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from calib8.calibration.sample import keep_rows
from calib8.calibration.statistics import TensorStatistics
from calib8.data.batching import Dataset, Rows
from calib8.errors import DataError
from calib8.graph.site import sites
from calib8.graph.weighted import weighted_ops
from calib8.graph.window import Window
from calib8.progress import Progress
from calib8.runtime.ort import OrtRuntime


def collect(model: ir.Model, data: Dataset, progress: Progress, *, sample: int = 0) -> dict[str, TensorStatistics]:
    """Statistics of every tensor that a weighted op reads, by name. One forward pass over ``data``.

    sample: about how many rows of each tensor that a site reads (see ``graph.site``) to keep, drawn uniformly; all of
        them if there are fewer.

    ``model`` is prepared (see ``passes.prepare``) and not changed. Positions that the mask input marks as padding do
    not count. Raises ``DataError`` if a tensor turns out NaN or infinite.
    """
    observed = _observed_tensors(model)
    done, total = 0, len(data)
    fractions = (sample / total, sample / positions(data))
    with OrtRuntime(_observing(model, list(observed))) as runtime:
        progress.update("calibrate", 0, total)
        for rows, arrays in data.batches():
            mask = np.asarray(arrays[data.mask]) != 0 if data.mask else None
            outputs = runtime.run(arrays)
            for name, tensor in observed.items():
                array = np.asarray(outputs[name] if name in outputs else arrays[name], np.float32)
                tensor.add(array, mask, rows, fractions)
            done += len(rows)
            progress.update("calibrate", done, total)
    return {name: tensor.statistics for name, tensor in observed.items()}


@dataclass
class _Observed:
    """A tensor, how its readers see it, and what was seen of it.

    views: one per way in which sites read it, None for rows of single positions.
    """

    name: str
    channels_first: bool
    views: list[Window | None]
    statistics: TensorStatistics = field(default_factory=TensorStatistics)

    def add(
        self, array: NDArray[np.float32], mask: NDArray[np.bool_] | None, samples: Rows, fractions: tuple[float, float]
    ) -> None:
        """Add a batch; ``fractions``: share of samples, and of positions that count, to keep if a row were each."""
        rows = self._rows(array, mask)
        if not np.isfinite(rows).all():
            raise DataError(
                f"tensor {self.name!r} became NaN or infinite during calibration. Check the data and that the model "
                "runs correctly in FP32 on it."
            )
        self.statistics.add(rows)
        for view in self.views if fractions[0] > 0 else ():
            if view is None:
                kept = rows[_kept(samples, mask, rows, fractions)]
            else:
                outputs = view.outputs(array.shape[2:])
                count = int(np.prod(outputs))
                chosen = keep_rows(samples, count, fractions[0] / max(count, 1))
                kept = view.patches(array, chosen.reshape(-1, *outputs))
            self.statistics.sample(view).add(kept)

    def _rows(self, array: NDArray[np.float32], mask: NDArray[np.bool_] | None) -> NDArray[np.float32]:
        """The rows that count, [n, values per row]."""
        if self.channels_first:
            return np.moveaxis(array, 1, -1).reshape(-1, array.shape[1])
        whole = not self.views and array.ndim not in (2, 3)
        if mask is not None and array.ndim >= 3 and array.shape[:2] == mask.shape and not whole:
            array = array if mask.all() else array[mask]
            return array.reshape(-1, array.shape[-1])
        if mask is not None and array.ndim == 2 and len(array) == mask.size:  # [batch x sequence, width]
            return array[mask.reshape(-1)]
        return array.reshape(len(array), -1) if whole else array.reshape(-1, array.shape[-1])


def _observed_tensors(model: ir.Model) -> dict[str, _Observed]:
    observed: dict[str, _Observed] = {}
    for op in weighted_ops(model):
        name = op.activation.name or ""
        tensor = observed.setdefault(name, _Observed(name, channels_first=False, views=[]))
        tensor.channels_first |= op.kind == "Conv"
    for site in sites(model):
        if site.view not in observed[site.tensor].views:
            observed[site.tensor].views.append(site.view)
    return observed


def _kept(
    samples: Rows, mask: NDArray[np.bool_] | None, rows: NDArray[np.float32], fractions: tuple[float, float]
) -> NDArray[np.bool_]:
    """Which of ``rows`` to keep."""
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


def _observing(model: ir.Model, names: list[str]) -> ir.Model:
    """A clone whose outputs are the tensors ``names`` and nothing else; model inputs among them need no output."""
    clone = model.clone()
    produced = {value.name: value for node in clone.graph for value in node.outputs}
    if observed := [produced[name] for name in names if name in produced]:  # a graph without outputs cannot run
        clone.graph.outputs.clear()
        clone.graph.outputs.extend(observed)
    return clone
