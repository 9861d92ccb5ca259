"""The numbers to be seen first: a table in the terminal, tiles on a page."""

from collections.abc import Iterator

from calib8.report.report import Conversion, Report
from calib8.report.section import Column, Section, Table, Tile, Value
from calib8.report.sections.accuracy import accuracy_tiles
from calib8.report.sections.engines import engine_tiles
from calib8.report.verification import VerificationReport
from calib8.report.wording import size_of
from calib8.verification.bench import largest
from calib8.verification.compare import Comparison


def conversion(made: Conversion) -> Section:
    """Size, accuracy and speed against FP32."""
    told, engine = made.report.precision.upper(), made.report.engine_accuracy
    columns = [Column(""), *(Column(name, align="right") for name in ("FP32", told, ""))]
    rows = list(_rows(made.report))
    if engine is not None:
        found = {name: got for name, _, got in _closeness(engine)}
        columns.insert(3, Column("on the GPU", align="right"))
        rows = [(*row[:3], found.get(str(row[0]), ""), *row[3:]) for row in rows]
    table = Table(f"{told} against FP32", tuple(columns), tuple(rows), on="terminal")
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
    yield from ((*row, "") for row in _closeness(accuracy))
    if (speed := report.speed) is not None:
        yield "CPU sentences/s", f"{speed.reference:.0f}", f"{speed.candidate:.0f}", f"{speed.ratio:.2f}x"


def _closeness(accuracy: Comparison) -> Iterator[tuple[str, str, str]]:
    """What is measured, of FP32 and of what was compared with it."""
    for name, one in accuracy.outputs.items():
        of = f" ({name})" if len(accuracy.outputs) > 1 else ""
        yield f"{one.score} to FP32, mean{of}", "1", f"{one.mean:.4f}"
        yield f"{one.score} to FP32, 1st percentile{of}", "1", f"{one.p1:.4f}"
        yield from ((f"{measure}{of}", "", f"{value:.4g}") for measure, value in one.measures.items())
        yield f"signal to quantisation noise{of}", "", "exact" if one.sqnr_db is None else f"{one.sqnr_db:.1f} dB"
    if (scores := accuracy.spearman) is not None:
        yield f"Spearman, {scores.pairs} pairs", f"{scores.reference:.2f}", f"{scores.candidate:.2f}"


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
