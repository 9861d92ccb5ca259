"""Where the time of engines goes: sums and ratios by hand, the command over an engine's double, table and page."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from fake_tensorrt import World
from rich.console import Console
from shell import Shell

from calib8.data.sources import Batches
from calib8.engine.layers import Layer
from calib8.graph.dataset import dataset_for
from calib8.report.sections.breakdown import breakdown_section
from calib8.report.terminal import render
from calib8.runtime.layer_time import LayerTime
from calib8.runtime.null import NullRuntime
from calib8.testing import tiny_mlp
from calib8.verification.bench import Cell
from calib8.verification.breakdown import RUNS, WARM_UP, Breakdown, EngineTime, Kernel, Share, break_down
from calib8.verification.speed import latency_of


def engine(latency_ms: float, *kernels: tuple[str, str, float]) -> EngineTime:
    told = (Kernel(name=name, group=group, launches=1, ms=ms) for name, group, ms in kernels)
    return EngineTime(kernels=tuple(told), latency_ms=latency_ms)


FP16 = engine(
    2.5,
    ("/layer_0/MatMul_myl0_1", "FP16 GEMM", 1.0),
    ("__myl_Mea_myl0_2", "norm", 0.5),
    ("/layer_1/MatMul_myl0_3", "FP16 GEMM", 1.25),
    ("__myl_Mea_myl0_4", "norm", 0.25),
    ("mha", "attention/softmax", 0.5),
)
INT8 = engine(
    3.0,
    ("/layer_0/MatMul_myl0_1", "INT8 GEMM", 0.5),
    ("__myl_Mea_myl0_2", "norm", 1.0),
    ("/layer_1/MatMul_myl0_3", "FP16 GEMM", 1.0),
    ("__myl_Gat_myl0_4", "gather", 0.125),
    ("mha", "attention/softmax", 0.5),
)
BOTH = Breakdown(batch=8, length=128, runs=25, engines={"fp16.engine": FP16, "int8.engine": INT8})


def test_sums_and_ratios_by_hand() -> None:
    assert BOTH.groups == ["FP16 GEMM", "norm", "INT8 GEMM", "attention/softmax", "gather"]  # 2.25, 1, then by name
    assert FP16.share("FP16 GEMM") == Share(launches=2, ms=2.25)
    assert INT8.share("GEMM") == Share(launches=2, ms=1.5)
    assert FP16.share("gather") == Share(launches=0, ms=0)
    assert (FP16.whole.ms, INT8.whole.ms) == (3.5, 3.125)
    assert BOTH.sums == ["GEMM"]
    assert BOTH.ratios("norm") == [None, 0.75]
    assert BOTH.ratios("GEMM") == [None, 1.5]
    assert BOTH.ratios(None) == [None, 1.12]
    assert BOTH.ratios("INT8 GEMM") == BOTH.ratios("gather") == [None, None]


def test_one_precision_needs_no_sum() -> None:
    alone = Breakdown(batch=8, length=None, runs=25, engines={"engine": FP16})
    assert (alone.sums, alone.shape) == ([], "8")
    assert alone.ratios("norm") == [None]


def test_kernels_that_are_alike_are_one() -> None:
    found = [(one.name, one.group, one.launches, one.ms) for one in FP16.alike()]
    assert found == [
        ("/layer_*/MatMul_myl*_*", "FP16 GEMM", 2, 2.25),
        ("__myl_Mea_myl*_*", "norm", 2, 0.75),
        ("mha", "attention/softmax", 1, 0.5),
    ]
    assert INT8.alike()[0].name == "__myl_Mea_myl0_2"  # the only one: its whole name
    assert [one.group for one in INT8.alike() if "MatMul" in one.name] == ["FP16 GEMM", "INT8 GEMM"]


def test_the_table_by_hand() -> None:
    console = Console(width=80, record=True)
    console.print(render(breakdown_section([BOTH])))
    text = console.export_text()
    rows = [line.split() for line in text.splitlines()]
    assert "Where the time goes, 8x128: medians of 25 runs" in text
    assert max(map(len, text.splitlines())) <= 80
    for row in (
        "FP16 GEMM 2 2.250 1 1.000 2.25x",
        "norm 2 0.750 1 1.000 0.75x",
        "INT8 GEMM 1 0.500",
        "gather 1 0.125",
        "all GEMMs 2 2.250 2 1.500 1.50x",
        "all kernels 5 3.500 5 3.125 1.12x",
        "int8.engine: kernels 3.125 ms, latency 3.000 ms. The slowest:",
        "2.250 ms 2 x /layer_*/MatMul_myl*_* (FP16 GEMM)",
    ):
        assert row.split() in rows
    assert "their sum is not the latency" in " ".join(text.split())


def test_engines_of_one_name_keep_their_folders() -> None:
    console = Console(width=120, record=True)
    alike = BOTH.model_copy(update={"engines": {"a/x.engine": FP16, "b/x.plan": INT8}})
    console.print(render(breakdown_section([alike])))
    assert re.search(r"a/x\.engine +b/x\.plan *\n +group", console.export_text())


def test_the_page_has_a_chart_and_every_kernel() -> None:
    section = breakdown_section([BOTH, BOTH.model_copy(update={"batch": 1})])
    kinds = ("Time by group of kernels", "Kernels by precision and time")
    assert [chart.title for chart in section.charts] == [f"{kind}, {n}x128" for n in (8, 1) for kind in kinds]
    assert "int8.engine: FP16 GEMM 1.000 ms, norm 1.000 ms, INT8 GEMM 0.500 ms" in section.charts[0].alternative
    assert "8x128, fp16.engine: kernels 3.500 ms, latency 2.500 ms." in [note.text for note in section.notes]
    groups, slowest, every = section.tables[:3]
    assert tuple(column.head for column in groups.columns) == (
        "group", "kernels, fp16.engine", "ms, fp16.engine", "kernels, int8.engine", "ms, int8.engine",
        "ratio, int8.engine",
    )  # fmt: skip
    shown = {row[0].text: [cell.text for cell in row[1:]] for row in groups.rows}
    assert shown["norm"] == ["2", "0.750", "1", "1.000", "0.75x"]
    assert shown["gather"] == ["", "", "1", "0.125", ""]
    assert shown["all kernels"] == ["5", "3.500", "5", "3.125", "1.12x"]
    assert [row[-1].text for row in slowest.rows[:2]] == ["/layer_*/MatMul_myl*_*", "__myl_Mea_myl*_*"]
    assert (len(every.rows), every.long, every.rows[5][-1].text) == (10, True, "/layer_0/MatMul_myl0_1")


class Timed(NullRuntime):
    """An engine of a GEMM and a kernel of the builder's."""

    def layer_times(self, arrays, *, runs, warm_up):
        assert (runs, warm_up) == (RUNS, WARM_UP)
        self.asked.append(arrays)
        gemm = Layer("g", "gemm", "sm90_xmma_gemm_i8f16_i8i32_f32_tn_n")
        return [LayerTime(gemm, 1, float(len(arrays["x"]))), LayerTime(Layer("?", ""), 2, 0.5)]


