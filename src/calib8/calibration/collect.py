"""The streaming pass: run the model once over the data and keep statistics of the inputs of its weighted ops.

Reductions happen inside the graph: what comes out of a batch has the size of what is kept of it.
"""

from collections.abc import Mapping
from contextlib import suppress
from types import TracebackType

import numpy as np
import onnx_ir as ir

from calib8.calibration.checkpoint import Checkpoint, resumed
from calib8.calibration.config import TensorChoice
from calib8.calibration.kept import Batch
from calib8.calibration.layout import Shapes, first
from calib8.calibration.observed import Observed, observed_tensors
from calib8.calibration.reached import REACHED, Reached, Statistics
from calib8.calibration.reductions import Reductions
from calib8.calibration.statistics import TensorStatistics
from calib8.data.batching import Dataset, Rows
from calib8.data.inputs import Arrays
from calib8.errors import DataError
from calib8.graph.shapes import Shape
from calib8.passes.fixed_draws import fix_draws
from calib8.progress import Progress, Quiet
from calib8.runtime.ort import OrtRuntime

#: Names shown of tensors that are alike.
SHOWN = 3


def collect(
    model: ir.Model,
    data: Dataset,
    progress: Progress,
    *,
    sample: int = 0,
    histograms: bool = False,
    tensors: TensorChoice = "weighted",
    checkpoint: Checkpoint | None = None,
) -> Statistics:
    """Statistics of every tensor that a weighted op reads, or of all ``tensors``, by name. One pass over ``data``.

    sample: about how many rows of each tensor that a site reads (see ``graph.site``) to keep, drawn uniformly; all of
        them if there are fewer. histograms: whether to count the values of each tensor too. checkpoint: where to keep
        what was done, and to go on from.

    ``model`` is prepared (see ``passes.prepare``) and not changed. Positions that the mask input marks as padding do
    not count. Raises ``DataError`` if a tensor that a weighted op reads turns out NaN or infinite.
    """
    (known, done), total = resumed(checkpoint, data, progress), len(data)
    if done == total and checkpoint is not None:
        return Statistics(checkpoint.merged())
    with Collector(model, data, sample=sample, histograms=histograms, tensors=tensors, progress=progress) as collector:
        added: list[int] = []
        groups = data.groups()
        try:
            for number in (number for number in range(len(groups)) if number not in known):
                collector.add(*data.batch(groups[number]))
                added.append(number)
                done += len(groups[number].rows)
                progress.update("calibrate", done, total)
                if checkpoint is not None and (checkpoint.due or done == total):
                    checkpoint.keep(added, collector.take())
                    added = []
        except (KeyboardInterrupt, SystemExit):  # Ctrl-C and SIGTERM, which come anywhere
            if checkpoint is not None and added and collector.holds == sum(len(groups[one].rows) for one in added):
                checkpoint.keep(added, collector.take())
            raise
        return Statistics(checkpoint.merged() if checkpoint is not None else collector.take())


