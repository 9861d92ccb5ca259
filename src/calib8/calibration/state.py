"""Statistics as plain arrays and back, to the bit: to be sent between processes, or kept in a file."""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from calib8.calibration.sample import RowSample, Spool, _Part
from calib8.calibration.statistics import Histogram, TensorStatistics
from calib8.graph.window import Window

#: Name -> array, as ``np.savez`` takes it.
State: TypeAlias = Mapping[str, NDArray[Any]]
#: Stands for the exponent of a histogram that has none yet.
NONE = np.iinfo(np.int64).min
#: Of a ``Window``, in the order in which they are kept.
FIELDS = ("kernel", "strides", "dilations", "before", "after")


def to_state(statistics: Mapping[str, TensorStatistics]) -> dict[str, NDArray[Any]]:
    """``statistics`` by tensor name as arrays. Tensors go by their number, since names can be anything."""
    state: dict[str, NDArray[Any]] = {"names": np.array(list(statistics), np.str_)}
    for number, seen in enumerate(statistics.values()):
        state[f"{number}.range"] = np.array([seen.minimum, seen.maximum], np.float64)
        for kind, histogram in (("values", seen.values), ("rows", seen.rows)):
            state |= _histogram(f"{number}.{kind}", histogram)
        if seen.channel_minimum is not None and seen.channel_maximum is not None:
            state[f"{number}.channels"] = np.stack([seen.channel_minimum, seen.channel_maximum])
        for place, (window, sample) in enumerate(seen.samples.items()):
            key = f"{number}.sample.{place}"
            sizes = () if window is None else tuple(getattr(window, field) for field in FIELDS)
            state[f"{key}.window"] = np.array(sizes, np.int64)
            state |= _rows(key, sample)
    return state


def from_state(state: State, spool: Spool | None = None) -> dict[str, TensorStatistics]:
    """What ``to_state`` was given; the rows of all tensors are kept in ``spool``."""
    spool = spool or Spool()
    return {str(name): _tensor(state, str(number), spool) for number, name in enumerate(state["names"])}


def to_bytes(state: State) -> bytes:
    """``state`` as an ``.npz`` file."""
    stream = io.BytesIO()
    np.savez(stream, allow_pickle=False, **state)
    return stream.getvalue()


def from_bytes(content: bytes) -> State:
    """What ``to_bytes`` was given."""
    with np.load(io.BytesIO(content), allow_pickle=False) as archive:
        return dict(archive)


def _tensor(state: State, number: str, spool: Spool) -> TensorStatistics:
    seen = TensorStatistics(spool)
    seen.minimum, seen.maximum = map(float, state[f"{number}.range"])
    seen.values, seen.rows = (_restored(state, f"{number}.{kind}") for kind in ("values", "rows"))
    if f"{number}.channels" in state:
        seen.channel_minimum, seen.channel_maximum = state[f"{number}.channels"]
    place = 0
    while (key := f"{number}.sample.{place}") + ".window" in state:
        sizes = state[f"{key}.window"].tolist()
        _restore_rows(seen.sample(Window(*map(tuple, sizes)) if sizes else None), state, key, spool)
        place += 1
    return seen


def _histogram(key: str, histogram: Histogram) -> dict[str, NDArray[Any]]:
    """Most bins are empty: those that are not, and how many values they hold."""
    bins = np.flatnonzero(histogram.counts)
    exponent = np.array(NONE if histogram.exponent is None else histogram.exponent, np.int64)
    return {f"{key}.exponent": exponent, f"{key}.counts": np.stack([bins, histogram.counts[bins]])}


def _restored(state: State, key: str) -> Histogram:
    histogram, exponent = Histogram(), int(state[f"{key}.exponent"])
    histogram.exponent = None if exponent == NONE else exponent
    bins, counts = state[f"{key}.counts"]
    histogram.counts[bins] = counts
    return histogram


def _rows(key: str, sample: RowSample) -> dict[str, NDArray[Any]]:
    """The rows as they are kept: as float32 they would not all come back to the bit."""
    parts = sample._parts
    if not parts:
        return {}
    return {
        f"{key}.rows": np.concatenate([sample._read(part) for part in parts]),
        f"{key}.exponents": np.concatenate([part.exponents for part in parts]),
        f"{key}.coordinates": np.concatenate([part.coordinates for part in parts]),
    }


def _restore_rows(sample: RowSample, state: State, key: str, spool: Spool) -> None:
    if f"{key}.rows" in state:
        rows = state[f"{key}.rows"]
        part = _Part(spool.append(rows), rows.shape[1], state[f"{key}.exponents"], state[f"{key}.coordinates"])
        sample._parts.append(part)
