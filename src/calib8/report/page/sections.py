"""Parts that several pages share: accuracy, plan, ranges, engines, what a GPU did."""

import functools
from collections.abc import Callable, Mapping, Sequence

from calib8.calibration.ranges import Ranges
from calib8.engine.plan_check import PlanCheck
from calib8.errors import install
from calib8.gpu.activity import Activity
from calib8.quantization.quant_plan import OpPlan, QuantPlan
from calib8.report.activity import QUANTITIES
from calib8.report.breakdown import NOT_THE_LATENCY, rows_of
from calib8.report.page import charts
from calib8.report.page.canvas import can_draw
from calib8.report.page.parts import Cell, Chart, Section, Table, Tile, number
from calib8.report.report import EngineFacts
from calib8.report.table import size_of
from calib8.verification import bench
from calib8.verification.breakdown import Breakdown
from calib8.verification.compare import Comparison
from calib8.verification.config import Verify
from calib8.verification.details import Details

#: Rows of a table that only sums up.
MOST = 8


def no_charts() -> str:
    """Why there are none, and what adds them."""
    return f"Charts are left out: matplotlib is not installed here. It comes with {install('report')}."


def drawn(*paints: Callable[[], Chart]) -> tuple[Chart, ...]:
    """The charts, none of them where matplotlib is missing."""
    return tuple(paint() for paint in paints) if can_draw() else ()


def accuracy_tiles(accuracy: Comparison) -> tuple[Tile, ...]:
    """The numbers that a verdict rests on."""
    tiles = [
        Tile("mean cosine", f"{accuracy.cosine_mean:.4f}", f"{accuracy.samples} samples"),
        Tile("1st percentile", f"{accuracy.cosine_p1:.4f}", f"lowest {accuracy.cosine_min:.4f}"),
    ]
    if accuracy.neighbours is not None:
        tiles.append(Tile("neighbour kept", f"{accuracy.neighbours:.1%}", "in an index of FP32"))
    return tuple(tiles)


def engine_tiles(engines: Sequence[EngineFacts]) -> tuple[Tile, ...]:
    """How many engines run what they should in INT8, and whether that was seen or planned only."""
    if not engines:
        return ()
    ran = "executed here" if all(engine.executed for engine in engines) else "planned, not run"
    if len(engines) == 1:
        return (Tile("ops in the engine", f"{engines[0].plan.covered} of {engines[0].plan.expected}", f"INT8, {ran}"),)
    whole = sum(not engine.plan.missing for engine in engines)
    return (Tile("engines in INT8", f"{whole} of {len(engines)}", ran),)


def kept(accuracy: Comparison, limits: Verify) -> str:
    """What was asked for and found, where nothing was missed."""
    found = [f"{name} {found}, {wanted} was asked for" for name, found, wanted, _ in accuracy.judged(limits)]
    return "; ".join(found) or "No limit was given: nothing was judged."


def accuracy_section(accuracy: Comparison, limits: Verify, notes: Sequence[str]) -> Section:
    """How close, output by output; how the cosines spread, what is worst, and where embeddings moved to."""
    tables = [closeness_table("Accuracy against FP32", accuracy)]
    if judged := accuracy.judged(limits):
        rows = (
            (Cell(name), Cell(found), Cell(wanted), Cell("yes" if held else "NO"))
            for name, found, wanted, held in judged
        )
        tables.append(Table("Limits", ("limit on", "found", "asked for", "kept"), tuple(rows)))
    if (scores := accuracy.spearman) is not None:
        scored = (number(scores.pairs, "d"), number(scores.reference, ".2f"), number(scores.candidate, ".2f"))
        tables.append(Table("100 x Spearman's correlation with people's scores", ("pairs", "FP32", "INT8"), (scored,)))
    shown: tuple[Chart, ...] = ()
    if (details := accuracy.details) is not None:
        shown = drawn(lambda: charts.cosine_chart(accuracy, details.cosines))
        if (projection := details.projection) is not None:
            shown += drawn(lambda: charts.projection_chart(projection))
        tables.append(_worst(details))
    return Section("Accuracy", tuple(notes), shown, tuple(tables))


def closeness_table(title: str, accuracy: Comparison) -> Table:
    """How close each output is."""
    rows = [
        (
            Cell(one.named(name)),
            number(one.cosine_mean, ".5f"),
            number(one.cosine_p1, ".5f"),
            number(one.cosine_min, ".5f"),
            number(None if one.neighbours is None else 100 * one.neighbours, ".1f"),
            Cell("exact") if one.sqnr_db is None else number(one.sqnr_db, ".1f"),
        )
        for name, one in accuracy.outputs.items()
    ]
    head = ("compared", "cosine, mean", "1st percentile", "lowest", "neighbour kept (%)", "SQNR (dB)")
    return Table(title, head, tuple(rows))


