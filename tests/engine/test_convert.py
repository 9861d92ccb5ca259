"""The whole recipe on a tiny encoder with real TensorRT-RTX engines, and what a second run reuses."""

import json
import re
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

import calib8
from calib8.__main__ import main
from calib8.errors import AccuracyMissed, Calib8Error, DataError, ModelError
from calib8.graph.builder import GraphBuilder
from calib8.serving.protocol import smaller_of
from calib8.testing import tiny_convnet, tiny_encoder, token_feeds

WIDE = {"vocabulary": 64, "width": 64, "positions": 32}


@pytest.fixture
def model(tmp_path: Path) -> Path:
    ir.save(tiny_encoder(**WIDE), tmp_path / "model.onnx")
    return tmp_path / "model.onnx"


@pytest.fixture
def data(tmp_path: Path) -> Path:
    path = tmp_path / "data.npz"
    np.savez(path, **token_feeds(*([3, 9, 17, 30] * 16), vocabulary=64))
    return path


def config(**changes: object) -> calib8.Convert:
    build = calib8.Build(targets=("sm75", "sm86"), shapes=("input_ids:1x1:4x16:8x32",))
    return calib8.Convert(
        quantize=calib8.Int8(min_sqnr_db=0), build=build, verify=calib8.Verify(min_cosine=0.99), **changes
    )


def test_everything_is_made_and_proven(model: Path, data: Path, tmp_path: Path, notes) -> None:
    output = tmp_path / "tiny"
    report = calib8.convert(model, data, output, config(), progress=notes)
    assert report.passed
    assert (report.int8_ops, report.weighted_ops, report.optimize) == (
        5,
        6,
        "latency",
    )  # attention's projection is float
    assert [engine.target for engine in report.engines] == ["sm75", "sm86"]
    for engine in report.engines:
        assert (engine.plan.covered, engine.plan.expected) == (5, 5)
        assert engine.plan.planned_kernels == 3  # q, k and v are one GEMM
        assert engine.executed is False
    assert report.accuracy.samples == 8
    assert (output / "tiny-int8.sm86.engine").stat().st_size == report.engines[1].file.bytes
    assert json.loads((output / "report.json").read_text())["engines"][0]["plan"]["missing"] == []
    page = (output / "report.html").read_text(encoding="utf-8")
    assert "<strong>PASSED</strong>" in page
    assert "Activation ranges and outliers" in page
    assert list(report.seconds) == ["calibrate", "quantize", "build", "verify"]
    beside = json.loads((output / "calibration.cache.json").read_text())
    assert beside["origin"] == json.loads((output / "ranges.json").read_text())["origin"]


