"""A float engine beside the INT8 one, on the same GPU."""

import json
from pathlib import Path

import pytest
from engines import build, write_encoder, write_int8

import calib8
from calib8.cli.main import main
from calib8.engine.sidecar import describe_engine

pytest.importorskip("tensorrt", reason="needs pip install tensorrt")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("baseline")
    model = write_encoder(folder)
    build(write_int8(folder), folder / "int8.engine", check_plan=False)
    for precision in ("fp16", "bf16", "fp32"):
        build(model, folder / f"{precision}.engine", precision=precision)
    return folder


@pytest.mark.parametrize(("precision", "cosine"), [("fp16", 0.999), ("bf16", 0.99), ("fp32", 0.9999)])
def test_it_computes_what_the_model_does(precision: str, cosine: float, folder: Path) -> None:
    engine = folder / f"{precision}.engine"
    assert describe_engine(engine).precision == precision
    calib8.verify(folder / "model.onnx", engine, folder / "data.npz", calib8.Verify(min_cosine=cosine))


def test_verification_on_the_gpu_takes_it(folder: Path) -> None:
    found = calib8.compare_on_gpu(folder / "model.onnx", folder / "fp16.engine", folder / "data.npz")
    assert found.accuracy.cosine_mean > 0.999
    assert found.against_int8 is None


def test_int8_is_set_against_fp16_in_one_command(folder: Path, monkeypatch, measured) -> None:
    engines = [str(folder / name) for name in ("fp16.engine", "int8.engine", "fp32.engine")]
    options = ["--data", str(folder / "data.npz"), "--batches", "1,8", "--lengths", "32", "--seconds", "0.5"]
    monkeypatch.setattr("sys.argv", ["calib8", "bench", *engines, *options, "-o", str(folder / "bench.json"), "-q"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code in (0, None)
    report = json.loads((folder / "bench.json").read_text())
    assert list(report["runtimes"]) == ["fp16.engine", "int8.engine", "fp32.engine"]
    assert [cell["batch"] for cell in report["cells"]] == [1, 8]
    for cell in report["cells"]:
        told = {name: latency["median_ms"] for name, latency in cell["latencies"].items()}
        measured(f"tiny encoder, {cell['batch']}x{cell['length']}, median ms: {told}")