def _worst(details: Details) -> Table:
    known = any(one.text for one in details.worst)
    texts = ((Cell(one.text or ""),) if known else () for one in details.worst)
    rows = (
        (number(one.cosine, ".5f"), number(one.number, "d"), *text)
        for one, text in zip(details.worst, texts, strict=True)
    )
    title = f"The worst {len(details.worst)} samples, counted from 0" + (
        "" if known else "; texts left out or not known"
    )
    return Table(title, ("cosine", "sample", *(("text",) if known else ())), tuple(rows))


def engines_section(engines: Sequence[EngineFacts]) -> Section:
    """Whether the compiler planned what the model asks for."""
    if not engines:
        return Section("Engines", ("No engine was made.",))
    rows = (
        (
            Cell(engine.target),
            Cell(engine.file.name),
            Cell(size_of(engine.file.bytes), engine.file.bytes),
            Cell(_planned(engine.plan), engine.plan.covered),
            number(engine.plan.planned_kernels, "d"),
            Cell("yes" if engine.executed else "no"),
            Cell(engine.plan.describe_conditioning() if engine.plan.conditioning else ""),
        )
        for engine in engines
    )
    plans = [engine.plan for engine in engines]
    missing = (
        (Cell(plan.target), Cell(name), Cell(plan.reasons.get(name, ""))) for plan in plans for name in plan.missing
    )
    head = ("target", "file", "size", "INT8 ops planned", "INT8 kernels", "executed here", "conditioning")
    tables = [Table("Engines", head, tuple(rows))]
    if lost := tuple(missing):
        tables.append(Table("Ops that the engine does not run in INT8", ("target", "op", "likely reason"), lost))
    loops = (f"{plan.target}: {plan.describe_host_driven()}." for plan in plans if plan.host_driven)
    return Section("Engines", (f"Built by {engines[0].builder}.", *loops), tables=tuple(tables))


def _planned(plan: PlanCheck) -> str:
    return f"{plan.covered} of {plan.expected}{'' if plan.passed else ', FAILED'}"


def plan_section(plan: QuantPlan) -> Section:
    """What is done to every op, and why."""
    measured = [op for op in plan.ops if op.expected_cosine is not None]
    floats = any(op.treatment == "float" for op in plan.ops)
    rows = (
        (
            number(place, "d"),
            Cell(op.node),
            Cell(op.kind),
            Cell(op.treatment),
            Cell(op.recipe or ""),
            number(op.sqnr_db, ".1f"),
            *((number(op.expected_cosine, ".5f"),) if measured else ()),
            number(op.extra_columns, "d"),
            *((Cell(op.reason if op.treatment == "float" else ""),) if floats else ()),
        )
        for place, op in enumerate(plan.ops, start=1)
    )
    alone = ("cosine alone",) if measured else ()
    head = (
        "no.",
        "op",
        "kind",
        "treatment",
        "recipe",
        "SQNR (dB)",
        *alone,
        "extra columns",
        *(("why float",) if floats else ()),
    )
    shown = drawn(lambda: charts.noise_chart(plan)) if any(op.sqnr_db is not None for op in plan.ops) else ()
    if measured:
        shown += drawn(lambda: charts.sensitivity_chart(measured))
    notes = [f"{len(plan.nodes('int8'))} of {len(plan.ops)} ops with weights are INT8."]
    if (budget := plan.budget) is not None:
        notes.append(
            f"Searched for a mean cosine of {budget.cosine:g}: {budget.reached:.5f} ± {budget.standard_error:.5f} on "
            f"{budget.samples} held-out calibration samples."
        )
    tables = (_recipes(plan), Table("Every op of the plan", head, tuple(rows), long=True))
    return Section("Plan, op by op", tuple(notes), shown, tables)


def _recipes(plan: QuantPlan) -> Table:
    """How many ops are treated alike, and the worst that this leaves of one."""
    alike: dict[str, list[OpPlan]] = {}
    for op in plan.ops:
        alike.setdefault("float" if op.treatment == "float" else op.recipe or "by its range", []).append(op)
    rows = []
    for what, ops in sorted(alike.items(), key=lambda item: -len(item[1])):
        lowest = min((op.sqnr_db for op in ops if op.sqnr_db is not None), default=None)
        rows.append((Cell(what), number(len(ops), "d"), number(lowest, ".1f")))
    return Table("Recipes", ("recipe", "ops", "lowest SQNR (dB)"), tuple(rows[:MOST]))


def ranges_section(ranges: Ranges) -> Section:
    """What calibration saw, and the tensors with outliers."""
    rows = (
        (
            number(place, "d"),
            Cell(name),
            number(tensor.amax),
            number(tensor.minimum),
            number(tensor.maximum),
            number(tensor.typical),
            number(charts.outlier_ratio(tensor), ",.1f"),
            number(tensor.typical_sqnr_db, ".1f"),
        )
        for place, (name, tensor) in enumerate(ranges.tensors.items(), start=1)
    )
    head = ("no.", "tensor", "amax", "lowest", "highest", "typical", "largest / typical", "SQNR of a typical row (dB)")
    notes = (
        f"{ranges.samples:,} samples with {ranges.positions:,} positions. A tensor whose largest number is far above a "
        "typical one leaves the typical ones few INT8 levels, unless a recipe of the plan spreads them.",
    )
    shown = drawn(lambda: charts.ranges_chart(ranges)) if ranges.tensors else ()
    tables = (_widest(ranges), Table("Every tensor", head, tuple(rows), long=True))
    return Section("Activation ranges", notes, shown, tables)


