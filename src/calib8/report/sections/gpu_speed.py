"""How fast the quantised engine is on this machine's GPU, against the same model in FP16."""

from calib8.report.report import Conversion
from calib8.report.section import Column, Note, Section, Table
from calib8.report.sections.latency import CLOCK, against_accuracy


def conversion(made: Conversion) -> Section | None:
    """A row for each shape."""
    if (speed := made.report.gpu_speed) is None:
        return None
    told = made.report.precision.upper()
    columns = (
        Column("batch", "{:d}"),
        Column("length", "{:d}"),
        Column("FP16, GPU (ms)", "{:.3f}"),
        Column(f"{told}, GPU (ms)", "{:.3f}"),
        Column("ratio", "{:.2f}x"),
    )
    rows = tuple(
        (
            cell.batch,
            cell.length,
            cell.latencies[speed.baseline].gpu_ms,
            cell.latencies[speed.engine].gpu_ms,
            speed.ratio(cell),
        )
        for cell in speed.cells
    )
    by = f"{speed.engine} against {speed.baseline}, by turns in {speed.runtime}."
    notes = tuple(Note(text, on="page") for text in (by, speed.kept) if text is not None)
    table = Table(f"{told} against FP16 on the GPU", columns, rows)
    against = against_accuracy(speed.cells)
    return Section("Speed on the GPU", notes, (against,) if against is not None else (), (table,), terms=CLOCK)
