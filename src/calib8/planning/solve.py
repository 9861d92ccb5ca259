"""Quantise one site as well as can be: choose a recipe on held-out rows, round the weights, correct the bias."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from calib8.calibration.statistics import TensorStatistics
from calib8.graph.site import Site
from calib8.numerics import Floats, dequantize, quantize, scale_of
from calib8.passes.condition import Codes, Conditioning, Quantised
from calib8.planning.design import Channels, Recipe, design
from calib8.planning.grouped import Grouped
from calib8.planning.rounding import Rounded

#: From cheap to costly: what stands before a cheaper recipe of nearly the same error is not worth its nodes. Splitting
#: comes last: a Gather behind a LayerNorm makes TensorRT compute the norm in two kernels.
RECIPES = (
    Recipe(),
    Recipe(smooth=0.5),
    Recipe(smooth=0.8),
    Recipe(smooth=1.0),
    Recipe(shift=True),
    Recipe(smooth=0.5, shift=True),
    Recipe(smooth=0.8, shift=True),
    Recipe(shift=True, split=0.04),
    Recipe(smooth=0.5, shift=True, split=0.04),
)
#: A costlier recipe must lower the error power by this factor.
WORTH = 0.9
#: How far the grid may reach beyond what was seen, or fall short of it, from wide to tight. On data unlike that of
#: calibration values go farther, so head-room is taken where it costs next to nothing; clipping must halve the error.
HEAD_ROOM, CLIPS, CLIP_WORTH = (1.5, 1.3, 1.2, 1.1), (0.8, 0.6, 0.4), 0.5
#: One row in this many is held out: recipes are chosen on rows that they were not designed for.
HOLD_OUT = 4
#: Rows that recipes are tried on; more change the choice no further.
TRIED = 768
#: Power, as a share of the median row's, below which a row's relative error says nothing.
FAINT = 0.01
#: Rows to sample of every tensor, and the fewest that say enough to solve a site by.
ROWS, FEWEST_ROWS = 4096, 64


@dataclass(frozen=True)
class Trial:
    """A recipe and its error (see ``_error``) on rows that neither ranges nor rounding had seen, before GPTQ and bias
    correction."""

    recipe: Recipe
    error: float


@dataclass(frozen=True)
class Solution:
    """A quantised site, the trial that its recipe won, and all trials that were made."""

    quantised: Quantised
    trial: Trial
    trials: tuple[Trial, ...]

    @property
    def recipe(self) -> Recipe:
        """The recipe that was chosen."""
        return self.trial.recipe

    @property
    def error(self) -> float:
        """Its error."""
        return self.trial.error


def solve(seen: TensorStatistics, site: Site, recipes: Sequence[Recipe] = RECIPES) -> Solution:
    """Quantise the weights of ``site``, whose input was ``seen``, rows sampled.

    1. Try every recipe with nearest rounding, designed for three quarters of the rows, on the others: a grid that fits
       the rows it was made for too tightly clips what comes next. Keep the cheapest that nothing beats by much. Then
       the reach of its grid, in the same manner.
    2. Design it for all data; round with GPTQ on all rows as they come out of the INT8 grid.
    3. Fold the shift through the codes, and correct the bias by the mean error left (Nagel et al., 2019,
       arXiv:1906.04721).
    """
    weight = Grouped(site.matrix(), site.groups)
    rows = seen.sample(site.view).rows()
    trials = try_recipes(rows, weight, site, recipes)
    chosen = _with_reach(cheapest(trials), rows, weight, site)
    assert seen.channel_minimum is not None and seen.channel_maximum is not None  # noqa: PT018
    channels = replace(_channels(rows, site.taps), minimum=seen.channel_minimum, maximum=seen.channel_maximum)
    conditioning = design(channels, _amax_of_channels(weight.matrix, site.taps), chosen.recipe)
    codes, bias = _rounded(rows, weight, conditioning.spread(site.taps))
    return Solution(Quantised(conditioning, _parted(codes, bias, site)), chosen, tuple(trials))


def try_recipes(rows: NDArray[np.float32], weight: Grouped, site: Site, recipes: Sequence[Recipe]) -> list[Trial]:
    """The recipes that ``site`` can take, or else the plain one, tried on held-out ``rows``."""
    held_out, fitted = (rows[chosen] for chosen in hold_out(len(rows)))
    taps = site.taps
    channels = _channels(fitted, taps)
    weight_amax = _amax_of_channels(weight.matrix, taps)
    expected = weight.product(held_out)
    trials = []
    for recipe in [recipe for recipe in recipes if possible(recipe, site)] or [Recipe()]:
        conditioning = design(channels, weight_amax, recipe).spread(taps)
        _, values = Grouped(conditioning.weight(weight.matrix), weight.groups).nearest()
        got = values.product(_on_grid(held_out, conditioning)) + _around(held_out, weight, conditioning, values)
        trials.append(Trial(recipe, _error(expected, got)))
    return trials


def _with_reach(trial: Trial, rows: NDArray[np.float32], weight: Grouped, site: Site) -> Trial:
    """The same recipe with the widest grid that no tighter one beats by much."""

    def reaching(*factors: float) -> list[Trial]:
        return try_recipes(rows, weight, site, [replace(trial.recipe, reach=factor) for factor in factors])

    wide = cheapest([*reaching(*HEAD_ROOM), trial])
    tight = min(reaching(*CLIPS), key=lambda clipped: clipped.error)
    return tight if tight.error < CLIP_WORTH * wide.error else wide


def possible(recipe: Recipe, site: Site) -> bool:
    """Whether ``site`` can take ``recipe``.

    A shift does not reach the zeros that a Conv pads with. Channels of a grouped Conv cannot be repeated; only there is
    it free to smooth all the way, where channels have weight scales of their own. Only MatMul and Gemm have side
    branches, and some channels must be left for INT8.
    """
    if recipe.smooth == 1 and site.groups == 1:
        return False
    if recipe.shift and site.window is not None and site.window.padded:
        return False
    if recipe.split and site.groups > 1:
        return False
    return not recipe.side or (site.window is None and recipe.side <= len(site.matrix()) // 2)


def cheapest(trials: Sequence[Trial]) -> Trial:
    """The first trial, recipes in order of cost, that no later one beats by much."""
    chosen = trials[0]
    for trial in trials[1:]:
        if trial.error < WORTH * chosen.error:
            chosen = trial
    return chosen


def hold_out(count: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Row numbers to try recipes on, and to design them for. Drawn, since every n-th row might be n-th of something."""
    held_out, fitted = np.split(np.random.default_rng(0).permutation(count), [min(count // HOLD_OUT, TRIED)])
    return held_out, fitted


def _rounded(
    rows: NDArray[np.float32], weight: Grouped, conditioning: Conditioning
) -> tuple[Rounded, NDArray[np.float32]]:
    """Codes and what joins the bias [N]: the shift folded through the codes, and the mean error that is left."""
    inputs = _on_grid(rows, conditioning)
    codes, values = Grouped(conditioning.weight(weight.matrix), weight.groups).gptq(inputs)
    side = conditioning.side
    wanted = weight.product(rows)
    if len(side):
        wanted = wanted - rows[:, side] @ weight.matrix[side]
    return codes, (wanted - values.product(inputs)).mean(axis=0)


def _around(
    rows: NDArray[np.float32], weight: Grouped, conditioning: Conditioning, values: Grouped
) -> NDArray[np.float32]:
    """What reaches the output beside the INT8 product: the folded shift [N] and the side branch [n, N]."""
    shift = conditioning.shift[conditioning.index] * conditioning.multiplier
    folded = values.product(shift[None])
    side = conditioning.side
    return folded + rows[:, side] @ weight.matrix[side] if len(side) else folded


def _parted(codes: Rounded, bias: NDArray[np.float32], site: Site) -> dict[str, Codes]:
    """The columns of each op."""
    ends = np.cumsum([op.channels for op in site.ops])
    if site.groups > 1:
        return {site.ops[0].name: Codes(codes.codes, codes.scale, bias)}
    parts = zip(*(np.split(array, ends[:-1], axis=-1) for array in (codes.codes, codes.scale, bias)), strict=True)
    return {op.name: Codes(*part) for op, part in zip(site.ops, parts, strict=True)}


def _channels(rows: NDArray[np.float32], taps: int) -> Channels:
    """What ``rows`` [n, K * taps] say of each channel."""
    parted = rows.reshape(len(rows), -1, taps)
    return Channels(*(np.asarray(of(parted, axis=(0, 2)), np.float32) for of in (np.min, np.median, np.max)))


def _amax_of_channels(matrix: NDArray[np.float32], taps: int) -> NDArray[np.float32]:
    """Largest magnitude of the weights of each channel, [K]."""
    return np.asarray(np.abs(matrix).max(axis=1).reshape(-1, taps).max(axis=1), np.float32)


def _on_grid(rows: NDArray[np.float32], conditioning: Conditioning) -> NDArray[np.float32]:
    """Conditioned rows as they come out of Q and DQ."""
    scale = scale_of(conditioning.amax)
    return dequantize(quantize(conditioning(rows), scale), scale)


def _error(expected: Floats, got: Floats) -> float:
    """Root mean square over rows of the relative error power: no huge row hides what most rows lose, and rows that are
    hit hard (clipped, on data like this) count for more than their number.

    Relative to what distinguishes the row, its distance to the median of every column: a constant part of the output
    carries nothing, and a constant part of the error is what the bias repairs. A row of (nearly) nothing, of which any
    error would be a huge multiple, is judged like one ``FAINT`` as strong as the median row.
    """
    power = np.square(expected - np.median(expected, axis=0), dtype=np.float64).sum(axis=1)
    typical = float(np.median(power[power > 0])) if power.any() else float(np.square(expected).sum(axis=1).max()) or 1.0
    error = expected - got
    lost = np.square(error - error.mean(axis=0), dtype=np.float64).sum(axis=1)
    return float(np.sqrt(np.square(lost / np.maximum(power, FAINT * typical)).mean()))
