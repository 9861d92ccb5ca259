"""From a calibration cache to Q/DQ, through the functions and through the command line."""

import json
import re
import struct
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from shell import Shell

import calib8
from calib8.caches.cache import Cache, cache_of
from calib8.errors import CacheError
from calib8.graph.builder import GraphBuilder
from calib8.graph.weighted import weighted_ops
from calib8.passes.prepare import prepare
from calib8.progress import Quiet
from calib8.provenance import CALIBRATION, PLAN, Origin
from calib8.quantization.apply import quantize_by_ranges
from calib8.quantization.config import Int8, Migrate
from calib8.quantization.export_cache import from_model
from calib8.quantization.migrate import CACHE, migrate
from calib8.quantization.quant_plan import QuantPlan
from calib8.testing import assert_models_equal, outputs_of, tiny_convnet, tiny_encoder, tiny_mlp

HEADER = "TRT-8601-EntropyCalibration2"
UNNAMED = "(Unnamed Layer* 12) [Fully Connected]_output"


def cache_text(*lines: str) -> str:
    return "\n".join([HEADER, *lines]) + "\n"


def migrated(model: ir.Model, text: str, **options: object):
    return migrate(model, Cache.parse(text, "the test"), Migrate(**options), None, Quiet())


def activation_scales(model: ir.Model) -> dict[str, float]:
    """Name of each Q node -> its scale."""
    nodes = [node for node in model.graph if node.op_type == "QuantizeLinear"]
    return {node.name: node.inputs[1].const_value.numpy().item() for node in nodes}


def test_scales_arrive_to_the_bit_and_everything_is_accounted_for() -> None:
    text = cache_text(
        "x: 3c0104ff", "relu_out: 3CDCF71B", "first_out: 3f800000", f"{UNNAMED}: 3f800000",
        "first.bias_output: 3f800000", "ONNXTRT_Broadcast_3: 3f000000", "of/another:0: 3f800000",
    )  # fmt: skip
    model, migration = migrated(tiny_mlp(), text, remainder="fp32")
    onnx.checker.check_model(ir.to_proto(model), full_check=True)
    got = {name: struct.pack(">f", scale).hex() for name, scale in activation_scales(model).items()}
    assert got == {"x_QuantizeLinear": "3c0104ff", "relu_out_QuantizeLinear": "3cdcf71b"}
    assert (migration.int8_ops, migration.weighted_ops) == (2, 2)
    assert migration.used == {"x": "x", "relu_out": "relu_out"}
    assert migration.unneeded == ("first_out",)
    assert migration.builtin == (UNNAMED, "first.bias_output", "ONNXTRT_Broadcast_3")
    assert migration.unknown == ("of/another:0",)
    assert migration.missing == migration.unusable == ()
    assert model.metadata_props[CACHE] == text


@pytest.mark.parametrize("remainder", ["fp16", "fp32"])
@pytest.mark.parametrize("tiny", [tiny_mlp, tiny_encoder, tiny_convnet])
def test_the_graph_is_that_of_plain_quantisation(tiny, remainder: str, plain_ranges) -> None:
    reference = prepare(tiny())
    ranges = plain_ranges(reference)
    cache = cache_of(ranges.amax())
    got, _ = migrate(tiny(), cache, Migrate(remainder=remainder), None, Quiet())
    expected, _ = quantize_by_ranges(reference, ranges, Int8(treatment="plain", min_sqnr_db=0, remainder=remainder))
    for model in (got, expected):
        model.metadata_props.clear()
    assert ir.to_proto(got).SerializeToString() == ir.to_proto(expected).SerializeToString()


@pytest.fixture
def plain_ranges():
    """Ranges by min/max over a few random arrays."""
    from calib8 import calibrate
    from calib8.testing import token_feeds

    def ranges(model: ir.Model):
        values = np.random.default_rng(0).normal(size=(32, 3, 8, 8)).astype(np.float32)
        feeds = {"image": {"image": values}, "x": {"x": values[:, 0, 0, :4]}, "input_ids": token_feeds(3, 9, 14)}
        return calibrate(model, [feeds[model.graph.inputs[0].name]])

    return ranges


