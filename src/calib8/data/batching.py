"""Samples into batches: sorted by length and cut to their longest row, so that little padding is computed."""

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from calib8.data.alone import Samples, by_sample, takes_one
from calib8.data.inputs import Arrays, InputSpec, Sizes, checked, mask_name, sample_count, sizes_of
from calib8.data.rooms import LARGEST, Rooms, most_unpadded, taken_length
from calib8.data.sources import Source
from calib8.errors import DataError
from calib8.progress import Progress, Quiet

#: Sample numbers of a batch.
Rows: TypeAlias = NDArray[np.int64]

#: Positions per batch: enough to keep the cores busy; more would only take more memory.
TOKEN_BUDGET = 512
MEBI = 1 << 20
#: MiB that the activations of a batch of several samples may take.
ROOM = 1024


class Group(NamedTuple):
    """A batch before its arrays are read.

    chunk: that it is of, by number. first: the number of the chunk's first sample. rows: of the chunk [n]. longest: the
    length that its arrays are cut to.
    """

    chunk: int
    first: int
    rows: Rows
    longest: int


class Dataset:
    """A source whose every chunk was checked against the model, ready to be batched.

    A model that takes one sample at a time gets it as it is, without an axis of samples. Without a mask input a batch
    holds up to ``BATCH`` samples of one chunk, as memory allows. With one, samples are sorted by length
    within their chunk, trailing columns that are padding for the whole batch are cut off where the model's sequence
    is dynamic, and a batch holds about ``TOKEN_BUDGET`` positions.
    """

    BATCH = 16

    def __init__(
        self,
        source: Source,
        specs: tuple[InputSpec, ...],
        *,
        limits: Mapping[str, int] | None = None,
        progress: Progress | None = None,
        alone: bool = False,
    ) -> None:
        """``limits`` holds the largest size of named dimensions (see ``graph.limits``). ``alone``: whether samples go
        one by one through a model that does not say so itself."""
        progress = progress or Quiet()
        #: Whether the model takes one sample at a time (see ``data.alone``).
        self.alone = alone or takes_one(specs)
        self.source = Samples(source, specs, progress) if self.alone else source
        self.limits = limits or {}
        self.specs = by_sample(specs) if self.alone else specs
        self.mask = mask_name(specs)
        once = _Once(progress)
        self.chunks = [checked(chunk, self.specs, once) for chunk in self.source.chunks()]
        if not self.chunks:
            raise DataError("the data is empty: expected at least one batch, got none. Check how it was made.")
        self.fingerprint = source.fingerprint()
        #: Bytes that inputs of these shapes take as they are computed with, about, and the most of a batch in MiB: of
        #: that one with more than a sample has ``ROOM`` where nothing is asked for.
        self.footprint: Callable[[Mapping[str, tuple[int, ...]]], int] = lambda shapes: 0
        self.memory: int | None = None
        self._groups: dict[tuple[Rooms, ...], list[Group]] = {}

    def __len__(self) -> int:
        """Number of samples."""
        return sum(map(sample_count, self.chunks))

    def sizes(self) -> Sizes:
        """The sizes of named dimensions behind the batch."""
        return sizes_of(self.specs, self.chunks)

    @property
    def leading(self) -> str:
        """The input whose shape is that of a batch: the mask, if there is one."""
        return self.mask or self.specs[0].name

    def batches(self, *rooms: Rooms) -> Iterator[tuple[Rows, Arrays]]:
        """Yield (sample numbers [n], arrays) until every sample was yielded once.

        ``rooms``: for each runtime that is to take them, what it takes of the input ``leading``.
        """
        for group in self.groups(*rooms):
            yield self.batch(group)

    def groups(self, *rooms: Rooms) -> list["Group"]:
        """Which samples each of ``batches`` holds: so any of them can be had by its number, at no other's cost."""
        if rooms not in self._groups:
            first, found = 0, list[Group]()
            for number, chunk in enumerate(self.chunks):
                cut = self._masked(chunk, rooms) if self.mask else self._plain(chunk, rooms)
                found += [Group(number, first, rows, longest) for rows, longest in cut]
                first += sample_count(chunk)
            self._groups = {rooms: found}  # those that are asked for again are those asked for last
        return self._groups[rooms]

    def batch(self, group: "Group") -> tuple[Rows, Arrays]:
        """(sample numbers [n], arrays) of a group."""
        chunk, rows = self.chunks[group.chunk], group.rows
        taken = rows if self.mask else slice(int(rows[0]), int(rows[-1]) + 1)  # in order: they need not be copied
        arrays = {spec.name: np.asarray(chunk[spec.name][taken]) for spec in self.specs}
        if self.mask:
            cut, sequence = group.longest, self._sequence()
            arrays = {spec.name: _trimmed(arrays[spec.name], spec, sequence, cut) for spec in self.specs}
        self._check_limits(arrays)
        return rows + group.first, {
            name: np.asarray(array[0]) for name, array in arrays.items()
        } if self.alone else arrays

    def shortened(self, arrays: Arrays) -> Arrays | None:
        """A batch without its last position; None if it has one, or a number of them that the model fixes."""
        assert self.mask is not None
        sequence = self._sequence()
        length = arrays[self.mask].shape[1] - 1
        if isinstance(sequence, int) or not length or self.alone:
            return None
        return {spec.name: _trimmed(arrays[spec.name], spec, sequence, length) for spec in self.specs}

    def _check_limits(self, arrays: Arrays) -> None:
        for spec in self.specs:
            for got, dimension in zip(arrays[spec.name].shape, spec.shape, strict=True):
                if isinstance(dimension, str) and got > self.limits.get(dimension, got):
                    raise DataError(
                        f"{spec.name} has {got} positions along {dimension!r}, but the model's position table ends "
                        f"at {self.limits[dimension]}. Cut the sequences, e.g. `calib8 prepare --max-length "
                        f"{self.limits[dimension]}`."
                    )

    def _sequence(self) -> int | str | None:
        """The size of the mask's second dimension, or its name."""
        return next(spec.shape[-1] for spec in self.specs if spec.name == self.mask)

    def _plain(self, chunk: Arrays, rooms: tuple[Rooms, ...]) -> Iterator[tuple[Rows, int]]:
        """The rows of each batch of ``chunk``; nothing is cut off."""
        count, shape = sample_count(chunk), chunk[self.leading].shape
        most = 1 if self.alone else min(self.BATCH, _most_rows(rooms, shape[1] if len(shape) > 1 else 1))
        size = self._within_memory(chunk, most)
        for start in range(0, count, size):
            yield np.arange(start, min(start + size, count)), 0

    def _within_memory(self, chunk: Arrays, most: int) -> int:
        """The rows of a batch, at most so many, that memory is there for. Raises ``DataError`` if it is not for one."""
        row = {spec.name: chunk[spec.name].shape[1:] for spec in self.specs}
        shapes = row if self.alone else {name: (1, *shape) for name, shape in row.items()}
        taken, room = self.footprint(shapes), ROOM if self.memory is None else self.memory
        if self.memory is not None and taken > room * MEBI:
            raise DataError(
                f"a single sample takes about {taken // MEBI:,} MiB as the model computes, and {room:,} are allowed. "
                "Allow more (--memory), or give smaller samples."
            )
        return max(1, min(most, room * MEBI // max(taken, 1)))

    def _masked(self, chunk: Arrays, rooms: tuple[Rooms, ...]) -> Iterator[tuple[Rows, int]]:
        """The rows of each batch of ``chunk``, and the length of the longest."""
        assert self.mask is not None
        mask = np.asarray(chunk[self.mask]) != 0
        if self.alone:  # [samples, 1, sequence]
            mask = mask.reshape(len(mask), -1)
        if not mask.any(axis=1).all():
            empty = int(np.argmin(mask.any(axis=1)))
            raise DataError(f"sample {empty} has an all-zero {self.mask}: it holds no token. Remove it.")
        lengths = mask.shape[1] - np.argmax(mask[:, ::-1], axis=1)
        most = partial(_most_rows, rooms) if not self.alone else lambda _: 1
        for rows in by_token_budget(_taken(rooms, lengths), TOKEN_BUDGET, most):
            yield rows, int(_taken(rooms, lengths[rows]).max())


def _trimmed(array: NDArray[np.generic], spec: InputSpec, sequence: object, longest: int) -> NDArray[np.generic]:
    """``array`` with every axis along the dimension called ``sequence`` cut to ``longest``."""
    for axis, dim in enumerate(spec.shape):
        if axis and isinstance(dim, str) and dim == sequence:
            array = array[(slice(None),) * axis + (slice(longest),)]
    return array


def _most_rows(rooms: tuple[Rooms, ...], length: int) -> int:
    return min((most_unpadded(one, length) for one in rooms), default=LARGEST)


def _taken(rooms: tuple[Rooms, ...], lengths: Rows) -> Rows:
    """Each length with the padding that it must keep, for all runtimes to take it."""
    distinct, places = np.unique(lengths, return_inverse=True)
    taken = [max((taken_length(one, int(length)) for one in rooms), default=length) for length in distinct]
    return np.array(taken, np.int64)[places]


class _Once:
    """A ``Progress`` that says what holds for every chunk once."""

    def __init__(self, progress: Progress) -> None:
        self.update = progress.update
        self._progress, self._said = progress, set[str]()

    def note(self, message: str) -> None:
        if message not in self._said:
            self._said.add(message)
            self._progress.note(message)


def by_token_budget(lengths: Rows, budget: int, most: Callable[[int], int]) -> list[Rows]:
    """Group row numbers by length, so that rows x longest row stays within ``budget`` (at least one row).

    The longest are in the first group, where too little memory is found out at once; any number of groups from there
    on is a fair sample of all: so the samples that are done tell how much time is left.

    ``most``: how many rows of a length may be in a group.
    """
    order = np.argsort(-lengths, kind="stable")
    groups: list[Rows] = []
    start = 0
    while start < len(order):
        longest = max(1, int(lengths[order[start]]))
        count = max(1, min(budget // longest, most(longest)))
        groups.append(order[start : start + count])
        start += count
    return [groups[number] for number in _spread(len(groups))]


def _spread(count: int) -> list[int]:
    """The numbers below ``count``, 0 first, such that each beginning is spread over all: 0 4 2 6 1 5 3 7."""
    width = max(0, count - 1).bit_length()
    return sorted(range(count), key=lambda number: f"{number:0{width}b}"[::-1])
