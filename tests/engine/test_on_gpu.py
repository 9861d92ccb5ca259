"""``calib8 verify --gpu``: a real engine, whose place on the GPU its own INT8 model takes on the CPU."""

import json
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

import calib8
from calib8.cli.main import main
from calib8.engine.layers import Layer
from calib8.engine.sidecar import describe_engine
from calib8.errors import ConfigError, SetupError
from calib8.gpu.activity import Activity
from calib8.gpu.hardware import Driver, Gpu, gpus
from calib8.runtime.base import Runtime
from calib8.runtime.layer_time import LayerTime
from calib8.runtime.open import is_engine, open_artefact
from calib8.testing import tiny_encoder, token_feeds
from calib8.verification import on_gpu
from calib8.verification.run import open_candidate
from h100 import measured_activity

pytest.importorskip("tensorrt_rtx", reason="needs pip install tensorrt-rtx")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """model.onnx, int8.onnx, int8.engine, data.npz."""
    folder = tmp_path_factory.mktemp("on_gpu")
    ir.save(tiny_encoder(vocabulary=64, width=64, positions=32), folder / "model.onnx")
    np.savez(folder / "data.npz", **token_feeds(*([3, 9, 17, 30] * 4), vocabulary=64))
    model = calib8.load(folder / "model.onnx")
    ranges = calib8.calibrate(model, folder / "data.npz")
    calib8.save(calib8.quantize(model, ranges, calib8.Int8(min_sqnr_db=0)), folder / "int8.onnx")
    shapes = ("input_ids:1x1:4x16:4x32",)
    calib8.build(folder / "int8.onnx", folder / "int8.engine", calib8.Build(targets="sm86", shapes=shapes))
    return folder


class OnTheGpu(Runtime):
    """The INT8 model in the engine's place, and each output off by one part in a thousand."""

    description = "TensorRT-RTX 1.7.1.116 on NVIDIA A10"
    computes_fp16 = True

    def __init__(self, path: Path) -> None:
        self.inner = open_candidate(path.with_suffix(".onnx"))
        super().__init__(self.inner.contract)

    def largest(self, name: str, axis: int) -> int | None:
        return (4, 32)[axis]

    def _run(self, arrays):
        assert len(arrays["input_ids"]) <= 16
        return {name: np.float16(1.001) * array for name, array in self.inner.run(arrays).items()}

    def layer_times(self, arrays, *, runs: int = 25, warm_up: int = 5) -> list[LayerTime]:
        rows = len(self.contract.fitted(arrays)["input_ids"])
        return [LayerTime(Layer("_gemm_mha_v2_myl0_1", "kgen", "_gemm_mha_v2_0x1"), 1, 0.25 * rows)]

    def _free(self) -> None:
        self.inner.close()


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """An A10 that runs engines."""
    found = Driver("580.65.06", "13.0", (Gpu("NVIDIA L4", "sm89"), Gpu("NVIDIA A10", "sm86")))
    monkeypatch.setattr(on_gpu, "driver", lambda: found)
    monkeypatch.setenv("CUDA_DEVICE_ORDER", "PCI_BUS_ID")
    monkeypatch.setattr(
        on_gpu, "open_artefact", lambda path: OnTheGpu(path) if is_engine(path) else open_artefact(path, "onnxruntime")
    )
    monkeypatch.setattr(on_gpu.Bench, "__init__", quick(on_gpu.Bench.__init__))


def quick(init):
    return lambda self, **values: init(self, **{**values, "seconds": 0, "least": 2})


def test_accuracy_speed_and_the_distance_to_int8_on_the_cpu(folder: Path, gpu: None, notes) -> None:
    found = calib8.compare_on_gpu(folder / "model.onnx", folder / "int8.engine", folder / "data.npz", progress=notes)
    assert (found.gpu, found.target, found.driver, found.cuda) == ("NVIDIA A10", "sm86", "580.65.06", "13.0")
    assert found.engine_runtime == "TensorRT-RTX 1.7.1.116 on NVIDIA A10"
    assert found.reference_runtime.startswith("ONNX Runtime")
    assert 0.9 < found.accuracy.cosine_mean < 1
    assert found.int8_model == "int8.onnx"
    assert found.against_int8 is not None
    assert found.against_int8.samples == 16
    assert found.against_int8.sqnr_db == pytest.approx(60, abs=1.5)  # one part in a thousand, told in float16: 0.00098
    assert [(cell.batch, list(cell.latencies)) for cell in found.speed] == [
        (1, ["FP32 on the CPU", "engine"]),
        (4, ["FP32 on the CPU", "engine"]),  # the largest batch of its profile
    ]


