"""Observers: from what was seen of a tensor to the amax that its INT8 grid reaches. One small class each.

To add one: its class in a file of its own, and two lines here.
"""

from typing import Literal, TypeAlias

from calib8.calibration.observers.base import Observer
from calib8.calibration.observers.entropy import Entropy
from calib8.calibration.observers.min_max import MinMax
from calib8.calibration.observers.mse import Mse
from calib8.calibration.observers.percentile import Percentile
from calib8.errors import ConfigError

ObserverName: TypeAlias = Literal["minmax", "percentile", "mse", "entropy"]
OBSERVERS: dict[str, type[Observer]] = {kind.name: kind for kind in (MinMax, Percentile, Mse, Entropy)}


def observer_for(name: str, percentile: float = Percentile.percentile) -> Observer:
    """The observer of that name. Raises ``ConfigError`` that lists the valid names."""
    if not 50 < percentile <= 100:
        raise ConfigError(f"percentile {percentile}: expected more than 50 and at most 100, e.g. 99.99.")
    if name not in OBSERVERS:
        raise ConfigError(f"unknown observer {name!r}: expected one of {', '.join(OBSERVERS)}.")
    return Percentile(percentile) if name == Percentile.name else OBSERVERS[name]()
