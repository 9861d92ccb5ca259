"""A quantised engine against a float one on this machine's GPU: whether quantising was worth it here."""

import math
from collections.abc import Iterator
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

from calib8.data.batching import Dataset
from calib8.engine.profiles import profile_sets
from calib8.engine.sidecar import Sidecar, describe_engine
from calib8.errors import DataError
from calib8.progress import Progress
from calib8.runtime.open import open_artefact
from calib8.verification.bench import Cell, Workload, measure, shape_of
from calib8.verification.config import Bench

#: Time for each engine and shape, and the ratio from which on one engine is told to be faster or slower than another.
SECONDS, NOTICED = 0.5, 0.02


class GpuSpeed(BaseModel):
    """What ``race_on_gpu`` found: one or more ``cells``, which have the float engine first. ``runtime`` names TensorRT
    and the GPU."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    runtime: str
    baseline: str
    engine: str
    cells: tuple[Cell, ...] = Field(min_length=1)
    #: Tensors that FP16 does not hold (``Ranges.beyond``), which are FP32 in both engines.
    unheld: int = 0

    def ratio(self, cell: Cell) -> float:
        """How many times faster the quantised engine computes."""
        return cell.gpu_ratio(self.engine) or cell.ratio(self.engine)

    @property
    def kept(self) -> str | None:
        """What is not FP16 in the float engine, if anything is not."""
        if not self.unheld:
            return None
        return f"FP16 does not hold {self.unheld} of the model's tensors (ranges.json): FP32 in both engines."

    @property
    def faster(self) -> bool:
        """Whether the quantised engine is, over all shapes: by the geometric mean of the ratios."""
        return math.prod(map(self.ratio, self.cells)) > 1

    @property
    def slower(self) -> tuple[Cell, ...]:
        """Where it is slower."""
        return tuple(cell for cell in self.cells if self.ratio(cell) < 1 - NOTICED)

    def told(self, cells: tuple[Cell, ...]) -> str:
        """``1.19x at 32x128, 1.30x at 64x384``."""
        return ", ".join(f"{self.ratio(cell):.2f}x at {cell.shape}" for cell in cells)


def race_on_gpu(baseline: Path, engine: Path, dataset: Dataset, progress: Progress) -> GpuSpeed | None:
    """Time both by turns over data like that of ``dataset``, in the usual shape of each profile and the largest of all.

    A shape that such data cannot have is a note; None if all are. Raises ``SetupError`` where one of the engines
    cannot be run.
    """
    workload = Workload(dataset)
    with open_artefact(baseline) as slow, open_artefact(engine) as fast:
        opened = {baseline.name: slow, engine.name: fast}
        cells: list[Cell] = []
        for batch, length in shapes_of(engine, dataset, workload):
            config = Bench(batches=(batch,), lengths=(length,) if length else (), seconds=SECONDS)
            try:
                cells += measure(opened, dataset, config, progress)
            except DataError as error:  # another profile is for images of another size, say
                progress.note(f"nothing was timed at {shape_of(batch, length)}: {error}")
        runtime = fast.description
    return GpuSpeed(runtime=runtime, baseline=baseline.name, engine=engine.name, cells=tuple(cells)) if cells else None


def shapes_of(engine: Path, dataset: Dataset, workload: Workload) -> list[tuple[int, int | None]]:
    """Where ``engine`` is timed: the usual batch and length of each profile, and the largest of all."""
    return list(dict.fromkeys(_shapes(describe_engine(engine), dataset, workload.sequence is not None)))


def _shapes(sidecar: Sidecar, dataset: Dataset, sequences: bool) -> Iterator[tuple[int, int | None]]:
    """Batch and length, None where the model has no sequence, of the input whose shape is that of a batch.

    Of a model that takes one sample at a time that one; of an engine without profiles the batch that it has.
    """
    if dataset.alone:
        yield 1, None
        return
    of_batch = [profiles[dataset.leading] for profiles in profile_sets(sidecar.profiles) if dataset.leading in profiles]
    shapes = [*(profile.opt for profile in of_batch), max((profile.max for profile in of_batch), default=())]
    if not of_batch:
        shapes = [tensor.shape for tensor in sidecar.tensors if tensor.name == dataset.leading]
    for shape in filter(None, shapes):
        yield shape[0], shape[1] if sequences else None
