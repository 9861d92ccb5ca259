"""What each report's page holds, from the verdict down."""

from calib8.calibration.ranges import Ranges
from calib8.quantization.quant_plan import QuantPlan
from calib8.report.bench import BenchReport
from calib8.report.page import charts, terms
from calib8.report.page.canvas import can_draw
from calib8.report.page.parts import Cell, Page, Section, Table, Tile, number
from calib8.report.page.sections import (
    accuracy_section,
    accuracy_tiles,
    activity_section,
    breakdown_section,
    closeness_table,
    drawn,
    engine_tiles,
    engines_section,
    kept,
    latency_section,
    no_charts,
    plan_section,
    ranges_section,
)
from calib8.report.report import FileFacts, Machine, Report
from calib8.report.table import cpu_speed, in_runtime, size_of
from calib8.report.verification import VerificationReport
from calib8.verification.on_gpu import GpuComparison


def conversion_page(report: Report, plan: QuantPlan, ranges: Ranges) -> Page:
    """The page of a conversion."""
    seen = ", the calibration data itself: no proof" if report.measured_on_calibration_data else ""
    notes = (
        f"Measured on {report.accuracy.samples} samples from {report.held_out}{seen}.",
        f"INT8 ran in {in_runtime(report.accuracy_runtime)}.",
    )
    sections = [
        _size_and_speed(report),
        accuracy_section(report.accuracy, report.limits, notes),
        engines_section(report.engines),
        plan_section(plan),
        ranges_section(ranges),
    ]
    if report.seconds:
        timeline = drawn(lambda: charts.timeline_chart(report.seconds))
        steps = tuple((Cell(step), number(taken, ",.1f")) for step, taken in report.seconds.items())
        sections.append(Section("Timeline", charts=timeline, tables=(Table("Steps", ("step", "seconds"), steps),)))
    if report.activity is not None:
        sections.append(activity_section(report.activity))
    smaller = f"{size_of(report.int8.bytes)} of {size_of(report.model.bytes)}"
    tiles = [
        Tile("size", f"{report.int8.bytes / report.model.bytes:.0%}", smaller),
        *accuracy_tiles(report.accuracy),
        Tile("ops in INT8", f"{report.int8_ops} of {report.weighted_ops}", "with weights"),
        *engine_tiles(report.engines),
    ]
    if report.speed is not None:
        tiles.append(Tile("CPU speed", f"{report.speed.ratio:.2f}x", f"{report.speed.candidate:.0f} sentences/s"))
    return Page(
        title=f"{_located(report.model)} in INT8",
        about=f"SHA-256 of the FP32 model {report.model.sha256[:12]}…, of the INT8 model {report.int8.sha256[:12]}…",
        passed=report.passed,
        verdict=report.failure or kept(report.accuracy, report.limits),
        tiles=tuple(tiles),
        sections=_with_note(sections),
        made=_made(report.calib8, report.created, report.machine),
        terms=terms.ACCURACY | terms.PLAN | terms.ENGINE,
    )


def verification_page(report: VerificationReport) -> Page:
    """The page of a verification."""
    rows = tuple(
        (Cell(role), Cell(file.name), Cell(size_of(file.bytes), file.bytes), Cell(file.sha256))
        for role, file in (("FP32 reference", report.reference), ("candidate", report.candidate))
    )
    files = Section("What was compared", tables=(Table("Files", ("role", "file", "size", "SHA-256"), rows),))
    notes = [f"Measured on {report.accuracy.samples} samples from {report.held_out}."]
    if report.accuracy.runtime is not None:
        notes.append(f"The candidate ran in {in_runtime(report.accuracy.runtime)}.")
    if report.gpu is not None:
        notes.append(f"The engine ran on {report.gpu.gpu} ({report.gpu.target}), driver {report.gpu.driver}.")
    sections = [accuracy_section(report.accuracy, report.limits, notes), files]
    if report.gpu is not None:
        sections[1:1] = _on_gpu(report.gpu)
    if report.engine is not None:
        sections.append(engines_section([report.engine]))
    return Page(
        title=f"{_located(report.candidate)} against {_located(report.reference)}",
        passed=report.passed,
        verdict=report.failure or kept(report.accuracy, report.limits),
        tiles=(*accuracy_tiles(report.accuracy), *(engine_tiles([report.engine]) if report.engine else ())),
        sections=_with_note(sections),
        made=_made(report.calib8, report.created, report.machine),
        terms=terms.ACCURACY | (terms.ENGINE if report.engine else {}) | (terms.SPEED if report.gpu else {}),
    )


