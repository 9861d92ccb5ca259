"""How close a model is to FP32, output by output; how cosines spread, what is worst, and where embeddings moved to."""

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from calib8.report.chart import FAINT, FIRST, INK, SECOND, WARN, Chart
from calib8.report.report import Conversion
from calib8.report.section import Cell, Column, Note, Section, Table, Tile, Value
from calib8.report.verification import VerificationReport
from calib8.report.wording import in_runtime, measured_on
from calib8.verification.compare import Closeness, Comparison
from calib8.verification.config import Verify
from calib8.verification.details import Details, Projection

if TYPE_CHECKING:
    from matplotlib.axes import Axes

TERMS = {
    "cosine": "Between the FP32 and the quantised vector of one sample: 1 is the same direction, 0 is unrelated.",
    "1st percentile": "One sample in a hundred has a lower cosine than this.",
    "same nearest neighbour": "Share of samples whose quantised vector finds the same nearest other sample among FP32 "
    "vectors as its FP32 vector does: what an index that exists already goes on finding.",
    "as": "What the output was taken for, which decides what is measured of it; verify --output-kind says otherwise.",
    "SQNR": "Signal to quantisation noise ratio: how far values stand above the error of 8 bits. At 20 dB the error is "
    "a tenth of them, at 40 dB a hundredth.",
}


def conversion(made: Conversion) -> Section:
    """Of the quantised model; the terminal has it in its summary."""
    report = made.report
    notes = [
        f"Measured on {measured_on(report)}.",
        f"{report.precision.upper()} ran in {in_runtime(report.accuracy_runtime)}.",
    ]
    return replace(accuracy_section(report.accuracy, report.limits, notes), on="page")


def verification(report: VerificationReport) -> Section:
    """Of the candidate."""
    notes = [f"Measured on {measured_on(report)}."]
    if report.accuracy.runtime is not None:
        notes.append(f"The candidate ran in {in_runtime(report.accuracy.runtime)}.")
    if report.gpu is not None:
        notes.append(f"The engine ran on {report.gpu.gpu} ({report.gpu.target}), driver {report.gpu.driver}.")
    heading = f"{report.candidate.name} against {report.reference.name}"
    return accuracy_section(report.accuracy, report.limits, notes, heading)


def accuracy_section(
    accuracy: Comparison, limits: Verify, notes: Sequence[str], heading: str = "Accuracy against FP32"
) -> Section:
    """``heading`` is the terminal's, which has the first table alone."""
    notes = [*notes, *accuracy.doubts(limits)]
    tables = [replace(closeness_table("Accuracy against FP32", accuracy), terminal=heading)]
    if judged := accuracy.judged(limits):
        rows = tuple((name, found, wanted, "yes" if held else "NO") for name, found, wanted, held in judged)
        columns = (Column("limit on"), Column("found"), Column("asked for"), Column("kept"))
        tables.append(Table("Limits", columns, rows, on="page"))
    if (scores := accuracy.spearman) is not None:
        tables.append(
            Table(
                "100 x Spearman's correlation with people's scores",
                (Column("pairs", "{:d}"), Column("FP32", "{:.2f}"), Column("quantised", "{:.2f}")),
                ((scores.pairs, scores.reference, scores.candidate),),
                on="page",
            )
        )
    charts: tuple[Chart, ...] = ()
    if (details := accuracy.details) is not None:
        charts = (_spread(accuracy, details),)
        if details.projection is not None:
            charts += (_projection(details.projection),)
        charts += (_worst_samples(accuracy, details),)
        tables.append(_worst(details))
    return Section("Accuracy", tuple(Note(note, on="page") for note in notes), charts, tuple(tables), terms=TERMS)


def accuracy_tiles(accuracy: Comparison) -> tuple[Tile, ...]:
    """The numbers that a verdict rests on, of the worst output."""
    one = accuracy.outputs[accuracy.worst]
    tiles = [
        Tile(one.score, f"{one.mean:.4f}", f"{one.scored or accuracy.samples} samples"),
        Tile("1st percentile", f"{one.p1:.4f}", f"lowest {one.lowest:.4f}"),
    ]
    return (*tiles, *(Tile(name, f"{value:.4g}", "") for name, value in one.measures.items()))


def closeness_table(title: str, accuracy: Comparison) -> Table:
    """How close each output is; in the terminal an output is a column."""
    scores = {one.score for one in accuracy.outputs.values()}
    of = f"{scores.pop()} to FP32" if len(scores) == 1 else "score"
    columns = [
        Column("compared", terminal=""),
        Column("as"),
        Column("score"),
        Column(f"{of}, mean", "{:.5f}"),
        Column("at least, 95 % sure", "{:.5f}"),
        Column("1st percentile", "{:.5f}", terminal=f"{of}, 1st percentile"),
        Column("lowest", "{:.5f}", terminal=f"{of}, lowest"),
        Column("SQNR (dB)", "{:.1f}", terminal="signal to quantisation noise"),
    ]
    rows: list[tuple[Value, ...]] = [
        (one.named(name), _kind(one), one.score, one.mean, one.at_least, one.p1, one.lowest, _sqnr(one))
        for name, one in accuracy.outputs.items()
    ]
    for measure in dict.fromkeys(measure for one in accuracy.outputs.values() for measure in one.measures):
        columns.append(Column(measure, "{:.5f}"))
        found = [one.measures.get(measure) for one in accuracy.outputs.values()]
        rows = [(*row, value) for row, value in zip(rows, found, strict=True)]
    if (people := accuracy.spearman) is not None:  # of the model, and so beside its first output
        columns.append(Column("", terminal=f"Spearman, {people.pairs} pairs", on="terminal"))
        told = f"{people.candidate:.2f}, FP32 {people.reference:.2f}"
        rows = [(*row, "" if place else told) for place, row in enumerate(rows)]
    return Table(title, tuple(columns), tuple(rows), turned=True)


