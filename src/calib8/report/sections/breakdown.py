"""Where the time of engines goes, kernel group by kernel group."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from calib8.report.bench import BenchReport
from calib8.report.chart import FAINT, FIRST, INK, SECOND, WARN, Chart, short
from calib8.report.section import Column, Note, Section, Table, Value
from calib8.report.verification import VerificationReport
from calib8.verification.breakdown import PRODUCTS, Breakdown, EngineTime

if TYPE_CHECKING:
    from matplotlib.axes import Axes

#: Kernels that the terminal and the page name, the slowest first; those that are alike count as one.
SLOWEST, MOST = 5, 8
#: Why the sum of what kernels take is not the latency.
NOT_THE_LATENCY = (
    "Kernels are timed one by one by TensorRT's profiler: they wait for each other, and no CUDA graph is used; a step "
    "that launches nothing seems to take a microsecond. The latency is from arrays to arrays in host memory, copies "
    "and all. So their sum is not the latency."
)


def verification(report: VerificationReport) -> Section | None:
    """Of the engine, if that was asked for."""
    return breakdown_section(report.gpu.breakdowns) if report.gpu is not None and report.gpu.breakdowns else None


def bench(report: BenchReport) -> Section | None:
    """Of every engine, if that was asked for."""
    return breakdown_section(report.breakdowns) if report.breakdowns else None


def breakdown_section(breakdowns: Sequence[Breakdown]) -> Section:
    """The groups of each shape, how they compare with the first engine's, latencies, and kernels."""
    notes = [NOT_THE_LATENCY]
    tables: list[Table] = []
    for breakdown in breakdowns:
        tables += [_groups(breakdown), _kernels(breakdown, whole=False), _kernels(breakdown, whole=True)]
        notes += [
            f"{breakdown.shape}, {name}: kernels {engine.whole.ms:.3f} ms, latency {engine.latency_ms:.3f} ms."
            for name, engine in breakdown.engines.items()
        ]
    charts = tuple(paint(breakdown) for breakdown in breakdowns for paint in (_chart, _layers))
    return Section("Where the time goes", tuple(Note(note, on="page") for note in notes), charts, tuple(tables))


def _precision(group: str) -> str:
    """What kernels of ``group`` multiply: ``INT8`` of ``INT8 GEMM``; ``other`` where they multiply no weights."""
    precision, _, product = group.partition(" ")
    return precision if product in PRODUCTS else "other"


def _groups(breakdown: Breakdown) -> Table:
    """What each group takes, then sums; ratios are to the first engine, which has none."""
    columns = [Column("group", wrap="never")]
    for place, (name, stem) in enumerate(zip(breakdown.engines, _stems(list(breakdown.engines)), strict=True)):
        columns.append(Column(f"kernels, {name}", "{:d}", terminal=("", "kernels"), wrap="anywhere"))
        columns.append(Column(f"ms, {name}", "{:.3f}", terminal=(stem, "ms"), wrap="anywhere"))
        if place:
            columns.append(Column(f"ratio, {name}", "{:.2f}x", terminal=("", "ratio"), wrap="anywhere"))
    groups = [(group, group) for group in breakdown.groups]
    sums = [*((f"all {product}s", product) for product in breakdown.sums), ("all kernels", None)]
    rows = tuple((label, *_numbers(breakdown, group)) for label, group in (*groups, *sums))
    measured = f"{breakdown.shape}: medians of {breakdown.runs} runs"
    return Table(
        f"Groups of kernels, {measured}",
        tuple(columns),
        rows,
        terminal=f"Where the time goes, {measured}",
        groups=(len(groups), len(sums)),
        remarks=(*_slowest(breakdown), NOT_THE_LATENCY),
    )


def _numbers(breakdown: Breakdown, group: str | None) -> list[Value]:
    """Kernels, time and ratio of each engine; None is every group."""
    numbers: list[Value] = []
    for share, ratio in zip(breakdown.shares(group), breakdown.ratios(group), strict=True):
        numbers += [share.launches, share.ms, ratio] if share.launches else [None, None, ratio]
    return [*numbers[:2], *numbers[3:]]


def _slowest(breakdown: Breakdown) -> list[tuple[str, ...]]:
    """Of each engine its latency and, a line each, the slowest kernels."""
    said = []
    for name, engine in breakdown.engines.items():
        whole = f"{name}: kernels {engine.whole.ms:.3f} ms, latency {engine.latency_ms:.3f} ms. The slowest:"
        slowest = (f"  {one.ms:.3f} ms  {one.launches} x {one.name} ({one.group})" for one in engine.alike()[:SLOWEST])
        said.append((whole, *slowest))
    return said


