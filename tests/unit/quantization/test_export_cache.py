"""From ranges and Q/DQ models to a calibration cache: the tensor's own scales, and nothing else."""

import json
import re
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
from shell import Shell

import calib8 as library
from calib8.caches.cache import Cache, cache_of
from calib8.caches.record import read_record, record_path
from calib8.calibration.ranges import Ranges
from calib8.errors import CacheError
from calib8.graph.builder import GraphBuilder
from calib8.graph.weighted import weighted_ops
from calib8.passes.insert_qdq import insert_qdq
from calib8.passes.prepare import prepare
from calib8.progress import Quiet
from calib8.provenance import PLAN
from calib8.quantization.config import Migrate
from calib8.quantization.design import Recipe
from calib8.quantization.export_cache import Exported, from_model
from calib8.quantization.migrate import CACHE, migrate
from calib8.quantization.solve import solve
from calib8.testing import tiny_mlp

X = np.random.default_rng(0).uniform(-1, 1, (128, 4)).astype(np.float32) * [1, 1, 20, 1]
DATA = [{"x": X.astype(np.float32)}]
SMOOTH, PLAIN = Recipe(smooth=0.5), Recipe()


@pytest.fixture
def ranges(calib8: Shell, tmp_path: Path) -> Path:
    """The ranges of ``tiny_mlp``, saved as model.onnx, by entropy."""
    ir.save(tiny_mlp(), tmp_path / "model.onnx")
    np.savez(tmp_path / "data.npz", **DATA[0])
    arguments = ("--data", tmp_path / "data.npz", "-o", tmp_path / "ranges.json", "--observer", "entropy")
    assert calib8("calibrate", tmp_path / "model.onnx", *arguments, "--cache", tmp_path / "own.cache")[0] == 0
    return tmp_path / "ranges.json"


def test_ranges_become_a_cache_and_its_record(calib8: Shell, ranges: Path, tmp_path: Path) -> None:
    cache = tmp_path / "calibration.cache"
    code, out, _ = calib8("export-cache", ranges, "-o", cache)
    assert (code, out) == (0, f"{cache}: TRT-101600-EntropyCalibration2, 2 tensors\n")
    content = json.loads(ranges.read_text())
    for name, scale in Cache.load(cache).scales.items():
        assert scale == np.float32(content["tensors"][name]["amax"] / 127)
    assert read_record(cache).origin.model_dump() == content["origin"]
    assert cache.read_bytes() == (tmp_path / "own.cache").read_bytes()
    assert record_path(cache).read_bytes() == record_path(tmp_path / "own.cache").read_bytes()


@pytest.mark.parametrize(
    ("name", "algorithm"),
    [
        ("minmax", "MinMaxCalibration"),
        ("entropy2", "EntropyCalibration2"),
        ("entropy", "EntropyCalibration"),
        ("legacy", "LegacyCalibration"),
    ],
)
def test_the_reader_is_the_users_choice(calib8: Shell, ranges: Path, tmp_path: Path, name: str, algorithm: str) -> None:
    cache = tmp_path / "calibration.cache"
    options = ("--algorithm", name, "--tensorrt-version", "8.6.1")
    assert calib8("export-cache", ranges, "-o", cache, *options)[0] == 0
    assert cache.read_text().startswith(f"TRT-8601-{algorithm}\n")


def test_a_cache_for_another_tensorrt(calib8: Shell, tmp_path: Path) -> None:
    (tmp_path / "old").write_bytes(b"TRT-8601-EntropyCalibration2\r\nx: 3F800000\r\nz: 0\r\n")
    assert calib8("export-cache", tmp_path / "old", "-o", tmp_path / "new", "--tensorrt-version", "10.3.0")[0] == 0
    assert (tmp_path / "new").read_bytes() == b"TRT-100300-EntropyCalibration2\r\nx: 3F800000\r\nz: 0\r\n"
    assert not record_path(tmp_path / "new").exists()


def test_a_plain_model_gives_back_its_ranges(ranges: Path, tmp_path: Path) -> None:
    """Through files, with the remainder in FP16: names and scales survive Casts."""
    loaded = Ranges.load(ranges)
    library.save(
        library.quantize(library.load(tmp_path / "model.onnx"), loaded, library.Int8(min_sqnr_db=0)),
        tmp_path / "q.onnx",
    )
    found = library.export_cache(tmp_path / "q.onnx", tmp_path / "back.cache")
    assert found.left_out == {}
    assert (tmp_path / "back.cache").read_bytes() == (tmp_path / "own.cache").read_bytes()
    assert read_record(tmp_path / "back.cache").origin == loaded.origin