def _widest(ranges: Ranges) -> Table:
    """The tensors with the largest outliers."""
    ratios = {name: charts.outlier_ratio(tensor) or 0.0 for name, tensor in ranges.tensors.items()}
    widest = sorted(ratios, key=lambda name: -ratios[name])[:MOST]
    rows = tuple((Cell(name), number(ranges.tensors[name].amax), number(ratios[name], ",.0f")) for name in widest)
    return Table("The widest tensors", ("tensor", "amax", "largest / typical"), rows)


def latency_section(cells: Sequence[bench.Cell], runtimes: Mapping[str, str]) -> Section:
    """How long batches take."""
    rows = (
        (
            Cell(name),
            number(cell.batch, "d"),
            number(cell.length, "d"),
            number(latency.median_ms, ",.2f"),
            number(latency.p95_ms, ",.2f"),
            number(latency.p99_ms, ",.2f"),
            number(latency.samples_per_second, ",.0f"),
            number(cell.ratio(name), ".2f", "x"),
        )
        for cell in cells
        for name, latency in cell.latencies.items()
    )
    head = ("artefact", "batch", "length", "median (ms)", "p95 (ms)", "p99 (ms)", "samples/s", "ratio")
    notes = tuple(f"{name}: {runtime}" for name, runtime in runtimes.items())
    tables = (Table("Latency of one batch", head, tuple(rows)),)
    return Section("Speed", notes, drawn(lambda: charts.latency_chart(cells)), tables)


def breakdown_section(breakdowns: Sequence[Breakdown]) -> Section:
    """Where the time of engines goes."""
    notes = [NOT_THE_LATENCY]
    shown: tuple[Chart, ...] = ()
    tables: list[Table] = []
    for breakdown in breakdowns:
        shown += drawn(functools.partial(charts.breakdown_chart, breakdown))
        tables += [_groups(breakdown), _kernels(breakdown, whole=False), _kernels(breakdown, whole=True)]
        notes += [
            f"{breakdown.shape}, {name}: kernels {engine.whole.ms:.3f} ms, latency {engine.latency_ms:.3f} ms."
            for name, engine in breakdown.engines.items()
        ]
    return Section("Where the time goes", tuple(notes), shown, tuple(tables))


def _groups(breakdown: Breakdown) -> Table:
    """What each group takes; ratios are to the first engine, which has none."""
    head = [f"{what}, {name}" for name in breakdown.engines for what in ("kernels", "ms", "ratio")]
    rows = []
    for label, group in rows_of(breakdown):
        row = []
        for share, ratio in zip(breakdown.shares(group), breakdown.ratios(group), strict=True):
            there = (number(share.launches, "d"), number(share.ms, ".3f")) if share.launches else (Cell(""), Cell(""))
            row += [*there, number(ratio, ".2f", "x")]
        rows.append((Cell(label), *row[:2], *row[3:]))
    title = f"Groups of kernels, {breakdown.shape}: medians of {breakdown.runs} runs"
    return Table(title, ("group", *head[:2], *head[3:]), tuple(rows))


def _kernels(breakdown: Breakdown, *, whole: bool) -> Table:
    """Every kernel as it runs, or the slowest, where those that are alike are one."""
    rows = (
        (Cell(name), number(kernel.ms, ".4f"), number(kernel.launches, "d"), Cell(kernel.group), Cell(kernel.name))
        for name, engine in breakdown.engines.items()
        for kernel in (engine.kernels if whole else engine.alike()[:MOST])
    )
    head = ("engine", "ms", "launches", "group", "kernel")
    title = "Every kernel in its order" if whole else "The slowest kernels, those that are alike as one"
    return Table(f"{title}, {breakdown.shape}", head, tuple(rows), long=whole)


def activity_section(activity: Activity) -> Section:
    """What the GPU did meanwhile."""
    rows = []
    for field, (label, unit, factor, _) in QUANTITIES.items():
        if (extent := activity.summary.get(field)) is not None:
            rows.append(
                (Cell(f"{label} ({unit})"), number(extent.mean / factor, ",.1f"), number(extent.max / factor, ",.1f"))
            )
    notes = [f"{activity.device} ({activity.target}), driver {activity.driver}, {activity.duration_seconds:.1f} s."]
    if activity.lost:
        notes.append(f"The GPU was lost {activity.lost}")
    shown = drawn(lambda: charts.activity_chart(activity)) if rows else ()
    return Section("GPU activity", tuple(notes), shown, (Table("GPU", ("quantity", "mean", "most"), tuple(rows)),))