def test_a_tensor_that_is_only_rearranged_takes_the_scale_of_its_source() -> None:
    text = cache_text("image: 3c010204", "GlobalAveragePool_2_out: 3c010205")
    model, migration = migrated(tiny_convnet(), text, strict=True)
    assert migration.used == {"image": "image", "flat_out": "GlobalAveragePool_2_out"}
    assert migration.unneeded == ()
    assert from_model(model).cache.text == text


@pytest.mark.parametrize(("op_type", "attributes"), [("Identity", {}), ("Cast", {"to": 1})])
def test_what_a_node_only_called_by_another_name_goes_by_the_name_that_has_an_entry(
    op_type: str, attributes: dict
) -> None:
    g = GraphBuilder()
    x = g.input("x", ir.DataType.FLOAT, "batch", 4)
    same = g.op(op_type, g.op("Relu", x, name="relu"), name="same", **attributes)
    text = cache_text("same_out: 3c010204")
    model, migration = migrated(g.model(y=g.op("MatMul", same, g.weight("w", 4, 8), name="product")), text, strict=True)
    assert migration.used == {"same_out": "same_out"}
    assert list(activation_scales(model).values()) == [struct.unpack(">f", bytes.fromhex("3c010204"))[0]]
    assert from_model(model).cache.text == text


@pytest.mark.parametrize(
    ("entry", "kind"), [("relu_out: 0", "unusable"), ("relu_out: 7f800000", "unusable"), ("y: 3f800000", "missing")]
)
def test_without_a_scale_an_op_stays_in_float(entry: str, kind: str) -> None:
    model, migration = migrated(tiny_mlp(), cache_text("x: 3c010204", entry))
    assert list(activation_scales(model)) == ["x_QuantizeLinear"]
    assert getattr(migration, kind) == ("relu_out",)
    plan = QuantPlan.model_validate_json(model.metadata_props[PLAN])
    assert plan.nodes("int8") == ["first"]
    assert "calibration cache has" in plan.ops[1].reason
    with pytest.raises(
        CacheError, match="lacks a usable scale for 1 of the 2 tensors .* 'relu_out'.* without --strict"
    ):
        migrated(tiny_mlp(), cache_text("x: 3c010204", entry), strict=True)


def test_a_tensor_that_was_transposed_there_and_back_has_the_scale_of_its_other_name() -> None:
    """Behind ``plain_convolutions`` the input of ``second`` is that of the Sigmoid."""
    g = GraphBuilder()
    first = g.op("Conv", g.input("x", ir.DataType.FLOAT, "batch", 2, 4, 4), g.weight("w1", 2, 2, 1, 1), name="first")
    same = g.op("Transpose", g.op("Transpose", first, perm=(0, 2, 3, 1)), perm=(0, 3, 1, 2), name="same")
    second = g.op("Conv", first, g.weight("w2", 2, 2, 1, 1), name="second")
    text = cache_text("x: 3c010204", "first_out: 3c010205")
    model, migration = migrated(g.model(y=g.op("Mul", second, g.op("Sigmoid", same))), text, strict=True)
    assert migration.used == {"x": "x", "first_out": "first_out"}
    expected = [struct.unpack(">f", bytes.fromhex(scale))[0] for scale in ("3c010204", "3c010205")]
    assert list(activation_scales(model).values()) == expected
    assert from_model(model).cache.text == text


def test_what_is_left_out_by_name_needs_no_scale() -> None:
    model, migration = migrated(tiny_mlp(), cache_text("x: 3c010204"), strict=True, exclude=("second",))
    assert migration.int8_ops == 1
    assert QuantPlan.model_validate_json(model.metadata_props[PLAN]).ops[1].reason == "left out by name"


def test_the_origin_is_kept() -> None:
    origin = Origin(model_sha256="m", data_sha256="d", settings={"observer": "entropy"}, tools={})
    cache = cache_of({"x": 1.0, "relu_out": 1.0})
    model, _ = migrate(tiny_mlp(), cache, Migrate(), origin, Quiet())
    assert Origin.model_validate_json(model.metadata_props[CALIBRATION]) == origin
    unknown, _ = migrate(tiny_mlp(), cache, Migrate(), None, Quiet())
    assert Origin.model_validate_json(unknown.metadata_props[CALIBRATION]).settings == {"cache": cache.header}