def _on_gpu(found: GpuComparison) -> list[Section]:
    """How fast the engine ran, what the GPU added to the error of INT8, and what it did meanwhile."""
    runtimes = {"FP32 on the CPU": found.reference_runtime, "engine": found.engine_runtime}
    sections = [latency_section(found.speed, runtimes)]
    if found.against_int8 is not None:
        note = (
            f"The engine against {found.int8_model}, from which it was built, on the CPU: what FP16 and the GPU's own "
            "kernels add to the error of INT8."
        )
        sections.append(
            Section("GPU against CPU", (note,), tables=(closeness_table("Same model", found.against_int8),))
        )
    if found.breakdowns:
        sections.append(breakdown_section(found.breakdowns))
    if found.activity is not None:
        sections.append(activity_section(found.activity))
    return sections


def bench_page(report: BenchReport) -> Page:
    """The page of a benchmark."""
    sections = [latency_section(report.cells, report.runtimes)]
    if report.breakdowns:
        sections.append(breakdown_section(report.breakdowns))
    if report.activity is not None:
        sections.append(activity_section(report.activity))
    first = next(iter(report.runtimes))
    return Page(
        title="Latency and throughput",
        passed=None,
        verdict=f"Measured by turns, from arrays in host memory to arrays in host memory; ratios are to {first}.",
        tiles=(),
        sections=_with_note(sections),
        made=_made(report.calib8, report.created, report.machine),
        terms=terms.SPEED,
    )


def _size_and_speed(report: Report) -> Section:
    whole = report.model.bytes
    sizes = tuple(
        (Cell(role), Cell(file.name), Cell(size_of(file.bytes), file.bytes), number(file.bytes / whole, ".0%"))
        for role, file in (("FP32", report.model), ("INT8", report.int8))
    )
    tables, notes = [Table("Size", ("model", "file", "size", "of FP32"), sizes)], []
    if (speed := report.speed) is not None:
        measured = (
            ("FP32", speed.reference, 1.0, speed.reference_runtime),
            ("INT8", speed.candidate, speed.ratio, speed.candidate_runtime),
        )
        rows = tuple(
            (Cell(role), number(rate, ".1f"), number(ratio, ".2f", "x"), Cell(runtime))
            for role, rate, ratio, runtime in measured
        )
        tables.append(Table("Speed on the CPU", ("model", "sentences/s", "ratio", "runtime"), rows))
        notes.append(f"{cpu_speed(report.machine, speed)}.")
    return Section("Size and speed", notes=tuple(notes), tables=tuple(tables))


def _located(file: FileFacts) -> str:
    """``all-mpnet-base-v2/model.onnx``: many models have the same name."""
    return f"{file.folder}/{file.name}" if file.folder else file.name


def _with_note(sections: list[Section]) -> tuple[Section, ...]:
    return tuple(sections) if can_draw() else (Section("Charts", (no_charts(),)), *sections)


def _made(version: str, created: str, machine: Machine) -> str:
    return (
        f"calib8 {version}, {created}; {machine.processor}, {machine.cores} cores, {machine.system}, "
        f"Python {machine.python}. This file loads nothing: the same numbers are in the JSON file beside it."
    )
