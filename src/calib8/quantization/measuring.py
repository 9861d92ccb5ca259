"""Measurements of the model's own output with any set of its ops quantised, each made once."""

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from calib8.progress import Progress
from calib8.quantization.known import Known
from calib8.quantization.probe import Probe
from calib8.quantization.switchboard import Switchboard

#: Standard errors beyond which a few samples leave no doubt.
SURE = 3.0


class Measuring:
    """Scores of a switchboard under a probe, each set of ops measured once; those ``known`` are not measured again."""

    def __init__(self, board: Switchboard, probe: Probe, known: Known | None = None) -> None:
        self.board, self.probe = board, probe
        self._known = known if known is not None else Known(None)

    def __len__(self) -> int:
        return len(self._known)

    def scores(self, int8: Iterable[str], samples: int | None = None) -> NDArray[np.float64]:
        """Score of each sample with the ops named in ``int8`` quantised; see ``Probe.scores``."""
        names = frozenset(int8)

        def measured() -> Iterable[float]:
            self.board.int8 = names
            return self.probe.scores(self.board, samples)

        asked = sorted(names) if samples is None else [samples, *sorted(names)]
        return np.array(self._known.numbers(asked, measured))

    def score(self, int8: Iterable[str]) -> float:
        """Their mean."""
        return float(self.scores(int8).mean())

    def damage(self, int8: Iterable[str], limit: float) -> float:
        """What the mean score loses with ``int8`` quantised: of all samples, or of the first few, where these leave no
        doubt on which side of ``limit`` it is."""
        names, whole, few = frozenset(int8), self.scores(()), self.probe.few
        if not self.probe.counts and 1 < few <= len(whole) / 2:
            lost = whole[:few] - self.scores(names, few)
            if abs(lost.mean() - limit) > SURE * lost.std(ddof=1) / np.sqrt(few):
                return float(lost.mean())
        return float(whole.mean() - self.scores(names).mean())


def costs_alone(measuring: Measuring, progress: Progress) -> dict[str, float]:
    """What each op alone takes from the score that all ops in float leave."""
    names, base = measuring.board.names, measuring.score(())
    costs = {}
    progress.update("sensitivity", 0, len(names))
    for done, name in enumerate(names, start=1):
        costs[name] = base - measuring.score({name})
        progress.update("sensitivity", done, len(names))
    return costs
