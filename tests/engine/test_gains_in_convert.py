"""What INT8 does not speed up stays in FP16: real engines of TensorRT-RTX, whose kernels are timed by a table."""

import json
from pathlib import Path
from typing import ClassVar

import pytest

import calib8
from calib8.conversion import run
from calib8.engine.layers import Layer
from calib8.engine.sidecar import Sidecar, describe_engine
from calib8.errors import SetupError
from calib8.gpu.hardware import Gpu
from calib8.provenance import PLAN
from calib8.quantization.quant_plan import QuantPlan
from calib8.runtime.base import Runtime
from calib8.runtime.layer_time import LayerTime
from calib8.runtime.ort import OrtRuntime
from calib8.verification import gains, gpu_speed

pytest.importorskip("tensorrt_rtx", reason="needs pip install tensorrt-rtx")

SHAPES = ("input_ids:1x1:4x16:4x32",)
#: Milliseconds of each op's kernel in float and in INT8.
FLOAT, INT8 = 2.0, {"q": 1.0, "k": 1.0, "v": 1.0, "o": 2.0, "up": 2.5, "down": 1.0}
GPU = Gpu(name="NVIDIA A10", target="sm86")


class Timed(Runtime):
    """The FP32 model in an engine's place; every op of it is one kernel, with a cast in front."""

    on_gpu = True
    description = "TensorRT 10.6.0 on NVIDIA A10"
    #: What ops take by the GPU's clock, by the kernels' if that is None.
    whole: dict[str, float] | None = None
    #: Of which engines the kernels were timed.
    profiled: ClassVar[list[str]] = []

    def __init__(self, path: Path) -> None:
        self.path = path
        plan = describe_engine(path).model_metadata.get(PLAN)
        self.quantised = QuantPlan.model_validate_json(plan).quantised if plan else []
        self.inner = OrtRuntime(calib8.load("model.onnx"))
        super().__init__(self.inner.contract)

    def _run(self, arrays):
        return self.inner.run(arrays)

    def _ms(self, table: dict[str, float]) -> dict[str, float]:
        return {name: table[name] if name in self.quantised else FLOAT for name in ("q", "k", "v", "o", "up", "down")}

    def layer_times(self, arrays, *, runs: int = 25, warm_up: int = 5) -> list[LayerTime]:
        Timed.profiled.append(self.path.name)
        times = []
        for name, ms in self._ms(INT8).items():
            times.append(LayerTime(Layer(f"cast before {name}", "cast"), 1, ms / 4))
            times.append(LayerTime(Layer(name, "gemm", nodes=(name, f"{name}_bias")), 1, ms * 3 / 4))
        return [*times, LayerTime(Layer("pooling", "kgen"), 1, 0.5)]

    def gpu_ms(self, arrays, *, least: float = 0.02) -> float:
        return sum(self._ms(self.whole or INT8).values())

    def _free(self) -> None:
        self.inner.close()


