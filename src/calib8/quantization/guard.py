"""The guard: ops that alone cost the model's own output too much stay in float."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import onnx_ir as ir

from calib8.progress import Progress
from calib8.quantization.case import Case
from calib8.quantization.policy import Findings
from calib8.quantization.probe import Probe
from calib8.quantization.quant_plan import QuantPlan
from calib8.quantization.solve import Solution
from calib8.quantization.worth import Stopwatch


def quantise_guarded(
    case: Case, probe: Probe, progress: Progress, stopwatch: Stopwatch | None = None
) -> tuple[ir.Model, QuantPlan]:
    """The quantised model and its plan, ops left in float that alone cost more than ``max_damage``.

    What a site's own numbers cannot tell is how much its error matters: 23 dB may be plenty in one place and ruin a
    detector in another. Nothing is measured op by op as long as all of them together do no such damage.

    stopwatch: leaves in float, too, what it finds to be no faster for it, if all of the model is faster then.
    """
    if probe.blind is not None:
        progress.note(probe.blind)
    case = case.with_gelu_ops(probe, progress)
    solutions = case.solutions(progress)
    quantised, findings, least = _guarded(case, solutions, probe, progress)
    plan = case.plan(solutions, findings)
    if stopwatch is None or not (slow := stopwatch.slow(quantised, plan)):
        return quantised, plan
    other_plan = case.plan(solutions, replace(findings, left_out={**findings.left_out, **slow}))
    other = case.follow_soundly(other_plan, solutions, probe, least, progress)
    return (other, other_plan) if stopwatch.faster(other) else (quantised, plan)


def _guarded(
    case: Case, solutions: Mapping[str, Solution], probe: Probe, progress: Progress
) -> tuple[ir.Model, Findings, float]:
    """The model by what its output tells, what that was, and the score that is to be left of it."""
    quantised, plan = case.apply(solutions)
    progress.update("measure all of it", 0, 1)
    loss, limit = 1 - probe.score(quantised), max(case.config.max_damage, probe.step)
    progress.update("measure all of it", 1, 1)
    if loss <= limit:
        return quantised, Findings(), 1 - limit
    names = plan.quantised
    del quantised  # a switchboard holds every weight twice
    told = case.config.grid.precision.upper()
    progress.note(
        f"all of it in {told} costs {loss:.4f} of {probe.told}: looking for ops that alone cost more than {limit:g}"
    )
    with case.step("measured", progress, probe) as folder:
        measuring = case.measuring(set(names), solutions, probe, folder)
        with measuring.board:
            base = measuring.score(())

            def damage(group: Sequence[str]) -> float:
                progress.update("measure ops", len(measuring), None)
                return measuring.damage(group, limit)

            found = culprits(names, damage, limit)
            left = measuring.score(name for name in names if name not in found)
    progress.update("measure ops", len(measuring), len(measuring))
    reasons = {
        name: f"alone it takes {cost:.4f} from the {probe.told} of the model's output, more than {limit:g}"
        for name, cost in found.items()
    }
    findings = Findings({name: base - cost for name, cost in found.items()}, reasons)
    least = left - limit
    return case.follow_soundly(case.plan(solutions, findings), solutions, probe, least, progress), findings, least


def culprits(names: Sequence[str], damage: Callable[[Sequence[str]], float], limit: float) -> dict[str, float]:
    """The ops whose own damage exceeds ``limit``, with that damage.

    A group that does no more than that together is cleared at once; any other is halved. What the first half leaves of
    the damage is the second's, more or less: where that is too much, its halves are measured in its place. A few
    culprits among n ops are found in a few times log2(n) measurements.
    """
    return _within(names, damage(names) if names else 0.0, damage, limit)


def _within(
    names: Sequence[str], found: float, damage: Callable[[Sequence[str]], float], limit: float
) -> dict[str, float]:
    """``found``: the damage that they do together; of a single op it was measured."""
    if found <= limit:
        return {}
    if len(names) == 1:
        return {names[0]: found}
    half = len(names) // 2
    first = damage(names[:half])
    second = found - first
    if len(names) - half == 1 or not second > limit:  # NaN included
        second = damage(names[half:])
    return _within(names[:half], first, damage, limit) | _within(names[half:], second, damage, limit)
