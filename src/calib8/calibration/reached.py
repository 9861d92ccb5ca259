"""How far every float tensor of a model goes: what FP16 has to hold of what is not quantised.

Two numbers of a tensor come out of a batch, and all tensors together are the channels of one ``TensorStatistics``: so
they are merged, kept and sent as all others are. Positions of padding count, since FP16 computes them, too.
"""

from collections.abc import Mapping

import numpy as np
import onnx_ir as ir

from calib8.calibration.reductions import PREFIX, Reductions
from calib8.calibration.statistics import TensorStatistics
from calib8.data.inputs import Arrays
from calib8.graph.values import name_of
from calib8.passes.reach import Reach, observable, unfit_for_half

#: The name under which the statistics are.
REACHED = f"{PREFIX}reached"


class Reached:
    """The extremes of all ``observable`` tensors of the prepared ``model``, of which ``graph`` is to compute them."""

    def __init__(self, model: ir.Model, graph: Reductions) -> None:
        names = [name_of(value) for value in observable(model)]
        self._outputs = graph.extremes(names) if names else None
        self._seen = TensorStatistics()

    def add(self, outputs: Arrays) -> None:
        """Keep what came out of a batch; what is NaN stays so."""
        if self._outputs is not None:
            low, high = (np.asarray(outputs[name], np.float32) for name in self._outputs)
            self._seen.add(low, high, np.zeros(0, np.float32))

    def take(self) -> TensorStatistics:
        """What was added since the last call."""
        taken, self._seen = self._seen, TensorStatistics()
        return taken


class Statistics(dict[str, TensorStatistics]):
    """What a pass found: statistics by tensor name, and beside them how far all ``observable`` tensors go."""

    def __init__(self, found: Mapping[str, TensorStatistics]) -> None:
        super().__init__(found)
        self.reached = self.pop(REACHED, None)


def unfit(model: ir.Model, statistics: Statistics) -> dict[str, Reach]:
    """What FP16 does not hold of the tensors of ``model``, see ``passes.reach``."""
    return unfit_for_half(model, reaches(model, statistics.reached))


def reaches(model: ir.Model, seen: TensorStatistics | None) -> dict[str, Reach]:
    """Tensor name -> its extremes, of all ``observable`` tensors of ``model`` that had values and finite ones only."""
    if seen is None or seen.channel_minimum is None or seen.channel_maximum is None:
        return {}
    pairs = zip(observable(model), seen.channel_minimum, seen.channel_maximum, strict=True)
    return {
        name_of(value): Reach(minimum=float(low), maximum=float(high))
        for value, low, high in pairs
        if np.isfinite(low) and np.isfinite(high) and low <= high
    }