labels = st.text(
    st.characters(exclude_categories=["Cs"], exclude_characters="\n\r\0"), min_size=1, max_size=12
) | st.text(st.sampled_from(": 0aé()*[]/_"), min_size=1, max_size=12)
hexes = st.floats(np.finfo(np.float32).tiny, 2.0**121, width=32).map(lambda f: struct.pack(">f", f).hex())


@settings(suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(
    st.lists(labels, min_size=4, max_size=4, unique=True),
    st.lists(st.tuples(labels, st.sampled_from(["0", "7f800000", "3C010204"])), max_size=3),
    st.lists(hexes, min_size=4, max_size=4),
    st.randoms(use_true_random=False),
    st.sampled_from(["\n", "\r\n"]),
)
def test_round_trip_is_identical_to_the_byte(own, strangers, bits, random, ending) -> None:
    g = GraphBuilder()
    x = g.input(own[0], ir.DataType.FLOAT, "batch", 4)
    hidden = g.op("MatMul", x, g.weight("first\tweight", 4, 8), name="first")
    hidden.name = own[1]
    hidden = g.op("Relu", hidden)
    hidden.name = own[2]
    model = g.model(**{own[3]: g.op("MatMul", hidden, g.weight("second\tweight", 8, 3), name="second")})
    entries = dict(zip(own, bits, strict=True)) | {name: code for name, code in strangers if name not in own}
    lines = [f"{name}: {random.choice([str.upper, str.lower])(code)}" for name, code in entries.items()]
    random.shuffle(lines)
    text = ending.join([HEADER, *lines, *random.choice([[], [""]])])
    quantised, migration = migrated(model, text)
    assert migration.used == {own[0]: own[0], own[2]: own[2]}
    again = ir.from_proto(onnx.ModelProto.FromString(ir.to_proto(quantised).SerializeToString()))
    assert from_model(again).cache.text == text


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path, Path]:
    """A cache, its model, and where the INT8 model shall go."""
    ir.save(tiny_mlp(), tmp_path / "model.onnx")
    (tmp_path / "calibration.cache").write_text(
        cache_text("x: 3c010204", "relu_out: 3d010204", "first_out: 3f800000", f"{UNNAMED}: 0")
    )
    return tmp_path / "calibration.cache", tmp_path / "model.onnx", tmp_path / "model.int8.onnx"


def test_the_command(calib8: Shell, files: tuple[Path, Path, Path]) -> None:
    cache, model, output = files
    code, out, err = calib8("migrate", cache, model, "-o", output)
    assert (code, out) == (
        0,
        f"{output}: 2 of 2 weighted ops in INT8\n"
        "inputs of MatMul, Gemm and Conv:\n"
        "      2  with the cache's scale, to the bit\n"
        f"entries of {HEADER}:\n"
        "      2  used\n"
        "      1  of tensors that no INT8 op reads: first_out\n"
        f"      1  of tensors that TensorRT added itself: {UNNAMED}\n"
        "nobody looked whether FP16 holds what is not INT8: some samples (--data) show it\n",
    )
    assert f"nothing says which model and data {cache} was made from" in err
    x = np.random.default_rng(0).uniform(-1, 1, (64, 4)).astype(np.float32)
    assert_models_equal(ir.load(model), ir.load(output), {"x": x}, atol=0.05)
    assert not np.array_equal(outputs_of(ir.load(model), {"x": x})["y"], outputs_of(ir.load(output), {"x": x})["y"])


def test_the_command_in_json(calib8: Shell, files: tuple[Path, Path, Path]) -> None:
    code, out, _ = calib8("migrate", *files[:2], "-o", files[2], "--json")
    assert code == 0
    assert json.loads(out) == {
        "format": "calib8.migration/1", "header": HEADER, "int8_ops": 2, "weighted_ops": 2,
        "used": {"x": "x", "relu_out": "relu_out"}, "missing": [], "unusable": [], "unneeded": ["first_out"],
        "builtin": [UNNAMED], "unknown": [], "unheld": None,
    }  # fmt: skip


