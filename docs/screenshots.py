"""The pictures of docs/report.md, of pages that are written anew from what conversions keep as JSON.

python docs/screenshots.py build/mpnet    write docs/report-*.png; needs playwright, Chromium, and the demo's folder
"""

import json
import shutil
import sys
import tempfile
from pathlib import Path

from playwright.sync_api import Browser, sync_playwright

from calib8.calibration.ranges import Ranges
from calib8.engine.groups import group_of
from calib8.quantization.quant_plan import QuantPlan
from calib8.report import contents
from calib8.report.page.html import write_page
from calib8.report.report import Report
from calib8.report.section import Document
from calib8.report.sections.breakdown import breakdown_section
from calib8.verification.breakdown import Breakdown, EngineTime, Kernel

DOCS = Path(__file__).resolve().parent
sys.path.append(str(DOCS.parent / "tests" / "engine"))
from plan_text import TENSORRT, mpnet, read, text_of  # noqa: E402  real lists, which the tests keep

#: What `convert` told of all-mpnet-base-v2 on an H200.
ON_GPU = DOCS.parent / "bench" / "results" / "2026-11-30-h200-report.json"
#: Name -> width and height in pixels, colours.
SHOTS = {
    "report-desktop": (1280, 1700, "light"),
    "report-dark": (1280, 900, "dark"),
    "report-phone": (390, 1400, "light"),
    "report-phone-dark": (390, 1400, "dark"),
}
KERNELS = {"report-gpu": (1280, 900, "light"), "report-gpu-phone": (390, 1400, "dark")}
#: Of a section each.
LATENCY = {"report-latency": (1280, 900, "light"), "report-latency-phone": (390, 900, "dark")}
GAINS = {"report-gains": (1280, 900, "dark")}
#: What a batch of 32 x 128 took on an H200 (docs/tensorrt.md), in milliseconds: FP16, and INT8 for accuracy.
LATENCIES = {"fp16": 1.77, "int8": 2.56}


def main(folder: Path) -> None:
    """Take every picture: of the conversion in ``folder``, of one on an H200, and of kernels that were timed there."""
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if chromium is None:
        sys.exit("no Chromium on this machine: apt-get install chromium")
    plan, ranges = QuantPlan.load(folder / "plan.json"), Ranges.load(folder / "ranges.json")
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        take(browser, contents.conversion(report_of(folder / "report.json"), plan, ranges), SHOTS)
        take(browser, contents.conversion(report_of(ON_GPU)), LATENCY, "Speed on the GPU")
        take(browser, contents.conversion(report_of(ON_GPU)), GAINS, "What INT8 gains, op by op")
        take(browser, recorded(), KERNELS)
        browser.close()


def report_of(path: Path) -> Report:
    """A conversion's report."""
    return Report.model_validate_json(path.read_text(encoding="utf-8"))


def take(browser: Browser, document: Document, shots: dict[str, tuple[int, int, str]], section: str = "") -> None:
    """Pictures of a page from its top, or of the ``section`` that is called so."""
    with tempfile.TemporaryDirectory() as folder:
        write_page(Path(folder) / "page.html", document)
        for name, (width, height, scheme) in shots.items():
            opened = browser.new_page(viewport={"width": width, "height": height}, color_scheme=scheme)
            opened.set_default_timeout(300_000)  # a busy machine is no reason to give up
            opened.goto((Path(folder) / "page.html").as_uri())
            shown = opened.locator("section").filter(has=opened.get_by_role("heading", name=section, exact=True))
            (shown if section else opened).screenshot(path=DOCS / f"{name}.png")


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
    about = "all-mpnet-base-v2 on an H200 with TensorRT 10.6: FP16, and INT8 for accuracy."
    return Document("Where the time goes", None, about, (section,), "From the lists that calib8's tests keep.")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
