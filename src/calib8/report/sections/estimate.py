"""What engines would take on GPUs that are not at hand."""

from calib8.cost.estimate import CellEstimate, Engine, EstimateReport
from calib8.report.section import Column, Note, Section, Table, Value

#: Said above every table of times.
NOT_MEASURED = "a model's estimate, not measured"
HOW = (
    "INT8 is the form of --optimize latency, FP8 has all matrix products; a speed-up",
    "is over FP16. Engines of TensorRT, as CUDA graphs, arrays in the GPU's memory.",
    "Before you ship, measure: calib8 bench.",
)
ENGINES: tuple[Engine, ...] = ("fp16", "int8", "fp8")


def estimate_section(report: EstimateReport, *, groups: bool = False) -> Section:
    """A row for each GPU and shape, with ``groups`` a table of kernels for each, and what is known of the GPUs."""
    tables = (_times(report), *(map(_groups, report.cells) if groups else ()), _gpus(report))
    return Section("Estimate", notes=(Note(" ".join(HOW), terminal=HOW),), tables=tables)


def _times(report: EstimateReport) -> Table:
    columns = (
        Column("GPU", wrap="never"),
        Column("shape", align="right", wrap="never"),
        Column("FP16 (ms)", "{:.2f}", terminal=("FP16", "ms")),
        Column("INT8 (ms)", "{:.2f}", terminal=("INT8", "ms")),
        Column("speed-up of INT8", "{:.2f}x", terminal=("speed-", "up")),
        Column("FP8 (ms)", "{:.2f}", terminal=("FP8", "ms")),
        Column("speed-up of FP8", "{:.2f}x", terminal=("speed-", "up")),
    )
    rows = tuple(
        (
            *(cell.gpu, cell.shape, cell.fp16.ms, cell.int8.ms, cell.speedup("int8")),
            *(None if cell.fp8 is None else cell.fp8.ms, cell.speedup("fp8")),
        )
        for cell in report.cells
    )
    each = len(report.cells) // len(report.gpus)
    title = f"{report.model.name}, {report.int8_ops} of {report.weighted_ops} weighted ops in INT8: {NOT_MEASURED}"
    return Table(title, columns, rows, groups=(each,) * len(report.gpus))


def _groups(cell: CellEstimate) -> Table:
    """Kernels and milliseconds of each group in each engine, the one with the most time in FP16 first."""
    engines = {name: made for name in ENGINES if (made := getattr(cell, name)) is not None}
    most: dict[str, float] = {}
    for made in engines.values():
        for group, time in made.groups.items():
            most[group] = max(most.get(group, 0.0), time.ms)
    columns = [Column("group", wrap="never")]
    for name in engines:
        columns.append(Column(f"kernels, {name.upper()}", "{:d}", terminal=("", "kernels")))
        columns.append(Column(f"{name.upper()} (ms)", "{:.3f}", terminal=(name.upper(), "ms")))
    rows = []
    for group in sorted(most, key=lambda group: -most[group]):
        row: list[Value] = [group]
        for made in engines.values():
            time = made.groups.get(group)
            row += [None, None] if time is None else [time.kernels, time.ms]
        rows.append(tuple(row))
    return Table(f"{cell.gpu}, {cell.shape}: {NOT_MEASURED}", tuple(columns), tuple(rows), groups=(len(rows),))


def _gpus(report: EstimateReport) -> Table:
    columns = (
        Column("GPU", wrap="never"),
        Column("target"),
        Column("FP16 (TFLOP/s)", "{:,.0f}", terminal=("FP16", "TFLOP/s")),
        Column("INT8 (TOP/s)", "{:,.0f}", terminal=("INT8", "TOP/s")),
        Column("INT8 : FP16", "{:.1f}x", terminal=("INT8 :", "FP16")),
        Column("memory (GB/s)", "{:,.0f}", terminal=("memory", "GB/s")),
        Column("what the rest rests on"),
    )
    rows = tuple(
        (name, gpu.target, gpu.fp16, gpu.int8, gpu.int8 / gpu.fp16, gpu.memory, gpu.basis)
        for name, gpu in report.gpus.items()
    )
    return Table("What is known of the GPUs: dense peaks", columns, rows, groups=(len(rows),))