def test_there_and_back_by_commands(calib8: Shell, files: tuple[Path, Path, Path], tmp_path: Path) -> None:
    cache, model, output = files
    back = tmp_path / "back.cache"
    assert calib8("migrate", cache, model, "-o", output)[0] == 0
    code, out, _ = calib8("export-cache", output, "-o", back, "--tensorrt-version", "10.13.0")
    assert (code, out) == (0, f"{back}: TRT-101300-EntropyCalibration2, 4 tensors\n")
    assert back.read_text() == cache.read_text().replace("TRT-8601", "TRT-101300")
    assert "nothing says" not in calib8("migrate", back, model, "-o", output)[2]  # export-cache wrote a record
    ir.save(tiny_mlp(), tmp_path / "same.onnx")
    other = tiny_mlp()
    other.graph.doc_string = "another model, of the same names"
    ir.save(other, tmp_path / "other.onnx")
    code, _, err = calib8("migrate", back, tmp_path / "other.onnx", "-o", tmp_path / "x.onnx")
    assert code == 2
    assert "was made from another model, says back.cache.json" in err
    assert not (tmp_path / "x.onnx").exists()


@pytest.mark.parametrize(
    ("content", "options", "message"),
    [
        (cache_text("a: 3c010204", "b:0: 3c010204", UNNAMED + ": 0"), (),
         "the cache is of another model: it has a scale for 0 of the 2 tensors that the INT8 ops of this one read "
         "(none for 'x', e.g.), and 2 of its 3 entries name nothing in it, e.g. 'a'. Give the ONNX file"),
        (cache_text("x: 0", "relu_out: 7f800000"), (), "lacks a usable scale for 2 of the 2 tensors"),
        (cache_text("x: 3c010204"), ("--strict",), "lacks a usable scale for 1 of the 2 tensors"),
        (cache_text("x: 3c010204", "relu_out: 3c010204", "first.weight: 43000000", "second.weight: 43000000"), (),
         "holds 1 / scale where TensorRT writes the scale, say 2 of 2 tensors"),
        ("[1]\n", (), "(JSON, as NVDLA and other tools write it)"),
        ("x: 3c010204\n", (), "the header is missing"),
        (cache_text("x: 3c0102"), (), "line 2: 'x: 3c0102' is no cache entry"),
        (cache_text("x: 3c010204", "relu_out: 3c010204"), ("--include", "typo"), "'typo' matches no weighted op"),
    ],
)  # fmt: skip
def test_refusals(
    calib8: Shell, files: tuple[Path, Path, Path], content: str, options: tuple[str, ...], message: str
) -> None:
    cache, model, output = files
    cache.write_text(content)
    code, out, err = calib8("migrate", cache, model, "-o", output, *options)
    assert (code, out) == (2, "")
    assert message in err
    assert "Traceback" not in err
    assert not output.exists()


def test_the_inverse_is_put_right_on_request(calib8: Shell, files: tuple[Path, Path, Path]) -> None:
    cache, model, output = files
    cache.write_text(cache_text("x: 42fe0000", "relu_out: 40000000", "first.weight: 43000000"))  # 127, 2, 128
    assert calib8("migrate", cache, model, "-o", output)[0] == 2
    assert calib8("migrate", cache, model, "-o", output, "--inverse-scales")[0] == 0
    code, out, _ = calib8("inspect", output)
    assert code == 0
    assert re.search(f"migrated from +{HEADER}\n", out)
    assert "3d010204" not in out  # the header is enough
    assert ir.load(output).metadata_props[CACHE] == cache_text(
        "x: 3c010204", "relu_out: 3f000000", "first.weight: 3c000000"
    )


def test_a_quantised_model_is_refused(calib8: Shell, files: tuple[Path, Path, Path], tmp_path: Path) -> None:
    cache, model, output = files
    assert calib8("migrate", cache, model, "-o", output)[0] == 0
    code, _, err = calib8("migrate", cache, output, "-o", tmp_path / "twice.onnx")
    assert code == 2
    assert "the model was quantised by calib8 already: it carries the plan. Expected its FP32 original" in err
    other = ir.load(output)
    del other.metadata_props[PLAN]  # another tool's
    ir.save(other, tmp_path / "other.onnx")
    code, _, err = calib8("migrate", cache, tmp_path / "other.onnx", "-o", tmp_path / "twice.onnx")
    assert code == 2
    assert "If the model is quantised already, give its FP32 original" in err


