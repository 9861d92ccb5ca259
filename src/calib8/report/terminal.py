"""Sections in a terminal of 80 columns."""

from collections.abc import Iterator
from dataclasses import replace
from itertools import accumulate

from rich import table as rich_table
from rich.box import HEAVY_HEAD, SIMPLE
from rich.console import Group, RenderableType
from rich.text import Text

from calib8.report.lines import lines
from calib8.report.section import Cell, Column, Lines, Section, Table


def render(*sections: Section) -> RenderableType:
    """Each section's tables, and below them its notes."""
    return Group(*(part for section in sections for part in _parts(section.part("terminal"))))


def _parts(section: Section) -> Iterator[RenderableType]:
    for table in section.tables:
        yield _drawn(_turned(table) if table.turned else table)
        yield from (_lines(remark) for remark in table.remarks)
    for note in section.notes:
        yield _said(note.text, note.terminal, note.style)


def _drawn(table: Table) -> rich_table.Table:
    drawn = rich_table.Table(
        title=_said(table.title, table.terminal, "bold"),
        title_justify="left",
        box=SIMPLE if table.groups else HEAVY_HEAD,
        collapse_padding=bool(table.groups),
    )
    heads = [_said(column.head, column.terminal) for column in table.columns]
    drawn.show_header = any(head.plain for head in heads)
    for column, head in zip(table.columns, heads, strict=True):
        drawn.add_column(
            head,
            justify=column.justify,
            overflow="fold" if column.wrap == "anywhere" else "ellipsis",
            no_wrap=column.wrap == "never",
            max_width=column.widest,
        )
    ends = set(accumulate(table.groups))
    for place, row in enumerate(table.rows, start=1):
        drawn.add_row(*(_said(cell.text, cell.terminal, cell.style) for cell in row), end_section=place in ends)
    return drawn


def _turned(table: Table) -> Table:
    """Rows as columns: the cells of the first column are the headings."""
    corner, *others = table.columns
    heads = (Column(name.text, terminal=name.terminal, align="right", wrap="anywhere") for name, *_ in table.rows)
    values = (
        (Cell(column.head, terminal=column.terminal), *(row[place] for row in table.rows))
        for place, column in enumerate(others, start=1)
    )
    return replace(table, columns=(corner, *heads), values=tuple(values))


def _said(text: str, terminal: Lines | None, style: str = "") -> Text:
    return _lines(text if terminal is None else terminal, style)


def _lines(said: Lines, style: str = "") -> Text:
    return lines(*((said,) if isinstance(said, str) else said), style=style)
