"""Where the time of a conversion went."""

from itertools import accumulate
from typing import TYPE_CHECKING

from calib8.report.chart import FIRST, Chart
from calib8.report.report import Conversion
from calib8.report.section import Column, Section, Table

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def conversion(made: Conversion) -> Section | None:
    """Every step and how long it took."""
    seconds = made.report.seconds
    if not seconds:
        return None
    table = Table("Steps", (Column("step"), Column("seconds", "{:,.1f}")), tuple(seconds.items()))
    return Section("Timeline", charts=(_chart(seconds),), tables=(table,), on="page")


def _chart(seconds: dict[str, float]) -> Chart:
    """The steps one after the other."""
    starts = [0.0, *accumulate(seconds.values())][:-1]

    def paint(axes: "Axes") -> None:
        axes.barh(range(len(seconds)), list(seconds.values()), left=starts, color=FIRST, height=0.6)
        for row, (start, taken) in enumerate(zip(starts, seconds.values(), strict=True)):
            axes.text(start + taken, row, f" {taken:,.0f} s", va="center", fontsize=8)
        axes.set_yticks(range(len(seconds)), list(seconds))
        axes.invert_yaxis()
        axes.margins(x=0.12)
        axes.set_xlim(left=0)
        axes.grid(visible=False, axis="y")
        axes.set_xlabel("time since the start (s)")

    said = "; ".join(f"{step} {taken:,.1f} s" for step, taken in seconds.items())
    return Chart("timeline", "Where the time went", f"{said}.", (paint,), height=1.0 + 0.25 * len(seconds))