@pytest.fixture
def folder(encoder_here: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(encoder_here)
    for module in (gains, gpu_speed):
        monkeypatch.setattr(module, "open_artefact", Timed)
    monkeypatch.setattr(run, "gpus", lambda: (GPU,))
    monkeypatch.setattr(Timed, "whole", None)
    monkeypatch.setattr(Timed, "profiled", [])
    return encoder_here


def converted(notes, **options) -> calib8.Report:
    config = calib8.Convert(
        quantize=calib8.Int8(optimize="latency"),
        build=calib8.Build(targets="sm86", shapes=SHAPES),
        verify=calib8.Verify(),
        **options,
    )
    return calib8.convert("model.onnx", "data.npz", "out", config, progress=notes)


def planned() -> QuantPlan:
    return QuantPlan.load(Path("out/plan.json"))


def sidecar(report: calib8.Report) -> Sidecar:
    return describe_engine(Path("out") / report.engines[0].file.name)


def test_what_int8_makes_slower_stays_in_fp16(folder: Path, notes) -> None:
    report = converted(notes)
    found = report.gains
    assert found is not None
    assert found.shapes == ("4x16", "4x32")
    assert {gain.groups: [(one.float_ms, one.int8_ms) for one in gain.times] for gain in found.gains} == {
        (("q", "k", "v"),): [(6.0, 3.0)] * 2,
        (("o",),): [(2.0, 2.0)] * 2,
        (("up",),): [(2.0, 2.5)] * 2,
        (("down",),): [(2.0, 1.0)] * 2,
    }
    assert [(one.float_ms, one.int8_ms) for one in found.tail] == [(0.5, 0.5)] * 2
    assert found.left_out == ("up",)
    reasons = {op.node: op.reason for op in planned().ops if op.treatment == "float"}
    assert reasons["up"] == (
        "INT8 takes 0.500 ms of 12.500 more than FP16 for MatMul 64x128 at 4x16: TensorRT 10.6.0 on NVIDIA A10"
    )
    assert planned().quantised == ["q", "k", "v", "down"]
    assert (
        "left in FP16, since INT8 does not speed them up here: MatMul 64x128, as 'up'; that makes the engine "
        "1.06x at 4x16, 1.06x at 4x32" in notes.messages
    )
    # What is built, measured and raced is the model without it.
    assert QuantPlan.model_validate_json(sidecar(report).model_metadata[PLAN]).quantised == planned().quantised
    assert report.int8_ops == 4
    assert report.gpu_speed is not None
    assert [report.gpu_speed.ratio(cell) for cell in report.gpu_speed.cells] == [12 / 8] * 2
    assert Timed.profiled == ["out-int8-baseline-fp16.engine", "out-int8.engine"] * gains.ROUNDS * len(found.shapes)
    assert "FP16, INT8 is no faster" in (folder / "out" / "report.html").read_text()
    assert calib8.Report.model_validate_json((folder / "out" / "report.json").read_text()) == report
    assert not [path for path in (folder / "out").iterdir() if path.name.startswith(".")]


def test_a_model_that_is_reused_is_not_timed_again(folder: Path, notes, monkeypatch: pytest.MonkeyPatch) -> None:
    first = converted(notes)
    Timed.profiled.clear()
    monkeypatch.setitem(INT8, "down", 9.0)  # another day it would be decided otherwise
    again = converted(notes)
    assert Timed.profiled == []
    assert again.gains == first.gains
    assert (again.int8, planned().quantised) == (first.int8, ["q", "k", "v", "down"])


def test_a_record_that_is_damaged_has_the_model_made_and_timed_anew(folder: Path, notes) -> None:
    first = converted(notes)
    record = folder / "out" / "model.int8.onnx.json"
    record.write_text(record.read_text().replace('"shapes"', '"forms"'))
    Timed.profiled.clear()
    again = converted(notes)
    assert Timed.profiled
    assert again.gains is not None
    assert (again.gains.gains, again.gains.left_out) == (first.gains.gains, ("up",))


def test_the_first_engine_is_kept_if_the_second_is_no_faster(
    folder: Path, notes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Timed, "whole", {**INT8, "up": 1.0})  # kernels alone take longer, the engine does not
    report = converted(notes)
    assert planned().quantised == ["q", "k", "v", "up", "down"]
    assert report.gains is not None
    assert report.gains.left_out == ()
    assert report.gains.without is not None
    assert QuantPlan.model_validate_json(sidecar(report).model_metadata[PLAN]).quantised == planned().quantised
    assert (
        "kept in INT8, though kernels are no faster for it: MatMul 64x128, as 'up'; with them in FP16 the engine "
        "is 0.88x at 4x16, 0.88x at 4x32" in notes.messages
    )
    reused = [message for message in notes.messages if message.startswith("engine is up to date")]
    assert len(reused) == 2  # built once each, while it was timed


def test_nothing_is_built_twice_where_all_of_it_is_faster(folder: Path, notes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(INT8, "up", 1.0)
    report = converted(notes)
    assert planned().quantised == ["q", "k", "v", "up", "down"]
    assert report.gains is not None
    assert (report.gains.left_out, report.gains.without) == ((), None)
    stages = {stage for stage, *_ in notes.steps}
    assert {"build for sm86", "time kernels"} <= stages  # INT8 and FP16 once each:
    assert [done for stage, done, _ in notes.steps if stage == "build for sm86" and done == 1] == [
        1,
        1,
    ]  # INT8 and FP16


def test_int8_stays_where_it_makes_nothing_faster(folder: Path, notes, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in INT8:
        monkeypatch.setitem(INT8, name, 2.5)
    report = converted(notes)
    assert planned().quantised == ["q", "k", "v", "up", "down"]
    assert [len(report.gains.slow), report.gains.left_out] == [3, ()]
    assert any(message.startswith("INT8 speeds up none of the ops here (TensorRT 10.6.0") for message in notes.messages)


@pytest.mark.parametrize("off", ["baseline", "optimize", "gpu"])
def test_nothing_is_timed_where_it_is_not_asked_for_or_no_gpu_is(
    folder: Path, notes, monkeypatch: pytest.MonkeyPatch, off: str
) -> None:
    if off == "gpu":
        monkeypatch.setattr(run, "gpus", tuple)
    if off == "optimize":
        config = calib8.Convert(build=calib8.Build(targets="sm86", shapes=SHAPES), verify=calib8.Verify())
        config = config.model_copy(update={"quantize": calib8.Int8(optimize="accuracy")})
        report = calib8.convert("model.onnx", "data.npz", "out", config, progress=notes)
    else:
        report = converted(notes, baseline=off != "baseline")
    assert report.gains is None
    assert Timed.profiled == []
    assert "What INT8 gains" not in (folder / "out" / "report.html").read_text()


def test_kernels_that_cannot_be_timed_are_a_note(folder: Path, notes, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_):
        raise SetupError("no memory is left on the GPU.")

    monkeypatch.setattr(gains, "open_artefact", refuse)
    report = converted(notes)
    assert report.gains is None
    assert planned().quantised == ["q", "k", "v", "up", "down"]
    assert "INT8 was not timed op by op: no memory is left on the GPU." in notes.messages
    assert json.loads((folder / "out" / "report.json").read_text())["gains"] is None
