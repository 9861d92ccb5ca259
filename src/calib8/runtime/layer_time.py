"""What one layer of an engine takes."""

from dataclasses import dataclass

from calib8.engine.layers import Layer


@dataclass(frozen=True)
class LayerTime:
    """A layer, how often a run launches it, and what that takes in all: milliseconds, the median over runs.

    A layer that the plan does not tell of has its name only.
    """

    layer: Layer
    launches: int
    ms: float