def _stems(names: list[str]) -> list[str]:
    """The names without folder and suffix, if that tells them apart."""
    stems = [Path(name).stem for name in names]
    return stems if len(set(stems)) == len(names) else names


def _kernels(breakdown: Breakdown, *, whole: bool) -> Table:
    """Every kernel as it runs, or the slowest, where those that are alike are one."""
    rows = tuple(
        (name, kernel.ms, kernel.launches, kernel.group, kernel.name)
        for name, engine in breakdown.engines.items()
        for kernel in (engine.kernels if whole else engine.alike()[:MOST])
    )
    columns = (Column("engine"), Column("ms", "{:.4f}"), Column("launches", "{:d}"), Column("group"), Column("kernel"))
    title = "Every kernel in its order" if whole else "The slowest kernels, those that are alike as one"
    return Table(f"{title}, {breakdown.shape}", columns, rows, long=whole, on="page")


def _chart(breakdown: Breakdown) -> Chart:
    """What each group of kernels takes, a bar for each engine."""
    groups, count = breakdown.groups, len(breakdown.engines)
    thickness = 0.8 / count

    def paint(axes: "Axes") -> None:
        for place, (name, engine) in enumerate(breakdown.engines.items()):
            shares = [engine.share(group) for group in groups]
            rows = [row + (place - (count - 1) / 2) * thickness for row in range(len(groups))]
            colour = (FIRST, SECOND, WARN, FAINT)[place % 4]
            axes.barh(rows, [share.ms for share in shares], thickness, color=colour, label=short(name))
        axes.set_yticks(range(len(groups)), groups)
        axes.invert_yaxis()
        axes.grid(visible=False, axis="y")
        axes.set_xlabel("sum of kernels in a run (ms): medians")
        axes.legend(loc="lower right")

    told = (
        f"{name}: {', '.join(f'{group} {engine.share(group).ms:.3f} ms' for group in groups if engine.share(group).ms)}"
        for name, engine in breakdown.engines.items()
    )
    title, said = f"Time by group of kernels, {breakdown.shape}", f"{'; '.join(told)}."
    height = 0.9 + (0.14 + 0.12 * count) * len(groups)
    return Chart(f"breakdown-{breakdown.shape}", title, said, (paint,), height)


def _layers(breakdown: Breakdown) -> Chart:
    """Every kernel of each engine in its order, as high as its time, in the colour of what it multiplies."""
    precisions = sorted({_precision(group) for group in breakdown.groups} - {"other"}, key=_width)
    colours = dict(zip(precisions, (SECOND, FIRST, WARN), strict=False)) | {"other": FAINT}
    highest = max((kernel.ms for engine in breakdown.engines.values() for kernel in engine.kernels), default=0.0)

    def painter(name: str, engine: EngineTime) -> "Callable[[Axes], None]":
        def paint(axes: "Axes") -> None:
            for precision in [*precisions, "other"]:
                own = [
                    (place, kernel.ms)
                    for place, kernel in enumerate(engine.kernels)
                    if _precision(kernel.group) == precision
                ]
                if own:
                    label = f"{precision} {_sum(engine, precision):.2f}"
                    places, times = zip(*own, strict=True)
                    axes.bar(places, times, 1.0, color=colours.get(precision, INK), label=label)
            axes.set_ylim(0, highest * 1.05)
            axes.set_ylabel("ms")
            axes.legend(
                title=short(name), alignment="left", loc="lower left", bbox_to_anchor=(0, 0.97), ncols=4,
                handlelength=0.8, columnspacing=0.8,
            )  # fmt: skip
            axes.set_xlabel("kernels in their order; sums in ms above")

        return paint

    sums = {
        name: [(precision, _sum(engine, precision)) for precision in [*precisions, "other"]]
        for name, engine in breakdown.engines.items()
    }
    told = (f"{name}: " + ", ".join(f"{word} {ms:.3f} ms" for word, ms in own if ms) for name, own in sums.items())
    paints = tuple(painter(name, engine) for name, engine in breakdown.engines.items())
    title, said = f"Kernels by precision and time, {breakdown.shape}", f"{'; '.join(told)}."
    return Chart(f"layers-{breakdown.shape}", title, said, paints, height=0.4 + 1.8 * len(paints))


def _sum(engine: EngineTime, precision: str) -> float:
    return sum(kernel.ms for kernel in engine.kernels if _precision(kernel.group) == precision)


def _width(precision: str) -> tuple[int, str]:
    """8 bits before 16 before 32."""
    digits = "".join(character for character in precision if character.isdigit())
    return int(digits or 0), precision
