"""Which kernels a model has, and what they move and multiply, counted by hand."""

from collections import Counter

import numpy as np
import onnx_ir as ir
import pytest
from wide_encoder import encoder

from calib8.cost.kernels import Kernel, kernels_of
from calib8.cost.sizes import shapes_for
from calib8.errors import ModelError
from calib8.graph.builder import GraphBuilder
from calib8.graph.weighted import weighted_ops
from calib8.passes.prepare import prepare
from calib8.precision import Precision
from calib8.testing import tiny_convnet, tiny_encoder, tiny_mlp

FLOAT = ir.DataType.FLOAT


def kernels(model: ir.Model, *shape: int, coded: tuple[str, ...] = (), precision: Precision = "int8") -> list[Kernel]:
    model = prepare(model)
    fed = {value.name or "": shape for value in model.graph.inputs if not value.is_initializer()}
    return kernels_of(model, shapes_for(model, fed), set(coded), precision)


def groups(found: list[Kernel]) -> dict[str, int]:
    return Counter(kernel.group for kernel in found)


def test_bias_and_relu_are_in_the_product() -> None:
    """x [8, 4], weight [4, 8], bias [8], hidden [8, 8]; then weight [3, 8], bias [3], y [8, 3]: FP16 of two bytes."""
    first = Kernel("FP16 GEMM", moved=2 * (32 + 40 + 64), constant=2 * 40, operations=2 * 8 * 8 * 4)
    second = Kernel("FP16 GEMM", moved=2 * (64 + 27 + 24), constant=2 * 27, operations=2 * 8 * 3 * 8)
    assert kernels(tiny_mlp(), 8, 4) == [first, second]


def test_codes_are_of_a_byte_and_q_is_in_what_writes() -> None:
    first = Kernel("INT8 GEMM", 32 + 32 + 2 * 8 + 64, constant=32 + 2 * 8, operations=512, precision="int8")
    second = Kernel("INT8 GEMM", 64 + 24 + 2 * 3 + 2 * 24, constant=24 + 2 * 3, operations=384, precision="int8")
    q = Kernel("Q/DQ alone", 32 * (2 + 1))  # of the input, which no kernel writes
    assert kernels(tiny_mlp(), 8, 4, coded=("first", "second")) == [first, second, q]
    half, whole, _ = kernels(tiny_mlp(), 8, 4, coded=("first",))
    assert half.moved == first.moved + 64  # its reader wants two bytes
    assert whole == kernels(tiny_mlp(), 8, 4)[1]


def test_what_two_kinds_read_is_written_twice() -> None:
    g = GraphBuilder()
    x = g.op("Relu", g.input("x", FLOAT, "batch", 4), name="x_relu")
    y, z = (g.op("MatMul", x, g.weight(name, 4, 4), name=name) for name in "ab")
    model = g.model(y=y, z=z)
    relu, *_ = kernels(model, 8, 4, coded=("a",))
    assert relu == Kernel("pointwise/reduce", 32 * 2 + 32 * (1 + 2))
    assert groups(kernels(model, 8, 4, coded=("a",))) == {"pointwise/reduce": 1, "INT8 GEMM": 1, "FP16 GEMM": 1}
    assert groups(kernels(model, 8, 4)) == {"pointwise/reduce": 1, "FP16 GEMM": 1}  # one GEMM of both
    assert kernels(model, 8, 4)[1].operations == 2 * (2 * 8 * 4 * 4)


def test_an_encoder() -> None:
    """Positions, two tables, their sum and the norm are one kernel; Q, K and V; attention; mask; two more norms."""
    found = kernels(tiny_encoder(), 2, 4)
    by_group = {"embedding": 1, "pointwise/reduce": 1, "FP16 GEMM": 4, "attention/softmax": 1, "norm": 2}
    assert groups(found) == by_group
    attention = next(kernel for kernel in found if kernel.group == "attention/softmax")
    # Q, K, V and the result [2, 4, 8], and a mask [2, 1, 1, 4] with the root of the width of heads: in FP16.
    assert (attention.moved, attention.operations) == (2 * (4 * 64 + 8 + 1), 2 * (2 * 2 * 2 * 4 * 4 * 4))
    norm = next(kernel for kernel in found if kernel.group == "norm")
    assert norm.moved == 2 * (64 + 64 + 8 + 8 + 64)  # what was computed, the residual, scale and bias; the sum


def test_codes_of_attention_need_a_kernel_to_be_in_order() -> None:
    names = ("q", "k", "v", "o", "up", "down")
    found = kernels(tiny_encoder(), 2, 4, coded=names)
    assert found[-1] == Kernel("copy/reformat", 64 * 2)
    assert "copy/reformat" not in groups(
        kernels(tiny_encoder(), 2, 4, coded=tuple(name for name in names if name != "o"))
    )
    assert "copy/reformat" not in groups(kernels(tiny_encoder(), 2, 4, coded=names, precision="fp8"))


def test_of_fp8_gelu_is_a_kernel_of_its_own() -> None:
    int8 = kernels(tiny_encoder(), 2, 4, coded=("up", "down"))
    fp8 = kernels(tiny_encoder(), 2, 4, coded=("up", "down"), precision="fp8")
    assert (len(fp8), groups(fp8)["FP8 GEMM"]) == (len(int8) + 1, 2)