def conditioned(model: ir.Model, monkeypatch: pytest.MonkeyPatch, **recipes: Recipe) -> ir.Model:
    """``model`` in INT8, each site by the recipe of its name."""
    monkeypatch.setattr(
        "calib8.quantization.apply.solve", lambda seen, site, **how: solve(seen, site, (recipes[site.name],), **how)
    )
    reference = prepare(model)
    ranges = library.calibrate(reference, DATA)
    return library.quantize(reference, ranges, library.Int8(min_sqnr_db=0, max_damage=2), data=DATA)


def test_conditioned_activations_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    model = conditioned(tiny_mlp(), monkeypatch, first=SMOOTH, second=PLAIN)
    found = from_model(model)
    assert list(found.cache.scales) == ["relu_out"]
    assert found.left_out == {"x": "was conditioned (shifted, smoothed or split), and its grid is another tensor's"}
    with pytest.raises(CacheError, match=r"x was conditioned .* or the ranges\.json of `calib8 calibrate`"):
        from_model(conditioned(tiny_mlp(), monkeypatch, first=SMOOTH, second=SMOOTH))


def test_conditioning_that_was_folded_away_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The multiplier went into the norm's constants: no node before Q tells of it."""
    g = GraphBuilder()
    x = g.input("x", ir.DataType.FLOAT, "batch", 4)
    ones, zeros = g.constant("gamma", [1, 1, 9, 1]), g.constant("beta", np.zeros(4))
    x = g.op("MatMul", g.op("LayerNormalization", x, ones, zeros, name="norm"), g.weight("w", 4, 8), name="first")
    reference = g.model(y=g.op("MatMul", g.op("Relu", x, name="relu"), g.weight("v", 8, 3), name="second"))
    model = conditioned(reference, monkeypatch, first=SMOOTH, second=PLAIN)
    assert "Mul" not in {node.op_type for node in model.graph}
    found = from_model(model)
    assert list(found.cache.scales) == ["relu_out"]
    assert list(found.left_out) == ["norm_out"]


