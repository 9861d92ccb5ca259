"""Calibration over a Ray cluster: the ranges that one machine would find, to the bit.

A share is some batches of the one data set, cut as they are everywhere. Statistics merge exactly, in any order.
"""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import onnx_ir as ir

from calib8.calibration import one_pass, state
from calib8.calibration.checkpoint import Checkpoint, checkpoint, resumed
from calib8.calibration.collect import Collector
from calib8.calibration.config import Calibrate
from calib8.calibration.observers import observer_for
from calib8.calibration.origin import origin_of, pass_key
from calib8.calibration.reached import Statistics
from calib8.calibration.statistics import TensorStatistics
from calib8.cluster.config import Ray
from calib8.cluster.session import connected
from calib8.cluster.spread import Item, Worker, spread
from calib8.data.batching import Dataset
from calib8.data.sources import Source
from calib8.errors import SetupError
from calib8.graph.dataset import dataset_for
from calib8.graph.io import SOURCE_SHA256, load
from calib8.graph.left_out import require_weighted_ops
from calib8.passes.prepare import prepare
from calib8.progress import Progress, Quiet
from calib8.provenance import Origin

#: Batches of a share: seconds of work, so that little is done again when a worker is lost.
SHARE = 8


def calibrate_over(  # noqa: PLR0913
    cluster: Ray,
    path: Path,
    model: ir.Model,
    data: Dataset,
    config: Calibrate,
    origin: Origin,
    progress: Progress,
    *,
    sample: int = 0,
    unfinished: Path | None = None,
) -> one_pass.Calibration:
    """What ``one_pass.calibrate`` finds, the forward passes on ``cluster``; either goes on where the other stopped.

    Workers open the ``model`` at ``path``, and data that are files, at the same paths as here. Raises ``SetupError`` if
    what they find there, or the versions of their packages, are not those of this machine.
    """
    require_weighted_ops(model)
    histograms = observer_for(config.observer, config.percentile).histogram
    with checkpoint(unfinished, pass_key(origin, sample, histograms), progress) as kept:
        own = origin_of(origin.model_sha256, data.fingerprint, config)  # less what is of the caller alone
        open_worker = partial(Observation, path, data.source, config, own, sample, cluster.cpus)
        statistics = Statistics(_merged(cluster, open_worker, data, progress, kept))
    return one_pass.Calibration(one_pass.ranges_of(model, statistics, data, config, origin, progress), statistics)


def _merged(
    cluster: Ray, open_worker: Callable[[], Worker], data: Dataset, progress: Progress, kept: Checkpoint | None
) -> dict[str, TensorStatistics]:
    """The statistics of all batches: those that were kept, and those of the cluster."""
    known, done = resumed(kept, data, progress)
    if kept is not None and done == len(data):
        return kept.merged()
    sizes = [len(group.rows) for group in data.groups()]
    todo = [number for number in range(len(sizes)) if number not in known]
    shares = [todo[first : first + SHARE] for first in range(0, len(todo), SHARE)]
    merged: dict[str, TensorStatistics] = {}
    added: list[int] = []
    with connected(cluster):
        for number, content in spread(cluster, open_worker, [{"batches": share} for share in shares]):
            for name, seen in state.from_bytes(content).items():
                merged.setdefault(name, TensorStatistics()).merge(seen)
            added += shares[number]
            done += sum(sizes[batch] for batch in shares[number])
            progress.update("calibrate", done, len(data))
            if kept is not None and (kept.due or done == len(data)):
                kept.keep(added, merged)
                merged, added = {}, []
    return merged if kept is None else kept.merged()


class Observation:
    """A worker: opens the model once, and takes statistics of any share."""

    def __init__(
        self, path: Path, source: Source, config: Calibrate, origin: Origin, sample: int, threads: int
    ) -> None:
        model = prepare(load(path))
        found = origin_of(model.metadata_props[SOURCE_SHA256], source.fingerprint(), config)
        if changes := origin.changes(found):
            raise SetupError(
                f"a worker of the Ray cluster has another state of {', '.join(changes)} than this machine. Give all "
                "machines the same files and packages."
            )
        self._data = dataset_for(model, source, Quiet())
        histograms = observer_for(config.observer, config.percentile).histogram
        self._collector = Collector(
            model, self._data, sample=sample, histograms=histograms, tensors=config.tensors, threads=threads
        )

    def __call__(self, item: Item) -> bytes:
        """The statistics of the ``batches`` with these numbers."""
        groups = self._data.groups()
        for number in item["batches"]:
            self._collector.add(*self._data.batch(groups[number]))
        return state.to_bytes(self._collector.take())
