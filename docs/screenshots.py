"""The pictures of docs/report.md.

python docs/screenshots.py build/mpnet/report.html    write docs/report-*.png; needs playwright and Chromium
"""

import json
import shutil
import sys
import tempfile
from pathlib import Path

from playwright.sync_api import Browser, sync_playwright

from calib8.engine.groups import group_of
from calib8.report.page.html import write_page
from calib8.report.section import Document
from calib8.report.sections.breakdown import breakdown_section
from calib8.verification.breakdown import Breakdown, EngineTime, Kernel

DOCS = Path(__file__).resolve().parent
sys.path.append(str(DOCS.parent / "tests" / "engine"))
from plan_text import TENSORRT, mpnet, read, text_of  # noqa: E402  real lists, which the tests keep

#: Name -> width and height in pixels, colours.
SHOTS = {
    "report-desktop": (1280, 1500, "light"),
    "report-dark": (1280, 900, "dark"),
    "report-phone": (390, 1400, "light"),
    "report-phone-dark": (390, 1400, "dark"),
}
GPU = {"report-gpu": (1280, 900, "light"), "report-gpu-phone": (390, 1400, "dark")}
#: What a batch of 32 x 128 took on an H200 (docs/tensorrt.md), in milliseconds.
LATENCIES = {"fp16": 1.77, "int8": 2.56}


def main(report: Path) -> None:
    """Take every picture of ``report``, and those of kernels that were timed on an H200."""
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if chromium is None:
        sys.exit("no Chromium on this machine: apt-get install chromium")
    with sync_playwright() as driver, tempfile.TemporaryDirectory() as folder:
        browser = driver.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        take(browser, report, SHOTS)
        timed = Path(folder) / "timed.html"
        write_page(timed, recorded())
        take(browser, timed, GPU)
        browser.close()


def take(browser: Browser, page: Path, shots: dict[str, tuple[int, int, str]]) -> None:
    """Pictures of one page."""
    for name, (width, height, scheme) in shots.items():
        opened = browser.new_page(viewport={"width": width, "height": height}, color_scheme=scheme)
        opened.goto(page.resolve().as_uri())
        opened.screenshot(path=DOCS / f"{name}.png")


def recorded() -> Document:
    """The part of a benchmark's page that tells of kernels, from what TensorRT 10.6 told of MPNet on an H200."""
    times = json.loads(text_of(TENSORRT / "mpnet-profile-32x128.json.gz"))
    engines = {
        f"mpnet-{form}.engine": EngineTime(
            kernels=tuple(
                Kernel(name=layer.name, group=group_of(layer), launches=1, ms=times[form][layer.name])
                for layer in read(mpnet(form))
            ),
            latency_ms=latency,
        )
        for form, latency in LATENCIES.items()
    }
    section = breakdown_section([Breakdown(batch=32, length=128, runs=25, engines=engines)])
    about = "all-mpnet-base-v2 on an H200 with TensorRT 10.6."
    return Document("Where the time goes", None, about, (section,), "From the lists that calib8's tests keep.")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
