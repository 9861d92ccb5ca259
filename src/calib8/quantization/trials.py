"""Try recipes on one site: how much of its output is lost on rows that neither ranges nor rounding had seen."""

from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from calib8.graph.site import Site
from calib8.numerics import Floats, dequantize, quantize, scale_of
from calib8.passes.condition import Conditioning
from calib8.passes.fold_conditioning import Foldable, foldable
from calib8.passes.stairs import takes_stairs
from calib8.precision import INT8, Grid
from calib8.quantization.config import Optimize
from calib8.quantization.design import Channels, Recipe, design
from calib8.quantization.grouped import Grouped

Float = TypeVar("Float", bound=np.floating)

#: One row in this many is held out: recipes are chosen on rows that they were not designed for.
HOLD_OUT = 4
#: Rows that recipes are tried on; more change the choice no further.
TRIED = 768
#: Power, as a share of the median row's, below which a row's relative error says nothing.
FAINT = 0.01


@dataclass(frozen=True)
class Trial:
    """A recipe and its error (see ``error_of``), before GPTQ."""

    recipe: Recipe
    error: float


class Trials:
    """Recipes for ``site``, whose sampled rows [n, channels * taps] are ``rows``; nearest rounding throughout.

    They are designed for three quarters of the rows and judged on the others: a grid that fits the rows it was made
    for too tightly clips what comes next.
    """

    def __init__(self, rows: NDArray[np.float32], site: Site, grid: Grid = INT8) -> None:
        self.grid = grid
        self.site, self.weight = site, Grouped(site.matrix(), site.groups)
        held_out, fitted = hold_out(len(rows))
        self._rows, self._channels = rows[held_out], channels_of(rows[fitted], site.taps)
        self._weight_amax = amax_of_channels(self.weight.matrix, site.taps)
        self._expected = self.weight.product(self._rows)
        self._power = power_of(self._expected)

    @property
    def held_out(self) -> int:
        """Number of rows that recipes are judged on."""
        return len(self._rows)

    def run(self, recipe: Recipe) -> Trial:
        """Design, round, compute and compare."""
        conditioning = design(self._channels, self._weight_amax, recipe).spread(self.site.taps)
        _, values = Grouped(conditioning.weight(self.weight.matrix), self.weight.groups).nearest(self.grid)
        got = values.product(on_grid(self._rows, conditioning, self.grid))
        if len(side := conditioning.side):
            got = got + self._rows[:, side] @ self.weight.matrix[side]
        return Trial(recipe, error_of(self._expected, got, self._power))


def possible(recipe: Recipe, site: Site, optimize: Optimize = "accuracy") -> bool:
    """Whether ``site`` can take ``recipe``.

    A shift does not reach the zeros that a Conv pads with. Channels of a grouped Conv cannot be repeated; only there is
    it free to smooth all the way, where channels have weight scales of their own. Only MatMul and Gemm have side
    branches, and some channels must be left for INT8. For latency nothing may be left in front of Q, nor beside the op:
    what cannot be folded is not possible. Stairs are for latency alone, and behind a GELU.
    """
    if recipe.stairs:
        readers = [op.node for op in site.ops]
        return optimize == "latency" and takes_stairs(site.activation, len(site.matrix()) // site.taps, readers)
    if optimize == "latency" and not _leaves_nothing(recipe, site):
        return False
    if recipe.smooth == 1 and site.groups == 1:
        return False
    if recipe.shift and site.window is not None and site.window.padded:
        return False
    if recipe.split and site.groups > 1:
        return False
    return not recipe.side or (site.window is None and recipe.side <= len(site.matrix()) // 2)


def _leaves_nothing(recipe: Recipe, site: Site) -> bool:
    channels = len(site.matrix()) // site.taps
    last = site.window is None  # of a Conv the channels are another axis, over which nothing is folded
    folded = foldable(site.activation, channels, [op.node for op in site.ops]) if last else Foldable()
    return (
        (not recipe.smooth or folded.multiplier)
        and (not recipe.shift or folded.shift)
        and not recipe.split
        and not recipe.side
    )


def hold_out(count: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Row numbers to try recipes on, and to design them for. Drawn, since every n-th row might be n-th of something."""
    held_out, fitted = np.split(np.random.default_rng(0).permutation(count), [min(count // HOLD_OUT, TRIED)])
    return held_out, fitted


def channels_of(rows: NDArray[np.float32], taps: int) -> Channels:
    """What ``rows`` [n, K * taps] say of each channel."""
    of_each = rows.reshape(len(rows), -1, taps).transpose(1, 0, 2).reshape(rows.shape[1] // taps, -1)
    return Channels(of_each.min(axis=1), medians(of_each), of_each.max(axis=1))


def medians(values: NDArray[Float]) -> NDArray[Float]:
    """``np.median(values, axis=1)`` of finite values [K, n], [K], in a quarter of the time: it partitions twice."""
    middle, odd = divmod(values.shape[1], 2)
    parted = np.array(values, order="C")
    parted.partition(middle, axis=1)
    upper = parted[:, middle]
    return upper if odd else np.divide(parted[:, :middle].max(axis=1) + upper, 2, dtype=values.dtype)


def amax_of_channels(matrix: NDArray[np.float32], taps: int) -> NDArray[np.float32]:
    """Largest magnitude of the weights [K * taps, N] of each channel, [K]."""
    return np.asarray(np.abs(matrix).max(axis=1).reshape(-1, taps).max(axis=1), np.float32)


def on_grid(rows: NDArray[np.float32], conditioning: Conditioning, grid: Grid = INT8) -> NDArray[np.float32]:
    """Conditioned rows as they come out of Q and DQ."""
    scale = scale_of(conditioning.amax, grid)
    return dequantize(quantize(conditioning(rows), scale, grid), scale)


def error_of(expected: Floats, got: Floats, power: NDArray[np.float64] | None = None) -> float:
    """Root mean square over rows of the relative error power: no huge row hides what most rows lose, and rows that are
    hit hard (clipped, on data like this) count for more than their number. A constant part of the error is what the
    bias repairs.

    ``power`` is that of ``expected``, for those who compare it with several.
    """
    error = expected - got
    lost = np.square(error - error.mean(axis=0), dtype=np.float64).sum(axis=1)
    return float(np.sqrt(np.square(lost / (power_of(expected) if power is None else power)).mean()))


def power_of(expected: Floats) -> NDArray[np.float64]:
    """What errors of each row are relative to, [n]: what distinguishes it, its distance to the median of every column.

    A constant part of the output carries nothing. A row of (nearly) nothing, of which any error would be a huge
    multiple, is judged like one ``FAINT`` as strong as the median row.
    """
    power = np.square(expected - medians(expected.T), dtype=np.float64).sum(axis=1)
    typical = float(np.median(power[power > 0])) if power.any() else float(np.square(expected).sum(axis=1).max()) or 1.0
    return np.asarray(np.maximum(power, FAINT * typical), np.float64)
