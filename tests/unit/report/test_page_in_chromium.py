"""The page in a real browser: no complaint, charts have a size, tables sort, nothing is wider than a phone."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from page_gpu import gpu_report
from page_report import full_page

from calib8.report import contents
from calib8.report.page.html import write_page

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
playwright = pytest.importorskip("playwright.sync_api", reason="playwright drives the browser: pip install playwright")

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine: apt-get install chromium")


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[object, list[str]]]:
    path: Path = tmp_path_factory.mktemp("page") / "report.html"
    write_page(path, full_page())
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page, said = browser.new_page(viewport={"width": 1280, "height": 900}), []
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on("request", lambda request: said.append(request.url) if not request.url.startswith("file:") else None)
        page.on("dialog", lambda dialog: (said.append("a dialog"), dialog.dismiss()))
        page.goto(path.as_uri())
        yield page, said
        browser.close()


def test_nothing_complains_or_asks_the_network(opened) -> None:
    page, said = opened
    page.wait_for_load_state("networkidle")
    assert said == []


@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_charts_draw_and_nothing_sticks_out(opened, width: int, scheme: str) -> None:
    page, _ = opened
    page.set_viewport_size({"width": width, "height": 800})
    page.emulate_media(color_scheme=scheme)
    boxes = page.evaluate("[...document.querySelectorAll('svg')].map(e => e.getBoundingClientRect().toJSON())")
    assert len(boxes) == 8
    assert all(box["width"] > 250 and box["height"] > 60 and box["right"] <= width for box in boxes)
    assert page.evaluate("document.documentElement.scrollWidth") == width
    channels = page.evaluate("getComputedStyle(document.querySelector('svg text')).fill.match(/\\d+/g).map(Number)")
    assert (min(channels) > 200) == (scheme == "dark")


def test_on_a_phone_every_table_is_as_wide_as_the_page(opened) -> None:
    page, _ = opened
    page.set_viewport_size({"width": 390, "height": 800})
    widths = page.evaluate("[...document.querySelectorAll('.scroll')].map(e => [e.scrollWidth, e.clientWidth])")
    assert len(widths) == 11
    assert all(whole <= seen for whole, seen in widths)
    pixels = "e => Math.hypot(e.getScreenCTM().a, e.getScreenCTM().b) * parseFloat(getComputedStyle(e).fontSize)"
    assert min(page.evaluate(f"[...document.querySelectorAll('svg text')].map({pixels})")) > 8.5
    page.set_viewport_size({"width": 1280, "height": 900})


def test_rows_that_become_cards_on_a_phone_have_their_headings_once(opened) -> None:
    """Headings sort, which is worth their place where there are many rows."""
    page, _ = opened
    page.set_viewport_size({"width": 390, "height": 800})
    shown = page.evaluate(
        "[...document.querySelectorAll('.cards')].map(e => [e.classList.contains('long'), "
        "getComputedStyle(e.querySelector('thead')).display !== 'none'])"
    )
    assert {True, False} == {long for long, _ in shown}
    assert all(long == heads for long, heads in shown)
    page.set_viewport_size({"width": 1280, "height": 900})


def test_an_engine_on_a_gpu(opened, tmp_path: Path) -> None:
    page, said = opened
    other = page.context.browser.new_page()
    write_page(tmp_path / "gpu.html", contents.verification(gpu_report()))
    other.on("console", lambda message: said.append(message.text))
    for width in (1280, 390):
        other.set_viewport_size({"width": width, "height": 800})
        other.goto((tmp_path / "gpu.html").as_uri())
        assert other.evaluate("document.documentElement.scrollWidth") == width
    assert other.locator("svg").count() == 5
    assert said == []
    other.close()


def test_tables_sort_by_number_and_by_text(opened) -> None:
    page, _ = opened
    table = page.get_by_role("table", name="Every op of the plan")

    def column(number: int) -> list[str]:
        return table.locator(f"tbody tr td:nth-child({number})").all_text_contents()

    assert not table.is_visible()  # folded until it is asked for
    page.get_by_text("Every op of the plan: 3 rows").click()
    heading = table.get_by_role("button", name="SQNR (dB)")
    assert column(6) == ["9.5", "30.0", "110.0"]  # as text 110.0 comes first
    heading.click()
    heading.click()
    assert column(6) == ["110.0", "30.0", "9.5"]
    assert table.locator("th[aria-sort=descending]").inner_text().startswith("SQNR (dB)")
    table.get_by_role("button", name="treatment").click()
    assert column(4) == ["float", "int8", "int8"]
