"""Pages as HTML: everything is escaped, styles and script are inside, and the browser is told to load nothing else."""

import base64
import hashlib
from importlib.resources import files
from pathlib import Path

from calib8.files import write_text
from calib8.report.page.parts import Page


def write_page(path: Path, page: Page) -> None:
    """Write ``page`` as one HTML file, atomically."""
    write_text(path, html_of(page))


def html_of(page: Page) -> str:
    """``page`` as one HTML document. Its policy lets no script run but its own, whatever a name or text holds."""
    from jinja2 import Environment, StrictUndefined

    template, style, script = (_beside(name) for name in ("page.html", "page.css", "page.js"))
    digest = base64.b64encode(hashlib.sha256(script.encode("utf-8")).digest()).decode("ascii")
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    return environment.from_string(template).render(page=page, style=style, script=script, digest=digest)


def _beside(name: str) -> str:
    return files("calib8.report.page").joinpath(name).read_text(encoding="utf-8")
