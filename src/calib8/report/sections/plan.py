"""What is done to every op, and why."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from calib8.quantization.quant_plan import OpPlan, QuantPlan
from calib8.report.chart import FIRST, WARN, Chart, short
from calib8.report.report import Conversion
from calib8.report.section import Cell, Column, Note, Section, Table, Value
from calib8.report.wording import shared_path

if TYPE_CHECKING:
    from matplotlib.axes import Axes

#: Rows of the table that only sums up, and bars of ops.
MOST, BARS = 8, 20
TERMS = {
    "op": "A node of the model with weights: MatMul, Gemm or Conv.",
    "recipe": "What is done to an op's input before it is rounded, and undone in its weights. Smooth moves the size of "
    "large channels into the weights (the number says how much of it), shift takes the middle of each channel away, "
    "split divides the largest channels in two, stairs compute them in steps that end where the grid does, reach "
    "leaves room on the grid for larger values.",
    "extra columns": "What split, or stairs, add to the op.",
}


def conversion(made: Conversion) -> Section | None:
    """The plan of the quantised model."""
    return plan_section(made.plan) if made.plan is not None else None


def plan_section(plan: QuantPlan) -> Section:
    """A row for each op; a page has recipes and charts that sum up, too."""
    measured = [op for op in plan.ops if op.expected_cosine is not None]
    charts: tuple[Chart, ...] = (_noise(plan),) if any(op.sqnr_db is not None for op in plan.ops) else ()
    if measured:
        charts += (_costs(measured),)
    notes = [f"{len(plan.quantised)} of {len(plan.ops)} ops with weights are {plan.precision.upper()}."]
    if (budget := plan.budget) is not None:
        notes.append(
            f"Searched for a mean {budget.score} of {budget.least:g}: {budget.reached:.5f} ± "
            f"{budget.standard_error:.5f} on {budget.samples} held-out calibration samples."
        )
    if plan.gelu is not None:
        notes.append(plan.gelu.describe())
    tables = (_recipes(plan), _ops(plan, measured=bool(measured)))
    return Section("Plan, op by op", tuple(Note(note, on="page") for note in notes), charts, tables, terms=TERMS)


def _ops(plan: QuantPlan, *, measured: bool) -> Table:
    below = shared_path([op.node for op in plan.ops])
    columns = [
        Column("no.", "{:d}", on="page"),
        Column("op", wrap="anywhere"),
        Column("kind", on="page"),
        Column("treatment"),
        Column("recipe", on="page"),
        Column("SQNR (dB)", "{:.1f}", on="page"),
        Column(
            "cosine alone",
            "{:.5f}",
            terminal=("alone", f"in {plan.precision.upper()}"),
            on="both" if measured else "terminal",
        ),
        Column("extra columns", "{:d}", terminal=("extra", "columns")),
    ]
    rows: list[tuple[Value, ...]] = [
        (
            place,
            Cell(op.node, terminal=op.node[len(below) :]),
            op.kind,
            Cell(op.treatment, terminal=_treatment(op)),
            op.recipe,
            op.sqnr_db,
            op.expected_cosine,
            op.extra_columns or Cell("0", 0.0, terminal=""),
        )
        for place, op in enumerate(plan.ops, start=1)
    ]
    if any(op.treatment == "float" for op in plan.ops):
        columns.append(Column("why float", on="page"))
        whys = (op.reason if op.treatment == "float" else "" for op in plan.ops)
        rows = [(*row, why) for row, why in zip(rows, whys, strict=True)]
    return Table("Every op of the plan", tuple(columns), tuple(rows), terminal=_heading(plan, below), long=True)


def _heading(plan: QuantPlan, below: str) -> tuple[str, ...]:
    gelu = (plan.gelu.describe(),) if plan.gelu is not None else ()
    said = (*gelu, *((f"names of ops begin with {below}",) if below else ()))
    if (budget := plan.budget) is None:
        return ("Plan", *said)
    return (
        f"Plan for a mean {budget.score} of {budget.least:g}:",
        f"{budget.reached:.5f} +- {budget.standard_error:.5f} on {budget.samples} held-out samples",
        *said,
    )


def _treatment(op: OpPlan) -> str:
    return f"{op.treatment}: {op.reason if op.treatment == 'float' else op.recipe or 'by its range'}"


def _recipes(plan: QuantPlan) -> Table:
    """How many ops are treated alike, and the worst that this leaves of one."""
    alike: dict[str, list[OpPlan]] = {}
    for op in plan.ops:
        alike.setdefault("float" if op.treatment == "float" else op.recipe or "by its range", []).append(op)
    most = sorted(alike.items(), key=lambda item: -len(item[1]))[:MOST]
    rows = tuple(
        (what, len(ops), min((op.sqnr_db for op in ops if op.sqnr_db is not None), default=None)) for what, ops in most
    )
    columns = (Column("recipe"), Column("ops", "{:d}"), Column("lowest SQNR (dB)", "{:.1f}"))
    return Table("Recipes", columns, rows, on="page")


def _noise(plan: QuantPlan) -> Chart:
    """What is left of the signal at each op."""
    told = plan.precision.upper()
    ops = [(place, op, op.sqnr_db) for place, op in enumerate(plan.ops, start=1)]

    def paint(axes: "Axes") -> None:
        for treatment, colour in ((plan.precision, FIRST), ("float", WARN)):
            chosen = [(place, left) for place, op, left in ops if op.treatment == treatment and left is not None]
            if chosen:
                axes.scatter([x for x, _ in chosen], [y for _, y in chosen], s=12, color=colour, label=treatment)
        axes.set_xlabel("op, in the order of the graph (number)")
        axes.set_ylabel(f"signal to noise in {told} (dB)")
        axes.legend(loc="upper center", bbox_to_anchor=(0.5, 1.14), ncols=2)

    known = [(left, op) for _, op, left in ops if left is not None]
    lowest, op = min(known, key=lambda pair: pair[0])
    said = (
        f"{len(known)} ops; higher is better. The lowest is {op.node} with {lowest:.1f} dB, treated as {op.treatment}."
    )
    return Chart("noise", f"What {told} leaves of each op's signal", said, (paint,))


def _costs(ops: Sequence[OpPlan]) -> Chart:
    """What each op alone costs the model's own output; ``ops`` have their ``expected_cosine``."""
    costs = sorted(((1 - (op.expected_cosine or 0.0), op) for op in ops), key=lambda pair: -pair[0])[:BARS]

    def paint(axes: "Axes") -> None:
        colours = [WARN if op.treatment == "float" else FIRST for _, op in costs]
        axes.barh(range(len(costs)), [cost for cost, _ in costs], color=colours)
        axes.set_yticks(range(len(costs)), [short(op.node) for _, op in costs])
        axes.invert_yaxis()
        axes.grid(visible=False, axis="y")
        axes.set_xlabel("1 - cosine to FP32, this op alone quantised")

    cost, worst = costs[0]
    said = (
        f"The costliest {len(costs)} ops. {worst.node} alone takes {cost:.5f} from the cosine; it is {worst.treatment}."
    )
    return Chart("sensitivity", "What each op alone costs the output", said, (paint,), height=0.9 + 0.19 * len(costs))
