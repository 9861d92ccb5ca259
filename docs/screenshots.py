"""The pictures of docs/report.md.

python docs/screenshots.py build/mpnet/report.html    write docs/report-*.png; needs playwright and Chromium
"""

import shutil
import sys
from pathlib import Path

from playwright.sync_api import sync_playwright

DOCS = Path(__file__).resolve().parent
#: Name -> width and height in pixels, colours.
SHOTS = {
    "report-desktop": (1280, 1500, "light"),
    "report-dark": (1280, 900, "dark"),
    "report-phone": (375, 1400, "light"),
}


def main(report: Path) -> None:
    """Take every picture of ``report``."""
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if chromium is None:
        sys.exit("no Chromium on this machine: apt-get install chromium")
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        for name, (width, height, scheme) in SHOTS.items():
            page = browser.new_page(viewport={"width": width, "height": height}, color_scheme=scheme)
            page.goto(report.resolve().as_uri())
            page.screenshot(path=DOCS / f"{name}.png")
        browser.close()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
