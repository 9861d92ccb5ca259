"""Where the time of engines goes, as a table that fits a terminal of 80 columns."""

from pathlib import Path

from rich.box import SIMPLE
from rich.console import Group, RenderableType
from rich.table import Table

from calib8.report.lines import lines
from calib8.verification.breakdown import Breakdown, Share

#: Kernels that are named, the slowest first; those that are alike count as one.
SLOWEST = 5
#: Why the sum of what kernels take is not the latency.
NOT_THE_LATENCY = (
    "Kernels are timed one by one by TensorRT's profiler: they wait for each other, and no CUDA graph is used; a step "
    "that launches nothing seems to take a microsecond. The latency is from arrays to arrays in host memory, copies "
    "and all. So their sum is not the latency."
)


def rows_of(breakdown: Breakdown) -> list[tuple[str, str | None]]:
    """What each row is called, and the group that it shows; None is everything."""
    groups = [(group, group) for group in breakdown.groups]
    sums = [(f"all {product}s", product) for product in breakdown.sums]
    return [*groups, *sums, ("all kernels", None)]


def render_breakdown(breakdown: Breakdown) -> RenderableType:
    """The groups, how they compare with the first engine's, latencies, and the slowest kernels."""
    title = f"Where the time goes, {breakdown.shape}: medians of {breakdown.runs} runs"
    table = Table(title=title, title_justify="left", title_style="bold", box=SIMPLE, collapse_padding=True)
    table.add_column("group", no_wrap=True)
    for place, name in enumerate(_short(list(breakdown.engines))):
        for heading in ("kernels", "ms", *(("ratio",) if place else ())):
            table.add_column(lines(name if heading == "ms" else "", heading), justify="right", overflow="fold")
    summed = len(breakdown.groups)
    for place, (label, group) in enumerate(rows_of(breakdown)):
        if place == summed:
            table.add_section()
        table.add_row(label, *_numbers(breakdown.shares(group), breakdown.ratios(group)))
    said = []
    for name, engine in breakdown.engines.items():
        whole = f"{name}: kernels {engine.whole.ms:.3f} ms, latency {engine.latency_ms:.3f} ms. The slowest:"
        slowest = (f"  {one.ms:.3f} ms  {one.launches} x {one.name} ({one.group})" for one in engine.alike()[:SLOWEST])
        said.append(lines(whole, *slowest))
    return Group(table, *said, lines(NOT_THE_LATENCY))


def _short(names: list[str]) -> list[str]:
    """The names without folder and suffix, if that tells them apart."""
    stems = [Path(name).stem for name in names]
    return stems if len(set(stems)) == len(names) else names


def _numbers(shares: list[Share], ratios: list[float | None]) -> list[str]:
    """Kernels, time and ratio of each engine; the first has no ratio."""
    shown = []
    for share, ratio in zip(shares, ratios, strict=True):
        shown += [str(share.launches), f"{share.ms:.3f}"] if share.launches else ["", ""]
        shown.append(f"{ratio:.2f}x" if ratio is not None else "")
    return [*shown[:2], *shown[3:]]
