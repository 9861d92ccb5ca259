"""Which optimisation profile takes the shapes at hand."""

import math
from collections.abc import Mapping, Sequence

from calib8.engine.profiles import ProfileSet, Shape
from calib8.errors import DataError

#: The shape of every input, by name.
Shapes = Mapping[str, Shape]


def profile_for(shapes: Shapes, sets: Sequence[ProfileSet]) -> int:
    """The number of the profile to use: of several that allow the shapes, the one with the smallest largest shapes.

    Raises ``DataError`` if none does.
    """
    allowed = [index for index, known in enumerate(sets) if _allows(known, shapes)]
    if not allowed:
        raise DataError(
            f"the engine was not built for {in_words(shapes)}: expected {' or '.join(map(_describe, sets))}. "
            "Split the batch or cut the sequences, or build with larger --shapes."
        )
    return min(allowed, key=lambda index: _size(sets[index]))


def in_words(shapes: Shapes) -> str:
    """For people: ``ids 2x3, mask 2x3``."""
    return ", ".join(f"{name} {_times(shape)}" for name, shape in shapes.items())


def _allows(known: ProfileSet, shapes: Shapes) -> bool:
    return all(
        low <= size <= high
        for name, profile in known.items()
        for size, (low, _, high) in zip(shapes[name], profile.ranges(), strict=True)
    )


def _size(known: ProfileSet) -> int:
    return sum(math.prod(profile.max) for profile in known.values())


def _describe(known: ProfileSet) -> str:
    return ", ".join(f"{name} {_times(profile.min)} to {_times(profile.max)}" for name, profile in known.items())


def _times(shape: Shape) -> str:
    return "x".join(map(str, shape)) or "scalar"
