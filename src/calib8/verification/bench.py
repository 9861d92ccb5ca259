"""Latency and throughput of several forms of one model: batches x lengths, by turns, against the first."""

import functools
import math
import statistics
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from calib8.data.batching import Dataset
from calib8.data.inputs import Arrays
from calib8.errors import ConfigError
from calib8.numerics import cosine_rows
from calib8.progress import Progress
from calib8.runtime.base import Runtime
from calib8.runtime.run_all import filled_up
from calib8.verification.config import Bench
from calib8.verification.speed import Latency, by_turns, latency_of

#: Times that the GPU's clock is read of each engine and shape.
ROUNDS = 7


def shape_of(batch: int, length: int | None) -> str:
    """``32x128``, or the batch alone."""
    return str(batch) if length is None else f"{batch}x{length}"


class Cell(BaseModel):
    """One shape of batch: ``length`` is None where the model has no sequence; a latency for each artefact."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    batch: int
    length: int | None
    latencies: dict[str, Latency]

    @property
    def shape(self) -> str:
        """See ``shape_of``."""
        return shape_of(self.batch, self.length)

    def ratio(self, name: str) -> float:
        """How many times faster ``name`` is than the first."""
        first = next(iter(self.latencies.values()))
        return self.latencies[name].samples_per_second / first.samples_per_second

    def gpu_ratio(self, name: str) -> float | None:
        """How many times faster ``name`` is on the GPU than the first engine; None on the CPU."""
        found = {engine: one.gpu_ms for engine, one in self.latencies.items() if one.gpu_ms}
        return next(iter(found.values())) / found[name] if name in found else None


def largest(cells: Sequence[Cell]) -> Cell:
    """The one with most positions, of one or more."""
    return max(cells, key=lambda cell: cell.batch * (cell.length or 1))


def measure(runtimes: Mapping[str, Runtime], dataset: Dataset, config: Bench, progress: Progress) -> tuple[Cell, ...]:
    """Run all shapes on all runtimes once, so that one that does not fit is told at once; then measure them.

    What takes no batch so small is given a larger one, which takes the time that it takes: the rows asked for count.
    """
    workload = Workload(dataset)
    batches = (1,) if dataset.alone else config.batches
    shapes = [(batch, length) for batch in batches for length in workload.lengths(config.lengths)]
    feeds = {
        shape: {
            name: arrays if dataset.alone else filled_up(runtime, arrays, dataset.leading)
            for name, runtime in runtimes.items()
        }
        for shape, arrays in ((shape, workload.batch(*shape)) for shape in shapes)
    }
    progress.update("measure speed", 0, len(feeds))  # the warm-up is part of it
    cosines = {shape: _cosines(runtimes, arrays, shape[0], config.warm_up) for shape, arrays in feeds.items()}
    cells = []
    for shape, arrays in feeds.items():
        works = {name: functools.partial(runtime.run, arrays[name]) for name, runtime in runtimes.items()}
        taken = by_turns(works, least=config.least, seconds=config.seconds * len(works))
        computing = _on_gpu(runtimes, arrays)
        latencies = {
            name: latency_of(seconds, shape[0]).model_copy(
                update={"gpu_ms": computing.get(name), "cosine": cosines[shape].get(name)}
            )
            for name, seconds in taken.items()
        }
        cells.append(Cell(batch=shape[0], length=shape[1], latencies=latencies))
        progress.update("measure speed", len(cells), len(feeds))
    return tuple(cells)


def _cosines(
    runtimes: Mapping[str, Runtime], feeds: Mapping[str, Arrays], rows: int, runs: int
) -> dict[str, float | None]:
    """Run all ``runs`` times, then tell the mean cosine of rows to those of the first runtime, of the worst output."""
    first: Arrays | None = None
    found = {}
    for name, runtime in runtimes.items():
        for _ in range(runs):
            outputs = runtime.run(feeds[name])
        first = first or outputs
        found[name] = _closest(first, outputs, rows)
    return found


def _closest(reference: Arrays, outputs: Arrays, rows: int) -> float | None:
    """None for outputs that cannot be compared: others, of another size, no numbers."""
    if {name: array.shape[1:] for name, array in reference.items()} != {
        name: array.shape[1:] for name, array in outputs.items()
    }:
        return None
    pairs = ((_vectors(reference[name], rows), _vectors(outputs[name], rows)) for name in reference)
    worst = min(float(cosine_rows(*pair).mean()) for pair in pairs)
    return worst if math.isfinite(worst) else None


def _vectors(output: NDArray[np.generic], rows: int) -> NDArray[np.float64]:
    """A vector for each row; of [batch, sequence, width] the mean of all positions, none of which is padding here."""
    kept = np.asarray(output[:rows], np.float64)
    return kept.mean(axis=1) if kept.ndim == 3 else kept.reshape(len(kept), -1)


def _on_gpu(runtimes: Mapping[str, Runtime], arrays: Mapping[str, Arrays]) -> dict[str, float]:
    """What the GPU computes for on one run of each engine, by turns, too: the median of ``ROUNDS``."""
    rounds = [
        {name: runtime.gpu_ms(arrays[name]) for name, runtime in runtimes.items() if runtime.on_gpu}
        for _ in range(ROUNDS)
    ]
    return {name: statistics.median(taken[name] for taken in rounds) for name in rounds[0]}


class Workload:
    """Batches of any size and length made of the samples of ``dataset``, without padding."""

    def __init__(self, dataset: Dataset) -> None:
        self.specs, self.mask_name, self.alone = dataset.specs, dataset.mask, dataset.alone
        self.chunk = dataset.chunks[0]
        mask = next((spec for spec in dataset.specs if spec.name == dataset.mask), None)
        free = mask is not None and isinstance(mask.shape[1], str) and not dataset.alone
        self.sequence = mask.shape[1] if mask is not None and free else None

    def lengths(self, asked: Sequence[int]) -> tuple[int | None, ...]:
        """The lengths to measure. Raises ``ConfigError`` if some were asked for and the model has no sequence."""
        if self.sequence is None:
            if asked:
                raise ConfigError(
                    f"lengths {', '.join(map(str, asked))} were asked for, but the model has no attention_mask with a "
                    "dynamic length: its samples have the length they have. Leave --lengths away."
                )
            return (None,)
        return tuple(asked) or (int(np.median((self._mask() != 0).sum(axis=1))),)

    def batch(self, size: int, length: int | None) -> Arrays:
        """``size`` samples, repeated if there are fewer; each one's own positions repeated up to ``length``."""
        rows = np.resize(np.arange(len(next(iter(self.chunk.values())))), size)
        if self.alone:
            return {spec.name: np.asarray(self.chunk[spec.name][rows])[0] for spec in self.specs}
        if length is None:
            return {spec.name: np.asarray(self.chunk[spec.name][rows]) for spec in self.specs}
        positions = [np.resize(np.flatnonzero(self._mask()[row]), length) for row in rows]
        arrays: Arrays = {}
        for spec in self.specs:
            axes = tuple(axis - 1 for axis, dim in enumerate(spec.shape) if axis and dim == self.sequence)
            chosen = zip(rows, positions, strict=True)
            samples = [_along(np.asarray(self.chunk[spec.name][row]), axes, taken) for row, taken in chosen]
            arrays[spec.name] = np.ascontiguousarray(np.stack(samples))
        return arrays

    def _mask(self) -> NDArray[np.generic]:
        return np.asarray(self.chunk[self.mask_name or ""])


def _along(sample: NDArray[np.generic], axes: Sequence[int], positions: NDArray[np.int64]) -> NDArray[np.generic]:
    for axis in axes:
        sample = sample.take(positions, axis=axis)
    return sample
