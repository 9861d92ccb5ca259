"""Numbers in files of which no scale can be made: refused with the name of what they are about, nothing is left."""

import json
import math
import struct
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from shell import Shell

import calib8 as calib8_library
from calib8.caches.cache import Cache
from calib8.calibration import one_pass
from calib8.calibration.ranges import LARGEST, Ranges, TensorRange
from calib8.calibration.statistics import TensorStatistics
from calib8.engine.quantized import require_exact
from calib8.errors import CacheError, InputError, ModelError, RangesError
from calib8.files import parse_json, read_json, write_json
from calib8.numerics import LEVELS, scale_of
from calib8.quantization import solved
from calib8.quantization.known import Known
from calib8.quantization.quant_plan import QuantPlan, recorded
from calib8.testing import tiny_mlp

SOUND = {"amax": 1.0, "minimum": -1.0, "maximum": 1.0, "typical": 0.25}


def ranges_text(tensor: str) -> str:
    origin = '{"model_sha256": "", "data_sha256": "", "settings": {}, "tools": {}}'
    head = f'"format": "calib8.ranges/1", "origin": {origin}, "samples": 1, "positions": 1'
    return f'{{{head}, "tensors": {{"x": {tensor}}}}}'


def tensor(**changed: str) -> str:
    return "{" + ", ".join(f'"{name}": {changed.get(name, value)}' for name, value in SOUND.items()) + "}"


@pytest.mark.parametrize("field", SOUND)
@pytest.mark.parametrize("number", ["1e308", "3.5e38", "1e999", "NaN", "Infinity", "1" + "0" * 400, "1" + "0" * 5000])
def test_ranges_beyond_float32_are_refused_by_the_tensors_name(tmp_path: Path, field: str, number: str) -> None:
    path = tmp_path / "ranges.json"
    path.write_text(ranges_text(tensor(**{field: number})))
    with pytest.raises(RangesError) as raised:
        Ranges.load(path)
    assert str(path) in str(raised.value)
    if len(number) < 1000:  # Python reads no longer whole number
        assert f"tensors.x.{field}: " in str(raised.value)
    if number in ("1e308", "3.5e38"):
        assert f"tensors.x.{field}: {float(number):g} is beyond float32, which ends at 3.403e+38" in str(raised.value)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (tensor(amax="-1"), "tensors.x.amax: Input should be greater than or equal to 0"),
        (tensor(minimum="2"), "tensors.x: its minimum 2 is above its maximum 1"),
        (tensor(amax='"wide"'), "tensors.x.amax: Input should be a valid number"),
        (tensor(amax="null"), "tensors.x.amax: Input should be a valid number"),
        ('{"amax": 1, "amax": 2, "minimum": 0, "maximum": 1, "typical": 1}', "the key 'amax' appears twice"),
        (f'{tensor()}, "x": {tensor(amax="8")}', "the key 'x' appears twice"),
        (tensor(amax="1e999"), "tensors.x.amax: Input should be a finite number"),
        (tensor(amax="NaN"), "tensors.x.amax: Input should be a finite number"),
    ],
)
def test_what_else_is_wrong_in_ranges(tmp_path: Path, text: str, reason: str) -> None:
    path = tmp_path / "ranges.json"
    path.write_text(ranges_text(text))
    with pytest.raises(RangesError) as raised:
        Ranges.load(path)
    assert reason in str(raised.value)


@pytest.mark.parametrize("amax", [0.0, -0.0, 5e-324, 1e-320, 1e-45, 1e-39, 1e-36, LARGEST])
@pytest.mark.parametrize("typical", [0.0, 5e-324, 1e-200, 1.0, LARGEST])
def test_what_is_a_range_becomes_a_scale(amax: float, typical: float) -> None:
    """The largest float32 and the smallest double alike: a positive, finite, normal float32, and a number of dB."""
    seen = TensorRange(amax=amax, minimum=-amax, maximum=amax, typical=typical)
    [scale] = np.atleast_1d(scale_of(seen.amax))
    assert np.finfo(np.float32).tiny <= scale <= np.finfo(np.float32).max
    assert not math.isnan(seen.typical_sqnr_db())


def test_the_sqnr_of_a_typical_position_by_hand() -> None:
    """amax 127: a step of 1, noise 1/12; typical 1: 10 log10(12) dB."""
    seen = TensorRange(amax=LEVELS, minimum=0, maximum=1, typical=1)
    assert seen.typical_sqnr_db() == pytest.approx(10.791812)


def test_statistics_of_a_damaged_file_are_refused_by_name() -> None:
    seen = TensorStatistics()
    seen.minimum, seen.maximum = 0.0, math.inf
    with pytest.raises(RangesError, match=r"the range of 'x' is none: maximum: Input should be a finite number"):
        one_pass._range("x", seen, 1.0)


@pytest.mark.parametrize("command", ["quantize", "export-cache", "inspect"])
def test_commands_say_so_and_leave_nothing(calib8: Shell, tmp_path: Path, command: str) -> None:
    path, model, output = tmp_path / "ranges.json", tmp_path / "model.onnx", tmp_path / "made"
    path.write_text(ranges_text(tensor(amax="1e308")))
    ir.save(tiny_mlp(), model)
    before = sorted(tmp_path.iterdir())
    arguments: dict[str, tuple[object, ...]] = {
        "quantize": (model, "--ranges", path, "-o", output),
        "export-cache": (path, "-o", output),
        "inspect": (path,),
    }
    code, _, err = calib8(command, *arguments[command])
    assert code == 2
    assert "tensors.x.amax: 1e+308 is beyond float32" in err
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize("bits", ["7fc00000", "ffc00000", "7f800001", "ff800000", "bc010204", "80000001"])
def test_a_cache_with_nan_or_a_negative_scale_is_refused_by_name(bits: str) -> None:
    number = struct.unpack(">f", bytes.fromhex(bits))[0]
    with pytest.raises(CacheError, match=f"line 2: the scale of 'x' is {number}; expected a positive number"):
        Cache.parse(f"TRT-101600-MinMaxCalibration\nx: {bits}\n", "the cache")


