import numpy as np
import onnx_ir as ir
import pytest

from calib8.graph.site import matrix_of, sites
from calib8.passes.prepare import prepare
from calib8.testing import GraphBuilder, tiny_convnet, tiny_mlp


def names(model: ir.Model, chosen: set[str] | None = None) -> dict[str, list[str]]:
    return {site.name: [op.name for op in site.ops] for site in sites(model, chosen)}


def gemm(array: np.ndarray, **attributes: float) -> ir.Model:
    g = GraphBuilder()
    x = g.input("x", ir.DataType.FLOAT, "batch", 2)
    return prepare(g.model(y=g.op("Gemm", x, g.constant("w", array), g.constant("b", [1, 2, 3]), **attributes)))


def test_readers_of_one_tensor_share_a_site(encoder: ir.Model) -> None:
    expected = [["q", "k", "v"], ["o"], ["up"], ["down"]]
    assert list(names(encoder).values()) == expected
    assert sites(encoder)[0].activation.name == "norm0_out"


def test_chosen(encoder: ir.Model) -> None:
    assert list(names(encoder, {"v", "q", "down"}).values()) == [["q", "v"], ["down"]]
    assert sites(encoder, set()) == []


def test_conv_is_a_site() -> None:
    assert list(names(prepare(tiny_convnet())).values()) == [["conv"], ["head"]]
    assert list(names(prepare(tiny_mlp())).values()) == [["first"], ["second"]]


@pytest.mark.parametrize("scaling", [{"alpha": 2.0}, {"beta": 0.5}])
def test_scaled_gemm_is_no_site(scaling: dict[str, float]) -> None:
    weight = np.ones((2, 3))
    assert sites(gemm(weight, **scaling)) == []
    assert len(sites(gemm(weight, alpha=1.0, beta=1.0))) == 1


def test_matrices_have_a_row_per_input_channel() -> None:
    weight = np.arange(6, dtype=np.float32).reshape(2, 3)
    for model in (gemm(weight, transB=0), gemm(weight.T, transB=1)):
        (site,) = sites(model)
        assert matrix_of(site.ops[0]).tolist() == [[0, 1, 2], [3, 4, 5]]


def test_weights_stand_side_by_side() -> None:
    g = GraphBuilder()
    x = g.input("x", ir.DataType.FLOAT, "batch", 2)
    a = g.op("MatMul", x, g.constant("a.weight", [[1], [2]]), name="a")
    b = g.op("Gemm", x, g.constant("b.weight", [[3, 4], [5, 6]]), name="b", transB=1)
    (site,) = sites(prepare(g.model(y=a, z=b)))
    assert site.matrix().tolist() == [[1, 3, 5], [2, 4, 6]]
    assert site.matrix().dtype == np.float32
