"""Which batches Triton may form: what it forms has to fit one of the engine's optimisation profiles.

Triton takes the profile whose usual shape is nearest among those that allow a batch (tensorrt_backend,
``GetMostOptimizedProfile``), and knows one ``max_batch_size`` for all of them.
"""

import math
from dataclasses import dataclass

import numpy as np

from calib8.engine.profiles import DEFAULT_BATCH, ProfileSet, Range
from calib8.errors import ConfigError, ModelError, ProfileError
from calib8.serving.triton.config import Triton
from calib8.serving.triton.served import Served


@dataclass(frozen=True)
class Batches:
    """``largest`` is 0 where there is no batch dimension."""

    largest: int
    preferred: tuple[int, ...] = ()


def batches_of(served: Served, config: Triton, *, text: bool) -> Batches:
    """The largest batch and those that are preferred. ``text``: sequences come in every length that is taken.

    Raises ``ModelError`` for a text encoder with a fixed batch, ``ConfigError`` if options ask for more than there is,
    ``ProfileError`` if Triton could form a batch that no profile allows.
    """
    if text and not served.batched:
        raise ModelError("the text encoder has a fixed batch. Export and build it with a dynamic first dimension.")
    if text and config.max_batch == 0:
        raise ConfigError("max_batch=0 is for models without a batch; a text encoder has one.")
    if not served.batched or config.max_batch == 0:
        if config.max_batch or config.preferred_batches:
            raise ConfigError("the model has a fixed first dimension: Triton cannot batch it. Leave out batch sizes.")
        return Batches(0)
    possible = _largest(served.sets) if served.sets else None
    largest = config.max_batch or possible or DEFAULT_BATCH[2]
    if possible is not None and largest > possible:
        raise ConfigError(f"got max_batch={largest}, but the engine's largest samples come in batches of {possible}.")
    _require_covered(served, largest, text=text)
    return Batches(largest, _preferred(served, config, largest))


def _preferred(served: Served, config: Triton, largest: int) -> tuple[int, ...]:
    if config.preferred_batches is not None:
        if too_large := [size for size in config.preferred_batches if size > largest]:
            raise ConfigError(f"got preferred_batches with {too_large[0]}, more than the largest batch, {largest}.")
        return tuple(sorted(set(config.preferred_batches)))
    if len(served.sets) < 2:
        return ()
    usual = {_batch(known)[1] for known in served.sets}
    return tuple(sorted({size for size in usual if size <= largest} | {largest}))


def _batch(known: ProfileSet) -> Range:
    """Smallest, usual and largest batch of an optimisation profile."""
    low, usual, high = zip(*(profile.ranges()[0] for profile in known.values()), strict=True)
    return max(low), min(usual), min(high)


def _largest(sets: tuple[ProfileSet, ...]) -> int:
    """The largest batch of the profile that takes the largest samples."""
    return max((sum(math.prod(one.max[1:]) for one in known.values()), _batch(known)[2]) for known in sets)[1]


def _require_covered(served: Served, largest: int, *, text: bool) -> None:
    """Every batch up to ``largest``, of text in every length, has to be within some profile."""
    if not served.sets:
        return
    shortest, longest = served.lengths
    lengths = (longest or 1) if text else 1
    covered = np.zeros((largest + 1, lengths + 1), bool)
    for known in served.sets:
        low, _, high = _batch(known)
        first, _, last = known["input_ids"].ranges()[1] if text else (1, 1, 1)
        covered[low : high + 1, first : last + 1] = True
    missing = np.argwhere(~covered[1:, shortest if text else 1 :])
    if len(missing):
        batch = int(missing[0][0]) + 1
        tokens = f" with {int(missing[0][1]) + shortest} tokens" if text else ""
        raise ProfileError(
            f"Triton forms batches from 1 to {largest}, but none of the engine's optimisation profiles takes a batch "
            f"of {batch}{tokens}. Build it with --shapes that leave no gap."
        )
