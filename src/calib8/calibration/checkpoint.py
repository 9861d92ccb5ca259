"""What a pass has done so far, in a folder: a killed run goes on there, and finds what it would have found.

Statistics merge exactly, so it matters neither where the pass was interrupted nor who did which of its batches.
"""

import time
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from calib8.calibration import state
from calib8.calibration.sample import Spool
from calib8.calibration.statistics import TensorStatistics
from calib8.data.batching import Dataset
from calib8.files import atomic
from calib8.progress import Progress
from calib8.resume import is_whole, unfinished_step

#: Seconds of work that a killed process may lose.
INTERVAL = 20.0


@contextmanager
def checkpoint(unfinished: Path | None, key: Mapping[str, object], progress: Progress) -> Iterator["Checkpoint | None"]:
    """That of the pass which ``key`` tells from others, in the folder of all ``unfinished`` work; None without one."""
    if unfinished is None:
        yield None
        return
    with unfinished_step(unfinished / "pass", key, progress) as folder:
        yield Checkpoint(folder)


class Checkpoint:
    """Parts of the pass in ``folder``: statistics, and the numbers of the batches they are of."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._kept_at = folder, time.monotonic()
        for part in self._parts():
            if not is_whole(part):  # its batches are done again
                part.unlink()

    @property
    def due(self) -> bool:
        """Whether it is time to keep what was done since the last time."""
        return time.monotonic() - self._kept_at > INTERVAL

    def done(self) -> set[int]:
        """The batches that are done."""
        return {number for part in self._parts() for number in _done(part)}

    def keep(self, done: Collection[int], statistics: Mapping[str, TensorStatistics]) -> None:
        """Keep the ``statistics`` of the batches ``done`` since the last call."""
        number = max((int(part.stem.rpartition("-")[2]) for part in self._parts()), default=-1) + 1
        with atomic(self._folder / f"part-{number:08d}.npz") as temporary, temporary.open("wb") as stream:
            state.save(statistics, stream, done=np.array(sorted(done), np.int64))
        self._kept_at = time.monotonic()

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
        return sorted(self._folder.glob("part-*.npz"))


def resumed(kept: Checkpoint | None, data: Dataset, progress: Progress) -> tuple[set[int], int]:
    """The batches of ``data`` that are done, and the number of samples in them; ``progress`` is told."""
    known = kept.done() if kept is not None else set()
    done = sum(len(group.rows) for number, group in enumerate(data.groups()) if number in known)
    progress.update("calibrate", done, len(data))
    if known:
        progress.note(f"going on where an earlier run stopped: {done} of {len(data)} samples are done")
    return known, done


def _done(part: Path) -> list[int]:
    with np.load(part, allow_pickle=False) as arrays:
        return [int(number) for number in arrays["done"]]
