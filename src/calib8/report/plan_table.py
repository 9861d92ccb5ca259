"""Plans and sensitivities as tables that fit a terminal of 80 columns."""

from itertools import takewhile

from rich.table import Table

from calib8.quantization.quant_plan import OpPlan, QuantPlan
from calib8.quantization.sensitivity import Sensitivity
from calib8.report.lines import lines


def render_plan(plan: QuantPlan) -> Table:
    """One line per op: what is done to it, what that is expected to cost, and why an op stays in float."""
    title = ["Plan"]
    if (budget := plan.budget) is not None:
        title = [
            f"Plan for a mean cosine of {budget.cosine}:",
            f"{budget.reached:.5f} +- {budget.standard_error:.5f} on {budget.samples} held-out samples",
        ]
    below = _below([op.node for op in plan.ops])
    table = _table(title, below)
    table.add_column("treatment")
    table.add_column(lines("alone", "in INT8"), justify="right")
    table.add_column(lines("extra", "columns"), justify="right")
    for op in plan.ops:
        cosine = "" if op.expected_cosine is None else f"{op.expected_cosine:.5f}"
        table.add_row(lines(op.node[len(below) :]), lines(_treatment(op)), cosine, str(op.extra_columns or ""))
    return table


def _treatment(op: OpPlan) -> str:
    return f"float: {op.reason}" if op.treatment == "float" else f"int8: {op.recipe or 'by its range'}"


def render_sensitivity(sensitivity: Sensitivity, most: int) -> Table:
    """The ``most`` costliest ops."""
    title = [
        f"Mean cosine to FP32 on {sensitivity.samples} samples:",
        f"{sensitivity.all_float:.5f} with all ops in float, {sensitivity.all_int8:.5f} with all in INT8",
    ]
    below = _below([op.node for op in sensitivity.ops])
    table = _table(title, below)
    table.add_column("recipe")
    table.add_column(lines("alone", "in INT8"), justify="right")
    table.add_column(lines("alone", "in float"), justify="right")
    for op in sensitivity.ops[:most]:
        table.add_row(lines(op.node[len(below) :]), op.recipe or "by its range", f"{op.alone:.5f}", f"{op.spared:.5f}")
    return table


def _table(title: list[str], below: str) -> Table:
    said = [f"names of ops begin with {below}"] if below else []
    table = Table(title=lines(*title, *said, style="bold"), title_justify="left")
    table.add_column("op", overflow="fold")
    return table


def _below(names: list[str]) -> str:
    """The path that all names begin with, up to its last slash: repeated in every row it would fill the table."""
    same = takewhile(lambda parts: len(set(parts)) == 1, zip(*(name.split("/")[:-1] for name in names), strict=False))
    below = "".join(f"{parts[0]}/" for parts in same)
    return below if len(names) > 1 and len(below) > 1 else ""
