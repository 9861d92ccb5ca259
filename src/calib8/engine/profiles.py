"""Optimisation profiles: the smallest, usual and largest shape of each input.

TensorRT silently accepts a profile for an input that does not exist, inputs whose shared dimension disagrees, and
sequences longer than the position table. So everything is checked here, against the ONNX model, before it sees any.
"""

import re
from collections.abc import Collection, Mapping, Sequence

from pydantic import BaseModel, ConfigDict

from calib8.data.inputs import InputSpec, Sizes
from calib8.data.rooms import LARGEST, Room, Rooms
from calib8.errors import ProfileError

Shape = tuple[int, ...]
#: min, opt and max of one dimension.
Range = tuple[int, int, int]

DEFAULT_BATCH: Range = (1, 8, 64)
DEFAULT_SEQUENCE: Range = (1, 64, 384)
EXAMPLE = "input_ids:1x1:8x64:64x384 (name:min:opt:max)"


class Profile(BaseModel):
    """The shapes that one input may take: every dimension runs from ``min`` to ``max`` and is tuned for ``opt``."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    min: Shape
    opt: Shape
    max: Shape

    def __str__(self) -> str:
        return ":".join([self.name, *("x".join(map(str, shape)) for shape in (self.min, self.opt, self.max))])

    def ranges(self) -> list[Range]:
        """One ``(min, opt, max)`` per dimension."""
        return list(zip(self.min, self.opt, self.max, strict=True))


#: One optimisation profile: the shapes of each input that has dynamic dimensions.
ProfileSet = Mapping[str, Profile]


def profile_sets(profiles: Sequence[Profile]) -> tuple[ProfileSet, ...]:
    """The optimisation profiles of an engine, in TensorRT's order; at least one, as every engine has.

    Of profiles in a row, a name that comes again belongs to the next optimisation profile.
    """
    sets: list[dict[str, Profile]] = [{}]
    for profile in profiles:
        if all(profile.name in known for known in sets):
            sets.append({})
        next(known for known in sets if profile.name not in known)[profile.name] = profile
    return tuple(sets)


def rooms_of(sets: Sequence[ProfileSet], name: str) -> Rooms:
    """The batches that the optimisation profiles of the input ``name`` take; none if it has no profile."""
    ends = [[(low, high) for low, _, high in known[name].ranges()[:2]] for known in sets if name in known]
    return tuple(Room(*both) for both in ends)


def parse_profile(text: str) -> Profile:
    """``input_ids:1x1:8x64:64x384`` -> ``Profile``. Names may contain colons. Raises ``ProfileError``."""
    name, *shapes = text.rsplit(":", 3)
    sizes = re.findall(r"\d+", ":".join(shapes))
    if too_large := next((size for size in sizes if len(size) > 99 or int(size) > LARGEST), None):
        raise ProfileError(f"got the shapes {text!r:.200}, with the size {too_large:.99}. Expected at most {LARGEST}.")
    if len(shapes) != 3 or not name or not all(re.fullmatch(r"\d+(x\d+)*", shape) for shape in shapes):
        raise ProfileError(f"got the shapes {text!r:.200}, expected for example {EXAMPLE}.")
    low, usual, high = (tuple(int(size) for size in shape.split("x")) for shape in shapes)
    return Profile(name=name, min=low, opt=usual, max=high)


def resolve_profiles(
    inputs: Sequence[InputSpec], given: Sequence[Profile], limits: Mapping[str, int], seen: Sizes | None = None
) -> tuple[Profile, ...]:
    """A profile for every dynamic input; given ones are checked, missing ones follow from shared dimensions.

    An input that is given again belongs to a further optimisation profile (``profile_sets``); each of them is resolved
    by itself, and the answer holds them one after the other.

    An input without a profile takes the ranges that another input's profile gives to the same symbols. Without any
    profile, the first dimension is taken for the batch (1, 8, 64) and the second of a rank-2 integer input for the
    sequence (1, 64, 384, or the limit if that is smaller). What is still without sizes has those ``seen`` in
    calibration data. ``limits`` maps a symbol to the most the model can take.

    Raises ``ProfileError``.
    """
    names = [entry.name for entry in inputs]
    if unknown := [profile.name for profile in given if profile.name not in names]:
        raise ProfileError(f"shapes given for {unknown[0]!r}, but the model's inputs are {', '.join(names)}.")
    resolved = [_resolve(inputs, known, limits, seen or {}) for known in profile_sets(given)]
    for index, profiles in enumerate(resolved):
        if profiles and profiles in resolved[:index]:
            raise ProfileError(
                f"the same shapes are given twice, {', '.join(map(str, profiles))}: an input that is given again makes "
                "a further optimisation profile. Keep one, or change its shapes."
            )
    return tuple(profile for profiles in resolved for profile in profiles)


def _resolve(
    inputs: Sequence[InputSpec], given: ProfileSet, limits: Mapping[str, int], seen: Sizes
) -> tuple[Profile, ...]:
    """The profiles of one set."""
    ranges: dict[str, Range] = {}
    for entry in inputs:
        if entry.name in given:
            _require_fit(given[entry.name], entry)
            _record(ranges, entry, given[entry.name].ranges())
    if not given:
        batches = {entry.shape[0] for entry in inputs if entry.shape}
        for entry in inputs:
            defaults = [_default(entry, axis, limits, batches) for axis in range(len(entry.shape))]
            batch = seen.get(str(entry.shape[0])) if entry.shape else None  # a model that takes one sample at a time
            _record(ranges, entry, [batch or DEFAULT_BATCH, *defaults[1:]] if defaults else [])
    ranges = {**seen, **ranges}
    _require_within(ranges, limits)
    return tuple(_complete(entry, ranges) for entry in inputs if entry.dynamic)


def _require_fit(profile: Profile, entry: InputSpec) -> None:
    """Rank, order and fixed sizes."""
    for label, shape in (("min", profile.min), ("opt", profile.opt), ("max", profile.max)):
        if len(shape) != len(entry.shape):
            raise ProfileError(
                f"{profile}: its {label} shape has {len(shape)} dimensions, the model's {entry} has {len(entry.shape)}."
            )
    for axis, (dim, (low, usual, high)) in enumerate(zip(entry.shape, profile.ranges(), strict=True)):
        if not 1 <= low <= usual <= high:
            raise ProfileError(f"{profile}: dimension {axis} needs 1 <= min <= opt <= max, got {low}, {usual}, {high}.")
        if isinstance(dim, int) and (low, high) != (dim, dim):
            raise ProfileError(f"{profile}: dimension {axis} of {entry} is fixed; write {dim} in all three shapes.")


def _record(ranges: dict[str, Range], entry: InputSpec, values: Sequence[Range | None]) -> None:
    """Add an input's ranges to those of the symbols; a symbol has one range."""
    for dim, value in zip(entry.shape, values, strict=True):
        if isinstance(dim, str) and value is not None and ranges.setdefault(dim, value) != value:
            raise ProfileError(
                f"inputs disagree about the dimension {dim!r}: {ranges[dim]} and, in {entry.name!r}, {value} "
                "(min, opt, max). They share it, so give both the same sizes."
            )


