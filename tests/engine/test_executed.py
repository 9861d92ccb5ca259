"""What the engine computes counts in ``convert`` where a GPU runs it: real engines of TensorRT-RTX, run by doubles."""

from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

import calib8
from calib8.conversion import executed
from calib8.errors import AccuracyMissed, DataError, SetupError
from calib8.graph.builder import GraphBuilder
from calib8.runtime.base import Runtime
from calib8.runtime.ort import OrtRuntime
from calib8.verification.compare import Closeness, Comparison
from calib8.verification.run import HeldOut

pytest.importorskip("tensorrt_rtx", reason="needs pip install tensorrt-rtx")


class Double(Runtime):
    """The quantised model's output, to which ``change`` does something, in an engine's place."""

    on_gpu = True
    description = "TensorRT 10.6.0 on NVIDIA A10"

    def __init__(self, path: Path, change) -> None:
        self.inner, self.change = OrtRuntime(calib8.load(path.parent / "model.int8.onnx")), change
        super().__init__(self.inner.contract)

    def _run(self, arrays):
        return {name: self.change(array) for name, array in self.inner.run(arrays).items()}

    def _free(self) -> None:
        self.inner.close()


def converted(folder: Path, monkeypatch: pytest.MonkeyPatch, change, limits=None, progress=None) -> calib8.Report:
    monkeypatch.setattr(executed, "open_artefact", lambda path: Double(path, change))
    build = calib8.Build(targets="sm86", shapes="input_ids:1x1:4x16:4x32")
    config = calib8.Convert(build=build, verify=limits or calib8.Verify(), baseline=False)
    return calib8.convert(folder / "model.onnx", folder / "data.npz", folder / "out", config, progress=progress)


def test_an_engine_that_computes_what_its_model_does_is_marked_as_executed(encoder_here, monkeypatch) -> None:
    report = converted(encoder_here, monkeypatch, lambda array: array)
    assert report.engine_accuracy is not None
    assert report.engine_accuracy.runtime == Double.description
    assert report.engine_accuracy.sqnr_db == pytest.approx(report.accuracy.sqnr_db, abs=1)
    assert [engine.executed for engine in report.engines] == [True]
    page = (encoder_here / "out" / "report.html").read_text()
    assert f"On the same data, the engine on the GPU: {Double.description}." in page


def test_one_that_computes_something_else_fails_whatever_the_cpu_says(encoder_here, monkeypatch) -> None:
    """Without any limit; the report is written all the same."""
    with pytest.raises(AccuracyMissed) as missed:
        converted(encoder_here, monkeypatch, lambda array: array[..., ::-1])
    said = str(missed.value)
    assert "out-int8.engine does not compute what its model does: its output 'last_hidden_state' has -" in said
    assert "expected at least 20.0 dB, since the model has " in said
    assert "build one in FP16" in said
    assert missed.value.exit_code == 1
    report = calib8.Report.model_validate_json((encoder_here / "out" / "report.json").read_text())
    assert (report.passed, report.failure) == (False, said)
    assert report.accuracy.cosine_mean > 0.99


@pytest.mark.parametrize(("noise", "passes"), [(0.05, True), (0.2, False)])
def test_of_decibels_twenty_are_enough(noise: float, passes: bool, encoder_here, monkeypatch) -> None:
    """A twentieth of the signal is 26 dB, a fifth 14."""

    def change(array):
        size = np.sqrt(np.mean(np.square(array)))
        return (array + noise * size * np.random.default_rng(0).normal(size=array.shape)).astype(array.dtype)

    if passes:
        assert converted(encoder_here, monkeypatch, change).passed
    else:
        with pytest.raises(AccuracyMissed, match="does not compute what its model does"):
            converted(encoder_here, monkeypatch, change)


@pytest.mark.parametrize(
    ("operator", "judged", "passes"), [("TopK", True, True), ("RandomNormal", False, True), ("Relu", True, False)]
)
def test_what_draws_is_not_judged_and_what_chooses_not_by_decibels(operator, judged, passes, notes) -> None:
    """Of a graph that the runtimes here are doubles of."""
    g = GraphBuilder()
    model = g.model(y=g.op(operator, g.input("x", ir.DataType.FLOAT, "batch", 4)))
    on_cpu, on_gpu = (Comparison(samples=4, outputs={"y": closeness(decibels)}) for decibels in (40.0, 3.0))
    held = Held(on_gpu, notes)
    found, failure = executed.judged(Path("a.engine"), held, on_cpu, calib8.Verify(), model)
    assert found == (on_gpu if judged else None)
    assert (failure is None) == passes
    assert any("draws at random" in note for note in notes.messages) != judged


def closeness(decibels: float) -> Closeness:
    return Closeness(mean=0.9, p1=0.9, lowest=0.9, at_least=0.9, sqnr_db=decibels)


@dataclass
class Held:
    """Held-out data by which an engine is found to be so close."""

    found: Comparison
    progress: object
    kinds: dict[str, str] = field(default_factory=dict)

    def judge(self, _: Runtime) -> Comparison:
        return self.found


@pytest.fixture(autouse=True)
def opens_any(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(executed, "open_artefact", nullcontext)


def test_outputs_are_taken_for_what_they_were_on_the_cpu(encoder_here, monkeypatch) -> None:
    seen, judge = [], HeldOut.judge

    def spied(held, candidate, reference=None):
        seen.append(dict(held.kinds))
        return judge(held, candidate, reference)

    monkeypatch.setattr(HeldOut, "judge", spied)
    converted(encoder_here, monkeypatch, lambda array: array)
    assert seen == [{}, {"last_hidden_state": "vectors"}]


def test_limits_are_the_engines_too(encoder_here, monkeypatch) -> None:
    limits = calib8.Verify(min_cosine=0.99)
    with pytest.raises(
        AccuracyMissed, match=r"^out-int8\.engine on the GPU: accuracy limit missed .* mean cosine 0\.8"
    ):
        converted(encoder_here, monkeypatch, lambda array: array + 0.05 * np.abs(array).max(), limits)


def test_nan_is_a_failure(encoder_here, monkeypatch) -> None:
    with pytest.raises(AccuracyMissed, match=r"^out-int8\.engine on the GPU: .*NaN"):
        converted(encoder_here, monkeypatch, lambda array: np.full_like(array, np.nan))
    assert (encoder_here / "out" / "report.json").is_file()


@pytest.mark.parametrize("error", [SetupError, DataError])
def test_an_engine_that_does_not_start_or_take_the_data_is_a_note(error, encoder_here, monkeypatch, notes) -> None:
    def refuse(path):
        raise error("no memory is left on the GPU.")

    monkeypatch.setattr(executed, "open_artefact", refuse)
    build = calib8.Build(targets="sm86", shapes="input_ids:1x1:4x16:4x32")
    config = calib8.Convert(build=build, verify=calib8.Verify(), baseline=False)
    folder = encoder_here
    report = calib8.convert(folder / "model.onnx", folder / "data.npz", folder / "out", config, progress=notes)
    assert report.engine_accuracy is None
    assert [engine.executed for engine in report.engines] == [False]
    assert "out-int8.engine was not judged on the GPU: no memory is left on the GPU." in notes.messages
