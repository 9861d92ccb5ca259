"""Figures of matplotlib as SVG that belongs to its page: its fonts, its colours in light and dark, ids of its own."""

import io
import re
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from calib8.report.chart import FAINT, FIRST, INK, SECOND, WARN, Chart

if TYPE_CHECKING:
    from matplotlib.figure import Figure

#: What charts are painted in -> what the page's style sheet puts there.
_STYLED = {
    INK: "currentColor",
    FAINT: "var(--faint)",
    FIRST: "var(--first)",
    SECOND: "var(--second)",
    WARN: "var(--warn)",
}
#: Inches. Small, so that the text is readable where a phone shrinks the chart to its width.
WIDTH = 4.0

_SETTINGS: dict[Any, Any] = {
    "svg.fonttype": "none",  # text stays text: it is read aloud, searched and copied
    "text.parse_math": False,  # "$" in the name of an op is no formula
    "font.size": 9.5,
    "axes.edgecolor": FAINT,
    "axes.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.grid": True,
    "grid.color": FAINT,
    "grid.alpha": 0.35,
    "grid.linewidth": 0.6,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "legend.frameon": False,
    "legend.fontsize": 9.0,
}


def can_draw() -> bool:
    """Is matplotlib here?"""
    return find_spec("matplotlib") is not None


def draw(chart: Chart) -> str:
    """``chart`` as an SVG element."""
    from matplotlib import rc_context
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    with rc_context(_SETTINGS | {"svg.hashsalt": chart.name}):
        figure = Figure(figsize=(WIDTH, chart.height), layout="constrained")
        FigureCanvasSVG(figure)
        axes = figure.subplots(len(chart.paints), 1, sharex=True, squeeze=False)[:, 0]
        for own, paint in zip(axes, chart.paints, strict=True):
            paint(own)
        return _inline(chart.name, figure)


def _inline(name: str, figure: "Figure") -> str:
    """The SVG element alone, without what only a file of its own needs."""
    stream = io.StringIO()
    nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    figure.savefig(stream, format="svg", transparent=True, metadata=nothing)
    svg = stream.getvalue()
    svg = svg[svg.index("<svg") :].strip()
    svg = re.sub(r'\s+xmlns(:\w+)?="[^"]*"', "", svg)
    svg = re.sub(r'^(<svg[^>]*?) width="[^"]*" height="[^"]*"', r"\1", svg)  # the page says how wide it is
    svg = svg.replace("xlink:href=", "href=")
    svg = re.sub(r'\b(id="|href="#|url\(#)', rf"\g<1>{name}-", svg)
    for colour, style in _STYLED.items():
        svg = svg.replace(colour, style)
    return svg
