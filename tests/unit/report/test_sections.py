"""Sections as data: who shows what of them, and that none is forgotten."""

import io
import pkgutil
import typing
from importlib import import_module

import page_report
import pytest
from rich.console import Console

from calib8.report import contents, sections
from calib8.report.bench import BenchReport
from calib8.report.chart import Chart
from calib8.report.page.html import html_of
from calib8.report.report import Conversion
from calib8.report.section import Cell, Column, Document, Note, Section, Table
from calib8.report.terminal import render
from calib8.report.verification import VerificationReport

KINDS = {"conversion": Conversion, "verification": VerificationReport, "bench": BenchReport}
MODULES = [name for _, name, _ in pkgutil.iter_modules(sections.__path__)]


def printed(*shown: Section) -> list[str]:
    console = Console(width=80, file=io.StringIO(), record=True, highlight=False)
    console.print(render(*shown))
    return [line.rstrip() for line in console.export_text().splitlines()]


def page(*shown: Section) -> str:
    return html_of(Document(title="t", passed=None, verdict="v", sections=shown, made="m"))


@pytest.mark.parametrize("kind", KINDS)
def test_every_section_is_listed_once_and_takes_its_report(kind: contents.Kind) -> None:
    makers = {name: getattr(import_module(f"calib8.report.sections.{name}"), kind, None) for name in MODULES}
    assert sorted(contents.SECTIONS[kind]) == sorted(name for name, maker in makers.items() if maker is not None)
    for name in contents.SECTIONS[kind]:
        types = typing.get_type_hints(makers[name])
        assert types.pop("return") in (Section, Section | None), name
        assert list(types.values()) == [KINDS[kind]], name


def test_numbers_are_written_and_sorted_as_their_column_says() -> None:
    ratio, size, plain = Column("r", "{:.2f}x"), Column("s", lambda value: f"{value / 1e6:.0f} MB"), Column("p")
    assert ratio.cell(1.234) == Cell("1.23x", 1.234)
    assert size.cell(2_000_000) == Cell("2 MB", 2e6)
    assert plain.cell(7) == Cell("7", 7)
    assert (ratio.cell(None), ratio.cell("exact")) == (Cell(""), Cell("exact"))
    assert (ratio.justify, plain.justify, Column("p", align="right").justify) == ("right", "left", "right")


def test_each_shows_what_is_for_it_in_its_own_words() -> None:
    columns = (Column("both", terminal="both, here"), Column("file", on="page"), Column("course", on="terminal"))
    table = Table(
        "Long title", columns, ((Cell("cell", terminal=("c1", "c2")), "e.engine", "▁█"),), terminal="short title"
    )
    other = Table("of the page", (Column("x"),), (("y",),), on="page")
    said = Section(
        "Heading", (Note("A sentence.", terminal="a line"), Note("last", on="terminal")), tables=(table, other)
    )
    assert printed(said) == [
        "short title",
        "┏━━━━━━━━━━━━┳━━━━━━━━┓",
        "┃ both, here ┃ course ┃",
        "┡━━━━━━━━━━━━╇━━━━━━━━┩",
        "│ c1         │ ▁█     │",
        "│ c2         │        │",
        "└────────────┴────────┘",
        "a line",
        "last",
    ]
    shown = page(said)
    for text in ("<h2>Heading</h2>", "<p>A sentence.</p>", "Long title", "e.<wbr>engine", ">cell</td>", "of the page"):
        assert text in shown
    for text in ("short title", "a line", "last", "course", "▁█", "c1"):
        assert text not in shown.partition("<main>")[2].partition("<script>")[0]


def test_a_section_for_one_is_nothing_to_the_other() -> None:
    table = Table("t", (Column("x"),), (("y",),))
    assert printed(Section("s", (Note("n"),), tables=(table,), on="page")) == []
    assert "<section>" not in page(Section("s", (Note("n"),), tables=(table,), on="terminal"))


def test_a_turned_table_has_a_column_for_each_row() -> None:
    columns = (Column("output", terminal=""), Column("cosine", "{:.2f}"), Column("noise", "{:.1f}", terminal="SQNR"))
    assert printed(Section("s", tables=(Table("t", columns, (("a", 0.5, 20), ("b", 1, None)), turned=True),)))[2:6] == [
        "┃        ┃    a ┃    b ┃",
        "┡━━━━━━━━╇━━━━━━╇━━━━━━┩",
        "│ cosine │ 0.50 │ 1.00 │",
        "│ SQNR   │ 20.0 │      │",
    ]


def test_groups_of_rows_are_parted_and_remarks_follow() -> None:
    columns, values = (Column("k"), Column("v", "{:d}")), (("a", 1), ("a", 2), ("b", 3))
    table = Table("t", columns, values, groups=(2, 1), remarks=("below", ("in two", "lines")))
    shown = printed(Section("s", tables=(table,)))[4:]
    assert shown == ["  a  1", "  a  2", "", "  b  3", "", "below", "in two", "lines"]


def test_charts_are_drawn_for_pages_only() -> None:
    def paint(axes: object) -> None:
        raise ZeroDivisionError

    said = Section("s", charts=(Chart("c", "c", "said", (paint,)),))
    assert printed(said) == []
    with pytest.raises(ZeroDivisionError):
        page(said)


def test_the_speed_on_a_cpu_is_told_in_sentences() -> None:
    report = page_report.report()
    assert report.speed is not None
    slow = report.model_copy(update={"speed": report.speed.model_copy(update={"candidate": 8.0})})
    told = "<p>CPU speed depends on INT8 units: VNNI unknown, AMX unknown. INT8 is slower than FP32 on this CPU: no "
    assert told in html_of(contents.conversion(slow))
