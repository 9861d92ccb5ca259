"""Quantise one site as well as can be: choose a recipe on held-out rows, round the weights, correct the bias."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from calib8.calibration.statistics import TensorStatistics
from calib8.numerics import Floats, dequantize, quantize, scale_of
from calib8.passes.condition import Conditioning, Quantised
from calib8.planning.design import Recipe, design
from calib8.planning.rounding import gptq, nearest

#: From cheap to costly: what stands before a cheaper recipe of nearly the same error is not worth its nodes.
RECIPES = (
    Recipe(),
    Recipe(smooth=0.5),
    Recipe(shift=True),
    Recipe(smooth=0.5, shift=True),
    Recipe(shift=True, split=0.04),
    Recipe(smooth=0.5, shift=True, split=0.04),
)
#: A costlier recipe must lower the error power by this factor.
WORTH = 0.9
#: One row in this many is held out: recipes are chosen on rows that they were not designed for.
HOLD_OUT = 4
#: Rows that recipes are tried on; more change the choice no further.
TRIED = 768
#: Power, as a share of the median row's, below which a row's relative error says nothing.
FAINT = 0.01
#: Rows to sample of every tensor, and the fewest that say enough to solve a site by.
ROWS, FEWEST_ROWS = 4096, 64


@dataclass(frozen=True)
class Solution:
    """A quantised site, the recipe behind it, and the recipe's error: mean of ||error||^2 / ||output||^2.

    The error is that of the trial, on rows that neither ranges nor rounding had seen, before GPTQ and bias correction.
    """

    quantised: Quantised
    recipe: Recipe
    error: float


def solve(seen: TensorStatistics, weight: NDArray[np.float32], recipes: tuple[Recipe, ...] = RECIPES) -> Solution:
    """Quantise the weights [K, N] of a site whose input was ``seen``, rows sampled.

    1. Try every recipe with nearest rounding, designed for three quarters of the rows, on the others: a grid that fits
       the rows it was made for too tightly clips what comes next. Keep the cheapest that nothing beats by much.
    2. Design it for all data; round with GPTQ on all rows as they come out of the INT8 grid.
    3. Fold the shift through the codes, and correct the bias by the mean error left (Nagel et al., 2019,
       arXiv:1906.04721).
    """
    assert seen.channel_minimum is not None and seen.channel_maximum is not None  # noqa: PT018
    low, high = seen.channel_minimum, seen.channel_maximum
    rows = seen.sample
    held_out, fitted = (rows[chosen] for chosen in hold_out(len(rows)))
    fitted_low, fitted_high = fitted.min(axis=0), fitted.max(axis=0)
    weight_amax = np.abs(weight).max(axis=1)
    expected = held_out @ weight

    def trial(recipe: Recipe) -> float:
        conditioning = design(fitted_low, fitted_high, weight_amax, recipe)
        codes, scale = nearest(conditioning.weight(weight))
        quantised = dequantize(codes, scale)
        folded = (conditioning.shift[conditioning.index] * conditioning.multiplier) @ quantised
        return _error(expected, _on_grid(held_out, conditioning) @ quantised + folded)

    chosen, error = recipes[0], trial(recipes[0])
    for recipe in recipes[1:]:
        if (found := trial(recipe)) < WORTH * error:
            chosen, error = recipe, found
    conditioning = design(low, high, weight_amax, chosen)
    inputs = _on_grid(rows, conditioning)
    codes, scale = gptq(conditioning.weight(weight), inputs.T @ inputs)
    bias = (rows @ weight - inputs @ dequantize(codes, scale)).mean(axis=0)
    return Solution(Quantised(conditioning, codes, scale, bias), chosen, error)


def hold_out(count: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Row numbers to try recipes on, and to design them for. Drawn, since every n-th row might be n-th of something."""
    held_out, fitted = np.split(np.random.default_rng(0).permutation(count), [min(count // HOLD_OUT, TRIED)])
    return held_out, fitted


def _on_grid(rows: NDArray[np.float32], conditioning: Conditioning) -> NDArray[np.float32]:
    """Conditioned rows as they come out of Q and DQ."""
    scale = scale_of(conditioning.amax)
    return dequantize(quantize(conditioning(rows), scale), scale)


def _error(expected: Floats, got: Floats) -> float:
    """Mean over rows of the relative error power, so that a few huge rows do not hide what most rows lose.

    A row of (nearly) nothing, of which any error would be a huge multiple, is judged like one ``FAINT`` as strong as
    the median.
    """
    power = np.square(expected, dtype=np.float64).sum(axis=1)
    typical = float(np.median(power[power > 0])) if power.any() else 1.0
    lost = np.square(expected - got, dtype=np.float64).sum(axis=1)
    return float((lost / np.maximum(power, FAINT * typical)).mean())
