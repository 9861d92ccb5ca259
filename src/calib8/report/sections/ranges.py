"""What calibration saw, and the tensors with outliers."""

from typing import TYPE_CHECKING

from calib8.calibration.ranges import Ranges, TensorRange
from calib8.precision import GRIDS, INT8, Grid
from calib8.report.chart import FIRST, INK, WARN, Chart
from calib8.report.report import Conversion
from calib8.report.section import Column, Note, Section, Table

if TYPE_CHECKING:
    from matplotlib.axes import Axes

#: The largest number of a tensor above a typical one of it, from which on it has outliers worth a colour.
OUTLIER = 50.0
#: Rows of the table that only sums up.
MOST = 8
TERMS = {
    "amax": "The value that the last step, 127 of INT8 or 448 of FP8, stands for; larger ones are cut off.",
    "typical": "Root mean square of the median row of a tensor: the size of an ordinary value in it.",
}


def conversion(made: Conversion) -> Section | None:
    """Every tensor that was calibrated."""
    return ranges_section(made.ranges, GRIDS[made.report.precision]) if made.ranges is not None else None


def ranges_section(ranges: Ranges, grid: Grid = INT8) -> Section:
    """The range of every tensor, how far its largest number is above a typical one, and what ``grid`` leaves of it."""
    columns = (
        Column("no.", "{:d}"),
        Column("tensor"),
        Column("amax", "{:,.4g}"),
        Column("lowest", "{:,.4g}"),
        Column("highest", "{:,.4g}"),
        Column("typical", "{:,.4g}"),
        Column("largest / typical", "{:,.1f}"),
        Column("SQNR of a typical row (dB)", "{:.1f}"),
    )
    rows = (
        (
            place,
            name,
            tensor.amax,
            tensor.minimum,
            tensor.maximum,
            tensor.typical,
            outlier_ratio(tensor),
            tensor.typical_sqnr_db(grid),
        )
        for place, (name, tensor) in enumerate(ranges.tensors.items(), start=1)
    )
    note = f"{ranges.samples:,} samples with {ranges.positions:,} positions."
    if grid.even:
        note += (
            " A tensor whose largest number is far above a typical one leaves the typical ones few "
            f"{grid.precision.upper()} levels, unless a recipe of the plan spreads them."
        )
    return Section(
        "Activation ranges",
        (Note(note),),
        (_chart(ranges),) if ranges.tensors else (),
        (_widest(ranges), Table("Every tensor", columns, tuple(rows), long=True)),
        terms=TERMS,
        on="page",
    )


def outlier_ratio(tensor: TensorRange) -> float | None:
    """How far the largest number seen is above a typical one (the RMS of a median row)."""
    largest = max(-tensor.minimum, tensor.maximum)
    return largest / tensor.typical if tensor.typical else None


def _widest(ranges: Ranges) -> Table:
    """The tensors with the largest outliers."""
    ratios = {name: outlier_ratio(tensor) or 0.0 for name, tensor in ranges.tensors.items()}
    widest = sorted(ratios, key=lambda name: -ratios[name])[:MOST]
    rows = tuple((name, ranges.tensors[name].amax, ratios[name]) for name in widest)
    columns = (Column("tensor"), Column("amax", "{:,.4g}"), Column("largest / typical", "{:,.0f}"))
    return Table("The widest tensors", columns, rows)


def _chart(ranges: Ranges) -> Chart:
    """From a typical number to the largest, tensor by tensor."""
    shown = {name: tensor for name, tensor in ranges.tensors.items() if outlier_ratio(tensor) is not None}
    ratios = {name: outlier_ratio(tensor) or 0.0 for name, tensor in shown.items()}
    wild = [ratio > OUTLIER for ratio in ratios.values()]
    places = range(1, len(shown) + 1)
    typical = [tensor.typical for tensor in shown.values()]
    largest = [max(-tensor.minimum, tensor.maximum) for tensor in shown.values()]

    def paint(axes: "Axes") -> None:
        colours = [WARN if is_wild else FIRST for is_wild in wild]
        axes.vlines(places, typical, largest, colors=colours, linewidth=1.6)
        axes.scatter(places, typical, s=7, color=INK, label="typical", zorder=3)
        for kind, label in ((False, "largest"), (True, f"over {OUTLIER:g} x typical")):
            chosen = [(x, y) for x, y, is_wild in zip(places, largest, wild, strict=True) if is_wild is kind]
            if chosen:
                across, up = zip(*chosen, strict=True)
                axes.scatter(across, up, s=14, color=WARN if kind else FIRST, label=label, zorder=3)
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter("{x:g}")  # the usual 10^x is a formula, and formulas are not parsed
        axes.set_xlabel("tensor, in the order of the graph (number)")
        axes.set_ylabel("|activation| (the model's own unit)")
        axes.legend(loc="upper center", bbox_to_anchor=(0.5, 1.15), ncols=3, columnspacing=1.0, handletextpad=0.2)

    said = f"{len(shown)} tensors, {sum(wild)} of them with numbers over {OUTLIER:g} times a typical one."
    if ratios:
        name = max(ratios, key=lambda name: ratios[name])
        said += f" The widest is {name}: {ratios[name]:.0f} times."
    return Chart("ranges", "Activation ranges and outliers", said, (paint,))
