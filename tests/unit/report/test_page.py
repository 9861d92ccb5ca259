"""Pages: structure, escaping, nothing from outside, words for every chart."""

import re
from html.parser import HTMLParser

import pytest
from page_gpu import gpu_report
from page_report import HOSTILE, comparison, full_page, plan, ranges, report

from calib8.quantization.quant_plan import QuantPlan
from calib8.report import contents
from calib8.report.chart import Chart, short
from calib8.report.page.html import _breakable, beside, html_of
from calib8.report.report import FileFacts
from calib8.report.section import Column, Document, Section, Table
from calib8.report.sections.accuracy import accuracy_section
from calib8.report.sections.engines import engines_section
from calib8.report.sections.latency import latency_section
from calib8.report.sections.plan import plan_section
from calib8.report.sections.ranges import outlier_ratio
from calib8.verification.bench import Cell
from calib8.verification.config import Verify
from calib8.verification.gpu_speed import GpuSpeed
from calib8.verification.speed import Latency
from h100 import measured_activity

TITLES = [
    "Cosine of each sample to FP32", "Embeddings, FP32 against quantised", "The worst 10 samples",
    "What INT8 leaves of each op's signal", "What each op alone costs the output", "Activation ranges and outliers",
    "Where the time went", "GPU at work",
]  # fmt: skip
MISSED = {"covered": 1, "missing": ("mm",), "passed": False, "host_driven": {"/rec": "LSTM: a loop"}}


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
    table = page[page.index('aria-label="Every op of the plan"') :]
    cells = re.findall(r'data-value="([^"]+)">(9\.5|30\.0|110\.0)<', table)
    assert [float(value) for value, _ in cells] == [float(text) for _, text in cells] == [9.5, 30, 110]
    assert Tags(page).named("button")


def test_the_plan_repeats_nothing(page: str) -> None:
    table = page[page.index('aria-label="Every op of the plan"') : page.index("<h2>Activation ranges</h2>")]
    assert table.count("it hurts") == 1
    assert "fine" not in table  # the reason of an INT8 op is its recipe and its SQNR, which have columns
    all_int8 = QuantPlan(ops=tuple(op for op in plan().ops if op.treatment == "int8"))
    assert "why float" in table
    assert "why float" not in str(plan_section(all_int8).tables)


def test_a_narrow_table_stands_beside_a_chart_that_is_alone() -> None:
    chart, narrow, wide = (
        Chart("c", "c", "said", ()),
        Table("n", (Column("a"),) * 5, ()),
        Table("w", (Column("a"),) * 6, ()),
    )
    assert beside(Section("s", charts=(chart,), tables=(narrow, wide))) == (narrow,)
    assert beside(Section("s", charts=(chart, chart), tables=(narrow,))) == ()


def test_conditioning_is_told_of_engines_that_have_some() -> None:
    without = report().engines[0]
    plan = without.plan.model_copy(update={"conditioning": 9})
    for engine, told in ((without, False), (without.model_copy(update={"plan": plan}), True)):
        section = engines_section([engine])
        assert ("conditioning" in [column.head for column in section.tables[0].columns]) == told
        assert ("conditioning" in section.terms) == told
        assert len(section.tables[0].rows[0]) == len(section.tables[0].columns)


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("mpnet-int8.engine", "mpnet-int8.engine"),
        ("mpnet-int8-baseline-fp16.engine", "mpnet-int8-baseline-fp16"),
        ("all-mpnet-base-v2-int8-baseline-fp16.engine", "…e-v2-int8-baseline-fp16"),
        ("/encoder/layer.0/intermediate/dense/MatMul", "…termediate/dense/MatMul"),
    ],
)
def test_a_long_name_in_a_chart_keeps_its_end(name: str, shown: str) -> None:
    assert short(name) == shown
    assert len(shown) <= 24


def test_the_title_says_which_model() -> None:
    facts = FileFacts(name="model.onnx", bytes=1, sha256="0123456789abcdef" * 4, folder="all-mpnet")
    page = contents.conversion(report().model_copy(update={"model": facts}), plan(), ranges())
    assert page.title == "all-mpnet/model.onnx in INT8"
    assert page.about.startswith("SHA-256 of the FP32 model 0123456789ab…")