def test_what_tensorrt_said_is_kept(model: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    command = ["calib8", "convert", model, "--data", data, "-o", tmp_path / "tiny", "--min-cosine", 0.5]
    monkeypatch.setattr(
        "sys.argv", [*map(str, command), "--target", "sm86", "--tensorrt-log", str(tmp_path / "build.log")]
    )
    with pytest.raises(SystemExit) as ended:
        main()
    assert not ended.value.code
    assert "[VERBOSE] Layers:" in (tmp_path / "build.log").read_text()


def test_a_second_run_repeats_nothing_and_gets_the_same(model: Path, data: Path, tmp_path: Path, notes) -> None:
    first = calib8.convert(model, data, tmp_path / "tiny", config())
    second = calib8.convert(model, data, tmp_path / "tiny", config(), progress=notes)
    assert any("ranges are up to date" in message for message in notes.messages)
    assert sum("engine is up to date" in message for message in notes.messages) == 2
    assert second.int8.sha256 == first.int8.sha256
    assert second.accuracy == first.accuracy
    changed = config().model_copy(update={"quantize": calib8.Int8(min_sqnr_db=0, exclude=("o",))})
    third = calib8.convert(model, data, tmp_path / "tiny", changed)
    assert third.int8_ops == 5
    assert [engine.plan.expected for engine in third.engines] == [5, 5]


def test_a_sentence_encoder_stays_one(model: Path, data: Path, tmp_path: Path) -> None:
    output, bare = tmp_path / "tiny", config().model_copy(update={"build": None})
    (tmp_path / "config_sentence_transformers.json").write_text('{"prompts": {"query": "find: "}}')
    (tmp_path / "config.json").write_text('{"matryoshka_dimensions": [8, 4]}')
    calib8.convert(model, data, output, bare)
    assert (output / "config_sentence_transformers.json").read_text() == '{"prompts": {"query": "find: "}}'
    assert smaller_of(output).listed == (8, 4)
    (tmp_path / "config.json").write_text('{"matryoshka_dimensions": [16]}')
    calib8.convert(model, data, output, bare)  # which reuses the INT8 model
    assert smaller_of(output).listed == (16,)


def test_a_prompt_that_pooling_leaves_out_is_refused_before_the_work(
    model: Path, data: Path, tmp_path: Path, tokenizer_folder: Path
) -> None:
    model.rename(tokenizer_folder / "model.onnx")
    settings = '{"prompts": {"query": "a "}, "default_prompt_name": "query"}'
    (tokenizer_folder / "config_sentence_transformers.json").write_text(settings)
    (tokenizer_folder / "1_Pooling").mkdir()
    (tokenizer_folder / "1_Pooling" / "config.json").write_text('{"pooling_mode": "mean", "include_prompt": false}')
    with pytest.raises(ModelError, match="its pooling leaves the prompt's tokens out of the vector"):
        calib8.convert(tokenizer_folder / "model.onnx", data, tmp_path / "tiny", config())
    assert not (tmp_path / "tiny").exists()


def test_a_missed_limit_is_reported_and_raised(model: Path, data: Path, tmp_path: Path) -> None:
    strict = calib8.Convert(build=None, verify=calib8.Verify(min_cosine=1.0))
    with pytest.raises(AccuracyMissed, match="mean cosine 0"):
        calib8.convert(model, data, tmp_path / "tiny", strict)
    report = json.loads((tmp_path / "tiny" / "report.json").read_text())
    assert report["passed"] is False
    assert "mean cosine" in report["failure"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"build": calib8.Build(targets=("sm99",))}, "unknown build target 'sm99'"),
        ({"build": calib8.Build(shapes=("nosuch:1:2:3",))}, "nosuch"),
        ({"build": calib8.Build(log="/proc/calib8/x")}, "/proc/calib8"),
        ({"quantize": calib8.Int8(exclude=("nosuch*",))}, "'nosuch.' matches no weighted op"),
        ({"data": {"nosuch": np.ones((64, 3), np.int64)}}, "no array for input"),
    ],
)
def test_what_cannot_work_is_refused_before_the_work_and_leaves_the_verdict(
    model: Path, data: Path, tmp_path: Path, notes, changes: dict[str, object], message: str
) -> None:
    output = tmp_path / "tiny"
    output.mkdir()
    for name in ("report.json", "report.html"):
        (output / name).write_text("PASSED")
    given = changes.pop("data", data)
    with pytest.raises(Calib8Error, match=message):
        calib8.convert(model, given, output, config().model_copy(update=changes), progress=notes)
    assert {path.name: path.read_text() for path in output.iterdir()} == {
        "report.json": "PASSED",
        "report.html": "PASSED",
    }
    assert notes.messages == []


def test_too_little_data_to_hold_any_back(model: Path, tmp_path: Path) -> None:
    np.savez(tmp_path / "few.npz", **token_feeds(4, 5, vocabulary=64))
    with pytest.raises(DataError, match="0 samples would be held back"):
        calib8.convert(model, tmp_path / "few.npz", tmp_path / "tiny", config())
    assert not (tmp_path / "tiny").exists()