def test_without_its_model_beside_it_there_is_no_such_distance(folder: Path, tmp_path: Path) -> None:
    sidecar = describe_engine(folder / "int8.engine")
    assert on_gpu.quantised_model_of(folder / "int8.engine", sidecar) == folder / "int8.onnx"
    (tmp_path / "broken.onnx").write_bytes(b"no model")
    (tmp_path / "other.onnx").write_bytes((folder / "model.onnx").read_bytes())
    assert on_gpu.quantised_model_of(tmp_path / "int8.engine", sidecar) is None
    (tmp_path / "renamed.onnx").write_bytes((folder / "int8.onnx").read_bytes())
    assert on_gpu.quantised_model_of(tmp_path / "int8.engine", sidecar) == tmp_path / "renamed.onnx"


def test_the_gpu_to_watch_is_one_that_runs_the_engine(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    l4, a10 = Gpu("NVIDIA L4", "sm89"), Gpu("NVIDIA A10", "sm86")
    for present, target in (((l4, a10), "sm86"), ((l4,), None), ((), None)):
        monkeypatch.setattr(on_gpu, "gpus", lambda present=present: present)
        assert on_gpu.target_of(folder / "int8.engine") == target
    assert on_gpu.target_of(folder / "int8.onnx") is None


def verify(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    monkeypatch.setattr("sys.argv", ["calib8", "verify", *map(str, arguments), "--gpu"])
    with pytest.raises(SystemExit) as ended:
        main()
    return int(ended.value.code or 0)


def test_the_command_judges_what_the_gpu_computed(
    folder: Path, gpu: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = (folder / "model.onnx", folder / "int8.engine", "--data", folder / "data.npz")
    assert verify(monkeypatch, *arguments, "--min-cosine", "0.9") == 0
    out = capsys.readouterr().out
    assert "NVIDIA A10" in out
    assert "580.65.06" in out
    assert "int8.engine against model.onnx" in out
    assert "int8.engine on the GPU against int8.onnx on the CPU" in out
    assert len(re.findall(r"cosine to FP32, mean +│ +[01]\.\d{5}", out)) == 2
    assert verify(monkeypatch, *arguments, "--min-cosine", "1") == 1
    assert "accuracy limit missed" in capsys.readouterr().err


def test_its_report_has_the_plan_and_what_the_gpu_did(
    folder: Path, gpu: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    seen = []

    @contextmanager
    def watched(wanted: bool, target: str | None) -> Iterator[Callable[[], Activity]]:
        seen.append((wanted, target))
        yield measured_activity

    monkeypatch.setattr("calib8.gpu.monitor.watched", watched)
    monkeypatch.setattr(on_gpu, "gpus", lambda: (Gpu("NVIDIA L4", "sm89"), Gpu("NVIDIA A10", "sm86")))
    output = tmp_path / "verified.json"
    arguments = (folder / "model.onnx", folder / "int8.engine", "--data", folder / "data.npz", "-o", output)
    assert verify(monkeypatch, *arguments, "--monitor") == 0
    assert seen == [(True, "sm86")]
    report = json.loads(output.read_text())
    assert (report["engine"]["plan"]["covered"], report["engine"]["executed"]) == (6, True)
    assert report["gpu"]["activity"]["summary"]["power_watts"]["max"] == 720.8
    page = output.with_suffix(".html").read_text(encoding="utf-8")
    assert "6 of 6" in page
    assert "power: mean 513.4, most 720.8 W" in page


def test_its_kernels_are_timed_on_request(
    folder: Path, gpu: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "verified.json"
    arguments = (folder / "model.onnx", folder / "int8.engine", "--data", folder / "data.npz", "-o", output)
    assert verify(monkeypatch, *arguments) == 0
    assert "Where the time goes" not in capsys.readouterr().out
    assert json.loads(output.read_text())["gpu"]["breakdowns"] == []
    assert verify(monkeypatch, *arguments, "--profile") == 0
    out = capsys.readouterr().out
    assert [f"Where the time goes, {rows}x" in out for rows in (1, 4)] == [True, True]
    assert "1.000 ms  1 x _gemm_mha_v2_myl0_1 (attention/softmax)" in out  # four rows
    found = json.loads(output.read_text())["gpu"]
    assert [cell["batch"] for cell in found["speed"]] == [one["batch"] for one in found["breakdowns"]] == [1, 4]
    latency = found["speed"][1]["latencies"]["engine"]["median_ms"]
    assert found["breakdowns"][1]["engines"]["engine"]["latency_ms"] == latency
    assert "Where the time goes" in output.with_suffix(".html").read_text(encoding="utf-8")


def test_an_onnx_model_is_refused(folder: Path) -> None:
    with pytest.raises(ConfigError, match=r"--gpu judges an engine, and .*int8\.onnx runs on the CPU\. Build one"):
        calib8.compare_on_gpu(folder / "model.onnx", folder / "int8.onnx", folder / "data.npz")


@pytest.mark.skipif(any(found.target == "sm86" for found in gpus()), reason="the engine's GPU is here: it would run")
def test_without_its_gpu_nothing_else_is_even_opened(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(SetupError, match=r"int8\.engine cannot run here: the engine runs on sm86"):
        calib8.compare_on_gpu(tmp_path / "no-model.onnx", folder / "int8.engine", tmp_path / "no-data")
