"""What a model wants to be fed, and whether an array is that."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from calib8.data.selected import Selected, as_rows, blocks
from calib8.errors import DataError
from calib8.progress import Progress

Arrays = dict[str, NDArray[np.generic]]


class Chunk(Arrays):
    """Arrays of a chunk, and in words ``of`` what they are, where a source has several: `` of batch.npz``."""

    def __init__(self, arrays: Mapping[str, NDArray[np.generic]], of: str = "") -> None:
        super().__init__(arrays)
        self.of = of


def of_chunk(arrays: Mapping[str, NDArray[np.generic]], chunk: Mapping[str, NDArray[np.generic]]) -> Chunk:
    """``arrays`` made of those of ``chunk``."""
    return Chunk(arrays, chunk.of if isinstance(chunk, Chunk) else "")


#: The least, the usual and the largest size of named dimensions.
Sizes: TypeAlias = Mapping[str, tuple[int, int, int]]

#: Inputs of these names mark real positions with 1 and padding with 0.
MASK_NAMES = ("attention_mask", "input_mask")
INTEGERS = (np.dtype(np.int32), np.dtype(np.int64))
#: Inputs of names that start like this run along a sequence of their own, not along the one that the mask marks.
OTHER_SEQUENCE = "decoder_"


@dataclass(frozen=True)
class InputSpec:
    """One model input: ``shape`` holds a number for a fixed and a name (or None) for a dynamic dimension.

    ``limit`` is the number of rows of the table that the input's integers index, where there is one.
    """

    name: str
    dtype: np.dtype[np.generic]
    shape: tuple[int | str | None, ...]
    limit: int | None = None

    @property
    def dynamic(self) -> bool:
        """Does any dimension lack a fixed size?"""
        return not all(isinstance(dim, int) for dim in self.shape)

    @property
    def integer(self) -> bool:
        """Does it hold indices?"""
        return self.dtype in INTEGERS

    def __str__(self) -> str:
        return self.name + _shape(self.shape)


def named_dimensions(specs: tuple[InputSpec, ...]) -> tuple[InputSpec, ...]:
    """``specs`` with a name for every dynamic dimension; one name each for the batch and the sequence beside a mask.

    The rank-2 integer inputs beside a mask share its batch and sequence, whatever an exporter called these dimensions
    in each of them. A dimension without a name is called ``ids[1]``.
    """
    mask = mask_name(specs)
    along = [s for s in specs if mask and s.integer and len(s.shape) == 2 and not s.name.startswith(OTHER_SEQUENCE)]
    one_name: dict[str, str] = {}
    without_name: list[str] = []
    for axis in (0, 1):
        names = [dim for spec in along if isinstance(dim := spec.shape[axis], str)]
        without_name.append(names[0] if names else f"{mask}[{axis}]")
        one_name |= dict.fromkeys(names, without_name[axis])

    def name(spec: InputSpec, axis: int, dim: int | str | None) -> int | str:
        if dim is None:
            return without_name[axis] if spec in along else f"{spec.name}[{axis}]"
        return one_name.get(dim, dim) if isinstance(dim, str) else dim

    return tuple(replace(s, shape=tuple(name(s, axis, dim) for axis, dim in enumerate(s.shape))) for s in specs)


def sizes_of(specs: Iterable[InputSpec], chunks: Iterable[Mapping[str, NDArray[np.generic]]]) -> Sizes:
    """The sizes that named dimensions behind the batch have in ``chunks``: the usual one is the median over samples.

    Arrays that do not fit are passed over: ``checked`` says so.
    """
    seen: dict[str, Counter[int]] = {}
    for chunk in chunks:
        for spec in specs:
            shape = np.shape(chunk.get(spec.name, ()))
            if len(shape) == len(spec.shape):
                for size, dim in list(zip(shape, spec.shape, strict=True))[1:]:
                    if isinstance(dim, str):
                        seen.setdefault(dim, Counter())[size] += shape[0]
    return {dim: _spread(sizes) for dim, sizes in seen.items() if min(sizes) > 0}


def _spread(sizes: Counter[int]) -> tuple[int, int, int]:
    ordered = sorted(sizes)
    reached = np.cumsum([sizes[size] for size in ordered])
    return ordered[0], ordered[int(np.searchsorted(reached, reached[-1] / 2))], ordered[-1]


def mask_name(specs: tuple[InputSpec, ...]) -> str | None:
    """The input that marks real positions, if the model has one by a known name and of rank 2."""
    return next((s.name for s in specs if s.name in MASK_NAMES and len(s.shape) == 2), None)


def checked(arrays: Mapping[str, NDArray[np.generic]], specs: tuple[InputSpec, ...], progress: Progress) -> Arrays:
    """``arrays`` in the model's dtypes. Raises ``DataError`` for whatever does not fit.

    Checked: names, dtypes (int32 and int64 convert into each other, with a note), ranks, fixed dimensions, equal
    numbers of samples, at least one sample, equal sizes of shared dimensions, no NaN or infinity, no index outside
    the table it looks up.
    """
    wanted = {spec.name for spec in specs}
    if missing := sorted(wanted - set(arrays)):
        raise DataError(f"no array for input {', '.join(missing)}: got {_names(arrays)}, expected {_names(wanted)}.")
    if extra := sorted(set(arrays) - wanted):
        raise DataError(
            f"the model has no input {', '.join(extra)}: expected exactly {_names(wanted)}. "
            "Remove the extra array or rename it."
        )
    of = arrays.of if isinstance(arrays, Chunk) else ""
    fitting = {spec.name: _fit(as_rows(arrays[spec.name]), spec, progress, of) for spec in specs}
    sample_count(fitting)
    if not all(array.size for array in fitting.values()):
        raise DataError("the data is empty: expected at least one sample. Check the folder and how it was made.")
    _check_shared(fitting, specs)
    return fitting


def as_array(name: str, given: object) -> NDArray[np.generic]:
    """``given``, an array or nested lists of numbers, as array. Raises ``DataError`` for anything else."""
    try:
        array = np.asarray(given)
    except ValueError as error:  # lists of unequal length
        raise DataError(f"{name} is not an array: {error}. Pad its rows to one length.") from error
    if array.dtype.hasobject:
        raise DataError(f"{name} holds Python objects (dtype {array.dtype}), expected numbers. Convert it first.")
    return array


def sample_count(arrays: Mapping[str, NDArray[np.generic]]) -> int:
    """The number of samples that every array holds. Raises ``DataError`` if they disagree or one is a single number."""
    if single := sorted(name for name, array in arrays.items() if np.ndim(array) == 0):
        raise DataError(f"{', '.join(single)} holds a single number; expected an array [samples, ...].")
    counts = {name: len(array) for name, array in arrays.items()}
    if len(set(counts.values())) > 1:
        raise DataError(f"the arrays hold different numbers of samples: {counts}. Every input needs the same number.")
    return max(counts.values(), default=0)


def _check_shared(arrays: Arrays, specs: tuple[InputSpec, ...]) -> None:
    seen: dict[str, tuple[str, int]] = {}
    for spec in specs:
        for size, dim in list(zip(arrays[spec.name].shape, spec.shape, strict=True))[1:]:
            if not isinstance(dim, str):
                continue
            other, expected = seen.setdefault(dim, (spec.name, size))
            if size != expected:
                raise DataError(
                    f"{spec.name} has size {size} along {dim!r} and {other} has {expected}: they share that dimension. "
                    "Pad them to the same size."
                )


def _fit(array: NDArray[np.generic], spec: InputSpec, progress: Progress, of: str) -> NDArray[np.generic]:
    name = spec.name
    if array.dtype != spec.dtype:
        if array.dtype not in INTEGERS or spec.dtype not in INTEGERS:
            raise DataError(
                f"{name} has dtype {array.dtype}, expected {spec.dtype}. "
                f"Convert it: np.save('{name}.npy', array.astype(np.{spec.dtype}))."
            )
        if array.dtype == np.int64 and not _fits_int32(array):
            raise DataError(f"{name} holds int64 values that do not fit the model's int32 input. Check the data.")
        progress.note(f"{name}: converted {array.dtype} to {spec.dtype}")
        array = np.asarray(array, spec.dtype)
    if array.ndim != len(spec.shape):
        raise DataError(
            f"{name} has rank {array.ndim} (shape {list(array.shape)}), expected rank {len(spec.shape)} "
            f"{_shape(spec.shape)}."
        )
    for axis, (got, fixed) in enumerate(zip(array.shape, spec.shape, strict=True)):
        if isinstance(fixed, int) and got != fixed:
            raise DataError(f"{name} has size {got} on axis {axis}, expected {fixed} {_shape(spec.shape)}.")
    _check_values(array, spec, of)
    return array


def _fits_int32(array: NDArray[np.generic]) -> bool:
    limits = np.iinfo(np.int32)
    low, high = _extremes(array)
    return limits.min <= low and high <= limits.max


def _extremes(array: NDArray[np.generic]) -> tuple[int, int]:
    """The least and the greatest of integers; 0 for none."""
    found = [(int(block.min()), int(block.max())) for _, block in blocks(array) if block.size]
    return min((low for low, _ in found), default=0), max((high for _, high in found), default=0)


def _check_finite(array: NDArray[np.generic], name: str, of: str) -> None:
    """A sample is told by its number in the source, whichever of its samples ``array`` holds."""
    for first, block in blocks(array):
        finite = np.isfinite(block)
        if not finite.all():
            bad = first + int(np.argmin(finite.reshape(len(block), -1).all(axis=1)))
            bad = int(array.rows[bad]) if isinstance(array, Selected) else bad
            raise DataError(f"{name} holds NaN or infinity (first in sample {bad}{of}). Remove or repair that sample.")


def _check_values(array: NDArray[np.generic], spec: InputSpec, of: str) -> None:
    if np.issubdtype(array.dtype, np.floating):
        _check_finite(array, spec.name, of)
    if spec.limit is not None and array.size:
        low, high = _extremes(array)
        if high >= spec.limit or low < 0:
            raise DataError(
                f"{spec.name} holds the index {high if high >= spec.limit else low}, but the model's table has "
                f"{spec.limit} rows (0 to {spec.limit - 1}). The data was made with another tokenizer or vocabulary."
            )


def _names(names: Iterable[str]) -> str:
    return ", ".join(sorted(names)) or "nothing"


def _shape(shape: tuple[int | str | None, ...]) -> str:
    return "[" + ", ".join(str(d if d is not None else "?") for d in shape) + "]"