def _default(
    entry: InputSpec, axis: int, limits: Mapping[str, int], batches: Collection[int | str | None]
) -> Range | None:
    """``batches``: first dimensions, such as the number of edges of a graph, which are no sequence elsewhere."""
    dim = entry.shape[axis]
    if axis == 0:
        return DEFAULT_BATCH
    if axis == 1 and len(entry.shape) == 2 and entry.integer and dim not in batches:
        low, usual, high = DEFAULT_SEQUENCE
        high = min(high, limits.get(str(dim), high))
        return low, min(usual, high), high
    return None


def _require_within(ranges: Mapping[str, Range], limits: Mapping[str, int]) -> None:
    for dim, (_, _, high) in ranges.items():
        if dim in limits and high > limits[dim]:
            raise ProfileError(
                f"the dimension {dim!r} goes up to {high}, but the model's tables hold only {limits[dim]}: longer "
                f"inputs would read past their end. Use at most {limits[dim]}."
            )


def _complete(entry: InputSpec, ranges: Mapping[str, Range]) -> Profile:
    unknown = [dim for dim in entry.shape if isinstance(dim, str) and dim not in ranges]
    if unknown:
        raise ProfileError(
            f"no sizes for {', '.join(map(repr, unknown))} of {entry}. Pass --shapes, like {_example(entry)}; of a "
            "model that calib8 quantised they are known from its calibration data."
        )
    sizes = [ranges[dim] if isinstance(dim, str) else (dim, dim, dim) for dim in entry.shape]
    low, usual, high = zip(*sizes, strict=True)
    return Profile(name=entry.name, min=low, opt=usual, max=high)


def _example(entry: InputSpec) -> str:
    """Shapes that fit the input: pixels for an image, a length for anything else."""
    size = 224 if len(entry.shape) == 4 else 128
    behind = "".join(f"x{dim if isinstance(dim, int) else size}" for dim in entry.shape[1:])
    batches = (entry.shape[0],) * 3 if isinstance(entry.shape[0], int) else DEFAULT_BATCH
    return f"{entry.name}:{':'.join(f'{batch}{behind}' for batch in batches)} (name:min:opt:max)"
