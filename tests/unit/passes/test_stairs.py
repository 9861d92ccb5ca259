"""Stairs: outliers behind a GELU on a grid that ends before they do. By hand, and in whole encoders."""

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from hypothesis import given
from hypothesis import strategies as st

import calib8
from calib8.graph.builder import GraphBuilder
from calib8.graph.values import drop_unread_node, op_of
from calib8.graph.weighted import weighted_ops
from calib8.numerics import gelu
from calib8.passes import stairs as module
from calib8.passes.condition import Conditioning
from calib8.passes.gelu import gelu_ops
from calib8.passes.prepare import prepare
from calib8.passes.stairs import fold_stairs, takes_stairs
from calib8.quantization import apply
from calib8.quantization.design import Channels, Recipe, design
from calib8.quantization.trials import on_grid
from calib8.testing import outputs_of, tiny_encoder, token_feeds

RAGGED = [3, 9, 17, 30] * 24


def steps(*offset: float, amax: float = 10.0) -> Conditioning:
    """Of one channel."""
    count = len(offset)
    return Conditioning(
        np.zeros(1, np.float32), np.zeros(count, np.int64), np.ones(count, np.float32), amax, np.float32(offset)
    )


def test_every_copy_ends_where_the_next_begins() -> None:
    got = on_grid(np.float32([[23], [12], [5], [0]]), steps(0, 10, 20))
    step = 10 / 127
    np.testing.assert_allclose(got[0], [10, 10, 3], atol=step)
    np.testing.assert_allclose(got[1], [10, 2, 0], atol=step)
    np.testing.assert_allclose(got[2:], [[5, 0, 0], [0, 0, 0]], atol=step)


@given(st.floats(-20, 95))
def test_the_sum_is_what_gelu_gave(z: float) -> None:
    offset = np.arange(0, 100, 8.0)
    x = gelu(np.float32([[z]]))
    got = on_grid(x, steps(*offset, amax=8.0)).sum()
    assert got == pytest.approx(float(x[0, 0]), abs=0.17 + len(offset) * 4 / 127)


def test_the_weight_of_all_copies_is_the_same_row() -> None:
    matrix = np.float32([[1, 2], [3, 4]])
    conditioning = Conditioning(
        np.zeros(2, np.float32), np.array([0, 1, 1]), np.ones(3, np.float32), 1.0, np.float32([0, 0, 1])
    )
    assert conditioning.weight(matrix).tolist() == [[1, 2], [3, 4], [3, 4]]
    assert conditioning.extra == 1


def test_the_farthest_channels_get_the_columns() -> None:
    """32 channels, 32 columns to add: of those that reach 90 and 30 among ones, in copies of equal height."""
    reach = np.ones(32, np.float32)
    reach[4], reach[9] = 90, 30
    found = design(Channels(-0.17 * np.ones(32, np.float32), 0 * reach, reach), reach, Recipe(stairs=0.04))
    copies = np.bincount(found.index)
    assert (copies[4], copies[9], copies.sum()) == (25, 9, 64)  # 90 / 25 = 3.6, 30 / 9 = 3.3
    assert found.amax == pytest.approx(3.6)
    assert found.offset[found.index == 9] == pytest.approx(3.6 * np.arange(9), rel=1e-6)
    assert not found.offset[found.index == 0].any()


@pytest.mark.parametrize(("channels", "columns"), [(32, 64), (100, 160), (127, 160), (1536, 1600), (3072, 3200)])
def test_columns_suit_tensor_cores_and_are_enough_for_stairs(channels: int, columns: int) -> None:
    reach = np.linspace(1, 90, channels, dtype=np.float32)
    found = design(Channels(-0.17 * np.ones_like(reach), 0 * reach, reach), reach, Recipe(stairs=0.04))
    assert len(found.index) == columns


@given(far=st.floats(0.3, 90), reach=st.sampled_from([0.5, 0.7, 1.0, 1.4]))
def test_rows_behind_gelu_tell_what_the_copies_will_see(far: float, reach: float) -> None:
    """Trials, GPTQ and the bias rest on it. With stairs 1 high a copy would be taken to be up to 20 steps off."""
    seen = np.float32([far, *np.full(31, 0.3)])
    found = design(Channels(-0.17 * np.ones(32, np.float32), 0 * seen, seen), seen, Recipe(stairs=0.04, reach=reach))
    copies, step = found.offset[found.index == 0], found.amax / 127
    z = np.linspace(-8, copies[-1] + found.amax - 1, 2000, dtype=np.float32)
    x = np.zeros((len(z), 32), np.float32)
    x[:, 0] = gelu(z)
    told = on_grid(x, found)[:, found.index == 0]
    real = np.clip(np.rint(gelu(z[:, None] - copies) / step), -128, 127) * step
    assert np.abs(told - real).max() < 1.01 * step
    assert np.abs(real.sum(axis=1) - x[:, 0]).max() < 0.21 + len(copies) * step / 2


