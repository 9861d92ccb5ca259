"""What a pass has done so far, in a folder: a killed run goes on there, and finds what it would have found.

Statistics merge exactly, so it does not matter where the pass was interrupted.
"""

from collections.abc import Mapping
from pathlib import Path

from calib8.calibration import state
from calib8.calibration.sample import Spool
from calib8.calibration.statistics import TensorStatistics
from calib8.files import atomic


class Checkpoint:
    """Parts of the pass in ``folder``, see ``files.unfinished_folder``; each named by the number of batches done."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    @property
    def batches(self) -> int:
        """How many batches are done."""
        return max((int(part.stem.removeprefix("batch-")) for part in self._parts()), default=0)

    def keep(self, batches: int, statistics: Mapping[str, TensorStatistics]) -> None:
        """Keep the ``statistics`` of the batches since the last call, with which that many are done."""
        with atomic(self._folder / f"batch-{batches:08d}.npz") as temporary, temporary.open("wb") as stream:
            state.save(statistics, stream)

    def merged(self) -> dict[str, TensorStatistics]:
        """The statistics of everything that is done."""
        spool = Spool()
        merged: dict[str, TensorStatistics] = {}
        for part in self._parts():
            with part.open("rb") as stream:
                for name, seen in state.load(stream).items():
                    merged.setdefault(name, TensorStatistics(spool)).merge(seen)
        return merged

    def _parts(self) -> list[Path]:
        return sorted(self._folder.glob("batch-*.npz"))
