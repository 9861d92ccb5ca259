"""The charts of a report; each says in its alternative what a reader is meant to see."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from calib8.calibration.ranges import Ranges, TensorRange
from calib8.console import visible
from calib8.gpu.activity import Activity
from calib8.quantization.quant_plan import OpPlan, QuantPlan
from calib8.report.activity import QUANTITIES
from calib8.report.page.canvas import FAINT, FIRST, INK, SECOND, WARN, draw, draw_stack
from calib8.report.page.parts import Chart
from calib8.verification.bench import Cell
from calib8.verification.breakdown import Breakdown
from calib8.verification.compare import Comparison
from calib8.verification.details import Histogram, Projection

if TYPE_CHECKING:
    from matplotlib.axes import Axes

#: The largest number of a tensor above a typical one of it, from which on it has outliers worth a colour.
OUTLIER = 50.0
#: Bars of ops that are shown at most, and letters of a name beside its bar.
BARS, LETTERS = 20, 24


def outlier_ratio(tensor: TensorRange) -> float | None:
    """How far the largest number seen is above a typical one (the RMS of a median row)."""
    largest = max(-tensor.minimum, tensor.maximum)
    return largest / tensor.typical if tensor.typical else None


def ranges_chart(ranges: Ranges) -> Chart:
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
    return draw("ranges", "Activation ranges and outliers", said, paint)


def cosine_chart(accuracy: Comparison, histogram: Histogram) -> Chart:
    """How the samples' cosines spread."""
    widths = [end - start for start, end in zip(histogram.edges, histogram.edges[1:], strict=False)]

    def paint(axes: "Axes") -> None:
        axes.bar(histogram.edges[:-1], histogram.counts, widths, align="edge", color=FIRST, edgecolor="none")
        axes.axvline(accuracy.cosine_mean, color=INK, label=f"mean {accuracy.cosine_mean:.4f}")
        axes.axvline(accuracy.cosine_p1, color=WARN, linestyle="--", label=f"1st perc. {accuracy.cosine_p1:.4f}")
        axes.set_xlabel("cosine to FP32 (1 is equal)")
        axes.set_ylabel("samples (count)")
        axes.locator_params(axis="x", nbins=5)
        axes.ticklabel_format(axis="x", useOffset=False)
        axes.legend(loc="upper center", bbox_to_anchor=(0.5, 1.16), ncols=2)

    said = (
        f"Cosines of {accuracy.samples} samples: lowest {accuracy.cosine_min:.4f}, 1st percentile "
        f"{accuracy.cosine_p1:.4f}, mean {accuracy.cosine_mean:.4f}."
    )
    return draw("cosines", "Cosine of each sample to FP32", said, paint)


def projection_chart(projection: Projection) -> Chart:
    """FP32 and INT8 vectors of the same samples in the plane that shows most of FP32's variance."""

    def paint(axes: "Axes") -> None:
        for expected, got in zip(projection.reference, projection.candidate, strict=True):
            axes.plot(*zip(expected, got, strict=True), color=FAINT, linewidth=0.7)
        x, y = zip(*projection.reference, strict=True)
        axes.scatter(x, y, s=18, facecolors="none", edgecolors=FIRST, linewidths=0.9, label="FP32")
        x, y = zip(*projection.candidate, strict=True)
        axes.scatter(x, y, s=5, color=SECOND, label="INT8")
        first, second = projection.explained
        axes.set_xlabel(f"1st principal axis ({first:.0%} of variance)")
        axes.set_ylabel(f"2nd principal axis ({second:.0%})")
        axes.legend(loc="upper center", bbox_to_anchor=(0.5, 1.14), ncols=2)

    said = (
        f"Unit vectors of {len(projection.reference)} samples on two principal axes of FP32, which hold "
        f"{sum(projection.explained):.0%} of its variance. A dot (INT8) inside its circle (FP32) has not moved."
    )
    return draw("projection", "Embeddings, FP32 against INT8", said, paint)


def noise_chart(plan: QuantPlan) -> Chart:
    """What is left of the signal at each op."""
    ops = [(place, op, op.sqnr_db) for place, op in enumerate(plan.ops, start=1)]

    def paint(axes: "Axes") -> None:
        for treatment, colour in (("int8", FIRST), ("float", WARN)):
            chosen = [(place, left) for place, op, left in ops if op.treatment == treatment and left is not None]
            if chosen:
                axes.scatter([x for x, _ in chosen], [y for _, y in chosen], s=12, color=colour, label=treatment)
        axes.set_xlabel("op, in the order of the graph (number)")
        axes.set_ylabel("signal to noise in INT8 (dB)")
        axes.legend(loc="upper center", bbox_to_anchor=(0.5, 1.14), ncols=2)

    known = [(left, op) for _, op, left in ops if left is not None]
    lowest, op = min(known, key=lambda pair: pair[0])
    said = (
        f"{len(known)} ops; higher is better. The lowest is {op.node} with {lowest:.1f} dB, treated as {op.treatment}."
    )
    return draw("noise", "What INT8 leaves of each op's signal", said, paint)


