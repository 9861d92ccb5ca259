"""What FP16 does not hold, by numbers that were seen, and what stays FP32 because of it."""

import numpy as np
import onnx_ir as ir
import pytest

from calib8.graph.builder import GraphBuilder
from calib8.passes.half import to_half
from calib8.passes.prepare import prepare
from calib8.passes.reach import Reach, mark_reach, observable, unfit_for_half

FLOAT, HALF = ir.DataType.FLOAT, ir.DataType.FLOAT16


def of(*names: str, low: float = -1.0, high: float = 1.0, **others: tuple[float, float]) -> dict[str, Reach]:
    seen = dict.fromkeys(names, (low, high)) | others
    return {name: Reach(minimum=low, maximum=high) for name, (low, high) in seen.items()}


def scaled() -> ir.Model:
    """x -> MatMul -> Mul(1000) -> Relu -> Transpose -> Mul(0.001) -> y"""
    g = GraphBuilder()
    x = g.input("x", FLOAT, "batch", 4)
    large = g.op("Mul", g.op("MatMul", x, g.weight("w", 4, 4), name="product"), g.constant("k", 1000.0), name="large")
    moved = g.op("Transpose", g.op("Relu", large, name="relu"), name="moved", perm=[0, 1])
    return prepare(g.model(y=g.op("Mul", moved, g.constant("back", 0.001), name="small")))


def types(model: ir.Model) -> dict[str, ir.DataType | None]:
    return {node.name: node.outputs[0].dtype for node in model.graph if node.op_type != "Cast"}


def test_what_keeps_to_the_range_of_what_it_reads_is_not_observed() -> None:
    assert [value.name for value in observable(scaled())] == ["x", "product_out", "large_out", "y"]


@pytest.mark.parametrize(("high", "kept"), [(32752.0, False), (32753.0, True), (-1.0, False)])
def test_half_of_what_fp16_holds_is_the_limit(high: float, kept: bool) -> None:
    seen = of("x", "product_out", "y", large_out=(-2.0, high))
    assert list(unfit_for_half(scaled(), seen)) == ["large_out"] * kept


def test_what_makes_reads_or_moves_such_a_tensor_stays_fp32_and_nothing_else() -> None:
    model = scaled()
    found = types(to_half(mark_reach(model, of(large_out=(0, 1e6)))))
    assert found == {"product": HALF, "large": FLOAT, "relu": FLOAT, "moved": FLOAT, "small": FLOAT}
    assert types(to_half(mark_reach(scaled(), {})))["large"] == HALF


def test_a_matmul_too_and_what_a_pass_added_behind_it() -> None:
    model = mark_reach(scaled(), of(product_out=(-1e6, 1e6)))
    product = next(node for node in model.graph if node.name == "product")
    readers = list(product.outputs[0].uses())
    added = ir.node("Add", [product.outputs[0], product.outputs[0]], name="added")
    added.outputs[0].dtype, added.outputs[0].name = FLOAT, "added_out"
    model.graph.insert_after(product, added)
    for reader, index in readers:
        reader.replace_input_with(index, added.outputs[0])
    found = types(to_half(model))
    assert (found["product"], found["added"], found["large"]) == (FLOAT, FLOAT, FLOAT)
    assert found["relu"] == HALF  # what it reads was observed, and fits


def logarithm(*, eps: float = 1e-6) -> ir.Model:
    """x -> MatMul -> mel -> Add(eps) -> Log -> y"""
    g = GraphBuilder()
    mel = g.op("MatMul", g.input("x", FLOAT, "batch", 4), g.weight("w", 4, 4), name="mel")
    return prepare(g.model(y=g.op("Log", g.op("Add", mel, g.constant("eps", eps), name="sum"), name="log")))


def test_of_a_logarithm_the_smallest_value_counts_and_what_it_is_a_sum_of() -> None:
    seen = of("x", mel_out=(0.0, 90.0), sum_out=(1e-6, 90.0), y=(-14.0, 4.5))
    assert list(unfit_for_half(logarithm(), seen)) == ["mel_out", "sum_out"]
    assert not unfit_for_half(logarithm(), seen | of(sum_out=(2.0**-14, 90.0)))  # then nothing before it matters
    assert list(unfit_for_half(logarithm(), seen | of(mel_out=(-3.0, 90.0)))) == ["sum_out"]


def test_elsewhere_small_values_matter_only_where_there_are_no_others() -> None:
    seen = of("x", "product_out", "y", large_out=(1e-9, 1.0))
    assert not unfit_for_half(scaled(), seen)
    assert list(unfit_for_half(scaled(), seen | of(large_out=(1e-9, 6e-5)))) == ["large_out"]
    assert not unfit_for_half(scaled(), seen | of(large_out=(0.0, 0.0)))


def test_masks_on_the_way_to_a_softmax_may_be_as_low_as_they_like_and_nothing_as_high() -> None:
    g = GraphBuilder()
    x, bias = g.input("x", FLOAT, "batch", 4), g.input("bias", FLOAT, "batch", 4)
    model = prepare(g.model(y=g.op("Softmax", g.op("Add", x, bias, name="scores"), axis=-1)))
    low = of("x", bias=(-3.4e38, 0.0), scores_out=(-3.4e38, 9.0))
    assert not unfit_for_half(model, low)
    assert list(unfit_for_half(model, low | of(scores_out=(-3.4e38, 4e4)))) == ["scores_out"]


def test_bf16_reaches_as_far_as_fp32_and_keeps_nothing() -> None:
    model = mark_reach(scaled(), of(large_out=(0, 1e6)))
    assert types(to_half(model, ir.DataType.BFLOAT16))["large"] == ir.DataType.BFLOAT16


def test_nothing_is_marked_where_nothing_was_seen() -> None:
    assert types(to_half(scaled()))["large"] == HALF
    assert np.isfinite(Reach(minimum=-1, maximum=1).maximum)
