"""What a page is made of: plain facts, escaped when they are written (see ``html``)."""

from collections.abc import Mapping
from dataclasses import dataclass, field

#: Columns of a table that finds room beside a chart.
NARROW = 4


@dataclass(frozen=True)
class Cell:
    """A cell of a table: what is shown, and the number to sort by where that is not a text."""

    text: str
    value: float | None = None


@dataclass(frozen=True)
class Table:
    """Rows under ``head``; a long one is folded until somebody asks for it."""

    title: str
    head: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    long: bool = False


@dataclass(frozen=True)
class Chart:
    """An SVG element, with what it shows in words for those who do not see it."""

    title: str
    alternative: str
    svg: str


@dataclass(frozen=True)
class Section:
    """A heading and what belongs under it."""

    title: str
    notes: tuple[str, ...] = ()
    charts: tuple[Chart, ...] = ()
    tables: tuple[Table, ...] = ()

    @property
    def beside(self) -> tuple[Table, ...]:
        """The narrow tables that stand beside a chart which is alone."""
        return tuple(t for t in self.tables if len(t.head) <= NARROW and not t.long) if len(self.charts) == 1 else ()


@dataclass(frozen=True)
class Tile:
    """A number to be seen first."""

    label: str
    value: str
    note: str = ""


@dataclass(frozen=True)
class Page:
    """A whole report. ``passed`` is None where nothing was judged; ``terms`` are words and what they mean.

    ``about`` says which files it is about.
    """

    title: str
    passed: bool | None
    verdict: str
    tiles: tuple[Tile, ...]
    sections: tuple[Section, ...]
    made: str
    terms: Mapping[str, str] = field(default_factory=dict)
    about: str = ""


def number(value: float | None, spec: str = ",.4g", unit: str = "") -> Cell:
    """``value`` as text in the format ``spec``, sorted as the number it is; an empty cell for None."""
    return Cell("") if value is None else Cell(f"{value:{spec}}{unit}", float(value))
