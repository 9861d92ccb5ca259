"""Whatever has a weight is counted: what nobody quantises has a reason."""

import numpy as np
import onnx_ir as ir
import pytest

from calib8.errors import ModelError
from calib8.graph.builder import GraphBuilder
from calib8.graph.left_out import left_out, require_weighted_ops
from calib8.passes.prepare import prepare
from calib8.testing import tiny_convnet, tiny_encoder, tiny_mlp

FLOAT = ir.DataType.FLOAT


@pytest.mark.parametrize("model", [tiny_mlp(), tiny_encoder(), tiny_convnet()])
def test_nothing_is_left_out_of_models_that_are_quantised_whole(model: ir.Model) -> None:
    assert left_out(prepare(model)) == []


def branch(op: str, x: ir.Value) -> ir.Graph:
    w = ir.val(f"{op}.w", const_value=ir.tensor(np.ones((4, 4), np.float32)))
    out = ir.Value(name=f"{op}.out", type=ir.TensorType(FLOAT), shape=ir.Shape(["batch", 4]))
    return ir.Graph([], [out], nodes=[ir.node(op, [x, w], outputs=[out], name=f"{op} inside")], initializers=[w])


def test_every_kind_has_its_reason() -> None:
    g = GraphBuilder()
    x, image = g.input("x", FLOAT, "batch", 4), g.input("image", FLOAT, "batch", 3, 8, 8)
    left = g.op("Gemm", g.weight("l", 5, 4), g.input("t", FLOAT, 4, "batch"), name="left")
    up = g.op("ConvTranspose", image, g.weight("k", 3, 2, 2, 2), name="up", strides=[2, 2])
    batched = g.op("MatMul", g.input("b", FLOAT, 2, 3, 4), g.weight("w3", 2, 4, 5), name="batched")
    sequence = g.op("Reshape", x, g.constant("to", [-1, 1, 4], np.int64))
    lstm = g.op("LSTM", sequence, g.weight("lw", 1, 8, 4), g.weight("lr", 1, 8, 2), name="lstm", hidden_size=2)
    flag = g.op("Greater", g.op("ReduceSum", x, keepdims=0), g.constant("zero", 0.0))
    chosen = g.op("If", flag, name="choice", then_branch=branch("MatMul", x), else_branch=branch("Add", x))
    model = g.model(o1=left, o2=up, o3=batched, o4=lstm, o5=chosen)
    found = {op.name: (op.kind, op.input, op.reason.split(",")[0]) for op in left_out(prepare(model))}
    assert found == {
        "left": ("Gemm", "t", "its constant is on the left"),
        "up": ("ConvTranspose", "image", "TensorRT-RTX plans it in float whatever its scales are"),
        "batched": ("MatMul", "b", "its weight has axes along which TensorRT takes no scale per output channel"),
        "lstm": ("LSTM", "Reshape_3_out", "a recurrent layer has no INT8 form in ONNX or TensorRT"),
        "MatMul inside": ("MatMul", "x", "it is in a body of the If 'choice'"),
    }
    with pytest.raises(
        ModelError,
        match=r"nothing to quantise. It has 1 Gemm, as 'left': its constant is on .*; 1 MatMul, as 'MatMul inside': "
        r"it is in a body of the If 'choice', which is computed in float \(exported as a model of its own, that ",
    ):
        require_weighted_ops(prepare(model))


def test_numbers_in_attributes_are_weights_too() -> None:
    """Of trees as ai.onnx.ml has them since its version 5: tensors where there were lists."""
    trees = ir.node(
        "TreeEnsemble", [ir.val("x")], {"nodes_splits": ir.tensor(np.ones(3))}, domain="ai.onnx.ml", name="trees"
    )
    model = ir.Model(ir.Graph(trees.inputs, trees.outputs, nodes=[trees], opset_imports={"": 21}), ir_version=10)
    with pytest.raises(ModelError, match="It has 1 TreeEnsemble, as 'trees': an operator of ai.onnx.ml, which is not"):
        require_weighted_ops(model)


def test_a_model_that_is_quantised_already_is_told_so() -> None:
    g = GraphBuilder()
    x = g.input("x", ir.DataType.UINT8, "batch", 4)
    model = g.model(y=g.op("MatMulInteger", x, g.constant("w", np.ones((4, 3)), np.int8), name="integers"))
    with pytest.raises(
        ModelError, match="1 MatMulInteger, as 'integers': it is quantised already, in a form that Tens"
    ):
        require_weighted_ops(prepare(model))
