"""INT8 against FP16 in ``convert``: real engines of TensorRT-RTX, in whose place a GPU's clock is read by hand."""

import json
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

import calib8
from calib8.cli.main import main
from calib8.conversion import baseline
from calib8.engine.sidecar import describe_engine
from calib8.errors import Calib8Error, DataError, SetupError
from calib8.graph.builder import GraphBuilder
from calib8.runtime.base import Runtime
from calib8.runtime.ort import OrtRuntime
from calib8.testing import tiny_convnet
from calib8.verification import gpu_speed, on_gpu

pytest.importorskip("tensorrt_rtx", reason="needs pip install tensorrt-rtx")

#: By the rows of a batch.
INT8_MS = {1: 2.5, 4: 1.0}
SHAPES = ("input_ids:1x1:1x8:2x16", "input_ids:1x1:4x16:4x32")


class OnTheGpu(Runtime):
    """The FP32 model in an engine's place; the clock says 2 ms of FP16, and of INT8 as many as ``INT8_MS`` has."""

    on_gpu = True
    description = "TensorRT 10.6.0 on NVIDIA A10"

    def __init__(self, path: Path) -> None:
        self.precision = describe_engine(path).precision
        self.inner = OrtRuntime(calib8.load(path.parent.parent / "model.onnx"))
        super().__init__(self.inner.contract)

    def _run(self, arrays):
        return self.inner.run(arrays)

    def gpu_ms(self, arrays, *, least: float = 0.02) -> float:
        return 2.0 if self.precision == "fp16" else INT8_MS[len(arrays["input_ids"])]

    def _free(self) -> None:
        self.inner.close()


@pytest.fixture
def folder(encoder_here: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(gpu_speed, "open_artefact", OnTheGpu)
    return encoder_here


def converted(folder: Path, **options) -> calib8.Report:
    config = calib8.Convert(build=calib8.Build(targets="sm86,sm89", shapes=SHAPES), verify=calib8.Verify(), **options)
    return calib8.convert(folder / "model.onnx", folder / "data.npz", folder / "out", config)


def test_the_first_engine_that_runs_here_is_set_against_fp16(folder: Path) -> None:
    report = converted(folder)
    assert report.gpu_speed is not None
    assert (report.optimize, report.gpu_speed.unheld) == ("latency", 0)
    assert [cell.shape for cell in report.gpu_speed.cells] == [
        "1x8",
        "4x16",
        "4x32",
    ]  # of the profiles, and the largest
    assert [report.gpu_speed.ratio(cell) for cell in report.gpu_speed.cells] == [0.8, 2.0, 2.0]
    assert [cell.shape for cell in report.gpu_speed.slower] == ["1x8"]
    assert [engine.executed for engine in report.engines] == [True, False]
    built = describe_engine(folder / "out" / report.gpu_speed.baseline)
    assert (built.precision, built.target) == ("fp16", "sm86")
    assert [str(profile) for profile in built.profiles] == [
        str(profile) for profile in describe_engine(folder / "out" / report.gpu_speed.engine).profiles
    ]
    assert calib8.Report.model_validate_json((folder / "out" / "report.json").read_text()) == report
    page = (folder / "out" / "report.html").read_text()
    assert "INT8 against FP16 on the GPU" in page


def test_where_fp16_is_faster_is_told_first_of_all(folder: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    command = [
        "calib8",
        "convert",
        "model.onnx",
        "--data",
        "data.npz",
        "-o",
        "out",
        "--target",
        "sm86",
        "-q",
        "--optimize",
        "accuracy",
    ]
    shapes = [part for shape in SHAPES for part in ("--shapes", shape)]
    monkeypatch.chdir(folder)
    monkeypatch.setattr("sys.argv", [*command, *shapes, "--min-cosine", "0"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code in (0, None)
    said = " ".join(capsys.readouterr().out.split())
    slower = (
        "SLOWER than FP16 in TensorRT 10.6.0 on NVIDIA A10: INT8 is 0.80x at 1x8. Take out-int8-baseline-fp16.engine "
        "for such shapes, or convert with --optimize latency. against FP16 in TensorRT 10.6.0 on NVIDIA A10: 2.00x at "
        "4x16, 2.00x at 4x32 PASSED"
    )
    assert slower in said
    assert "not run here" not in said


def test_it_can_be_left_out(folder: Path) -> None:
    report = converted(folder, baseline=False)
    assert report.gpu_speed is None
    assert not list((folder / "out").glob("*fp16*"))


@pytest.mark.parametrize("error", [SetupError, DataError])
def test_what_cannot_be_run_is_a_note(
    folder: Path, monkeypatch: pytest.MonkeyPatch, notes, error: type[Calib8Error]
) -> None:
    def refuse(*_):
        raise error("no memory is left on the GPU.")

    monkeypatch.setattr(baseline, "race_on_gpu", refuse)
    config = calib8.Convert(build=calib8.Build(targets="sm86", shapes=SHAPES), verify=calib8.Verify())
    report = calib8.convert(folder / "model.onnx", folder / "data.npz", folder / "out", config, progress=notes)
    assert report.gpu_speed is None
    assert "nothing was timed against FP16: no memory is left on the GPU." in notes.messages
    assert json.loads((folder / "out" / "report.json").read_text())["engines"][0]["executed"] is False


def test_the_float_engine_takes_the_sizes_that_the_quantised_one_has_from_its_data(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tiny_convnet()
    model.graph.inputs[0].shape = ir.Shape(["batch", 3, "height", "width"])
    ir.save(model, tmp_path / "model.onnx")
    monkeypatch.setattr(on_gpu, "target_of", lambda path: describe_engine(path).target)
    built: list[Path] = []
    monkeypatch.setattr(baseline, "race_on_gpu", lambda slow, fast, *_: built.extend((slow, fast)))
    images = {"image": np.random.default_rng(0).standard_normal((32, 3, 12, 8)).astype(np.float32)}
    chosen = calib8.Convert(build=calib8.Build(targets=("sm86",)), verify=calib8.Verify(min_cosine=0.9))
    calib8.convert(tmp_path / "model.onnx", [images], tmp_path / "out", chosen)
    profiles = [describe_engine(path).profiles for path in built]
    assert profiles[0] == profiles[1]
    assert str(profiles[0][0]) == "image:1x3x12x8:8x3x12x8:64x3x12x8"


def test_what_fp16_does_not_hold_is_fp32_in_the_float_engine_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    g = GraphBuilder()
    up = g.op("Mul", g.input("x", ir.DataType.FLOAT, "batch", 32), g.constant("k", 1000.0), name="large")
    hidden = g.op("MatMul", g.op("Mul", up, g.constant("back", 1e-3)), g.weight("w", 32, 32))
    calib8.save(g.model(y=g.op("MatMul", g.op("Relu", hidden), g.weight("v", 32, 32))), tmp_path / "model.onnx")
    monkeypatch.setattr(on_gpu, "target_of", lambda path: describe_engine(path).target)
    built: list[Path] = []
    monkeypatch.setattr(baseline, "race_on_gpu", lambda slow, fast, *_: built.extend((slow, fast)))
    x = np.random.default_rng(0).uniform(-90, 90, (64, 32)).astype(np.float32)
    chosen = calib8.Convert(build=calib8.Build(targets=("sm86",)), verify=calib8.Verify(min_cosine=0.9))
    calib8.convert(tmp_path / "model.onnx", [{"x": x}], tmp_path / "out", chosen)
    assert [describe_engine(path).unheld for path in built] == [("large_out",), None]  # INT8's graph says it