def planted() -> ir.Model:
    """An encoder with three channels of 128 that fire thirty times as far behind GELU."""
    model = tiny_encoder(vocabulary=64, width=64, positions=32)
    up = next(node for node in model.graph if node.name == "up")
    weight = up.inputs[1].const_value.numpy().copy()
    weight[:, [3, 10, 40]] *= 30
    up.inputs[1].const_value = ir.tensor(weight)
    return model


@pytest.fixture(scope="module")
def quantised(tmp_path_factory: pytest.TempPathFactory) -> dict[str, ir.Model]:
    """The model in FP32, and quantised for latency, as it is and without ``fold_stairs``."""
    folder = tmp_path_factory.mktemp("stairs")
    ir.save(planted(), folder / "model.onnx")
    np.savez(folder / "data.npz", **token_feeds(*RAGGED, vocabulary=64))
    model = calib8.load(folder / "model.onnx")
    ranges = calib8.calibrate(model, folder / "data.npz")
    config = calib8.Int8(optimize="latency", remainder="fp32", min_sqnr_db=0, max_damage=1)
    found = {"fp32": model, "folded": calib8.quantize(model, ranges, config, data=folder / "data.npz")}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(apply, "fold_stairs", lambda model: 0)
        found["chain"] = calib8.quantize(model, ranges, config, data=folder / "data.npz")
    return found


def test_nothing_stands_before_q_and_the_gemm_has_more_columns(quantised: dict[str, ir.Model]) -> None:
    model = quantised["folded"]
    onnx.checker.check_model(ir.to_proto(model), full_check=True)
    (act,) = [node for node in model.graph if node.op_type == "Gelu"]
    assert [reader.op_type for reader, _ in act.outputs[0].uses()] == ["QuantizeLinear"]
    add = act.inputs[0].producer()
    assert (add.op_type, add.inputs[0].producer().name) == ("Add", "up")
    assert act.outputs[0].shape[-1] == 160
    assert not [node for node in model.graph if module.STAIRS in node.meta]
    plan = calib8.QuantPlan.model_validate_json(model.metadata_props["calib8.plan"])
    (down,) = [op for op in plan.ops if op.node == "down"]
    assert (down.treatment, down.extra_columns) == ("int8", 32)
    assert "stairs" in down.recipe


def test_folded_it_computes_what_the_chain_does(quantised: dict[str, ir.Model]) -> None:
    feeds = token_feeds(5, 12, 30, vocabulary=64, seed=3)
    chain, folded, fp32 = (
        outputs_of(quantised[name], feeds)["last_hidden_state"] for name in ("chain", "folded", "fp32")
    )
    kinds = [node.op_type for node in quantised["chain"].graph if module.STAIRS in node.meta]
    assert kinds == ["Gather", "Sub"]
    cosine = float((folded * fp32).sum() / np.linalg.norm(folded) / np.linalg.norm(fp32))
    assert cosine > 0.999
    # the same codes, but for a few that lie between two
    assert np.quantile(np.abs(chain - folded), 0.99) < 1e-2 < np.abs(fp32).max()


def act_of(model: ir.Model) -> ir.Value:
    return next(node for node in model.graph if node.op_type == "Gelu").outputs[0]


def test_what_takes_stairs_and_what_does_not() -> None:
    model = prepare(planted())
    down = next(op for op in weighted_ops(model) if op.name == "down")
    assert not takes_stairs(down.activation, 128, [down.node])  # written out, GELU is no op
    assert gelu_ops(model, "tanh") == 1
    assert takes_stairs(act_of(model), 128, [down.node])
    assert not takes_stairs(act_of(model), 64, [down.node])
    assert not takes_stairs(act_of(model), 128, [])  # what stays in float keeps GELU, and the GEMM its columns
    other = ir.node("Abs", [act_of(model)], name="other")
    model.graph.append(other)
    assert not takes_stairs(act_of(model), 128, [down.node])  # it would get more channels, too
    model.graph.remove(other, safe=True)
    assert takes_stairs(act_of(model), 128, [down.node])
    model.graph.outputs.append(act_of(model))
    assert not takes_stairs(act_of(model), 128, [down.node])


def test_columns_that_are_computed_cannot_be_repeated() -> None:
    g = GraphBuilder(opset=20)
    x, y = (g.input(name, ir.DataType.FLOAT, "batch", 4, 4) for name in "xy")
    act = g.op("Gelu", g.op("Add", g.op("MatMul", x, y), g.weight("b", 4)))
    model = prepare(g.model(out=g.op("MatMul", act, g.weight("w", 4, 2))))
    assert not takes_stairs(act_of(model), 4, [list(model.graph)[-1]])  # a Gather would be left in front of Q


