"""The report of a verification as a table that fits a terminal of 80 columns."""

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from calib8.report.lines import lines
from calib8.report.table import in_runtime
from calib8.report.verification import VerificationReport
from calib8.verification.compare import Closeness


def render_verification(report: VerificationReport) -> RenderableType:
    """How close every output is, what was asked for, and what computed it."""
    accuracy = report.accuracy
    candidate = lines(f"{report.candidate.name} ran in {in_runtime(accuracy.runtime or 'an unnamed runtime')}")
    reference = lines(f"{report.reference.name} ran in {accuracy.reference_runtime or 'an unnamed runtime'}")
    return Group(_numbers(report), *render_verdict(report), candidate, reference)


def render_verdict(report: VerificationReport) -> list[Text]:
    """``PASSED`` or ``FAILED``, if anything was judged, with every limit, and on what it was measured."""
    said = [
        lines(f"{'kept' if kept else 'MISSED'}: {name} {found}, {wanted} is asked for")
        for name, found, wanted, kept in report.accuracy.judged(report.limits)
    ]
    if report.passed is not None:
        said.append(lines("PASSED", style="bold green") if report.passed else lines("FAILED", style="bold red"))
    return [*said, lines(f"accuracy: {report.accuracy.samples} samples from {report.held_out}")]


def _numbers(report: VerificationReport) -> Table:
    outputs = report.accuracy.outputs
    table = Table(title=lines(f"{report.candidate.name} against {report.reference.name}", style="bold"))
    table.title_justify = "left"
    table.add_column("")
    for name, closeness in outputs.items():
        table.add_column(lines(closeness.named(name)), justify="right", overflow="fold")
    columns = [_column(closeness) for closeness in outputs.values()]
    for row in columns[0]:
        table.add_row(row, *(column[row] for column in columns))
    if (scores := report.accuracy.spearman) is not None:
        table.add_row(f"Spearman, {scores.pairs} pairs", f"{scores.candidate:.2f}, FP32 {scores.reference:.2f}")
    return table


def _column(closeness: Closeness) -> dict[str, str]:
    sqnr, neighbours = closeness.sqnr_db, closeness.neighbours
    return {
        "cosine to FP32, mean": f"{closeness.cosine_mean:.5f}",
        "cosine to FP32, 1st percentile": f"{closeness.cosine_p1:.5f}",
        "cosine to FP32, lowest": f"{closeness.cosine_min:.5f}",
        "signal to quantisation noise": "exact" if sqnr is None else f"{sqnr:.1f} dB",
        "same nearest neighbour": "not measured" if neighbours is None else f"{100 * neighbours:.1f} %",
    }
