"""Pages: structure, escaping, nothing from outside, words for every chart."""

import re
from html.parser import HTMLParser

import pytest
from page_report import HOSTILE, full_page, ranges

from calib8.report.page import sections
from calib8.report.page.charts import outlier_ratio
from calib8.report.page.html import html_of
from calib8.report.page.parts import Page
from calib8.verification.speed import Latency

TITLES = [
    "Cosine of each sample to FP32", "Embeddings, FP32 against INT8", "What INT8 leaves of each op's signal",
    "What each op alone costs the output", "Activation ranges and outliers", "Where the time went", "GPU at work",
]  # fmt: skip


class Tags(HTMLParser):
    """Every start tag with its attributes."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))

    def named(self, name: str) -> list[dict[str, str | None]]:
        return [attributes for tag, attributes in self.found if tag == name]


@pytest.fixture(scope="module")
def page() -> str:
    return html_of(full_page())


def test_every_chart_is_drawn_and_told_in_words(page: str) -> None:
    images = [attributes for _, attributes in Tags(page).found if attributes.get("role") == "img"]
    assert [str(one["aria-label"]).partition(". ")[0] for one in images] == TITLES
    assert all(len(str(one["aria-label"])) > len(title) + 20 for one, title in zip(images, TITLES, strict=True))
    assert page.count("<svg") == len(TITLES)
    assert "wild: 400 times" in page  # 40 / 0.1


def test_nothing_is_loaded_from_anywhere(page: str) -> None:
    assert not re.search(r"https?:|//[a-z]|@import|\burl\((?!#)", page)
    for _, attributes in Tags(page).found:
        assert "src" not in attributes
        assert str(attributes.get("href", "#")).startswith("#")


def test_what_comes_from_outside_is_text(page: str) -> None:
    assert HOSTILE not in page
    assert page.count("&lt;script&gt;alert(") > 10  # in the title, ten sentences, the plan's table and its charts
    assert len(Tags(page).named("script")) == 1


def test_ids_are_unique_and_found(page: str) -> None:
    ids = [str(attributes["id"]) for _, attributes in Tags(page).found if "id" in attributes]
    assert len(ids) == len(set(ids))
    assert set(re.findall(r'(?:href="#|url\(#)([^")]+)', page)) <= set(ids)


def test_colours_follow_the_page(page: str) -> None:
    assert "#0102" not in page
    assert "currentColor" in page
    assert "prefers-color-scheme: dark" in page
    assert "mathdefault" not in page  # a tick that is a formula, where formulas are not parsed


def test_columns_sort_by_number(page: str) -> None:
    cells = re.findall(r'data-value="([^"]+)">(9\.5|30\.0|110\.0)<', page)
    assert [float(value) for value, _ in cells] == [float(text) for _, text in cells] == [9.5, 30, 110]
    assert Tags(page).named("button")


def test_the_verdict_comes_first(page: str) -> None:
    assert page.index("PASSED") < page.index("<h2>")
    failed = html_of(Page(title="t", passed=False, verdict="too far", tiles=(), sections=(), made="m"))
    assert "<strong>FAILED</strong> too far" in failed
    unjudged = html_of(Page(title="t", passed=None, verdict="nothing", tiles=(), sections=(), made="m"))
    assert "PASSED" not in unjudged
    assert "FAILED" not in unjudged


def test_small_enough_to_mail(page: str) -> None:
    assert len(page.encode()) < 2_000_000


def test_without_matplotlib_the_numbers_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("calib8.report.page.canvas.find_spec", lambda name: None)
    page = html_of(full_page())
    assert "<svg" not in page
    assert "matplotlib is not installed here" in page
    assert page.count("<table>") == 9


def test_outliers_by_hand() -> None:
    tensors = ranges().tensors
    assert outlier_ratio(tensors["calm"]) == 4
    assert outlier_ratio(tensors["wild"]) == pytest.approx(400)
    assert outlier_ratio(tensors["dead"]) is None


def test_latencies() -> None:
    latency = {"runs": 5, "p95_ms": 12.0, "p99_ms": 13.0}
    both = {
        "fp32": Latency(median_ms=10, samples_per_second=100, **latency),
        "int8": Latency(median_ms=5, samples_per_second=200, **latency),
    }
    cell = sections.bench.Cell(batch=1, length=16, latencies=both)
    section = sections.latency_section([cell], {"fp32": "A", "int8": "B"})
    assert [row[-1].text for row in section.tables[0].rows] == ["1.00x", "2.00x"]
    assert "int8, 1x16: 5.00 ms" in section.charts[0].alternative
