"""The guard: ops that alone cost the model's own output too much stay in float."""

from collections.abc import Callable, Sequence

import onnx_ir as ir

from calib8.progress import Progress
from calib8.quantization.case import Case
from calib8.quantization.policy import Findings
from calib8.quantization.probe import Probe
from calib8.quantization.quant_plan import QuantPlan


def quantise_guarded(case: Case, probe: Probe, progress: Progress) -> tuple[ir.Model, QuantPlan]:
    """The quantised model and its plan, ops left in float that alone cost more than ``max_damage``.

    What a site's own numbers cannot tell is how much its error matters: 23 dB may be plenty in one place and ruin a
    detector in another. Nothing is measured op by op as long as all of them together do no such damage.
    """
    case = case.with_gelu_ops(probe, progress)
    solutions = case.solutions(progress)
    quantised, plan = case.apply(solutions)
    progress.update("measure all of it", 0, 1)
    loss, limit = 1 - probe.score(quantised), max(case.config.max_damage, probe.step)
    progress.update("measure all of it", 1, 1)
    if loss <= limit:
        return quantised, plan
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
                return base - measuring.score(group)

            found = culprits(names, damage, limit)
            left = measuring.score(name for name in names if name not in found)
    progress.update("measure ops", len(measuring), len(measuring))
    reasons = {
        name: f"alone it takes {cost:.4f} from the {probe.told} of the model's output, more than {limit:g}"
        for name, cost in found.items()
    }
    plan = case.plan(solutions, Findings({name: base - cost for name, cost in found.items()}, reasons))
    return case.follow_soundly(plan, solutions, probe, left - limit, progress), plan


def culprits(names: Sequence[str], damage: Callable[[Sequence[str]], float], limit: float) -> dict[str, float]:
    """The ops whose own damage exceeds ``limit``, with that damage.

    A group that does no more than that together is cleared at once; any other is halved. A few culprits among n ops
    are found in a few times log2(n) measurements.
    """
    found = damage(names) if names else 0.0
    if found <= limit:
        return {}
    if len(names) == 1:
        return {names[0]: found}
    half = len(names) // 2
    return culprits(names[:half], damage, limit) | culprits(names[half:], damage, limit)
