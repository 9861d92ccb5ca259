"""What a GPU did, as a table with a line of blocks for each quantity; 80 columns."""

import itertools
import math
from collections.abc import Sequence

from rich.console import Group, RenderableType
from rich.table import Table

from calib8.gpu.activity import Activity
from calib8.report.lines import lines

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


def render_activity(activity: Activity) -> RenderableType:
    """Mean, maximum and course of every quantity that the GPU told."""
    title = f"{activity.device} ({activity.target}), driver {activity.driver}: {activity.duration_seconds:.1f} s"
    table = Table(title=lines(title, style="bold"), title_justify="left")
    for name, side in (("", "left"), ("mean", "right"), ("max", "right"), ("unit", "left"), ("over time", "left")):
        table.add_column(name, justify="right" if side == "right" else "left", no_wrap=True)
    for field, (label, unit, factor, top) in QUANTITIES.items():
        if (extent := activity.summary.get(field)) is None:
            continue
        course = [getattr(sample, field) for sample in activity.samples]
        digits = 1 if unit in ("GB", "W", "%") else 0
        numbers = (f"{value / factor:,.{digits}f}" for value in (extent.mean, extent.max))
        table.add_row(label, *numbers, unit, sparkline(course, WIDTH, top or extent.max))
    lost = [lines(f"the GPU was lost {activity.lost}", style="red")] if activity.lost else []
    return Group(table, *lost)


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