def test_a_truncated_model_leaves_nothing(model: Path, data: Path, tmp_path: Path) -> None:
    model.write_bytes(model.read_bytes()[:-100])
    with pytest.raises(ModelError, match="not a usable ONNX model"):
        calib8.convert(model, data, tmp_path / "tiny", config())
    assert not (tmp_path / "tiny").exists()


def test_the_python_of_the_readme_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    monkeypatch.chdir(tmp_path)
    ir.save(tiny_encoder(**WIDE), "model.onnx")
    Path("calib_data").mkdir()
    Path("held_out").mkdir()
    for name, array in token_feeds(*([3, 9, 17, 30] * 16), vocabulary=64).items():
        np.save(Path("calib_data") / f"{name}.npy", array)
        np.save(Path("held_out") / f"{name}.npy", array[1::2])
    variables: dict[str, object] = {}
    exec(code, variables)
    assert variables["outputs"]["last_hidden_state"].shape == (1, 3, 64)
    assert [engine.plan.missing for engine in variables["engines"]] == [(), ()]


def test_an_engine_takes_the_sizes_of_the_calibration_data(tmp_path: Path, notes) -> None:
    model = tiny_convnet()
    model.graph.inputs[0].shape = ir.Shape([-1, 3, "?", "?"])
    ir.save(model, tmp_path / "model.onnx")
    random = np.random.default_rng(0)
    images = [{"image": random.standard_normal((16, 3, 12, 8 + 8 * n)).astype(np.float32)} for n in range(2)]
    chosen = calib8.Convert(build=calib8.Build(targets=("sm86",)), verify=calib8.Verify(min_cosine=0.9))
    report = calib8.convert(tmp_path / "model.onnx", images, tmp_path / "out", chosen, progress=notes)
    sidecar = json.loads((tmp_path / "out" / f"{report.engines[0].file.name}.json").read_text())
    assert sidecar["profiles"] == [
        {"name": "image", "min": [1, 3, 12, 8], "opt": [8, 3, 12, 8], "max": [64, 3, 12, 16]}
    ]
    [again] = calib8.build(tmp_path / "out" / "model.int8.onnx", tmp_path / "again.engine", chosen.build)
    assert json.loads((tmp_path / "again.engine.json").read_text())["profiles"] == sidecar["profiles"]
    assert again.plan.passed


def test_packed_queries_keys_and_values_run_in_int8(tmp_path: Path) -> None:
    g = GraphBuilder()
    x = g.input("x", ir.DataType.FLOAT, "batch", "n", 64)
    product = g.op("Add", g.op("MatMul", x, g.weight("w", 64, 192), name="qkv"), g.weight("b", 192))
    heads = g.op("Reshape", product, g.constant("to", [0, 0, 3, 2, 32], np.int64))
    turned = g.op("Transpose", heads, perm=[2, 0, 3, 1, 4])
    q, k, v = (g.op("Gather", turned, g.constant(f"i{n}", n, np.int64), axis=0) for n in range(3))
    scores = g.op("Softmax", g.op("MatMul", q, g.op("Transpose", k, perm=[0, 1, 3, 2])), axis=-1)
    joined = g.op("Transpose", g.op("MatMul", scores, v), perm=[0, 2, 1, 3])
    y = g.op(
        "MatMul", g.op("Reshape", joined, g.constant("flat", [0, 0, 64], np.int64)), g.weight("o", 64, 64), name="o"
    )
    ir.save(g.model(y=y), tmp_path / "model.onnx")
    x_fed = np.random.default_rng(0).standard_normal((32, 12, 64)).astype(np.float32)
    chosen = calib8.Convert(build=calib8.Build(targets=("sm86",)), verify=calib8.Verify(min_cosine=0.99))
    report = calib8.convert(tmp_path / "model.onnx", [{"x": x_fed}], tmp_path / "out", chosen)
    plan = report.engines[0].plan
    assert (plan.covered, plan.expected, plan.planned_kernels) == (3, 3, 1)  # the projection is float, for latency