class Collector:
    """A model that is being observed: batches of ``data`` in, statistics of them out. See ``collect``.

    holds: how many samples there are statistics of; None while a batch is counted, of some tensors and not of others.
    """

    def __init__(
        self,
        model: ir.Model,
        data: Dataset,
        *,
        sample: int = 0,
        histograms: bool = False,
        tensors: TensorChoice = "weighted",
        threads: int | None = None,
        progress: Progress | None = None,
    ) -> None:
        self.holds: int | None = 0
        self._mask = data.mask
        self._shares = sample / len(data), sample / positions(data)
        self._tensors = observed_tensors(model, tensors)
        self._shapes = self._found_shapes(model, data)
        _note_order(self._tensors, progress or Quiet())
        self._shape_needed = sample > 0 and any(tensor.needs_shape for tensor in self._tensors)
        graph = Reductions(model)
        for tensor in self._tensors:
            tensor.reduce(graph, histogram=histograms, sampled=sample > 0)
        self._reached = Reached(model, graph)
        self._runtime = OrtRuntime(fix_draws(graph.model), threads=threads, frugal=True)

    def add(self, samples: Rows, arrays: Arrays) -> None:
        """Run a batch, the ``samples`` of the data by number, and keep of every tensor what is to be kept."""
        mask = np.asarray(arrays[self._mask]) != 0 if self._mask else None
        batch = Batch(samples, mask, *self._shares)
        shapes = self._shapes.of(arrays) if self._shape_needed else {}
        asked = {tensor.name: tensor.ask(batch, shapes.get(tensor.name, ())) for tensor in self._tensors}
        feeds = dict(arrays)
        for indices, _ in asked.values():
            feeds |= indices
        outputs = self._runtime.compute(feeds)
        held, self.holds = self.holds or 0, None
        for tensor in self._tensors:
            tensor.add(outputs, asked[tensor.name][1])
        self._reached.add(outputs)
        self.holds = held + len(samples)

    def take(self) -> dict[str, TensorStatistics]:
        """The statistics of what was added since the last call, under ``REACHED`` those of all float tensors."""
        self.holds = None
        taken = {tensor.name: tensor.take() for tensor in self._tensors}
        taken[REACHED] = self._reached.take()
        self.holds = 0
        return taken

    def _found_shapes(self, model: ir.Model, data: Dataset) -> Shapes:
        """Tell every tensor its layout; the shapes of all batches, where they are needed to sample rows.

        They are found before the pass begins, so that no two sessions hold memory at a time.
        """
        names = {name: None for tensor in self._tensors for name in (tensor.name, tensor.unflattened) if name}
        with Shapes(model, list(names), alone=data.alone) as shapes:
            smallest = min((arrays for _, arrays in data.batches()), key=_values)
            seen = [_seen(shapes, smallest, data)]
            with suppress(DataError):  # a model that was traced with one length has no other
                seen += [_seen(shapes, other, data) for other in _of_another_length(data, smallest)]
            for tensor in self._tensors:
                tensor.settle(seen)
            if self._shares[0] and any(tensor.needs_shape for tensor in self._tensors):
                for _, arrays in data.batches():
                    shapes.of(arrays)
        return shapes

    def __enter__(self) -> "Collector":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Free the session."""
        self._runtime.close()


def positions(data: Dataset) -> int:
    """Number of positions that count: real tokens where there is a mask, samples otherwise."""
    if data.mask is None:
        return len(data)
    return sum(int(np.count_nonzero(chunk[data.mask])) for chunk in data.chunks)


def _seen(shapes: Shapes, arrays: Arrays, data: Dataset) -> tuple[dict[str, Shape], Shape | None]:
    """The shapes of all tensors and of the mask, if there is one, in a batch of two: no shape is that of one sample.

    Of three where there are two positions: the axes of the mask must differ in size for their order to be told. Of one
    where the model takes no more.
    """
    mask = data.mask
    few = first(arrays, 3 if mask is not None and arrays[mask].shape[1] == 2 else 2) if not data.alone else arrays
    return shapes.of(few), few[mask].shape if mask is not None else None


def _note_order(tensors: list[Observed], progress: Progress) -> None:
    if untold := [tensor.name for tensor in tensors if tensor.sequence_first is None]:
        more = ", …" if len(untold) > SHOWN else ""
        progress.note(
            f"{len(untold)} of {len(tensors)} tensors ({', '.join(untold[:SHOWN])}{more}) hold batch and sequence in "
            "one axis, and the graph does not tell which goes first: taken as [batch, sequence]. If it is the other "
            "way, their padding is counted; export the model with batch_first=True"
        )


def _of_another_length(data: Dataset, arrays: Arrays) -> list[Arrays]:
    """The smallest batch with another number of positions than ``arrays``, or these without their last position.

    In batches of one length a tensor may have as many rows as there are positions by chance. None is left to tell where
    there is no mask, the model's sequence is fixed, or all data are single tokens.
    """
    if (mask := data.mask) is None:
        return []
    others = (other for _, other in data.batches() if other[mask].shape[1] != arrays[mask].shape[1])
    other = min(others, key=_values, default=None) or data.shortened(arrays)
    return [] if other is None else [other]


def _values(arrays: Mapping[str, np.ndarray[tuple[int, ...], np.dtype[np.generic]]]) -> int:
    return sum(array.size for array in arrays.values())
