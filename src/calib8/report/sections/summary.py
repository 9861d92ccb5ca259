"""The numbers to be seen first: a table in the terminal, tiles on a page."""

from collections.abc import Iterator

from calib8.report.report import Conversion, Report
from calib8.report.section import Column, Section, Table, Tile, Value
from calib8.report.sections.accuracy import accuracy_tiles
from calib8.report.sections.engines import engine_tiles
from calib8.report.verification import VerificationReport
from calib8.report.wording import size_of
from calib8.verification.bench import largest


def conversion(made: Conversion) -> Section:
    """Size, accuracy and speed against FP32."""
    told = made.report.precision.upper()
    columns = (
        Column(""),
        Column("FP32", align="right"),
        Column(told, align="right"),
        Column("", align="right"),
    )
    table = Table(f"{told} against FP32", columns, tuple(_rows(made.report)), on="terminal")
    return Section("Summary", tables=(table,), tiles=tuple(_tiles(made.report)))


def verification(report: VerificationReport) -> Section:
    """How close the candidate is, and what its plan holds if it is an engine."""
    engines = engine_tiles([report.engine]) if report.engine is not None else ()
    return Section("Summary", tiles=(*accuracy_tiles(report.accuracy), *engines))


def _rows(report: Report) -> Iterator[tuple[Value, ...]]:
    accuracy = report.accuracy
    share = f"{report.int8.bytes / report.model.bytes:.0%}"
    yield "model size", size_of(report.model.bytes), size_of(report.int8.bytes), share
    yield f"weighted ops in {report.precision.upper()}", "", f"{report.int8_ops} of {report.weighted_ops}", ""
    for name, one in accuracy.outputs.items():
        of = f" ({name})" if len(accuracy.outputs) > 1 else ""
        yield f"{one.score} to FP32, mean{of}", "1", f"{one.mean:.4f}", ""
        yield f"{one.score} to FP32, 1st percentile{of}", "1", f"{one.p1:.4f}", ""
        yield from ((f"{measure}{of}", "", f"{value:.4g}", "") for measure, value in one.measures.items())
        sqnr = "exact" if one.sqnr_db is None else f"{one.sqnr_db:.1f} dB"
        yield f"signal to quantisation noise{of}", "", sqnr, ""
    if (scores := accuracy.spearman) is not None:
        yield f"Spearman, {scores.pairs} pairs", f"{scores.reference:.2f}", f"{scores.candidate:.2f}", ""
    if (speed := report.speed) is not None:
        yield "CPU sentences/s", f"{speed.reference:.0f}", f"{speed.candidate:.0f}", f"{speed.ratio:.2f}x"


def _tiles(report: Report) -> Iterator[Tile]:
    smaller = f"{size_of(report.int8.bytes)} of {size_of(report.model.bytes)}"
    yield Tile("size", f"{report.int8.bytes / report.model.bytes:.0%}", smaller)
    yield from accuracy_tiles(report.accuracy)
    yield Tile(f"ops in {report.precision.upper()}", f"{report.int8_ops} of {report.weighted_ops}", "with weights")
    yield from engine_tiles(report.engines)
    if (speed := report.speed) is not None:
        yield Tile("CPU speed", f"{speed.ratio:.2f}x", f"{speed.candidate:.0f} sentences/s")
    if (gpu := report.gpu_speed) is not None:
        cell = largest(gpu.cells)
        yield Tile("GPU speed, against FP16", f"{gpu.ratio(cell):.2f}x", f"at {cell.shape}")
