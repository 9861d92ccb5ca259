"""Rows at hand as statistics: what the reductions in the graph do, in NumPy."""

import numpy as np

from calib8.calibration.statistics import TensorStatistics
from calib8.graph.window import Window


def add_rows(seen: TensorStatistics, rows: np.ndarray) -> None:
    """Add ``rows`` [n, values per row], values counted too."""
    rows = np.asarray(rows, np.float32)
    power = np.square(rows, dtype=np.float64).mean(axis=1)
    seen.add(rows.min(axis=0), rows.max(axis=0), np.sqrt(power).astype(np.float32))
    seen.values.add(np.abs(rows))


def keep(seen: TensorStatistics, rows: np.ndarray, window: object = None) -> None:
    """Sample ``rows``, as those of samples that come after the ones that are kept."""
    sample = seen.sample(window)
    numbers = len(sample) + np.arange(len(rows))
    sample.add(*halves(np.asarray(rows, np.float32)), np.stack([numbers, np.zeros_like(numbers)], axis=1))


def halves(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """``rows`` as a sample takes them: float16, and the exponents of the powers of two that they are over."""
    exponents = np.frexp(np.abs(rows).max(axis=1, initial=0))[1]
    return np.ldexp(rows, -exponents[:, None]).astype(np.float16), exponents


def patches(window: Window, x: np.ndarray, chosen: np.ndarray) -> np.ndarray:
    """What the ``chosen`` outputs see of ``x`` through ``window``, zeros for padding."""
    index = window.indices(x.shape, chosen)
    return np.where(index < 0, np.float32(0), x.reshape(-1)[index])
