"""Charts as data: what one shows, in words and as what is painted when a page is written."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from calib8.console import visible

if TYPE_CHECKING:
    from matplotlib.axes import Axes

#: What charts are painted in: each stands for a colour of the page, which differs in light and dark.
INK, FAINT, FIRST, SECOND, WARN = "#010203", "#010204", "#010205", "#010206", "#010207"
#: Letters of a name beside its bar.
LETTERS = 24


@dataclass(frozen=True)
class Chart:
    """Axes above each other, each filled by one of ``paints``, over the same x axis; axes carry their units.

    name: unique on a page. alternative: what a reader is meant to see, in words. height: inches.
    """

    name: str
    title: str
    alternative: str
    paints: "tuple[Callable[[Axes], None], ...]"
    height: float = 2.8


def short(name: str) -> str:
    """The end of a long name: the part that tells ops of one model apart; an engine is one without saying so."""
    name = visible(name)
    name = name.removesuffix(".engine") if len(name) > LETTERS else name
    return name if len(name) <= LETTERS else "…" + name[1 - LETTERS :]