def _kind(one: Closeness) -> Cell:
    return Cell(one.kind) if one.guessed is None else Cell(f"{one.kind}, guessed: {one.guessed}")


def _sqnr(one: Closeness) -> Cell:
    decibels = one.sqnr_db
    return Cell("exact") if decibels is None else Cell(f"{decibels:.1f}", decibels, terminal=f"{decibels:.1f} dB")


def _worst(details: Details) -> Table:
    columns = [Column("score", "{:.5f}"), Column("sample", "{:d}")]
    rows: list[tuple[Value, ...]] = [(one.score, one.number) for one in details.worst]
    title = f"The worst {len(details.worst)} samples, counted from 0"
    if any(one.text for one in details.worst):
        columns.append(Column("text"))
        rows = [(*row, one.text) for row, one in zip(rows, details.worst, strict=True)]
    else:
        title += "; texts left out or not known"
    return Table(title, tuple(columns), tuple(rows), on="page")


def _spread(accuracy: Comparison, details: Details) -> Chart:
    """How the samples' scores spread."""
    one, histogram = accuracy.outputs[details.output], details.scores
    widths = [end - start for start, end in zip(histogram.edges, histogram.edges[1:], strict=False)]

    def paint(axes: "Axes") -> None:
        axes.bar(histogram.edges[:-1], histogram.counts, widths, align="edge", color=FIRST, edgecolor="none")
        axes.axvline(one.mean, color=INK, label=f"mean {one.mean:.4f}")
        axes.axvline(one.p1, color=WARN, linestyle="--", label=f"1st perc. {one.p1:.4f}")
        axes.set_xlabel(f"{one.score} (1 is equal)")
        axes.set_ylabel("samples (count)")
        axes.locator_params(axis="x", nbins=5)
        axes.ticklabel_format(axis="x", useOffset=False)
        axes.legend(loc="upper center", bbox_to_anchor=(0.5, 1.16), ncols=2)

    said = (
        f"{one.score} of {one.scored or accuracy.samples} samples: lowest {one.lowest:.4f}, 1st percentile "
        f"{one.p1:.4f}, mean {one.mean:.4f}."
    )
    return Chart("scores", f"{one.score[:1].upper()}{one.score[1:]} of each sample to FP32", said, (paint,))


def _projection(projection: Projection) -> Chart:
    """FP32 and quantised vectors of the same samples in the plane that shows most of FP32's variance."""

    def paint(axes: "Axes") -> None:
        for expected, got in zip(projection.reference, projection.candidate, strict=True):
            axes.plot(*zip(expected, got, strict=True), color=FAINT, linewidth=0.7)
        x, y = zip(*projection.reference, strict=True)
        axes.scatter(x, y, s=18, facecolors="none", edgecolors=FIRST, linewidths=0.9, label="FP32")
        x, y = zip(*projection.candidate, strict=True)
        axes.scatter(x, y, s=5, color=SECOND, label="quantised")
        first, second = projection.explained
        axes.set_xlabel(f"1st principal axis ({first:.0%} of variance)")
        axes.set_ylabel(f"2nd principal axis ({second:.0%})")
        axes.legend(loc="upper center", bbox_to_anchor=(0.5, 1.14), ncols=2)

    said = (
        f"Unit vectors of {len(projection.reference)} samples on two principal axes of FP32, which hold "
        f"{sum(projection.explained):.0%} of its variance. A dot (quantised) inside its circle (FP32) has not moved."
    )
    return Chart("projection", "Embeddings, FP32 against quantised", said, (paint,))


def _worst_samples(accuracy: Comparison, details: Details) -> Chart:
    """How far the worst samples fall behind the mean; what they say stands in the table."""
    worst, output = details.worst, accuracy.outputs[details.output]
    labels = [f"sample {one.number}" for one in worst]

    def paint(axes: "Axes") -> None:
        rows, values = range(len(worst)), [one.score for one in worst]
        axes.hlines(rows, values, output.mean, color=FAINT, linewidth=1.2)
        axes.scatter(values, rows, color=WARN, s=22, zorder=3)
        axes.axvline(output.mean, color=INK, label=f"mean of all {output.mean:.4f}")
        axes.set_yticks(rows, labels)
        axes.invert_yaxis()
        axes.grid(visible=False, axis="y")
        axes.locator_params(axis="x", nbins=4)
        axes.ticklabel_format(axis="x", useOffset=False)
        axes.set_xlabel(f"{output.score} to FP32 (1 is equal)")
        axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0))

    said = "; ".join(f"{label}: {one.score:.4f}" for label, one in zip(labels, worst, strict=True))
    return Chart("worst", f"The worst {len(worst)} samples", f"{said}.", (paint,), height=0.9 + 0.22 * len(worst))
