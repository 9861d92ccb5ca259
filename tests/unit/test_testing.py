import numpy as np
import onnx
import onnx_ir as ir
import pytest

from calib8.graph.builder import GraphBuilder
from calib8.testing import assert_models_equal, outputs_of, tiny_convnet, tiny_encoder, tiny_mlp, token_feeds

X = {"x": np.float32([[1, 2]])}


@pytest.mark.parametrize("make", [tiny_mlp, tiny_convnet, tiny_encoder])
def test_tiny_models_are_valid_and_reproducible(make) -> None:
    proto = ir.to_proto(make())
    onnx.checker.check_model(proto, full_check=True)
    assert proto.SerializeToString() == ir.to_proto(make()).SerializeToString()


def test_padding_does_not_change_an_encoder() -> None:
    short, padded = token_feeds(3), token_feeds(3, 9)
    for name, array in short.items():
        padded[name][0, :3] = array[0]
    expected = outputs_of(tiny_encoder(), short)["last_hidden_state"][0]
    np.testing.assert_allclose(outputs_of(tiny_encoder(), padded)["last_hidden_state"][0, :3], expected, atol=1e-6)


def scaled(factor: float, op_type: str = "Mul", output: str = "y") -> ir.Model:
    g = GraphBuilder()
    y = g.op(op_type, g.input("x", ir.DataType.FLOAT, "batch", 2), g.constant("c", factor))
    return g.model(**{output: y})


def test_equal_within_the_tolerance() -> None:
    assert_models_equal(scaled(1), scaled(1.01), X, atol=0.03)  # 2 x 0.01 = 0.02


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (scaled(1.02), "Mismatched elements: 1 / 2"),  # 1 x 0.02 is within, 2 x 0.02 = 0.04 is not
        (scaled(np.nan), "nan location mismatch"),
        (scaled(1, "Equal"), "output 'y' is .*'float32'.* and .*'bool'"),
        (scaled(1, output="z"), r"outputs \['y'\] and \['z'\]"),
    ],
    ids=["numbers", "nan", "type", "name"],
)
def test_unequal_models_fail(other: ir.Model, message: str) -> None:
    with pytest.raises(AssertionError, match=message):
        assert_models_equal(scaled(1), other, X, atol=0.03)


def test_nan_equals_nothing() -> None:
    with pytest.raises(AssertionError, match="output 'y' of the first model is not finite"):
        assert_models_equal(scaled(np.nan), scaled(np.nan), X, atol=1)
