"""What sizes are computed from, and whether those can differ between inputs of the same shapes."""

import numpy as np
import onnx_ir as ir
import pytest
from speech import speech_model

from calib8.graph.builder import GraphBuilder
from calib8.graph.value_sizes import deciding, depend_on_values
from calib8.graph.weighted import weighted_ops
from calib8.passes.prepare import prepare
from calib8.testing import tiny_convnet, tiny_encoder, tiny_mlp


def test_what_a_length_is_computed_from_decides() -> None:
    model = prepare(speech_model())
    assert [op.name for op in weighted_ops(model) if op.node in deciding(model.graph)] == ["encoder", "durations"]
    assert depend_on_values(model)


@pytest.mark.parametrize("model", [tiny_mlp(), tiny_encoder(), tiny_convnet()])
def test_sizes_that_follow_from_shapes_do_not(model: ir.Model) -> None:
    model = prepare(model)
    assert not {op.node for op in weighted_ops(model)} & deciding(model.graph)
    assert not depend_on_values(model)


@pytest.mark.parametrize("counted", ["values", "shape"])
def test_what_is_counted_depends_on_values_but_nothing_decides_on_it(counted: str) -> None:
    """Detectors end so: were all in front of it kept in float, nothing would be left."""
    g = GraphBuilder()
    scores = g.op("MatMul", g.input("x", ir.DataType.FLOAT, "batch", 4), g.weight("w", 4, 4), name="scores")
    ones = g.op("ConstantOfShape", g.op("Shape", scores), value=ir.tensor(np.ones(1, np.float32)))
    kept = g.op("NonZero", g.op("Relu", scores) if counted == "values" else ones)
    model = prepare(g.model(y=kept))
    assert depend_on_values(model) == (counted == "values")
    assert not {op.node for op in weighted_ops(model)} & deciding(model.graph)