def test_every_shape_that_was_measured_is_broken_down(notes) -> None:
    x = np.arange(8, dtype=np.float32).reshape(2, 4)
    timed, cells = Timed(lambda arrays: arrays), []
    for batch, seconds in ((1, 0.002), (3, 0.004)):
        latencies = {"a": latency_of([9.0], batch), "b": latency_of([seconds], batch)}
        cells.append(Cell(batch=batch, length=None, latencies=latencies))
    found = break_down({"b": timed}, cells, dataset_for(tiny_mlp(), Batches([{"x": x}]), notes), notes)
    assert [len(arrays["x"]) for arrays in timed.asked] == [1, 3]
    assert [one.shape for one in found] == ["1", "3"]
    assert [one.engines["b"].latency_ms for one in found] == [2.0, 4.0]
    kernels = [(one.name, one.group, one.launches, one.ms) for one in found[1].engines["b"].kernels]
    assert kernels == [("g", "INT8 GEMM", 1, 3.0), ("?", "other", 2, 0.5)]


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    monkeypatch.setattr("calib8.verification.on_gpu.gpus", lambda: ())
    made = World(tmp_path, monkeypatch)
    np.savez(tmp_path / "data.npz", ids=np.ones((4, 3), np.int64))
    return made


def test_the_command_over_an_engine(world: World, calib8: Shell, tmp_path: Path) -> None:
    gemm = {"Name": "g", "LayerType": "gemm", "TacticName": "sm86_xmma_gemm_f16f16_f16f16_f16_tn"}
    world.trt.plan = json.dumps({"Layers": [gemm]})
    world.trt.timings = [[("g", 9.0)]] * WARM_UP + [[("g", ms)] for ms in range(RUNS)]
    arguments = ("bench", world.path, "--data", tmp_path / "data.npz", "--batches", 2, "--seconds", 0)
    code, out, err = calib8(*arguments, "--profile", "-o", tmp_path / "bench.json")
    assert code == 0, err
    assert "Where the time goes, 2: medians of 25 runs" in out
    assert "12.000 ms  1 x g (FP16 GEMM)" in out  # the median of 0 to 24
    (saved,) = json.loads((tmp_path / "bench.json").read_text())["breakdowns"]
    assert saved["engines"]["x.engine"]["kernels"] == [{"name": "g", "group": "FP16 GEMM", "launches": 1, "ms": 12.0}]
    assert "Time by group of kernels, 2" in (tmp_path / "bench.html").read_text(encoding="utf-8")
    code, out, err = calib8(*arguments, "--json")
    assert (code, json.loads(out)["breakdowns"]) == (0, []), err


def test_a_model_on_the_cpu_has_no_kernels_to_time(calib8: Shell, tmp_path: Path) -> None:
    code, _, err = calib8("bench", tmp_path / "m.onnx", "--data", tmp_path, "--profile")
    assert code == 2
    assert f"--profile times the kernels of engines, and there is none among {tmp_path / 'm.onnx'}. Name an" in err