def test_the_verdict_comes_first(page: str) -> None:
    assert page.index("PASSED") < page.index("<h2>")
    failed = html_of(Document(title="t", passed=False, verdict="too far", sections=(), made="m"))
    assert "<strong>FAILED</strong> too far" in failed
    unjudged = html_of(Document(title="t", passed=None, verdict="nothing", sections=(), made="m"))
    assert "PASSED" not in unjudged
    assert "FAILED" not in unjudged


def test_small_enough_to_mail(page: str) -> None:
    assert len(page.encode()) < 2_000_000


def test_without_matplotlib_the_numbers_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("calib8.report.page.canvas.find_spec", lambda name: None)
    page = html_of(full_page())
    assert "<svg" not in page
    assert "matplotlib is not installed here" in page
    assert page.count("<table>") == 11


def test_outliers_by_hand() -> None:
    tensors = ranges().tensors
    assert outlier_ratio(tensors["calm"]) == 4
    assert outlier_ratio(tensors["wild"]) == pytest.approx(400)
    assert outlier_ratio(tensors["dead"]) is None


def test_latencies() -> None:
    latency = {"runs": 5, "p95_ms": 12.0, "p99_ms": 13.0}
    both = {
        "fp32": Latency(median_ms=10, samples_per_second=100, cosine=1, **latency),
        "int8": Latency(median_ms=5, samples_per_second=200, cosine=0.99, **latency),
    }
    cell = Cell(batch=1, length=16, latencies=both)
    section = latency_section([cell], {"fp32": "A", "int8": "B"})
    assert [row[-2].text for row in section.tables[0].rows] == ["1.00x", "2.00x"]
    assert [row[-1].text for row in section.tables[0].rows] == ["1.00000", "0.99000"]
    against, spread = section.charts
    assert "Batch 1x16. fp32: 10.00 ms, cosine 1.0000; int8: 5.00 ms, cosine 0.9900." in against.alternative
    assert "int8, 1x16: 5.00 ms" in spread.alternative


def test_accuracy_is_set_against_latency_for_the_largest_batch_and_by_the_gpus_clock_if_all_have_it() -> None:
    one = {"runs": 5, "p95_ms": 12.0, "p99_ms": 13.0, "samples_per_second": 1}
    small, large = (
        Cell(
            batch=batch,
            length=16,
            latencies={
                name: Latency(median_ms=9, gpu_ms=taken * batch, cosine=cosine, **one)
                for name, taken, cosine in (("fp16", 2, 1), ("int8", 1, 0.99))
            },
        )
        for batch in (1, 32)
    )
    told = latency_section([small, large], {"fp16": "A", "int8": "B"}).charts[0].alternative
    assert told == "Batch 32x16. fp16: 64.00 ms, cosine 1.0000; int8: 32.00 ms, cosine 0.9900."
    alone = small.model_copy(update={"latencies": {"fp16": small.latencies["fp16"]}})
    assert [chart.name for chart in latency_section([alone], {"fp16": "A"}).charts] == ["latency"]


def test_a_conversion_sets_accuracy_against_latency_where_a_gpu_ran_both() -> None:
    one = {"runs": 5, "median_ms": 3, "p95_ms": 3, "p99_ms": 3, "samples_per_second": 1}
    latencies = {"fp16.engine": Latency(gpu_ms=2, cosine=1, **one), "x.engine": Latency(gpu_ms=1, cosine=0.99, **one)}
    cell = Cell(batch=32, length=128, latencies=latencies)
    speed = GpuSpeed(runtime="TensorRT 10.6 on H200", baseline="fp16.engine", engine="x.engine", cells=(cell,))
    page = html_of(contents.conversion(report().model_copy(update={"gpu_speed": speed}), plan(), ranges()))
    assert "Batch 32x128. fp16.engine: 2.00 ms, cosine 1.0000; x.engine: 1.00 ms, cosine 0.9900." in page
    assert "Accuracy against latency" not in html_of(full_page())


