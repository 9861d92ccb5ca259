"""What reports are made of: sections of notes, tables and charts, as data that the terminal and a page show.

Everything is there on both unless ``on`` names one. ``terminal`` is what the terminal says in place of a text, which
is what the page says: one line, or several.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

from calib8.report.chart import Chart

Medium = Literal["terminal", "page"]
On = Literal["both", "terminal", "page"]
Lines = str | tuple[str, ...]


@dataclass(frozen=True)
class Note:
    """A sentence. ``style`` is the terminal's, as rich writes it."""

    text: str
    terminal: Lines | None = None
    style: str = ""
    on: On = "both"


@dataclass(frozen=True)
class Cell:
    """A cell of a table: what is shown, and the number to sort by where that is not a text."""

    text: str
    value: float | None = None
    terminal: Lines | None = None
    style: str = ""


#: What a row holds for a column: a text, a number for the column's format, nothing, or a cell as it is shown.
Value = str | float | Cell | None


@dataclass(frozen=True)
class Column:
    """A heading, and how the numbers below it are written: ``"{:.2f}x"``, or a function. Such a column stands right.

    align: where texts stand.
    wrap: where the terminal breaks lines that are too long: between words, anywhere, or never.
    widest: characters that the terminal gives it at most.
    """

    head: str
    format: str | Callable[[float], str] = ""
    terminal: Lines | None = None
    align: Literal["left", "right"] = "left"
    wrap: Literal["words", "anywhere", "never"] = "words"
    widest: int | None = None
    on: On = "both"

    @property
    def justify(self) -> Literal["left", "right"]:
        """Where its cells stand."""
        return "right" if self.format else self.align

    def cell(self, value: Value) -> Cell:
        """``value`` as it is shown; an empty cell for None."""
        if isinstance(value, Cell):
            return value
        if value is None or isinstance(value, str):
            return Cell(value or "")
        write = (self.format or "{}").format if isinstance(self.format, str) else self.format
        return Cell(write(value), float(value))


@dataclass(frozen=True)
class Table:
    """A row of values for each thing, a value for each column.

    long: the page folds it until somebody asks for it.
    turned: rows become columns in the terminal, for few things of which much is said.
    groups: how many rows belong together, group by group; in the terminal a blank line parts them, and no lines part
    columns, of which there may be many.
    remarks: what the terminal says below it.
    """

    title: str
    columns: tuple[Column, ...]
    values: tuple[tuple[Value, ...], ...]
    terminal: Lines | None = None
    long: bool = False
    turned: bool = False
    groups: tuple[int, ...] = ()
    remarks: tuple[Lines, ...] = ()
    on: On = "both"

    @property
    def rows(self) -> tuple[tuple[Cell, ...], ...]:
        """Every cell as it is shown."""
        return tuple(
            tuple(column.cell(value) for column, value in zip(self.columns, row, strict=True)) for row in self.values
        )

    def part(self, medium: Medium) -> "Table":
        """The columns that ``medium`` shows."""
        places = [place for place, column in enumerate(self.columns) if _is_on(column.on, medium)]
        values = tuple(tuple(row[place] for place in places) for row in self.values)
        return replace(self, columns=tuple(self.columns[place] for place in places), values=values)


@dataclass(frozen=True)
class Tile:
    """A number that the page shows before all sections."""

    label: str
    value: str
    note: str = ""


@dataclass(frozen=True)
class Section:
    """A heading and what belongs under it: on a page notes, charts, tables; in the terminal tables, then notes.

    ``terms`` are the words that it uses, each with what it means, for the end of a page.
    """

    title: str
    notes: tuple[Note, ...] = ()
    charts: tuple[Chart, ...] = ()
    tables: tuple[Table, ...] = ()
    tiles: tuple[Tile, ...] = ()
    terms: Mapping[str, str] = field(default_factory=dict)
    on: On = "both"

    def part(self, medium: Medium) -> "Section":
        """What ``medium`` shows of it: nothing, if it is for the other."""
        if not _is_on(self.on, medium):
            return Section(self.title)
        notes = tuple(note for note in self.notes if _is_on(note.on, medium))
        tables = tuple(table.part(medium) for table in self.tables if _is_on(table.on, medium))
        return replace(self, notes=notes, tables=tables)


@dataclass(frozen=True)
class Document:
    """A whole report. ``passed`` is None where nothing was judged; ``about`` says which files it is about."""

    title: str
    passed: bool | None
    verdict: str
    sections: tuple[Section, ...]
    made: str
    about: str = ""


def _is_on(on: On, medium: Medium) -> bool:
    return on in ("both", medium)
