"""Quantise a model: solve its sites, run the passes in order, and record the plan in the model."""

import json
from collections.abc import Mapping
from functools import partial
from importlib.metadata import version
from pathlib import Path

import onnx_ir as ir

from calib8.calibration.ranges import Ranges
from calib8.calibration.statistics import TensorStatistics
from calib8.errors import ConfigError
from calib8.graph.mapped import release
from calib8.graph.site import Site, sites
from calib8.graph.sizes import record_sizes
from calib8.graph.weighted import refuse_other_floats, weighted_ops
from calib8.passes.condition import condition
from calib8.passes.fit_tensorrt import fit_tensorrt
from calib8.passes.fold_conditioning import fold_conditioning
from calib8.passes.half import to_half
from calib8.passes.insert_qdq import finite_weight, insert_qdq
from calib8.passes.plain_convolutions import plain_convolutions
from calib8.passes.quantize_embedding import quantize_embeddings
from calib8.passes.reach import mark_reach
from calib8.passes.skip_codes import add_codes
from calib8.passes.stairs import fold_stairs
from calib8.precision import INT8, Grid
from calib8.progress import Progress
from calib8.provenance import CALIBRATION, MADE_BY, PLAN, Origin
from calib8.quantization.config import Common, Migrate, Optimize, Quantize
from calib8.quantization.policy import make_plan
from calib8.quantization.quant_plan import QuantPlan
from calib8.quantization.solve import FEWEST_ROWS, Solution, solve
from calib8.quantization.solved import kept
from calib8.resume import is_whole


def quantize_by_ranges(model: ir.Model, ranges: Ranges, config: Quantize) -> tuple[ir.Model, QuantPlan]:
    """Return a quantised clone of the prepared ``model``, and the plan it follows: what ranges alone can tell."""
    model = plain_convolutions(model)
    plan = make_plan(model, ranges, config)
    return apply_plan(model, ranges, plan, config), plan


def solve_sites(
    model: ir.Model,
    names: set[str],
    statistics: Mapping[str, TensorStatistics],
    progress: Progress,
    unfinished: Path | None = None,
    optimize: Optimize = "accuracy",
    grid: Grid = INT8,
) -> dict[str, Solution]:
    """The solution of every op whose input was sampled often enough, by the op's name; ops of one site share it.

    unfinished: folder in which solutions are kept, and found by a later run.

    Raises ``ModelError`` for an op that computes in FP16, or whose weight holds NaN or infinity.
    """
    found: dict[str, Solution] = {}
    todo = [site for site in sites(model, names) if _sampled(statistics[site.tensor], site)]
    paths = [unfinished / f"site-{number:04d}.npz" if unfinished is not None else None for number in range(len(todo))]
    known = {path for path in paths if path is not None and is_whole(path)}
    done = len(known)
    progress.update("quantize", done, len(todo))
    if known:
        progress.note(f"going on where an earlier run stopped: {done} of {len(todo)} groups of ops are quantised")
    for site, path in zip(todo, paths, strict=True):
        for op in site.ops:
            refuse_other_floats(op.node)
            finite_weight(op.weight)
        solution = kept(path, partial(solve, statistics[site.tensor], site, optimize=optimize, grid=grid))
        found |= dict.fromkeys([op.name for op in site.ops], solution)
        release(model)  # or all weights would be in memory at the end
        if path not in known:
            done += 1
            progress.update("quantize", done, len(todo))
    return found


def _sampled(seen: TensorStatistics, site: Site) -> bool:
    return len(seen.sample(site.view)) >= FEWEST_ROWS and seen.amax > 0


def apply_plan(
    model: ir.Model,
    ranges: Ranges,
    plan: QuantPlan,
    config: Quantize,
    solutions: Mapping[str, Solution] | None = None,
    *,
    folded: bool = True,
) -> ir.Model:
    """Return a quantised clone of the prepared ``model``; ``folded``: for latency, whatever can be folded is.

    Order: Q/DQ first, since scales are found on FP32 tensors by name, and those of residuals; then what TensorRT runs
    badly, and tables; then folding, which renames tensors and needs all their readers to be there; FP16 last, since it
    must see every Q/DQ node to keep its scales in FP32, every op that took conditioning in, and the sums that must not
    round.

    Raises ``ConfigError`` if the plan leaves nothing in INT8.
    """
    quantised, solutions = mark_reach(model.clone(), ranges.beyond), solutions or {}
    chosen = set(plan.quantised)
    if not chosen:
        raise ConfigError(
            "the plan leaves every op in float: there is nothing to quantise. The first op's reason: "
            f"{plan.ops[0].reason}. Lower --min-sqnr, change --include/--exclude, or calibrate on other data."
        )
    quantize_ops(quantised, chosen, ranges, solutions, config.grid)
    if config.goal == "latency":
        add_codes(quantised, ranges.amax(), config.grid)
    record_sizes(quantised, ranges.sizes)
    return finish(quantised, plan, ranges.origin, config, everywhere=folded and config.goal == "latency")


def finish(
    quantised: ir.Model, plan: QuantPlan, origin: Origin, config: Quantize | Migrate, *, everywhere: bool = False
) -> ir.Model:
    """Bring what is not quantised into its form, in place, record how the model was made, and return it.

    everywhere: how to fold, see ``fold_conditioning``.
    """
    fit_tensorrt(quantised)
    if config.embedding:
        quantize_embeddings(quantised)
    fold_conditioning(quantised, everywhere=everywhere)
    fold_stairs(quantised)
    if config.remainder == "fp16":
        to_half(quantised)
    quantised.metadata_props[PLAN] = plan.model_dump_json()
    quantised.metadata_props[CALIBRATION] = origin.model_dump_json()
    quantised.metadata_props[MADE_BY] = _recipe(config)
    return quantised


def quantize_ops(
    model: ir.Model, names: set[str], ranges: Ranges, solutions: Mapping[str, Solution], grid: Grid = INT8
) -> None:
    """Quantise the ops called ``names`` of ``model`` in place: as ``solutions`` say, by ``ranges`` alone elsewhere."""
    for site in reversed(sites(model, names & set(solutions))):  # a correction hides the value that later sites read
        condition(model, site, solutions[site.name].quantised)
    plain = [op for op in weighted_ops(model) if op.name in names - set(solutions)]
    insert_qdq(model, plain, ranges.amax(), grid)


def repeats(quantised: ir.Model, origin: Origin, config: Quantize) -> bool:
    """Whether quantising again from ``origin`` with ``config`` would only make ``quantised`` again."""
    props = quantised.metadata_props
    return props.get(CALIBRATION) == origin.model_dump_json() and props.get(MADE_BY) == _recipe(config)


def _recipe(config: Common) -> str:
    return json.dumps({"calib8": version("calib8"), **config.chosen()})