@pytest.mark.parametrize("bits", ["7f800000", "00000000", "80000000", "0", "00000001", "007fffff"])
def test_a_cache_entry_without_a_scale_leaves_its_op_in_float_and_is_named(
    calib8: Shell, tmp_path: Path, bits: str
) -> None:
    """Infinite where a calibration failed, 0 for a tensor of nothing but zero, subnormal: TensorRT flushes it to 0."""
    model, cache, output = tmp_path / "model.onnx", tmp_path / "calibration.cache", tmp_path / "int8.onnx"
    ir.save(tiny_mlp(), model)
    cache.write_text(f"TRT-101600-MinMaxCalibration\nx: {bits}\nrelu_out: 3c010204\n")
    code, out, err = calib8("migrate", cache, model, "-o", output)
    assert code == 0, err
    assert "whose entry is 0, infinite or subnormal: their ops stay in float: x" in out
    scales = [
        float(node.inputs[1].const_value.numpy().reshape(-1)[0])
        for node in calib8_library.load(output).graph
        if node.op_type == "QuantizeLinear" and node.inputs[1] is not None and node.inputs[1].const_value is not None
    ]
    assert scales == [pytest.approx(1 / 127)]
    assert calib8("migrate", cache, model, "-o", tmp_path / "strict.onnx", "--strict")[0] == 2


@pytest.mark.parametrize("scale", [np.inf, np.nan, 0.0, -0.0, -1.0, 1e-45, np.float64(1e300)])
def test_a_model_with_such_a_scale_is_not_built(scale: float) -> None:
    x = ir.Value(name="x", type=ir.TensorType(ir.DataType.FLOAT), shape=ir.Shape([1]))
    number = ir.val("s", const_value=ir.tensor(np.asarray(scale), name="s"))
    zero = ir.val("z", const_value=ir.tensor(np.zeros((), np.int8), name="z"))
    node = ir.node("QuantizeLinear", [x, number, zero], name="q")
    graph = ir.Graph([x], node.outputs, nodes=[node], initializers=[number, zero], opset_imports={"": 19})
    with pytest.raises(ModelError, match="QuantizeLinear 'q' has a scale that is zero, negative or not finite"):
        require_exact(ir.Model(graph, ir_version=10))


@pytest.mark.parametrize(
    "kept", ['{"a": [NaN]}', '{"a": [1e999]}', '{"a": 1}', '{"a": ["1"]}', '{"a": [], "a": [1]}', "[]"]
)
def test_kept_measurements_that_are_no_numbers_are_measured_again(tmp_path: Path, kept: str) -> None:
    path = tmp_path / "known.json"
    path.write_text(kept)
    known = Known(path)
    assert len(known) == 0
    assert known.numbers("a", lambda: [0.5]) == [0.5]
    assert Known(path).numbers("a", lambda: [9.0]) == [0.5]


def test_a_kept_solution_with_an_infinite_scale_is_solved_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "site.npz"
    told = {"precision": "int8", "ops": ["op"], "amax": math.inf, "chosen": {}, "tried": []}
    one = np.ones(1, np.float32)
    np.savez(path, told=np.array(json.dumps(told)), shift=one, index=np.zeros(1, np.int64), multiplier=one,
             **{"codes.0": np.ones((1, 1), np.int8), "scale.0": one, "bias.0": one})  # fmt: skip
    with pytest.raises(InputError, match="amax is inf"):
        solved.load(path)
    asked: list[Path] = []
    monkeypatch.setattr(solved, "save", lambda solution, path: asked.append(path))
    with pytest.raises(InputError, match="amax is inf"):  # of the file that was to be written anew
        solved.kept(path, lambda: None)  # type: ignore[arg-type,return-value]
    assert asked == [path]


@pytest.mark.parametrize("text", ['{"ops": [], "ops": []}', '{"ops": [], "budget": NaN}', "{"])
def test_a_plan_in_a_model_is_read_as_strictly(text: str) -> None:
    model = tiny_mlp()
    model.metadata_props["calib8.plan"] = text
    with pytest.raises(ModelError, match=r"what calib8 wrote into the model as 'calib8\.plan' is damaged"):
        recorded(QuantPlan, model, "calib8.plan")


def test_json_that_readers_take_differently_is_none(tmp_path: Path) -> None:
    for text in ('{"a": 1, "a": 1}', '["\\ud800"]', "[" * 10_000, "1" * 5_000):
        with pytest.raises(ValueError, match=r".+"):
            parse_json(text)
    (tmp_path / "x.json").write_text('{"a": {"b": 1, "b": 2}}')
    with pytest.raises(InputError, match="x.json is not a plan: it is no valid JSON .the key 'b' appears twice"):
        read_json(tmp_path / "x.json", "plan")


def test_what_is_written_is_json_to_everybody(tmp_path: Path) -> None:
    content: dict[str, Any] = {"a": math.inf, "b": [math.nan, 1.5, (2, -math.inf)]}
    write_json(tmp_path / "x.json", content)
    assert read_json(tmp_path / "x.json", "file") == {"a": None, "b": [None, 1.5, [2, None]]}
