"""Plans and sensitivities as tables that fit a terminal of 80 columns."""

from rich.table import Table
from rich.text import Text

from calib8.planning.quant_plan import OpPlan, QuantPlan
from calib8.search.sensitivity import Sensitivity


def render_plan(plan: QuantPlan) -> Table:
    """One line per op: what is done to it, what that is expected to cost, and why an op stays in float."""
    title = "Plan"
    if (budget := plan.budget) is not None:
        title += (
            f" for a mean cosine of {budget.cosine}:\n{budget.reached:.5f} +- {budget.standard_error:.5f} "
            f"on {budget.samples} held-out samples"
        )
    table = Table(title=title, title_justify="left", title_style="bold")
    table.add_column("op", overflow="fold")
    table.add_column("treatment")
    table.add_column("expected cosine", justify="right")
    table.add_column("extra columns", justify="right")
    for op in plan.ops:
        cosine = "" if op.expected_cosine is None else f"{op.expected_cosine:.5f}"
        table.add_row(Text(op.node), Text(_treatment(op)), cosine, str(op.extra_columns or ""))  # "[" is no markup
    return table


def _treatment(op: OpPlan) -> str:
    return f"float: {op.reason}" if op.treatment == "float" else f"int8: {op.recipe or 'by its range'}"


def render_sensitivity(sensitivity: Sensitivity, most: int) -> Table:
    """The ``most`` costliest ops."""
    table = Table(
        title=f"Mean cosine to FP32 on {sensitivity.samples} samples:\n{sensitivity.all_float:.5f} with all ops in "
        f"float, {sensitivity.all_int8:.5f} with all in INT8",
        title_justify="left",
        title_style="bold",
    )
    table.add_column("op", overflow="fold")
    table.add_column("recipe")
    table.add_column("alone in INT8", justify="right")
    table.add_column("alone in float", justify="right")
    for op in sensitivity.ops[:most]:
        table.add_row(Text(op.node), op.recipe or "by its range", f"{op.alone:.5f}", f"{op.spared:.5f}")
    return table
