"""What INT8 gains on this machine's GPU, op by op."""

from collections.abc import Iterator, Sequence

from calib8.report.report import Conversion
from calib8.report.section import Cell, Column, Note, Section, Table, Value
from calib8.verification.gains import Gain, Gains, KernelMs

COUNTED = (
    "Kernels as TensorRT's profiler timed them one by one, when the model was quantised. A kernel without weights "
    "counts to the next op with weights, since Q and changes of layout are there for it; ops that share a kernel or an "
    "input are one group, and groups of the same sizes are decided together. The sum is not the latency."
)


def conversion(made: Conversion) -> Section | None:
    """A row for each group of ops and shape."""
    return gains_section(made.report.gains) if made.report.gains is not None else None


def gains_section(gains: Gains) -> Section:
    """The groups in the order of the graph, then the sums; a page says how they were timed."""
    columns = (
        Column("ops"),
        Column("in"),
        Column("shape", align="right"),
        Column("FP16 (ms)", "{:.3f}", terminal=("FP16", "ms")),
        Column("INT8 (ms)", "{:.3f}", terminal=("INT8", "ms")),
        Column("ratio", "{:.2f}x"),
    )
    rows = [row for gain in gains.gains for row in _rows(gain.told, _in(gains, gain), gains, gain.times)]
    rows += _rows("behind the last", "", gains, gains.tail)
    rows += _rows("all kernels", "", gains, gains.whole)
    table = Table(
        "What INT8 gains, op by op",
        columns,
        tuple(rows),
        groups=(len(gains.shapes),) * (len(gains.gains) + 2),
    )
    notes = [Note(f"Timed in {gains.runtime}. {COUNTED}", on="page"), *_second(gains)]
    return Section("What INT8 gains, op by op", tuple(notes), tables=(table,))


def _rows(ops: str, form: str, gains: Gains, times: Sequence[KernelMs]) -> Iterator[tuple[Value, ...]]:
    """The terminal names the ops once."""
    for place, (shape, one) in enumerate(zip(gains.shapes, times, strict=True)):
        told = [Cell(text, terminal=None if place == 0 else "") for text in (ops, form)]
        yield *told, shape, one.float_ms, one.int8_ms, one.ratio


def _in(gains: Gains, gain: Gain) -> str:
    """What they are in the engine that was kept."""
    if not gain.quantised:
        return "FP16"
    return "FP16, INT8 is no faster" if set(gain.ops) & set(gains.left_out) else "INT8"


def _second(gains: Gains) -> Iterator[Note]:
    """What came of the engine that leaves in FP16 what INT8 does not speed up."""
    if (race := gains.without) is not None:
        kept = "it was taken" if gains.left_out else "so it was not taken"
        yield Note(f"The engine without them in INT8 is {race.told(race.cells)}: {kept}.", on="page")
