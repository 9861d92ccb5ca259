"""Conditioned models become real TensorRT-RTX engines: everything in INT8, Q, K and V still one GEMM."""

import json
from functools import partial
from io import StringIO
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
from rich.console import Console

import calib8
from calib8.engine.quantized import Chain, conditioning_chains
from calib8.errors import RangesError
from calib8.graph.builder import GraphBuilder
from calib8.passes import quantize_embedding
from calib8.passes.host_loops import replace_host_loops
from calib8.passes.prepare import prepare
from calib8.quantization.design import Recipe
from calib8.quantization.quantize import quantize_file
from calib8.quantization.solve import solve
from calib8.quantization.worth import BEHIND_ATTENTION
from calib8.report import contents
from calib8.report.terminal import render
from calib8.testing import outputs_of, tiny_encoder, token_feeds

pytest.importorskip("tensorrt_rtx", reason="needs pip install tensorrt-rtx")

#: Wide enough that 4 % of the FFN's 1,024 channels are 32 columns.
SIZES = {"vocabulary": 64, "width": 512, "positions": 32, "heads": 8}
BUILD = calib8.Build(targets=("sm75", "sm86"), shapes=("input_ids:1x1:4x16:8x32",))


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """An encoder whose GELU output has channels that are huge on few tokens, as MPNet's has."""
    encoder = tiny_encoder(**SIZES)
    up, down = (encoder.graph.initializers[name] for name in ("up.weight", "down.weight"))
    for value, index in ((up, (slice(None), [5, 99])), (down, ([5, 99], slice(None)))):
        array = value.const_value.numpy().copy()
        array[index] *= 30 if value is up else 0.2
        value.const_value = ir.tensor(array, name=value.name)
    ir.save(encoder, tmp_path / "model.onnx")
    return tmp_path / "model.onnx"


@pytest.fixture
def data(tmp_path: Path) -> Path:
    np.savez(tmp_path / "data.npz", **token_feeds(*([3, 9, 17, 30] * 12), vocabulary=64))
    return tmp_path / "data.npz"


def config(**int8: object) -> calib8.Convert:
    return calib8.Convert(quantize=calib8.Int8(**int8), build=None, verify=calib8.Verify(min_cosine=0))


