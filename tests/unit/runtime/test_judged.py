"""A CPU with the arithmetic of an engine: FP16 rounded behind every op, and NaN traced to where it comes from."""

import numpy as np
import onnx_ir as ir
import pytest
from onnx.reference import ReferenceEvaluator

from calib8.graph.builder import GraphBuilder
from calib8.graph.weighted import weighted_ops
from calib8.passes.half import to_half
from calib8.passes.insert_qdq import insert_qdq
from calib8.passes.prepare import prepare
from calib8.runtime.cpu import open_cpu
from calib8.runtime.judged import open_as_built, open_reference
from calib8.testing import tiny_convnet, tiny_encoder, tiny_mlp, token_feeds

FLOAT = ir.DataType.FLOAT
FEEDS = {
    tiny_mlp: {"x": np.random.default_rng(1).normal(size=(9, 4)).astype(np.float32)},
    tiny_convnet: {"image": np.random.default_rng(0).normal(size=(2, 3, 8, 8)).astype(np.float32)},
    tiny_encoder: token_feeds(3, 7),
}


def chain(*factors: float) -> ir.Model:
    """x -> Mul by each factor, in FP16 -> y"""
    g = GraphBuilder()
    value = g.input("x", FLOAT, "batch", 2)
    for number, factor in enumerate(factors):
        value = g.op("Mul", value, g.constant(f"k{number}", factor), name=f"mul{number}")
    return to_half(prepare(g.model(y=value)))


def test_beyond_65504_is_infinite_though_the_next_op_would_bring_it_back() -> None:
    x = np.float32([[64, 66]])
    with open_as_built(chain(1000.0, 0.001)) as opened:
        (got,) = opened(x=x).values()
        assert opened.computes_fp16
        assert opened.description.endswith("on CPU, FP16 rounded behind every op as in an engine")
        assert opened.not_finite_from({"x": x}) == "node 'mul0' (Mul), tensor 'mul0_out'"
        assert opened.not_finite_from({"x": x[:, [0, 0]]}) is None
    assert got.tolist() == [[np.float16(64000) * np.float16(0.001), np.inf]]
    with open_cpu(chain(1000.0, 0.001)) as fast:
        assert np.isfinite(fast(x=x)["y"]).all()


def test_every_op_rounds() -> None:
    # 1 + 2^-11 is 1 in FP16, twice over; in FP32 the two factors would show
    with open_as_built(chain(1 + 2**-10, 1 - 2**-10, 1 - 2**-10)) as opened:
        (got,) = opened(x=np.float32([[1, 3]])).values()
    expected = [np.float16(x) for x in (1, 3)]
    for factor in (1 + 2**-10, 1 - 2**-10, 1 - 2**-10):
        expected = [np.float16(x * np.float16(factor)) for x in expected]
    assert got.tolist() == [expected]


@pytest.mark.parametrize("make", FEEDS)
@pytest.mark.parametrize("qdq", [False, True])
def test_as_onnx_defines_the_fp16_model(make, qdq: bool) -> None:
    model = prepare(make())
    ops = weighted_ops(model) if qdq else []
    to_half(insert_qdq(model, ops, {op.activation.name: 4.0 for op in ops}))
    proto = ir.to_proto(model)
    proto.opset_import[0].version = 21  # the evaluator has no older DequantizeLinear
    expected = ReferenceEvaluator(proto).run(None, FEEDS[make])[0]
    with open_as_built(model) as opened:
        (got,) = opened.run(FEEDS[make]).values()
    # ONNX's definition sums in FP16, an engine and this in FP32; codes next to a step may fall to either side
    np.testing.assert_allclose(got, expected, rtol=0, atol=0.06 if qdq else 0.01)


def test_a_model_without_fp16_is_opened_as_for_use() -> None:
    model = prepare(tiny_mlp())
    with open_as_built(model) as judged, open_cpu(model) as used:
        assert (judged.description, judged.computes_fp16) == (used.description, False)


def test_nan_is_traced_past_infinity_that_is_meant() -> None:
    g = GraphBuilder()
    x = g.input("x", FLOAT, "batch", 2)
    masked = g.op("Add", x, g.constant("mask", [0.0, -np.inf]), name="masked")
    root = g.op("Sqrt", g.op("Softmax", masked, axis=-1, name="soft"), name="root")
    model = prepare(g.model(y=g.op("Log", g.op("Sub", root, g.constant("two", 2.0)), name="broken"), z=masked))
    with open_reference(model) as opened:
        assert opened.not_finite_from({"x": np.float32([[1, 2]])}) == "node 'broken' (Log), tensor 'y'"