def sensitivity_chart(ops: Sequence[OpPlan]) -> Chart:
    """What each op alone costs the model's own output; ``ops`` have their ``expected_cosine``."""
    costs = sorted(((1 - (op.expected_cosine or 0.0), op) for op in ops), key=lambda pair: -pair[0])[:BARS]

    def paint(axes: "Axes") -> None:
        colours = [FIRST if op.treatment == "int8" else WARN for _, op in costs]
        axes.barh(range(len(costs)), [cost for cost, _ in costs], color=colours)
        axes.set_yticks(range(len(costs)), [_end(op.node) for _, op in costs])
        axes.invert_yaxis()
        axes.grid(visible=False, axis="y")
        axes.set_xlabel("1 - cosine to FP32, this op alone in INT8")

    cost, worst = costs[0]
    said = (
        f"The costliest {len(costs)} ops. {worst.node} alone takes {cost:.5f} from the cosine; it is {worst.treatment}."
    )
    return draw("sensitivity", "What each op alone costs the output", said, paint, height=0.9 + 0.19 * len(costs))


def timeline_chart(seconds: dict[str, float]) -> Chart:
    """The steps one after the other."""
    starts = [sum(list(seconds.values())[:place]) for place in range(len(seconds))]

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
    return draw("timeline", "Where the time went", f"{said}.", paint, height=1.0 + 0.25 * len(seconds))


def activity_chart(activity: Activity) -> Chart:
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

    paints = [painter(field, field == told[-1]) for field in told]
    said = "; ".join(
        f"{QUANTITIES[field][0]}: mean {activity.summary[field].mean / QUANTITIES[field][2]:,.1f}, "
        f"most {activity.summary[field].max / QUANTITIES[field][2]:,.1f} {QUANTITIES[field][1]}"
        for field in told
    )
    return draw_stack("activity", f"{activity.device} at work", f"{said}.", paints, height=0.6 + 0.95 * len(told))


def latency_chart(cells: Sequence[Cell]) -> Chart:
    """Median latency of each artefact and shape, with the way to its 95th percentile."""
    rows = [
        (f"{_end(name)}, {cell.batch}" + (f"x{cell.length}" if cell.length else ""), latency, place)
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
        axes.set_xlabel("latency of one batch (ms): median, line to the 95th percentile")

    said = "; ".join(f"{label}: {latency.median_ms:.2f} ms" for label, latency, _ in rows)
    return draw("latency", "Latency by artefact and batch", f"Medians. {said}.", paint, height=0.9 + 0.25 * len(rows))


def breakdown_chart(breakdown: Breakdown) -> Chart:
    """What each group of kernels takes, a bar for each engine."""
    groups, count = breakdown.groups, len(breakdown.engines)
    thickness = 0.8 / count

    def paint(axes: "Axes") -> None:
        for place, (name, engine) in enumerate(breakdown.engines.items()):
            shares = [engine.share(group) for group in groups]
            rows = [row + (place - (count - 1) / 2) * thickness for row in range(len(groups))]
            colour = (FIRST, SECOND, WARN, FAINT)[place % 4]
            axes.barh(rows, [share.ms for share in shares], thickness, color=colour, label=_end(name))
        axes.set_yticks(range(len(groups)), groups)
        axes.invert_yaxis()
        axes.grid(visible=False, axis="y")
        axes.set_xlabel("sum of kernels in a run (ms): medians")
        axes.legend(loc="lower right")

    told = (
        f"{name}: {', '.join(f'{group} {engine.share(group).ms:.3f} ms' for group in groups if engine.share(group).ms)}"
        for name, engine in breakdown.engines.items()
    )
    height = 0.9 + (0.14 + 0.12 * count) * len(groups)
    title = f"Time by group of kernels, {breakdown.shape}"
    return draw(f"breakdown-{breakdown.shape}", title, f"{'; '.join(told)}.", paint, height=height)


def _end(name: str) -> str:
    """The end of a long name: the part that tells ops of one model apart."""
    name = visible(name)
    return name if len(name) <= LETTERS else "…" + name[1 - LETTERS :]
