"""Pages as HTML: everything is escaped, styles and script are inside, and the browser is told to load nothing else."""

import base64
import hashlib
import re
from dataclasses import replace
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING

from calib8.console import visible
from calib8.errors import install
from calib8.files import write_text
from calib8.report.page import canvas
from calib8.report.section import Document, Note, Section, Table

if TYPE_CHECKING:
    from markupsafe import Markup

#: Columns of a table that finds room beside a chart.
NARROW = 5


def write_page(path: Path, document: Document) -> None:
    """Write ``document`` as one HTML file, atomically."""
    write_text(path, html_of(document))


def html_of(document: Document) -> str:
    """``document`` as one HTML page. Its policy lets no script run but its own, whatever a name or text holds."""
    from jinja2 import Environment, StrictUndefined

    template, style, script = (_file(name) for name in ("page.html", "page.css", "page.js"))
    digest = base64.b64encode(hashlib.sha256(script.encode("utf-8")).digest()).decode("ascii")
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, finalize=_finished
    )
    environment.filters.update(breakable=_breakable, drawn=canvas.draw, beside=beside)
    sections = _shown(document)
    return environment.from_string(template).render(
        page=document,
        sections=[section for section in sections if section.notes or section.charts or section.tables],
        tiles=[tile for section in sections for tile in section.tiles],
        terms={word: meaning for section in sections for word, meaning in section.terms.items()},
        style=style,
        script=script,
        digest=digest,
    )


def _shown(document: Document) -> list[Section]:
    """What a page shows; where matplotlib is missing no charts, but why."""
    sections = [section.part("page") for section in document.sections]
    if canvas.can_draw():
        return sections
    why = f"Charts are left out: matplotlib is not installed here. It comes with {install('report')}."
    return [Section("Charts", (Note(why),)), *(replace(section, charts=()) for section in sections)]


def beside(section: Section) -> tuple[Table, ...]:
    """The narrow tables that stand beside a chart which is alone."""
    narrow = (table for table in section.tables if len(table.columns) <= NARROW and not table.long)
    return tuple(narrow) if len(section.charts) == 1 else ()


def _finished(value: object) -> object:
    """What the template puts into the page: text from anywhere is shown, and neither reversed nor hidden."""
    from markupsafe import Markup

    return visible(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def _breakable(text: str) -> "Markup":
    """``text``, which may go on in the next line behind the parts of a path or of a name."""
    from markupsafe import Markup, escape

    return Markup(re.sub(r"(?<=\w)([/_](?=\w)|\.(?=[A-Za-z]))", r"\1<wbr>", str(escape(visible(text)))))


def _file(name: str) -> str:
    return files("calib8.report.page").joinpath(name).read_text(encoding="utf-8")
