"""Quantise one site as well as can be: choose a recipe on held-out rows, round the weights, correct the bias."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from calib8.calibration.statistics import TensorStatistics
from calib8.graph.site import Site
from calib8.passes.condition import Codes, Conditioning, Quantised
from calib8.precision import INT8, Grid
from calib8.quantization.config import Optimize
from calib8.quantization.design import Recipe, design
from calib8.quantization.grouped import Grouped
from calib8.quantization.rounding import Rounded
from calib8.quantization.trials import TRIED, Trial, Trials, amax_of_channels, channels_of, on_grid, possible

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
#: For latency, where nothing may stand before Q. Twice the columns lowered the error by a tenth or two only.
STAIRS = (Recipe(stairs=0.04),)
#: A costlier recipe must lower the error power by this factor.
WORTH = 0.9
#: How far the grid may reach beyond what was seen, or fall short of it, from wide to tight. On data unlike that of
#: calibration values go farther, so head-room is taken where it costs next to nothing; clipping must halve the error.
HEAD_ROOM, CLIPS, CLIP_WORTH = (1.4, 1.2, 1.1), (0.7, 0.5), 0.5
#: Rows to sample of every tensor, and the fewest that say enough to solve a site by.
ROWS, FEWEST_ROWS = 4096, 64


@dataclass(frozen=True)
class Solution:
    """A quantised site, the trial that its recipe won, and the trials of all recipes."""

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


def usual_recipes(grid: Grid) -> tuple[Recipe, ...]:
    """A float grid has its fine steps for small values beside large ones: nothing to condition."""
    return (*RECIPES, *STAIRS) if grid.even else RECIPES[:1]


def solve(
    seen: TensorStatistics,
    site: Site,
    recipes: Sequence[Recipe] | None = None,
    optimize: Optimize = "accuracy",
    grid: Grid = INT8,
) -> Solution:
    """Quantise the weights of ``site``, whose input was ``seen``, rows sampled.

    1. Try the recipes (the usual ones if none are given) that the site can take (the plain one if none), and keep the
       cheapest that nothing beats by much; then the reach of its grid, in the same manner.
    2. Design it for all data; round with GPTQ on all rows as they come out of the grid.
    3. Fold the shift through the codes, and correct the bias by the mean error left (Nagel et al., 2019,
       arXiv:1906.04721).
    """
    rows = seen.sample(site.view).rows()
    trials, usual = Trials(rows, site, grid), usual_recipes(grid)
    allowed = [recipe for recipe in recipes or usual if possible(recipe, site, optimize)]
    found = [trials.run(recipe) for recipe in allowed or [Recipe()]]
    chosen = _with_reach(cheapest(found), trials)
    assert seen.channel_minimum is not None and seen.channel_maximum is not None  # noqa: PT018
    channels = replace(channels_of(rows, site.taps), minimum=seen.channel_minimum, maximum=seen.channel_maximum)
    conditioning = design(channels, amax_of_channels(trials.weight.matrix, site.taps), chosen.recipe)
    codes, bias = _rounded(rows, trials.weight, conditioning.spread(site.taps), grid)
    return Solution(Quantised(conditioning, _parted(codes, bias, site), grid), chosen, tuple(found))


def cheapest(trials: Sequence[Trial]) -> Trial:
    """From cheap to costly, or wide to tight: go on only for what beats the choice so far by much."""
    chosen = trials[0]
    for trial in trials[1:]:
        if trial.error < WORTH * chosen.error:
            chosen = trial
    return chosen


def _with_reach(chosen: Trial, trials: Trials) -> Trial:
    """The same recipe with as wide a grid as costs next to nothing.

    Clipping is tried where enough rows are held out: that a few of them lose nothing by it proves nothing.
    """

    def reaching(factors: Sequence[float]) -> list[Trial]:
        return [trials.run(replace(chosen.recipe, reach=factor)) for factor in factors]

    wide = cheapest([*reaching(HEAD_ROOM), chosen])
    if trials.held_out < TRIED:
        return wide
    tight = min(reaching(CLIPS), key=lambda clipped: clipped.error)
    return tight if tight.error < CLIP_WORTH * wide.error else wide


def _rounded(
    rows: NDArray[np.float32], weight: Grouped, conditioning: Conditioning, grid: Grid
) -> tuple[Rounded, NDArray[np.float32]]:
    """Codes and what joins the bias [N]: the shift folded through the codes, and the mean error that is left."""
    inputs = on_grid(rows, conditioning, grid)
    codes, values = Grouped(conditioning.weight(weight.matrix), weight.groups).gptq(inputs, grid)
    wanted = weight.product(rows)
    if len(side := conditioning.side):
        wanted = wanted - rows[:, side] @ weight.matrix[side]
    return codes, (wanted - values.product(inputs)).mean(axis=0)


def _parted(codes: Rounded, bias: NDArray[np.float32], site: Site) -> dict[str, Codes]:
    """The columns of each op."""
    if site.groups > 1:  # one op, its scales in blocks
        return {site.name: Codes(codes.codes, codes.scale, bias)}
    ends = np.cumsum([op.channels for op in site.ops])[:-1]
    parts = zip(*(np.split(array, ends, axis=-1) for array in (codes.codes, codes.scale, bias)), strict=True)
    return {op.name: Codes(*part) for op, part in zip(site.ops, parts, strict=True)}
