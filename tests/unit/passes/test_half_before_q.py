"""What Q reads beside others is stored in FP16: where it applies, and that nothing but its rounding changes."""

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from calib8.graph.weighted import weighted_ops
from calib8.passes.half import to_half
from calib8.passes.half_before_q import half_before_q
from calib8.passes.insert_qdq import insert_qdq
from calib8.passes.prepare import prepare
from calib8.passes.qdq_nodes import Constants
from calib8.passes.reach import Reach, mark_reach
from calib8.precision import FP8, INT8, Grid
from calib8.testing import outputs_of, tiny_encoder, token_feeds

FEEDS = token_feeds(3, 9, 13)


def quantised(*, half: bool = True, amax: float = 4.0, grid: Grid = INT8, beyond: bool = False) -> ir.Model:
    """Of an encoder whose norms both a residual and Q read; ``beyond``: FP16 does not hold what they give."""
    model = prepare(tiny_encoder())
    ops = [op for op in weighted_ops(model) if op.name in ("q", "k", "v", "up")]
    far = Reach(minimum=-40000, maximum=40000)
    mark_reach(model, {op.activation.name: far for op in ops} if beyond else {})
    insert_qdq(model, ops, {op.activation.name: amax for op in ops}, grid)
    return to_half(model) if half else model


def chains(model: ir.Model) -> list[list[str]]:
    """Behind each value that Q reads: what computes it, two nodes back."""
    found = []
    for node in model.graph:
        if node.op_type == "QuantizeLinear":
            last = node.inputs[0].producer()
            before = last.inputs[0].producer()
            found.append([before.op_type, last.op_type])
    return found


def test_q_and_the_residual_read_one_fp16() -> None:
    model = quantised()
    expected = outputs_of(model, FEEDS)["last_hidden_state"]
    assert all(last == "LayerNormalization" for _, last in chains(model))
    assert half_before_q(model)
    onnx.checker.check_model(ir.to_proto(model), full_check=True)
    assert chains(model) == [["Cast", "Cast"]] * len(chains(model))
    for node in model.graph:
        if node.op_type == "LayerNormalization" and not node.outputs[0].is_graph_output():
            readers = [reader for reader, _ in node.outputs[0].uses()]
            assert [(reader.op_type, reader.outputs[0].dtype) for reader in readers] == [("Cast", ir.DataType.FLOAT16)]
    got = outputs_of(model, FEEDS)["last_hidden_state"]
    np.testing.assert_allclose(got, expected, atol=0.05)  # a step of 4 / 127 in few places
    assert half_before_q(model) is False  # once is enough


@pytest.mark.parametrize("grid", [INT8, FP8])
@pytest.mark.parametrize(("amax", "rewritten"), [(4090.0, True), (4100.0, False)])
def test_only_what_fp16_holds_with_room(amax: float, rewritten: bool, grid: Grid) -> None:
    assert half_before_q(quantised(amax=amax, grid=grid)) is rewritten  # sixteen times 4,094 is what FP16 ends at


@pytest.mark.parametrize(("step", "rewritten"), [(2.0**-20, True), (2.0**-21, False)])
def test_only_steps_that_fp16_does_not_round_away(step: float, rewritten: bool) -> None:
    assert half_before_q(quantised(amax=127 * step)) is rewritten
    assert half_before_q(quantised(amax=448 * 2**9 * step, grid=FP8)) is rewritten  # below its normal numbers


def test_a_grid_that_clips_does_not_bring_what_is_beyond_fp16_into_it() -> None:
    """A percentile may have cut 40,000 to 4; the residual still reads 40,000."""
    assert half_before_q(quantised(beyond=True)) is False


READ_AS_FP32 = {
    "an integer": ("ArgMax", {"axis": -1}),
    "a norm": ("ReduceL2", {"axes": [-1]}),
    "an angle": ("Sin", {}),
}


@pytest.mark.parametrize("case", READ_AS_FP32)
def test_who_reads_it_as_fp32_gets_fp32(case: str) -> None:
    model = quantised()
    op_type, attributes = READ_AS_FP32[case]
    norms = [node for node in model.graph if node.op_type == "LayerNormalization"][:2]
    for number, norm in enumerate(norms):
        other = ir.node(op_type, [norm.outputs[0]], attributes, name=f"other{number}")
        other.outputs[0].name = f"other{number}_out"
        model.graph.append(other)
    assert half_before_q(model) is False


