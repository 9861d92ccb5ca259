"""Statistics as plain arrays and back, to the bit: to be sent between processes, or kept in a file."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Iterator, Mapping
from itertools import chain
from typing import IO, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from calib8.calibration.sample import RowSample, Spool
from calib8.calibration.statistics import Histogram, TensorStatistics
from calib8.graph.window import Window

#: Name -> array, as ``np.savez`` takes it.
State: TypeAlias = Mapping[str, NDArray[Any]]
#: Stands for the exponent of a histogram that has none yet.
NONE = np.iinfo(np.int64).min
#: Of a ``Window``, in the order in which they are kept.
FIELDS = ("kernel", "strides", "dilations", "before", "after")


def to_state(statistics: Mapping[str, TensorStatistics]) -> dict[str, NDArray[Any]]:
    """``statistics`` by tensor name as arrays."""
    return dict(_arrays(statistics))


def from_state(state: State, spool: Spool | None = None) -> dict[str, TensorStatistics]:
    """What ``to_state`` was given; the rows of all tensors are kept in ``spool``."""
    spool = spool or Spool()
    return {str(name): _tensor(state, str(number), spool) for number, name in enumerate(state["names"])}


def to_bytes(statistics: Mapping[str, TensorStatistics]) -> bytes:
    """``statistics`` as an ``.npz`` file."""
    stream = io.BytesIO()
    save(statistics, stream)
    return stream.getvalue()


def from_bytes(content: bytes) -> dict[str, TensorStatistics]:
    """What ``to_bytes`` was given."""
    return load(io.BytesIO(content))


def save(statistics: Mapping[str, TensorStatistics], stream: IO[bytes], **more: NDArray[Any]) -> None:
    """Write an ``.npz`` file, one array at a time: the rows of all tensors may be more than memory holds.

    ``more`` are arrays beside, with names of their own, which ``load`` passes over.
    """
    with zipfile.ZipFile(stream, "w") as archive:
        for name, array in chain(more.items(), _arrays(statistics)):
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                np.lib.format.write_array(member, array, allow_pickle=False)


def load(stream: IO[bytes], spool: Spool | None = None) -> dict[str, TensorStatistics]:
    """What ``save`` wrote."""
    with np.load(stream, allow_pickle=False) as archive:
        return from_state(archive, spool)


def _arrays(statistics: Mapping[str, TensorStatistics]) -> Iterator[tuple[str, NDArray[Any]]]:
    """Tensors go by their number, since names can be anything."""
    yield "names", np.array(list(statistics), np.str_)
    for number, seen in enumerate(statistics.values()):
        yield f"{number}.range", np.array([seen.minimum, seen.maximum], np.float64)
        for kind, histogram in (("values", seen.values), ("rows", seen.rows)):
            yield from _histogram(f"{number}.{kind}", histogram)
        if seen.channel_minimum is not None and seen.channel_maximum is not None:
            yield f"{number}.channels", np.stack([seen.channel_minimum, seen.channel_maximum])
        for place, (window, sample) in enumerate(seen.samples.items()):
            key = f"{number}.sample.{place}"
            sizes = () if window is None else tuple(getattr(window, field) for field in FIELDS)
            yield f"{key}.window", np.array(sizes, np.int64)
            yield from _rows(key, sample)


def _tensor(state: State, number: str, spool: Spool) -> TensorStatistics:
    seen = TensorStatistics(spool)
    seen.minimum, seen.maximum = map(float, state[f"{number}.range"])
    seen.values, seen.rows = (_restored(state, f"{number}.{kind}") for kind in ("values", "rows"))
    if f"{number}.channels" in state:
        seen.channel_minimum, seen.channel_maximum = state[f"{number}.channels"]
    place = 0
    while (key := f"{number}.sample.{place}") + ".window" in state:
        sizes = state[f"{key}.window"].tolist()
        _restore_rows(seen.sample(Window(*map(tuple, sizes)) if sizes else None), state, key)
        place += 1
    return seen


def _histogram(key: str, histogram: Histogram) -> Iterator[tuple[str, NDArray[Any]]]:
    """Most bins are empty: those that are not, and how many values they hold."""
    bins = np.flatnonzero(histogram.counts)
    yield f"{key}.exponent", np.array(NONE if histogram.exponent is None else histogram.exponent, np.int64)
    yield f"{key}.counts", np.stack([bins, histogram.counts[bins]])


def _restored(state: State, key: str) -> Histogram:
    histogram, exponent = Histogram(), int(state[f"{key}.exponent"])
    histogram.exponent = None if exponent == NONE else exponent
    bins, counts = state[f"{key}.counts"]
    histogram.counts[bins] = counts
    return histogram


def _rows(key: str, sample: RowSample) -> Iterator[tuple[str, NDArray[Any]]]:
    """The rows as they are kept: as float32 they would not all come back to the bit."""
    if parts := sample.parts:
        yield f"{key}.rows", np.concatenate([sample.read(part) for part in parts])
        yield f"{key}.exponents", np.concatenate([part.exponents for part in parts])
        yield f"{key}.coordinates", np.concatenate([part.coordinates for part in parts])


def _restore_rows(sample: RowSample, state: State, key: str) -> None:
    if f"{key}.rows" in state:
        exponents = state[f"{key}.exponents"]
        sample.add(state[f"{key}.rows"], exponents.reshape(-1), state[f"{key}.coordinates"])
