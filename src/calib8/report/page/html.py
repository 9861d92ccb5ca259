"""Pages as HTML: everything is escaped, styles and script are inside, and the browser is told to load nothing else."""

import base64
import hashlib
import re
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING

from calib8.console import visible
from calib8.files import write_text
from calib8.report.page.parts import Page

if TYPE_CHECKING:
    from markupsafe import Markup


def write_page(path: Path, page: Page) -> None:
    """Write ``page`` as one HTML file, atomically."""
    write_text(path, html_of(page))


def html_of(page: Page) -> str:
    """``page`` as one HTML document. Its policy lets no script run but its own, whatever a name or text holds."""
    from jinja2 import Environment, StrictUndefined

    template, style, script = (_beside(name) for name in ("page.html", "page.css", "page.js"))
    digest = base64.b64encode(hashlib.sha256(script.encode("utf-8")).digest()).decode("ascii")
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, finalize=_finished
    )
    environment.filters["breakable"] = _breakable
    return environment.from_string(template).render(page=page, style=style, script=script, digest=digest)


def _finished(value: object) -> object:
    """What the template puts into the page: text from anywhere is shown, and neither reversed nor hidden."""
    from markupsafe import Markup

    return visible(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def _breakable(text: str) -> "Markup":
    """``text``, which may go on in the next line behind the parts of a path or of a name."""
    from markupsafe import Markup, escape

    return Markup(re.sub(r"(?<=\w)([/_](?=\w)|\.(?=[A-Za-z]))", r"\1<wbr>", str(escape(visible(text)))))


def _beside(name: str) -> str:
    return files("calib8.report.page").joinpath(name).read_text(encoding="utf-8")