def smoothed(inverse: float) -> ir.Model:
    """Two norms, whose residuals read them times ``inverse``."""
    model = quantised()
    constants = Constants(model.graph)
    for norm in norms_of(model):
        (cast,) = [reader for reader, _ in norm.outputs[0].uses() if reader.op_type == "Cast"]
        factors = constants.new("inverse", np.full(8, inverse, np.float32))
        undo = ir.node("Mul", [norm.outputs[0], factors], name=constants.free("undo"))
        undo.outputs[0].name, undo.outputs[0].type = f"{undo.name}_out", norm.outputs[0].type
        model.graph.insert_before(cast, undo)
        cast.replace_input_with(0, undo.outputs[0])
    return model


def norms_of(model: ir.Model) -> list[ir.Node]:
    return [node for node in model.graph if node.op_type == "LayerNormalization"][:2]


def test_what_smoothing_took_out_is_given_back_in_fp16() -> None:
    model = smoothed(1.1)
    expected = outputs_of(model, FEEDS)["last_hidden_state"]
    assert half_before_q(model)
    onnx.checker.check_model(ir.to_proto(model), full_check=True)
    assert chains(model) == [["Cast", "Cast"]] * 2
    for norm in norms_of(model):
        ((half, _),) = norm.outputs[0].uses()
        readers = {reader.op_type: reader for reader, _ in half.outputs[0].uses()}
        assert sorted(readers) == ["Cast", "Mul"]
        assert [value.dtype for value in (*readers["Mul"].inputs, readers["Mul"].outputs[0])] == [
            ir.DataType.FLOAT16
        ] * 3
        assert [reader.op_type for reader, _ in readers["Mul"].outputs[0].uses()] == ["Add"]
    np.testing.assert_allclose(outputs_of(model, FEEDS)["last_hidden_state"], expected, atol=0.05)


@pytest.mark.parametrize("inverse", [2.0**-15, 70_000.0])
def test_a_factor_that_fp16_does_not_hold_keeps_fp32(inverse: float) -> None:
    assert half_before_q(smoothed(inverse)) is False


def test_an_fp32_model_keeps_its_fp32() -> None:
    model = quantised(half=False)
    before = ir.to_proto(model).SerializeToString()
    assert half_before_q(model) is False
    assert ir.to_proto(model).SerializeToString() == before


@pytest.mark.parametrize("other", ["nobody", "shape", "output", "output in FP16"])
def test_what_nothing_else_reads_or_is_an_output_stays(other: str) -> None:
    model = onnx.parser.parse_model(
        """
        <ir_version: 8, opset_import: ["": 17]>
        g (float[N, 4] x) => (float16[N, 4] y, float[N, 4] z)
        <float s = {0.1}, int8 zero = {0}> {
            a = Neg(x)
            codes = QuantizeLinear(a, s, zero)
            back = DequantizeLinear(codes, s, zero)
            y = Cast<to = 10>(back)
            z = Identity(x)
        }
        """
    )
    if other == "shape":
        model.graph.node.append(onnx.helper.make_node("Shape", ["a"], ["size"]))
        model.graph.output.append(onnx.helper.make_tensor_value_info("size", onnx.TensorProto.INT64, [2]))
    if other == "output":
        model.graph.output.append(onnx.helper.make_tensor_value_info("a", onnx.TensorProto.FLOAT, ["N", 4]))
    if other == "output in FP16":  # it is to keep its name
        model.graph.node.append(onnx.helper.make_node("Cast", ["a"], ["half"], to=onnx.TensorProto.FLOAT16))
        model.graph.output.append(onnx.helper.make_tensor_value_info("half", onnx.TensorProto.FLOAT16, ["N", 4]))
    loaded = prepare(ir.from_proto(model))
    assert half_before_q(loaded) is False


@pytest.mark.parametrize("read", ["a", "scaled"])
def test_what_the_body_of_an_if_reads_stays(read: str) -> None:
    model = onnx.parser.parse_model(
        """
        <ir_version: 8, opset_import: ["": 17]>
        g (float[N, 4] x, bool c) => (float16[N, 4] y)
        <float s = {0.1}, int8 zero = {0}, float two = {2}> {
            a = Neg(x)
            scaled = Mul(a, two)
            codes = QuantizeLinear(a, s, zero)
            back = DequantizeLinear(codes, s, zero)
            chosen = If (c) <
                then_branch = one () => (float16[N, 4] u) { u = Cast<to = 10>(READ) },
                else_branch = two () => (float16[N, 4] w) { w = Cast<to = 10>(x) }
            >
            half = Cast<to = 10>(back)
            y = Add(half, chosen)
        }
        """.replace("READ", read)
    )
    assert half_before_q(prepare(ir.from_proto(model))) is False