def test_a_grid_without_the_channels_beside_it_is_not_the_tensors(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing in front of Q tells of a side branch: what goes around INT8 meets rows of zeros in the weight."""
    model = conditioned(tiny_mlp(), monkeypatch, first=PLAIN, second=Recipe(side=2))
    found = from_model(model)
    assert list(found.cache.scales) == ["x"]
    assert found.left_out == {"relu_out": "has 2 channels that go around INT8: its grid is that of the others"}


def test_the_command_says_what_is_left_out(calib8: Shell, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    library.save(conditioned(tiny_mlp(), monkeypatch, first=SMOOTH, second=PLAIN), tmp_path / "q.onnx")
    code, out, _ = calib8("export-cache", tmp_path / "q.onnx", "-o", tmp_path / "c")
    assert code == 0
    assert "TRT-101600-MinMaxCalibration, 1 tensors" in out
    assert "1 tensors are not in it: x was conditioned" in out
    assert "Export from the ranges.json that the model was made with" in out


def test_an_output_of_the_model_that_is_quantised_keeps_its_name() -> None:
    """FP16 computes ``hidden`` under another name and casts it back."""
    g = GraphBuilder()
    x = g.input("x", ir.DataType.FLOAT, "batch", 4)
    hidden = g.op("MatMul", x, g.weight("w", 4, 8), name="first")
    model = g.model(hidden=hidden, y=g.op("MatMul", hidden, g.weight("v", 8, 3), name="second"))
    quantised, _ = migrate(model, cache_of({"x": 1.0, "hidden": 2.0}), Migrate(), None, Quiet())
    assert "hidden" in {value.name for value in quantised.graph.outputs}
    assert any(value.name == "hidden_half" for node in quantised.graph for value in node.outputs)
    del quantised.metadata_props[CACHE]
    assert dict(from_model(quantised).cache.amax()) == {"x": pytest.approx(1.0), "hidden": pytest.approx(2.0)}
    del quantised.metadata_props[PLAN]
    assert list(from_model(quantised).cache.scales) == ["x", "hidden"]


def test_a_scale_that_was_changed_in_the_model_wins() -> None:
    cache = Cache.parse("TRT-8601-LegacyCalibration\nz: 3f800000\nx: 3C010204\nrelu_out: 3F800000\n", "the test")
    model, _ = migrate(tiny_mlp(), cache, Migrate(), None, Quiet())
    model.graph.initializers["x_scale"].const_value = ir.tensor(np.float32(2.0))
    assert from_model(model).cache.text == cache.text.replace("3C010204", "40000000")


def foreign(**changes: object) -> Exported:
    """What is exported of a Q/DQ model by another tool whose first pair was changed."""
    model = prepare(tiny_mlp())
    insert_qdq(model, weighted_ops(model), {"x": 1.0, "relu_out": 2.0})
    for name, array in changes.items():
        model.graph.initializers[name].const_value = ir.tensor(array)
        model.graph.initializers[name].type = ir.TensorType(ir.tensor(array).dtype)
    return from_model(model)


def test_a_model_by_another_tool() -> None:
    assert foreign().cache.text == "TRT-101600-MinMaxCalibration\nx: 3c010204\nrelu_out: 3c810204\n"
    assert foreign().origin is None


@pytest.mark.parametrize(
    "changes",
    [
        {"x_zero_point": np.int8(3)},
        {"x_zero_point": np.uint8(0)},
        {"x_scale": np.ones(4, np.float32), "x_zero_point": np.zeros(4, np.int8)},
    ],
)
def test_what_a_cache_cannot_express(changes: dict[str, object]) -> None:
    found = foreign(**changes)
    assert list(found.cache.scales) == ["relu_out"]
    assert found.left_out == {"x": "is quantised per channel, asymmetrically, or by a scale computed at run time"}


def test_two_grids_of_one_tensor() -> None:
    g = GraphBuilder()
    x = g.input("x", ir.DataType.FLOAT, "batch", 4)
    zero = g.constant("zero", 0, np.int8)
    for number in (1.0, 2.0):
        scale = g.constant(f"scale{number}", number)
        last = g.op("DequantizeLinear", g.op("QuantizeLinear", x, scale, zero), scale, zero)
    with pytest.raises(CacheError, match="x has several grids"):
        from_model(g.model(y=last))


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (
            "model.onnx",
            "no activation goes through QuantizeLinear with a constant scale.*Expected a model",
        ),
        ("absent.onnx", "ONNX model not found"),
        ("absent.json", "ranges file not found"),
        ("absent.cache", "calibration cache not found"),
        ("data.npz", "data.npz is not a.* calibration cache"),
    ],
)
def test_sources_that_are_none(calib8: Shell, ranges: Path, tmp_path: Path, source: str, message: str) -> None:
    code, out, err = calib8("export-cache", tmp_path / source, "-o", tmp_path / "x.cache")
    assert (code, out) == (2, "")
    assert re.search(message, err)
    assert not (tmp_path / "x.cache").exists()


def test_an_impossible_version(calib8: Shell, ranges: Path, tmp_path: Path) -> None:
    code, _, err = calib8("export-cache", ranges, "-o", tmp_path / "x.cache", "--tensorrt-version", "ten")
    assert code == 2
    assert "got the TensorRT version 'ten', expected digits, e.g. 101600 for 10.16.0, or 10.16.0" in err


def test_inspect_tells_what_a_cache_was_made_from(calib8: Shell, ranges: Path, tmp_path: Path) -> None:
    code, out, _ = calib8("inspect", tmp_path / "own.cache")
    assert code == 0
    assert json.loads(ranges.read_text())["origin"]["model_sha256"] in out
    record_path(tmp_path / "own.cache").unlink()
    (tmp_path / "own.cache").rename(tmp_path / "CalibrationTable")
    code, out, _ = calib8("inspect", tmp_path / "CalibrationTable")
    assert code == 0
    assert "unknown: nothing beside it tells" in out


def test_the_record_overwrites_no_input(calib8: Shell, ranges: Path, tmp_path: Path) -> None:
    before = ranges.read_bytes()
    code, _, err = calib8("export-cache", ranges, "-o", ranges.with_suffix(""))  # its record would be ranges.json
    assert (code, ranges.read_bytes()) == (2, before)
    assert "would be overwritten" in err
    model, data = tmp_path / "model.onnx", tmp_path / "data.npz"
    code, _, err = calib8("calibrate", model, "--data", data, "-o", ranges, "--cache", ranges.with_suffix(""))
    assert (code, ranges.read_bytes()) == (2, before)
    assert "written twice" in err