def test_every_conditioned_op_runs_in_int8(
    model: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    everything = (Recipe(smooth=0.5, shift=True, split=0.04),)
    monkeypatch.setattr("calib8.quantization.apply.solve", partial(solve, recipes=everything))
    changed = config(optimize="accuracy").model_copy(update={"build": BUILD})
    report = calib8.convert(model, data, tmp_path / "tiny", changed)
    plan = json.loads((tmp_path / "tiny" / "plan.json").read_text())["ops"]
    down = next(op for op in plan if op["node"] == "down")
    assert down["recipe"].partition(" + reach")[0] == "smooth 0.5 + shift + split 4%"
    assert down["extra_columns"] == 32
    kinds = [node.op_type for node in ir.load(tmp_path / "tiny" / "model.int8.onnx").graph]
    own = [node.op_type for node in replace_host_loops(prepare(ir.load(model))).graph]
    assert {"Sub", "Gather", "Mul"} <= set(kinds)
    assert report.int8_ops == report.weighted_ops == 6
    assert [engine.target for engine in report.engines] == ["sm75", "sm86"]
    for engine in report.engines:
        assert (engine.plan.covered, engine.plan.expected, engine.plan.missing) == (6, 6, ())
        assert engine.plan.planned_kernels == 4  # q, k and v are one GEMM
        assert engine.plan.conditioning == sum(kinds.count(kind) - own.count(kind) for kind in ("Sub", "Gather", "Mul"))
        assert engine.plan.unfused == ()
        # a Gather behind a normalisation costs a kernel
        assert engine.plan.divided == ("norm0", "norm1")
    assert report.accuracy.cosine_mean > 0.999


def test_optimised_for_latency_nothing_stands_before_q(model: Path, data: Path, tmp_path: Path) -> None:
    changed = config(optimize="latency", max_damage=2).model_copy(update={"build": BUILD})
    report = calib8.convert(model, data, tmp_path / "fast", changed)
    plan = json.loads((tmp_path / "fast" / "plan.json").read_text())["ops"]
    floats = {op["node"]: op["reason"] for op in plan if op["treatment"] == "float"}
    assert floats == {"o": BEHIND_ATTENTION}
    assert {op["node"]: op["extra_columns"] for op in plan if op["extra_columns"]} == {"down": 32}  # outliers: stairs
    assert not [op["node"] for op in plan if op["side_channels"]]
    quantised = ir.load(tmp_path / "fast" / "model.int8.onnx")
    assert conditioning_chains(quantised) == []
    assert {before_q(node) for node in quantised.graph if node.op_type == "QuantizeLinear"} == {
        "LayerNormalization",  # in front of q, k, v and up
        "Gelu",  # in front of down
    }
    assert json.loads((tmp_path / "fast" / "plan.json").read_text())["gelu"]["approximate"] == "tanh"
    by_default = calib8.convert(model, data, tmp_path / "default", config(max_damage=2))
    assert 1 - report.accuracy.cosine_mean < 2e-4
    assert 1 - by_default.accuracy.cosine_mean < 1e-4
    assert conditioning_chains(ir.load(tmp_path / "default" / "model.int8.onnx"))
    assert (report.int8_ops, by_default.int8_ops) == (5, 6)
    for engine in report.engines:
        assert (engine.plan.covered, engine.plan.expected, engine.plan.missing) == (5, 5, ())
        # q, k and v are one GEMM
        assert (engine.plan.planned_kernels, engine.plan.conditioning, engine.plan.divided) == (3, 0, ())


def test_gemms_and_a_gelu_by_tanh_become_as_few_kernels(tmp_path: Path) -> None:
    """As PyTorch exports rows of two axes: Gemm with transB, and GELU written out."""
    g = GraphBuilder()
    x = g.input("x", ir.DataType.FLOAT, "batch", 256)
    weight = g.random.normal(size=(512, 256)) / 16
    weight[[5, 99]] *= 30
    up = g.op("Gemm", x, g.constant("w", weight), g.constant("b", g.random.normal(size=512)), transB=1, name="up")
    cubed = g.op("Mul", g.op("Pow", up, g.constant("three", 3)), g.constant("k", 0.044715))
    inner = g.op("Mul", g.op("Add", up, cubed), g.constant("root", np.sqrt(2 / np.pi)))
    plus = g.op("Add", g.op("Tanh", inner), g.constant("one", 1))
    act = g.op("Mul", g.op("Mul", up, plus), g.constant("half", 0.5))
    ir.save(g.model(y=g.op("Gemm", act, g.weight("v", 512, 64), name="down")), tmp_path / "rows.onnx")
    rows = np.random.default_rng(0).normal(size=(160, 256)).astype(np.float32)
    changed = config(optimize="latency", max_damage=2, min_sqnr_db=0)
    build = calib8.Build(targets=("sm86",), shapes=("x:1x256:4x256:8x256",))
    report = calib8.convert(
        tmp_path / "rows.onnx", {"x": rows}, tmp_path / "rows", changed.model_copy(update={"build": build})
    )
    quantised = ir.load(tmp_path / "rows" / "model.int8.onnx")
    *_, down = [node for node in quantised.graph if node.op_type == "QuantizeLinear"]
    assert before_q(down) == "Gelu"
    assert not [node.name for node in quantised.graph if node.op_type in ("Gather", "Sub", "Tanh")]
    (engine,) = report.engines
    assert (engine.plan.covered, engine.plan.planned_kernels, engine.plan.missing) == (2, 2, ())
    assert report.accuracy.cosine_mean > 0.999


def before_q(node: ir.Node) -> str:
    """What gives a QuantizeLinear its input, but for a Cast."""
    while node.op_type in ("QuantizeLinear", "Cast"):
        node = node.inputs[0].producer()
    return node.op_type


def test_conditioning_pays(model: Path, data: Path, tmp_path: Path) -> None:
    auto = calib8.convert(model, data, tmp_path / "auto", config())
    plain = calib8.convert(model, data, tmp_path / "plain", config(treatment="plain", min_sqnr_db=0, max_damage=2))
    assert 1 - auto.accuracy.cosine_mean < (1 - plain.accuracy.cosine_mean) / 4


def test_a_second_run_quantises_again_only_where_options_changed(
    model: Path, data: Path, tmp_path: Path, notes
) -> None:
    first = calib8.convert(model, data, tmp_path / "tiny", config())
    second = calib8.convert(model, data, tmp_path / "tiny", config(), progress=notes)
    assert any("INT8 model is up to date: reused" in message for message in notes.messages)
    assert not {"calibrate", "quantize"} & {step[0] for step in notes.steps}
    assert second.int8.sha256 == first.int8.sha256
    assert second.int8_ops == first.int8_ops == 6
    third = calib8.convert(model, data, tmp_path / "tiny", config(treatment="plain"), progress=notes)
    assert any("quantising again: the options changed" in message for message in notes.messages)
    assert third.int8.sha256 != first.int8.sha256


def test_the_library_conditions_where_it_is_given_the_data(model: Path, data: Path, tmp_path: Path) -> None:
    ranges = calib8.calibrate(model, data, output=tmp_path / "ranges.json")
    loaded = calib8.load(model)
    with_data = calib8.quantize(loaded, ranges, data=data)
    without = calib8.quantize(loaded, ranges)
    assert any(node.op_type == "Sub" and node.name.endswith("shift_Sub") for node in with_data.graph)
    assert not any(node.name.endswith("shift_Sub") for node in without.graph)
    decided = quantize_file(model, tmp_path / "ranges.json", tmp_path / "int8.onnx", data=data)
    assert all(op.recipe for op in decided.ops)
    feeds = token_feeds(5, 11, vocabulary=64)
    got = outputs_of(calib8.load(tmp_path / "int8.onnx"), feeds)["last_hidden_state"]
    np.testing.assert_array_equal(got, outputs_of(with_data, feeds)["last_hidden_state"])


def test_ranges_of_a_retrained_model_are_refused(model: Path, data: Path, tmp_path: Path) -> None:
    calib8.calibrate(model, data, output=tmp_path / "ranges.json")
    retrained = ir.load(model)
    value = retrained.graph.initializers["o.weight"]
    value.const_value = ir.tensor(value.const_value.numpy() * 2, name="o.weight")
    ir.save(retrained, model)
    with pytest.raises(RangesError, match="ranges were made from another model: its SHA-256 begins with"):
        quantize_file(model, tmp_path / "ranges.json", tmp_path / "int8.onnx")
    assert not (tmp_path / "int8.onnx").exists()


def test_int8_embeddings_are_the_default_and_build(
    model: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(quantize_embedding, "MINIMUM_BYTES", 64 * 512 * 4)  # the words, not the positions
    changed = config().model_copy(update={"build": BUILD.model_copy(update={"targets": ("sm86",)})})
    report = calib8.convert(model, data, tmp_path / "tiny", changed)
    graph = ir.load(tmp_path / "tiny" / "model.int8.onnx").graph
    assert graph.initializers["words_quantized"].dtype == ir.DataType.INT8
    assert "positions_quantized" not in graph.initializers
    assert report.engines[0].plan.missing == ()
    assert report.accuracy.cosine_mean > 0.999


def test_a_pre_ln_norm_takes_its_conditioning_in_and_is_one_kernel(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("calib8.quantization.apply.solve", partial(solve, recipes=(Recipe(smooth=0.5, shift=True),)))
    g = GraphBuilder()
    x = g.input("x", ir.DataType.FLOAT, "batch", 64)
    gamma, beta = (g.constant(name, g.random.normal(size=64)) for name in ("gamma", "beta"))
    normal = g.op("LayerNormalization", x, gamma, beta, name="norm")
    up = g.op("Relu", g.op("MatMul", normal, g.weight("up.weight", 64, 128), name="up"))
    down = g.op("MatMul", up, g.weight("down.weight", 128, 64), name="down")
    ir.save(g.model(y=g.op("Add", down, x)), tmp_path / "model.onnx")
    np.savez(tmp_path / "data.npz", x=np.random.default_rng(3).normal(size=(500, 64)).astype(np.float32))
    build = calib8.Build(targets=("sm75", "sm120"), shapes=("x:1x64:64x64:512x64",))
    changed = config(min_sqnr_db=0, optimize="accuracy").model_copy(update={"build": build})
    report = calib8.convert(tmp_path / "model.onnx", tmp_path / "data.npz", tmp_path / "out", changed)
    for engine in report.engines:
        plan = engine.plan
        # only the Sub and Mul behind the Relu are left
        assert (plan.covered, plan.expected, plan.conditioning, plan.unfused, plan.divided) == (2, 2, 2, (), ())
    console = Console(width=80, record=True, file=StringIO())
    console.print(render(*contents.conversion(report).sections))
    assert "\nconditioning: 2 of 2 nodes before Q fused\n" in console.export_text()


def test_chains_are_told_from_the_models_own_arithmetic() -> None:
    """GELU's last Mul has a number, not a vector; a vector that two read conditions nothing."""
    g = GraphBuilder()
    scale, zero = g.constant("scale", 0.1), g.constant("zero", 0, np.int8)
    x = g.op("Relu", g.input("x", ir.DataType.FLOAT, "batch", 4), name="relu")
    vector, index = g.constant("vector", np.ones(4)), g.constant("index", [0, 1, 1], np.int64)
    read_twice = g.op("Mul", x, vector, name="twice")
    full = g.op("Gather", g.op("Sub", read_twice, vector, name="sub"), index, name="gather", axis=-1)
    full = g.op("Mul", full, g.constant("three", np.ones(3)), name="mul")
    of = {"full": full, "half": g.op("Mul", x, g.constant("half", 0.5)), "two": read_twice}
    of["rows"] = g.op("Gather", x, index, name="rows", axis=0)
    of["cast"] = g.op("Mul", g.op("Cast", x, to=int(ir.DataType.FLOAT), name="to_float"), vector, name="smooth")
    outputs = {name: g.op("QuantizeLinear", value, scale, zero, name=f"q_{name}") for name, value in of.items()}
    assert conditioning_chains(g.model(**outputs)) == [
        Chain("twice", False, "", ("sub", "gather", "mul"), "q_full"),
        Chain("relu", False, "to_float", ("smooth",), "q_cast"),
    ]