@st.composite
def feed_forwards(draw: st.DrawFn) -> tuple[ir.Model, bool]:
    """x -> MatMul or Gemm of any form -> bias of any form -> Gelu -> MatMul; and whether a constant bias is there."""
    g = GraphBuilder(opset=20)
    gemm, transposed, codes = draw(st.booleans()), draw(st.integers(0, 1)), draw(st.booleans())
    transposed *= gemm
    shape = (3, 2) if transposed else (2, 3)
    x = g.input("x", ir.DataType.FLOAT, "batch", *(() if gemm else ("sequence",)), 2)
    weight = g.weight("w", *shape)
    if codes:
        numbers = g.random.integers(-127, 128, shape)
        scale = g.constant("s", [0.01, 0.02, 0.03])
        weight = g.op("DequantizeLinear", g.constant("c", numbers, np.int8), scale, axis=1 - transposed)
    bias = draw(st.sampled_from([None, 0.5, [0.5], [1, -1, 2], [[1, -1, 2]]]))
    given = [] if bias is None else [g.constant("b", bias)]
    if gemm:
        alpha, beta = draw(st.sampled_from([1.0, 0.5])), draw(st.sampled_from([1.0, 2.0]))
        z = g.op("Gemm", x, weight, *given, name="up", transB=transposed, alpha=alpha, beta=beta)
    else:
        beta, z = 1.0, g.op("MatMul", x, weight, name="up")
        z = g.op("Add", *draw(st.permutations([z, *given]))) if given else z
    act = g.op("Gelu", z, approximate=draw(st.sampled_from(["none", "tanh"])))
    down = g.op("MatMul", act, g.weight("v", 3, 2), name="down")
    return g.model(y=down), bias is not None and beta == 1


@given(made=feed_forwards(), copies=st.tuples(*[st.integers(1, 3)] * 3), known=st.booleans())
def test_whatever_gemm_and_bias_are_in_front_folding_changes_no_number(
    made: tuple[ir.Model, bool], copies: tuple[int, ...], known: bool
) -> None:
    model, biased = made
    model = prepare(model)
    index = np.repeat(np.arange(3), copies)
    offset = np.float32([4 * copy for count in copies for copy in range(count)])
    act, down = act_of(model), list(model.graph)[-1]
    assert takes_stairs(act, 3, [down]) is ("c" not in model.graph.initializers)  # which is asked of the float model
    constants = module.Constants(model.graph)
    rows = down.inputs[1].const_value.numpy()[index]
    down.replace_input_with(0, module.stairs(constants, act, index, offset))
    down.replace_input_with(1, constants.new("wide", rows))
    drop_unread_node(model.graph, act)
    size = (5, 2) if len(model.graph.inputs[0].shape) == 2 else (2, 3, 2)
    x = {"x": np.float32(np.random.default_rng(0).normal(size=size) * 8)}
    expected = outputs_of(model, x)["y"]
    for node in model.graph:
        node.outputs[0].shape = node.outputs[0].shape if known or node is down else None
    assert fold_stairs(model) == biased
    assert [op_of(node) for node in model.graph if module.STAIRS in node.meta] == ([] if biased else ["Sub"])
    onnx.checker.check_model(ir.to_proto(model), full_check=True)
    np.testing.assert_allclose(outputs_of(model, x)["y"], expected, rtol=1e-5, atol=1e-5)


def test_without_a_bias_the_offset_is_subtracted() -> None:
    model = ir.from_proto(
        onnx.parser.parse_model(
            """
            <ir_version: 9, opset_import: ["": 20]>
            g (float[N, 2] x) => (float[N, 2] y)
            <float[2, 2] w = {1, 0, 0, 1}, float[2, 2] v = {1, 0, 0, 1}> {
                z = MatMul(x, w)
                a = Gelu(z)
                y = MatMul(a, v)
            }
            """
        )
    )
    model = prepare(model)
    constants = module.Constants(model.graph)
    value = module.stairs(constants, act_of(model), np.array([0, 0, 1]), np.float32([0, 4, 0]))
    reader = next(node for node in model.graph if node.op_type == "MatMul" and node.inputs[1].name == "v")
    reader.replace_input_with(0, value)
    reader.replace_input_with(1, constants.new("wide", np.float32([[1, 0], [1, 0], [0, 1]])))
    old = next(node for node in model.graph if node.op_type == "Gelu" and node.outputs[0] is not value)
    model.graph.remove(old, safe=True)
    x = {"x": np.float32([[9, 1]])}
    expected = outputs_of(model, x)["y"]
    assert fold_stairs(model) == 0
    assert [node.op_type for node in model.graph] == ["MatMul", "Sub", "Gelu", "MatMul"]
    np.testing.assert_allclose(outputs_of(model, x)["y"], expected, rtol=1e-6)
    assert expected[0, 0] == pytest.approx(9 + 5, abs=1e-3)
