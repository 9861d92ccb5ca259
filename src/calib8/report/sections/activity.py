"""What a GPU did: numbers of each quantity, and its course as blocks in the terminal, as a chart on a page."""

import itertools
import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from calib8.gpu.activity import Activity
from calib8.report.bench import BenchReport
from calib8.report.chart import FIRST, Chart
from calib8.report.report import Conversion
from calib8.report.section import Cell, Column, Note, Section, Table
from calib8.report.verification import VerificationReport

if TYPE_CHECKING:
    from matplotlib.axes import Axes

BLOCKS = "▁▂▃▄▅▆▇█"
WIDTH = 28

#: Field of a sample -> (what people call it, unit, the unit in that of the field, the top of its scale or None).
QUANTITIES: dict[str, tuple[str, str, float, float | None]] = {
    "gpu_utilisation_percent": ("GPU busy", "%", 1, 100),
    "memory_utilisation_percent": ("memory busy", "%", 1, 100),
    "memory_used_bytes": ("memory used", "GB", 1e9, None),
    "power_watts": ("power", "W", 1, None),
    "temperature_celsius": ("temperature", "°C", 1, None),
    "sm_clock_mhz": ("SM clock", "MHz", 1, None),
    "memory_clock_mhz": ("memory clock", "MHz", 1, None),
    "process_utilisation_percent": ("this process, GPU", "%", 1, 100),
    "process_memory_bytes": ("this process, memory", "GB", 1e9, None),
}


def conversion(made: Conversion) -> Section | None:
    """While it was converted."""
    return activity_section(made.report.activity) if made.report.activity is not None else None


def verification(report: VerificationReport) -> Section | None:
    """While the engine ran."""
    return activity_section(report.gpu.activity) if report.gpu is not None and report.gpu.activity is not None else None


def bench(report: BenchReport) -> Section | None:
    """While all of it ran."""
    return activity_section(report.activity) if report.activity is not None else None


def activity_section(activity: Activity) -> Section:
    """Mean, maximum and course of every quantity that the GPU told."""
    device, seconds = f"{activity.device} ({activity.target}), driver {activity.driver}", activity.duration_seconds
    columns = (
        Column("quantity", terminal="", wrap="never"),
        Column("mean", "{:,.1f}", wrap="never"),
        Column("most", "{:,.1f}", terminal="max", wrap="never"),
        Column("unit", on="terminal", wrap="never"),
        Column("over time", on="terminal", wrap="never"),
    )
    rows = []
    for field, (label, unit, factor, top) in QUANTITIES.items():
        if (extent := activity.summary.get(field)) is None:
            continue
        digits = 1 if unit in ("GB", "W", "%") else 0
        mean, most = (
            Cell(f"{value:,.1f}", value, terminal=f"{value:,.{digits}f}")
            for value in (extent.mean / factor, extent.max / factor)
        )
        course = [getattr(sample, field) for sample in activity.samples]
        line = sparkline(course, WIDTH, top or extent.max)
        rows.append((Cell(f"{label} ({unit})", terminal=label), mean, most, unit, line))
    table = Table("GPU", columns, tuple(rows), terminal=f"{device}: {seconds:.1f} s")
    notes = [Note(f"{device}, {seconds:.1f} s.", on="page")]
    if activity.lost:
        lost = f"GPU was lost {activity.lost}"
        notes.append(Note(f"The {lost}", terminal=f"the {lost}", style="red"))
    return Section("GPU activity", tuple(notes), (_chart(activity),) if rows else (), (table,))


def sparkline(values: Sequence[float | None], width: int, top: float) -> str:
    """``values`` as up to ``width`` blocks from 0 to ``top``; each shows the largest of its share, a blank none."""
    width = min(width, len(values))
    bounds = [round(place * len(values) / width) for place in range(width + 1)] if width else []
    shares = (values[start:end] for start, end in itertools.pairwise(bounds))
    return "".join(_block([value for value in share if value is not None], top) for share in shares)


def _block(values: Sequence[float], top: float) -> str:
    if not values:
        return " "
    share = max(values) / top if top > 0 else 0.0
    return BLOCKS[min(len(BLOCKS) - 1, max(0, math.ceil(share * len(BLOCKS)) - 1))]


def _chart(activity: Activity) -> Chart:
    """Every quantity that the GPU told, over the same time."""
    times = [sample.seconds for sample in activity.samples]
    told = [field for field in QUANTITIES if field in activity.summary]

    def painter(field: str, last: bool) -> Callable[["Axes"], None]:
        label, unit, factor, top = QUANTITIES[field]

        def paint(axes: "Axes") -> None:
            values = [getattr(sample, field) for sample in activity.samples]
            course = [float("nan") if value is None else value / factor for value in values]
            axes.plot(times, course, color=FIRST, linewidth=1.2)
            axes.set_ylim(0, top)
            axes.set_title(f"{label} ({unit})", fontsize=9, loc="left")
            if last:
                axes.set_xlabel("time since the start (s)")

        return paint

    paints = tuple(painter(field, field == told[-1]) for field in told)
    said = "; ".join(
        f"{QUANTITIES[field][0]}: mean {activity.summary[field].mean / QUANTITIES[field][2]:,.1f}, "
        f"most {activity.summary[field].max / QUANTITIES[field][2]:,.1f} {QUANTITIES[field][1]}"
        for field in told
    )
    title, height = f"{activity.device} at work", 0.6 + 0.95 * len(told)
    return Chart("activity", title, f"{said}.", paints, height)
