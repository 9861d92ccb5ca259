"""A quantised engine against a float one on this machine's GPU: whether quantising was worth it here."""

from collections.abc import Iterator
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from calib8.data.batching import Dataset
from calib8.engine.profiles import profile_sets
from calib8.engine.sidecar import Sidecar, describe_engine
from calib8.progress import Progress
from calib8.runtime.open import open_artefact
from calib8.verification.bench import Cell, Workload, measure
from calib8.verification.config import Bench

#: Time for each engine and shape, and the ratio from which on one engine is told to be faster or slower than another.
SECONDS, NOTICED = 0.5, 0.02


class GpuSpeed(BaseModel):
    """What ``race_on_gpu`` found: ``cells`` have the float engine first. ``runtime`` names TensorRT and the GPU."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    runtime: str
    baseline: str
    engine: str
    cells: tuple[Cell, ...]

    def ratio(self, cell: Cell) -> float:
        """How many times faster the quantised engine computes."""
        return cell.gpu_ratio(self.engine) or cell.ratio(self.engine)

    @property
    def slower(self) -> tuple[Cell, ...]:
        """Where it is slower."""
        return tuple(cell for cell in self.cells if self.ratio(cell) < 1 - NOTICED)

    def told(self, cells: tuple[Cell, ...]) -> str:
        """``1.19x at 32x128, 1.30x at 64x384``."""
        return ", ".join(f"{self.ratio(cell):.2f}x at {cell.shape}" for cell in cells)


def race_on_gpu(baseline: Path, engine: Path, dataset: Dataset, progress: Progress) -> GpuSpeed:
    """Time both by turns over data like that of ``dataset``, in the usual shape of each profile and the largest of all.

    Raises ``SetupError`` where one of them cannot be run.
    """
    workload = Workload(dataset)
    with open_artefact(baseline) as slow, open_artefact(engine) as fast:
        opened = {baseline.name: slow, engine.name: fast}
        cells: list[Cell] = []
        for batch, length in dict.fromkeys(_shapes(describe_engine(engine), workload.sequence is not None)):
            config = Bench(batches=(batch,), lengths=(length,) if length else (), seconds=SECONDS)
            cells += measure(opened, dataset, config, progress)
        return GpuSpeed(runtime=fast.description, baseline=baseline.name, engine=engine.name, cells=tuple(cells))


def _shapes(sidecar: Sidecar, sequences: bool) -> Iterator[tuple[int, int | None]]:
    """Batch and length, None where the model has no sequence; of an engine without profiles the batch that it has."""
    sets = [profiles for profiles in profile_sets(sidecar.profiles) if profiles]
    first = [next(iter(profiles.values())) for profiles in sets]
    largest = max((profile.max for profile in first), default=())
    shapes = [*(profile.opt for profile in first), largest]
    if not first:
        shapes = [next(iter(tensor.shape for tensor in sidecar.tensors if tensor.mode == "input"))]
    for shape in filter(None, shapes):
        yield shape[0], shape[1] if sequences else None
