"""Measurements of the model's own output with any set of its ops quantised, each made once."""

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from calib8.progress import Progress
from calib8.quantization.known import Known
from calib8.quantization.probe import Probe
from calib8.quantization.switchboard import Switchboard


class Measuring:
    """Scores of a switchboard under a probe, each set of ops measured once; those ``known`` are not measured again."""

    def __init__(self, board: Switchboard, probe: Probe, known: Known | None = None) -> None:
        self.board, self.probe = board, probe
        self._known = known if known is not None else Known(None)

    def __len__(self) -> int:
        return len(self._known)

    def scores(self, int8: Iterable[str]) -> NDArray[np.float64]:
        """Score of each sample with the ops named in ``int8`` quantised."""
        names = frozenset(int8)

        def measured() -> Iterable[float]:
            self.board.int8 = names
            return self.probe.scores(self.board)

        return np.array(self._known.numbers(sorted(names), measured))

    def score(self, int8: Iterable[str]) -> float:
        """Their mean."""
        return float(self.scores(int8).mean())


def costs_alone(measuring: Measuring, progress: Progress) -> dict[str, float]:
    """What each op alone takes from the score that all ops in float leave."""
    names, base = measuring.board.names, measuring.score(())
    costs = {}
    progress.update("sensitivity", 0, len(names))
    for done, name in enumerate(names, start=1):
        costs[name] = base - measuring.score({name})
        progress.update("sensitivity", done, len(names))
    return costs