def test_a_missed_plan_is_marked_and_a_loop_of_the_host_told() -> None:
    [engine] = report().engines
    told = engine.plan.model_copy(update=MISSED)
    missed = report().model_copy(update={"engines": (engine.model_copy(update={"plan": told}),)})
    shown = contents.conversion(missed, plan(), ranges())
    for text in ("1 of 2, FAILED", "sm86: the host drives /rec (LSTM: a loop), so no CUDA graph can be captured"):
        assert text in html_of(shown)
        assert text not in html_of(full_page())


def test_an_engine_on_a_gpu() -> None:
    page = html_of(contents.verification(gpu_report()))
    assert page.index("<strong>PASSED</strong> mean cosine 0.99870, at least 0.975 was asked for; 1st perc") > 0
    headings = re.findall("<h2>(.*)</h2>", page)
    assert headings == [
        "Accuracy", "Speed", "GPU against CPU", "Where the time goes", "GPU activity", "What was compared", "Engines",
        "What the words mean",
    ]  # fmt: skip
    for told in (
        "The engine ran on NVIDIA H100 80GB HBM3 (sm90), driver 580.159.04.",
        "71 of 72",
        "124 of 124 nodes before Q fused; 16 norms take a second kernel",
        "NVIDIA H100 80GB HBM3 at work",
        "power: mean 513.4, most 720.8 W",
        "memory used: mean 3.1, most 3.8 GB",
        "this process, GPU: mean 67.0, most 99.0 %",
        "0.99991",
        "398.24x",  # 4739 / 11.9
        "8x16, engine: kernels 2.796 ms, latency 2.560 ms.",
    ):
        assert told in page
    assert re.search(r"Ops that the engine does not run in INT8.*attn/<wbr>q/<wbr>MatMul", page, re.DOTALL)
    assert HOSTILE not in page
    charts = [str(a["aria-label"]).partition(". ")[0] for _, a in Tags(page).found if a.get("role") == "img"]
    assert charts == [
        "Accuracy against latency", "Latency by artefact and batch", "Time by group of kernels, 8x16",
        "Kernels by precision and time, 8x16", "NVIDIA H100 80GB HBM3 at work"
    ]  # fmt: skip


def test_kernels_are_summed_by_what_they_multiply() -> None:
    page = html_of(contents.verification(gpu_report()))
    assert "engine: INT8 1.475 ms, other 1.321 ms." in page  # norm 0.741, gather 0.331, attention 0.249


def test_the_record_of_the_h100_is_read_right() -> None:
    activity = measured_activity()
    assert [round(sample.gpu_utilisation_percent or 0, 1) for sample in activity.samples[:3]] == [25, 12.5, 12.5]
    assert activity.samples[-1].power_watts == 720.8
    assert len(activity.samples) == 28


def test_texts_are_left_out_on_request() -> None:
    quoted = comparison()
    assert quoted.details is not None
    silent = quoted.without_texts()
    assert HOSTILE in quoted.model_dump_json()
    assert HOSTILE not in silent.model_dump_json()
    assert [one.score for one in silent.details.worst] == [one.score for one in quoted.details.worst]
    titles = [table.title for table in accuracy_section(silent, Verify(), ()).tables]
    assert "The worst 10 samples, counted from 0; texts left out or not known" in titles


def test_every_limit_is_told() -> None:
    limits = Verify(min_cosine=0.9, min_neighbours=0.96)
    table = next(table for table in accuracy_section(comparison(), limits, ()).tables if table.title == "Limits")
    assert [[cell.text for cell in row] for row in table.rows] == [
        ["mean cosine", "0.98500", "at least 0.9", "yes"],
        ["neighbour agreement", "0.95000", "at least 0.96", "NO"],
    ]


def test_names_break_behind_their_parts_only(page: str) -> None:
    assert "held_<wbr>out.<wbr>txt" not in page  # a sentence, not a name
    assert _breakable("/a.b/c_d e/ .f") == "/a.<wbr>b/<wbr>c_<wbr>d e/ .f"
    assert _breakable("most 33.0 %") == "most 33.0 %"
    assert _breakable("<b>/x") == "&lt;b&gt;/x"