def test_no_input_is_overwritten(calib8: Shell, files: tuple[Path, Path, Path]) -> None:
    cache, model, _ = files
    for output in (cache, model):
        before = output.read_bytes()
        code, _, err = calib8("migrate", cache, model, "-o", output)
        assert code == 2
        assert "would be overwritten" in err
        assert output.read_bytes() == before


@pytest.mark.parametrize(
    ("factor", "fits"), [(1, True), (900, True), (1 / 900, True), (2000, False), (1 / 2000, False)]
)
def test_ranges_that_data_contradict_are_refused(factor: float, fits: bool, tmp_path: Path) -> None:
    ir.save(tiny_mlp(), tmp_path / "model.onnx")
    x = np.random.default_rng(0).uniform(-2, 2, (64, 4)).astype(np.float32)
    names = [op.activation.name for op in weighted_ops(prepare(tiny_mlp()))]
    amax = {names[0]: float(np.abs(x[:16]).max()) * factor, names[1]: 3.0}
    (tmp_path / "c.cache").write_text(cache_of(amax, algorithm="MinMaxCalibration", version="101600").text)
    arguments = (tmp_path / "c.cache", tmp_path / "model.onnx", tmp_path / "int8.onnx")
    if fits:
        assert calib8.migrate(*arguments, data=[{"x": x}]).int8_ops == 2
    else:
        with pytest.raises(CacheError, match=rf"range of '{names[0]}' goes to .* reaches .*\(1 of 2 ranges are\)"):
            calib8.migrate(*arguments, data=[{"x": x}])
        assert calib8.migrate(*arguments).int8_ops == 2  # nothing else tells


def far_beyond_fp16(folder: Path) -> tuple[Path, Path, Path, list[dict[str, np.ndarray]]]:
    """A cache, x -> MatMul -> Mul(1e4) -> Mul(1e-4) -> MatMul -> y, where to write, and x up to 10."""
    g = GraphBuilder()
    x = g.input("x", ir.DataType.FLOAT, "batch", 4)
    large = g.op(
        "Mul", g.op("MatMul", x, g.constant("one", np.eye(4)), name="first"), g.constant("up", 1e4), name="large"
    )
    small = g.op("Mul", large, g.constant("down", 1e-4), name="small")
    calib8.save(g.model(y=g.op("MatMul", small, g.constant("w", np.eye(4)), name="last")), folder / "model.onnx")
    cache = cache_of({"x": 10.0, "small_out": 10.0}, algorithm="MinMaxCalibration", version="101600")
    (folder / "c.cache").write_text(cache.text)
    paths = folder / "c.cache", folder / "model.onnx", folder / "int8.onnx"
    return *paths, [{"x": np.linspace(-10, 10, 64, dtype=np.float32).reshape(16, 4)}]


@pytest.mark.parametrize(
    ("remainder", "with_data", "unheld", "large"),
    [
        ("fp16", True, ("large_out",), ir.DataType.FLOAT),
        ("fp16", False, None, ir.DataType.FLOAT16),
        ("fp32", True, (), ir.DataType.FLOAT),
        ("fp32", False, (), ir.DataType.FLOAT),
    ],
)
def test_what_the_data_shows_beyond_fp16_stays_fp32(remainder, with_data, unheld, large, tmp_path: Path) -> None:
    *paths, data = far_beyond_fp16(tmp_path)
    config = Migrate(remainder=remainder)
    assert calib8.migrate(*paths, config, data=data if with_data else None).unheld == unheld
    types = {node.name: node.outputs[0].dtype for node in calib8.load(paths[2]).graph}
    assert (types["large"], types["small"]) == (large, large)


def test_the_command_says_what_fp16_does_not_hold_or_that_nobody_looked(tmp_path: Path, calib8: Shell) -> None:
    cache, model, output, data = far_beyond_fp16(tmp_path)
    np.savez(tmp_path / "data.npz", **data[0])
    command = ["migrate", str(cache), str(model), "-o", str(output), "-q"]
    _, told, _ = calib8(*command)
    assert told.splitlines()[-1] == "nobody looked whether FP16 holds what is not INT8: some samples (--data) show it"
    _, told, _ = calib8(*command, "--data", str(tmp_path / "data.npz"))
    assert told.splitlines()[-1] == "      1  that FP16 does not hold, as the data shows, and that stay FP32: large_out"
    _, told, _ = calib8(*command, "--remainder", "fp32")
    assert "FP16" not in told
