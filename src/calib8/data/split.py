"""Hold samples back: what is measured on must not be what was fitted."""

import hashlib
from collections.abc import Iterator

import numpy as np

from calib8.data.batching import Dataset
from calib8.data.inputs import Arrays, of_chunk, sample_count
from calib8.data.selected import selected
from calib8.data.sources import Source, fingerprint
from calib8.errors import DataError

#: Of this many samples one is held back.
EVERY = 8


class Part:
    """Every ``EVERY``-th sample of a source (``held_back``), or all the others."""

    def __init__(self, source: Source, *, held_back: bool) -> None:
        self.source = source
        self.held_back = held_back

    def chunks(self) -> Iterator[Arrays]:
        """The chunks of the source, cut down to this part, whose rows are read later; chunks left empty are dropped.

        Raises ``DataError`` if the arrays of a chunk hold different numbers of samples.
        """
        first = 0
        for chunk in self.source.chunks():
            count = sample_count(chunk)
            rows = np.flatnonzero(((np.arange(first, first + count) % EVERY) == EVERY - 1) == self.held_back)
            first += count
            if len(rows):
                yield of_chunk({name: selected(array, rows) for name, array in chunk.items()}, chunk)

    def fingerprint(self) -> str:
        """See ``Source``."""
        return fingerprint(self.chunks())


def split(source: Source) -> tuple[Part, Part]:
    """(to calibrate on, to measure on). Raises ``DataError`` if too few samples are there to hold any back."""
    kept, held = Part(source, held_back=False), Part(source, held_back=True)
    samples = sum(map(sample_count, held.chunks()))
    if samples < 3:
        raise DataError(
            f"{samples} samples would be held back to measure accuracy on; expected at least 3 (one in {EVERY}). "
            "Give more calibration data, or separate data with --held-out."
        )
    return kept, held


class First:
    """The first ``count`` samples of a source."""

    def __init__(self, source: Source, count: int) -> None:
        self.source = source
        self.count = count

    def chunks(self) -> Iterator[Arrays]:
        """The chunks of the source, until there are enough samples."""
        left = self.count
        for chunk in self.source.chunks():
            yield of_chunk({name: array[:left] for name, array in chunk.items()}, chunk)
            left -= sample_count(chunk)
            if left <= 0:
                return

    def fingerprint(self) -> str:
        """See ``Source``."""
        return fingerprint(self.chunks())


def shared(held_out: Dataset, fitted: Dataset) -> int:
    """How many samples of ``held_out`` are in ``fitted`` too, with the same tokens; 0 for a model without a mask."""
    if held_out.mask is None:
        return 0
    known = set(_contents(fitted))
    return sum(content in known for content in _contents(held_out))


def _contents(data: Dataset) -> Iterator[bytes]:
    """A hash of each sample, whatever its padding."""
    for chunk in data.chunks:
        mask = np.asarray(chunk[data.mask or ""]) != 0
        arrays = [np.asarray(chunk[spec.name]) for spec in data.specs]
        for sample, real in enumerate(mask):
            digest = hashlib.blake2b(digest_size=16)
            for array in arrays:
                digest.update((array[sample][real] if array.shape == mask.shape else array[sample]).tobytes())
            yield digest.digest()