def test_mpnet_as_tensorrt_planned_it() -> None:
    """The plan of 10.6 (tests/engine/test_groups.py) has these, and some that count, split or copy."""
    wanted = {"FP16 GEMM": 48, "attention/softmax": 12, "norm": 24, "embedding": 1, "pointwise/reduce": 1}
    found = kernels(encoder(), 32, 128)
    assert groups(found) == wanted
    products = sum(kernel.operations for kernel in found if kernel.group == "FP16 GEMM")
    assert products == 2 * 32 * 128 * 12 * (4 * 768 * 768 + 2 * 768 * 3072)


def test_convolutions() -> None:
    conv, pool, head = kernels(tiny_convnet(), 2, 3, 8, 8)
    weights = 4 * 27
    assert conv == Kernel("FP16 conv", 2 * (2 * 192 + weights + 2 * 256), 2 * weights, 2 * 2 * 256 * 27)
    assert pool == Kernel("other", 2 * (2 * 256 + 2 * 4))
    assert head.operations == 2 * 2 * 2 * 4


def test_groups_and_a_residual_of_a_convolution() -> None:
    g = GraphBuilder()
    x = g.input("x", FLOAT, "batch", 8, 4, 4)
    deep = g.op("Conv", x, g.weight("w", 8, 1, 3, 3), name="deep", group=8, pads=[1, 1, 1, 1])
    found = kernels(g.model(y=g.op("Relu", g.op("Add", deep, x))), 1, 8, 4, 4)
    assert found == [Kernel("FP16 conv", 2 * (128 + 72 + 128), 2 * 72, 2 * 128 * 9)]  # x is read once, for both


def test_a_transposed_convolution() -> None:
    g = GraphBuilder()
    x = g.input("x", FLOAT, "batch", 2, 4, 4)
    y = g.op("ConvTranspose", x, g.weight("w", 2, 3, 2, 2), strides=[2, 2])
    (found,) = kernels(g.model(y=y), 1, 2, 4, 4)
    assert found == Kernel("FP16 conv", 2 * (32 + 24 + 192), 2 * 24, 2 * 32 * 12)


def test_a_softmax_by_itself_is_no_attention() -> None:
    g = GraphBuilder()
    x = g.op("MatMul", g.input("x", FLOAT, "batch", 4), g.weight("w", 4, 6), name="w_of")
    y = g.op("MatMul", g.op("Softmax", x, axis=-1), g.weight("v", 6, 2), name="v_of")
    assert groups(kernels(g.model(y=y), 8, 4)) == {"FP16 GEMM": 2, "pointwise/reduce": 1}


@pytest.mark.parametrize("more", [False, True])
def test_what_somebody_else_reads_too_is_not_fused(more: bool) -> None:
    g = GraphBuilder()
    x = g.op("MatMul", g.input("x", FLOAT, "batch", 4), g.weight("w", 4, 4), name="first")
    outputs = {"y": g.op("MatMul", g.op("Relu", x), g.weight("v", 4, 4), name="second")}
    if more:
        outputs["z"] = g.op("MatMul", x, g.weight("u", 4, 4), name="third")
    alone = {"FP16 GEMM": 3, "pointwise/reduce": 1} if more else {"FP16 GEMM": 2}
    assert groups(kernels(g.model(**outputs), 8, 4)) == alone


@pytest.mark.parametrize("batch", [1, 3])
def test_sizes_that_a_slice_reads_are_known(batch: int) -> None:
    model = encoder(layers=1)
    found = shapes_for(model, {"input_ids": (batch, 5), "attention_mask": (batch, 5)})
    softmax = next(node for node in model.graph if node.op_type == "Softmax")
    assert found[softmax.outputs[0].name or ""] == (batch, 12, 5, 5)
    assert not [value for node in model.graph for value in node.outputs if value.name not in found]


def test_what_no_rule_knows_is_refused() -> None:
    g = GraphBuilder()
    x = g.op("MatMul", g.input("x", FLOAT, "batch", 4), g.weight("w", 4, 4), name="first")
    model = g.model(y=g.op("Einsum", x, g.weight("v", 4, 4), name="sum", equation="ij,jk->ki"))
    with pytest.raises(ModelError, match=r"node 'sum' is a Einsum, and nothing is known of the kernels.*Measure it"):
        kernels(model, 8, 4)


def test_a_shape_that_nothing_tells_is_refused() -> None:
    g = GraphBuilder()
    x = g.input("x", FLOAT, "batch", 4)
    rows = g.op(
        "Compress",
        x,
        g.op("Greater", g.op("ReduceSum", x, g.constant("a", [1], np.int64), keepdims=0), g.constant("zero", 0.0)),
        axis=0,
    )
    model = g.model(y=g.op("MatMul", rows, g.weight("w", 4, 4), name="first"))
    assert len(weighted_ops(prepare(model))) == 1
    with pytest.raises(ModelError, match="nothing tells the shape of .*, an operand of 'first'.*Export the model"):
        kernels(model, 8, 4)
