"""Design a conditioning: which shift, copies and multipliers let one INT8 grid hold a tensor with outlier channels."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from calib8.numerics import LEVELS
from calib8.passes.condition import Conditioning

#: Columns added by splitting come in multiples of this: what tensor cores like.
PAD = 32
#: A channel (or weight row) reaches at least this share of the largest: what was seen dead may yet move.
SMALLEST = 1e-5
#: A channel is taken to reach at least as far as this share of all channels do. One that was quiet so far may fire on
#: other data: magnified for its quietness, or in the middle of a narrow grid, it would be clipped.
QUIET = 0.75


#: No stair is lower. Below it GELU is no straight line between two of them: their sum would be off by 0.4 where they
#: are 1 high, and rows that came out of GELU would no longer tell what the copies see (``Conditioning``).
LOWEST_STAIR = 3.0


@dataclass(frozen=True)
class Recipe:
    """Which treatments a conditioning combines.

    smooth: SmoothQuant's alpha, 0 for none. shift: whether channels are centred. split: share of columns to add.
    stairs: share of columns to add, by which channels that reach farthest get stairs. side: number of channels, those
    that reach farthest, that go around INT8. reach: what the grid covers, as a multiple of the range that was seen.
    """

    smooth: float = 0.0
    shift: bool = False
    split: float = 0.0
    stairs: float = 0.0
    side: int = 0
    reach: float = 1.0

    def __str__(self) -> str:
        parts = [f"smooth {self.smooth:g}"] if self.smooth else []
        parts += ["shift"] if self.shift else []
        parts += [f"split {self.split:.0%}"] if self.split else []
        parts += [f"stairs {self.stairs:.0%}"] if self.stairs else []
        parts += [f"side {self.side}"] if self.side else []
        parts += [f"reach {self.reach:g}"] if self.reach != 1 else []
        return " + ".join(parts) or "plain"


@dataclass(frozen=True)
class Channels:
    """What was seen of each channel: ``minimum``, ``median`` and ``maximum``, each [K]."""

    minimum: NDArray[np.float32]
    median: NDArray[np.float32]
    maximum: NDArray[np.float32]


def design(seen: Channels, weight_amax: NDArray[np.float32], recipe: Recipe) -> Conditioning:
    """The conditioning of a tensor whose K channels were ``seen``.

    ``weight_amax`` [K] is the largest magnitude of each weight row: smoothing moves range from the activation to it.
    Order: smooth first, since it changes which channels stick out; leave out those that do so most, split what still
    does, set the reach of the grid; shift last, since a shift must be a multiple of the step that all this leaves.
    """
    low, high = seen.minimum.astype(np.float64), seen.maximum.astype(np.float64)
    if recipe.stairs:
        return _on_stairs(_at_least(np.maximum(-low, high)), recipe)
    reach = _at_least((high - low) / 2 if recipe.shift else np.maximum(-low, high))
    # Smoothing all the way is for channels that have outputs of their own, where nothing drowns a quiet one's error.
    loud = reach if recipe.smooth == 1 else np.maximum(reach, np.quantile(reach, QUIET))
    smooth = _smoothing(loud, _at_least(weight_amax.astype(np.float64)), recipe.smooth)
    reach = reach / smooth
    kept = np.sort(np.argsort(reach, kind="stable")[: len(reach) - recipe.side])
    copies = np.zeros(len(reach), np.int64)
    copies[kept] = _copies(reach[kept], _extra(len(kept), recipe.split))
    amax = float((reach[kept] / copies[kept]).max()) * recipe.reach
    step = amax / LEVELS * smooth * np.maximum(copies, 1)
    centre = _centre(low, seen.median.astype(np.float64), high, step * LEVELS) if recipe.shift else np.zeros_like(low)
    index = np.repeat(np.arange(len(reach)), copies)
    return Conditioning(
        shift=(np.rint(centre / step) * step).astype(np.float32),
        index=index,
        multiplier=(1 / (smooth * np.maximum(copies, 1)))[index].astype(np.float32),
        amax=amax,
    )


def _on_stairs(reach: NDArray[np.float64], recipe: Recipe) -> Conditioning:
    """As many copies for each channel as bring the farthest down most; copy c begins where copy c - 1 ends."""
    copies = _copies(reach, -len(reach) % PAD + max(PAD, round(recipe.stairs * len(reach) / PAD) * PAD))
    amax = max(float((reach / copies).max()) * recipe.reach, LOWEST_STAIR)
    index = np.repeat(np.arange(len(reach)), copies)
    number = np.arange(len(index)) - np.repeat(np.cumsum(copies) - copies, copies)
    return Conditioning(
        shift=np.zeros(len(reach), np.float32),
        index=index,
        multiplier=np.ones(len(index), np.float32),
        amax=amax,
        offset=(number * amax).astype(np.float32),
    )


def _centre(
    low: NDArray[np.float64], median: NDArray[np.float64], high: NDArray[np.float64], half: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Where the grid of a channel, ``half`` wide to either side, lies.

    Most channels leave room on the grid, for values that other data may hold. It is put where channels of this tensor
    tend to go: behind a GELU all of them end at -0.17 and reach far up, also those that stayed quiet so far.
    """
    up, down = (np.maximum(spread, np.quantile(spread, QUIET)) for spread in (high - median, median - low))
    centre = median + half * (up - down) / np.maximum(up + down, np.finfo(np.float64).tiny)
    ends = high - half, low + half  # a grid between them holds the range; one too short for that lies within it
    return np.asarray(np.clip(centre, np.minimum(*ends), np.maximum(*ends)), np.float64)


def _at_least(magnitude: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.maximum(magnitude, SMALLEST * (float(magnitude.max()) or 1.0))


def _smoothing(reach: NDArray[np.float64], weight_amax: NDArray[np.float64], alpha: float) -> NDArray[np.float64]:
    """SmoothQuant's ``reach^alpha / weight_amax^(1 - alpha)``, by a factor that leaves the largest reach as it was.

    No code depends on that factor. But where the multipliers are folded into the op in front, it computes what they
    give, in FP16: nothing of it may be larger than the tensor was.
    """
    if alpha == 0:
        return np.ones_like(reach)
    logarithm = alpha * np.log(reach) - (1 - alpha) * np.log(weight_amax)
    smooth = np.exp(logarithm - logarithm.mean())
    return np.asarray(smooth * ((reach / smooth).max() / reach.max()), np.float64)


def _extra(columns: int, share: float) -> int:
    """How many columns to add: what fills the last ``PAD`` up, which would be padded with zeros else, or ``share``."""
    if share == 0:
        return 0
    return -columns % PAD or round(share * columns / PAD) * PAD


def _copies(reach: NDArray[np.float64], extra: int) -> NDArray[np.int64]:
    """How often to repeat each channel: always the one that sticks out most, until ``extra`` copies are spent."""
    copies = np.ones(len(reach), np.int64)
    for _ in range(extra):
        copies[np.argmax(reach / copies)] += 1
    return copies
