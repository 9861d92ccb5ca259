"""How long batches take."""

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from calib8.report.bench import BenchReport
from calib8.report.chart import FAINT, FIRST, INK, SECOND, WARN, Chart, short
from calib8.report.section import Cell, Column, Note, On, Section, Table
from calib8.report.verification import VerificationReport
from calib8.verification import bench as measured

if TYPE_CHECKING:
    from matplotlib.axes import Axes

#: What a GPU's own clock is.
CLOCK = {
    "GPU (ms)": "What the GPU alone computes for, by its own clock: arrays in its memory, launched as one CUDA graph.",
}
TERMS = {
    "p95, p99": "Of a hundred batches 95, or 99, took at most this long.",
    "cosine to first": "How close the outputs for the timed batch are to the first artefact's: the mean over its rows.",
    **CLOCK,
}
#: What is told of the accuracy of what was timed; the terminal has no room for it.
COSINE = Column("cosine to first", "{:.5f}", on="page")
#: What engines have beside that.
GPU = (Column("GPU (ms)", "{:.3f}", terminal=("GPU", "ms")), Column("ratio (GPU)", "{:.2f}x", terminal=("", "ratio")))


def verification(report: VerificationReport) -> Section | None:
    """Of the engine and its reference where the engine ran on a GPU; the terminal has told what they ran in."""
    if report.gpu is None:
        return None
    runtimes = {"FP32 on the CPU": report.gpu.reference_runtime, "engine": report.gpu.engine_runtime}
    return latency_section(report.gpu.speed, runtimes, told="page")


def bench(report: BenchReport) -> Section:
    """Of every artefact."""
    return latency_section(report.cells, report.runtimes)


def latency_section(cells: Sequence[measured.Cell], runtimes: Mapping[str, str], told: On = "both") -> Section:
    """A row for each shape and artefact; ``runtimes`` says what ran each, ``told`` where that is said."""
    columns = (
        Column("batch", "{:d}"),
        Column("length", "{:d}"),
        Column("artefact", wrap="anywhere"),
        Column("median (ms)", "{:.2f}", terminal=("median", "ms")),
        Column("p95 (ms)", "{:.2f}", terminal=("p95", "ms")),
        Column("p99 (ms)", "{:.2f}", terminal=("p99", "ms")),
        Column("samples/s", "{:,.0f}", terminal=("samples", "/s")),
        Column("ratio", "{:.2f}x"),
        COSINE,
        *(GPU if any(latency.gpu_ms for cell in cells for latency in cell.latencies.values()) else ()),
    )
    rows = tuple(
        (
            cell.batch,
            cell.length,
            Cell(name, terminal=(name, f"in {_title(runtimes[name])}")) if told == "both" else name,
            latency.median_ms,
            latency.p95_ms,
            latency.p99_ms,
            latency.samples_per_second,
            cell.ratio(name),
            latency.cosine,
            latency.gpu_ms,
            cell.gpu_ratio(name),
        )[: len(columns)]
        for cell in cells
        for name, latency in cell.latencies.items()
    )
    notes = tuple(Note(f"{name}: {runtime}", on=told) for name, runtime in runtimes.items())
    groups = tuple(len(cell.latencies) for cell in cells)
    table = Table("Latency of one batch", columns, rows, groups=groups)
    charts = tuple(chart for chart in (against_accuracy(cells), _chart(cells)) if chart is not None)
    return Section("Speed", notes, charts, (table,), terms=TERMS)


def _title(description: str) -> str:
    """``OpenVINO 2026.4.1 on CPU`` -> ``OpenVINO``."""
    return re.split(r" v?\d", description)[0]


def against_accuracy(cells: Sequence[measured.Cell]) -> Chart | None:
    """What each artefact keeps of the first one's output, against its time, for the largest batch that was measured.

    On the GPU's own clock if all have that. None where there is nothing to set against the first.
    """
    cell = measured.largest(cells)
    timed = all(latency.gpu_ms for latency in cell.latencies.values())
    points = [
        (short(name), latency.gpu_ms if timed and latency.gpu_ms else latency.median_ms, latency.cosine)
        for name, latency in cell.latencies.items()
        if latency.cosine is not None
    ]
    if len(points) < 2:
        return None

    def paint(axes: "Axes") -> None:
        for place, (name, taken, cosine) in enumerate(points):
            colour, marker = (FIRST, SECOND, WARN, INK)[place % 4], "osD^v"[place % 5]
            axes.scatter([taken], [cosine], color=colour, marker=marker, s=42, label=name, zorder=3)
        axes.axhline(1, color=FAINT, linewidth=0.8)
        axes.margins(x=0.15, y=0.25)
        axes.set_xlim(left=0)
        axes.ticklabel_format(axis="y", useOffset=False)
        axes.set_xlabel(f"{'GPU alone' if timed else 'median latency'}, batch {cell.shape} (ms): left is faster")
        axes.set_ylabel("cosine to the first")
        axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0))

    said = "; ".join(f"{name}: {taken:.2f} ms, cosine {cosine:.4f}" for name, taken, cosine in points)
    height = 2.6 + 0.2 * len(points)
    return Chart("accuracy-latency", "Accuracy against latency", f"Batch {cell.shape}. {said}.", (paint,), height)


def _chart(cells: Sequence[measured.Cell]) -> Chart:
    """Median latency of each artefact and shape, with the way to its 95th percentile."""
    rows = [
        (f"{short(name)}, {cell.shape}", latency, place)
        for cell in cells
        for place, (name, latency) in enumerate(cell.latencies.items())
    ]

    def paint(axes: "Axes") -> None:
        medians = [latency.median_ms for _, latency, _ in rows]
        above = [max(0.0, latency.p95_ms - latency.median_ms) for _, latency, _ in rows]
        colours = [FIRST if place == 0 else SECOND for _, _, place in rows]
        axes.barh(range(len(rows)), medians, xerr=[[0.0] * len(rows), above], color=colours, ecolor=INK, capsize=2)
        axes.set_yticks(range(len(rows)), [label for label, _, _ in rows])
        axes.invert_yaxis()
        axes.grid(visible=False, axis="y")
        axes.set_xlabel("ms (line: to p95)")

    said = "; ".join(f"{label}: {latency.median_ms:.2f} ms" for label, latency, _ in rows)
    return Chart(
        "latency", "Latency by artefact and batch", f"Medians. {said}.", (paint,), height=0.9 + 0.25 * len(rows)
    )
