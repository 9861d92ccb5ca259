"""What ops cost at the model's own output."""

from calib8.quantization.sensitivity import Sensitivity
from calib8.report.section import Cell, Column, Section, Table
from calib8.report.wording import shared_path


def sensitivity_section(sensitivity: Sensitivity, most: int) -> Section:
    """The ``most`` costliest ops."""
    told = sensitivity.precision.upper()
    below = shared_path([op.node for op in sensitivity.ops])
    heading = (
        f"Mean {sensitivity.score} on {sensitivity.samples} samples:",
        f"{sensitivity.all_float:.5f} with all ops in float, {sensitivity.all_int8:.5f} with all in {told}",
        *((f"names of ops begin with {below}",) if below else ()),
    )
    columns = (
        Column("op", wrap="anywhere"),
        Column("recipe"),
        Column(f"alone in {told}", "{:.5f}", terminal=("alone", f"in {told}")),
        Column("alone in float", "{:.5f}", terminal=("alone", "in float")),
    )
    rows = tuple(
        (Cell(op.node, terminal=op.node[len(below) :]), op.recipe or "by its range", op.alone, op.spared)
        for op in sensitivity.ops[:most]
    )
    return Section("Sensitivity", tables=(Table("The costliest ops", columns, rows, terminal=heading),))
