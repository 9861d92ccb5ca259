import numpy as np
import onnx_ir as ir
import pytest

from calib8.graph.builder import GraphBuilder
from calib8.graph.site import Site, matrix_of, sites, weight_of
from calib8.graph.weighted import weighted_ops
from calib8.passes.prepare import prepare
from calib8.testing import tiny_convnet, tiny_mlp


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


def conv(weight: np.ndarray, **attributes: object) -> ir.Model:
    """A Conv called ``op``."""
    g = GraphBuilder()
    channels = weight.shape[1] * int(attributes.get("group", 1))
    x = g.input("x", ir.DataType.FLOAT, "batch", channels, *[9] * (weight.ndim - 2))
    return prepare(g.model(y=g.op("Conv", x, g.constant("w", weight), name="op", **attributes)))


def test_rows_of_a_conv_are_channels_times_taps() -> None:
    weight = np.arange(12, dtype=np.float32).reshape(2, 3, 2)  # 2 outputs, 3 channels, 2 taps
    (site,) = sites(conv(weight))
    assert site.matrix().tolist() == [[0, 6], [1, 7], [2, 8], [3, 9], [4, 10], [5, 11]]
    assert (site.taps, site.groups) == (2, 1)


def test_blocks_of_a_grouped_conv_lie_below_one_another() -> None:
    # 4 outputs in 2 groups, of 1 channel each, 2 taps: outputs 0 and 1 read channel 0, outputs 2 and 3 channel 1
    weight = np.arange(8, dtype=np.float32).reshape(4, 1, 2)
    (site,) = sites(conv(weight, group=2))
    assert site.matrix().tolist() == [[0, 2], [1, 3], [4, 6], [5, 7]]
    assert (site.taps, site.groups) == (2, 2)


@pytest.mark.parametrize(
    ("model", "groups"),
    [
        (gemm(np.arange(6).reshape(2, 3), transB=0), 1),
        (gemm(np.arange(6).reshape(3, 2), transB=1), 1),
        (conv(np.arange(24).reshape(2, 3, 4)), 1),
        (conv(np.arange(216).reshape(4, 6, 3, 3)), 1),
        (conv(np.arange(48).reshape(2, 3, 2, 2, 2)), 1),
        (conv(np.arange(72).reshape(4, 2, 3, 3), group=2), 2),
        (conv(np.arange(72).reshape(8, 1, 3, 3), group=4), 4),
        (conv(np.arange(36).reshape(4, 1, 3, 3), group=4), 4),
    ],
    ids=["gemm", "gemm transposed", "1-D", "2-D", "3-D", "grouped", "two per channel", "depthwise"],
)
def test_a_matrix_goes_back_to_where_it_came_from(model: ir.Model, groups: int) -> None:
    (op,) = weighted_ops(model)
    matrix = matrix_of(op, groups)
    assert matrix.ndim == 2
    assert matrix.shape[1] == op.channels // groups
    codes = weight_of(op, matrix.astype(np.int8), groups)
    np.testing.assert_array_equal(codes, op.weight_array().astype(np.int8))
    assert codes.flags.c_contiguous


def test_a_split_channel_comes_with_all_its_taps() -> None:
    (op,) = weighted_ops(conv(np.arange(8).reshape(2, 2, 2)))
    matrix = matrix_of(op).astype(np.int8)[[0, 1, 2, 3, 2, 3]]  # channel 1 twice
    assert weight_of(op, matrix).tolist() == [[[0, 1], [2, 3], [2, 3]], [[4, 5], [6, 7], [6, 7]]]


@pytest.mark.parametrize("padding", ["SAME_UPPER", "SAME_LOWER"])
def test_padding_that_depends_on_the_size_is_no_site(padding: str) -> None:
    assert sites(conv(np.ones((2, 3, 3)), auto_pad=padding)) == []
    assert len(sites(conv(np.ones((2, 3, 3)), auto_pad="VALID"))) == 1


def test_convs_share_a_site_if_they_see_the_same() -> None:
    g = GraphBuilder()
    x = g.input("x", ir.DataType.FLOAT, "batch", 4, 8, 8)
    shapes = {"a": (2, 4, 3, 3), "b": (5, 4, 3, 3), "narrow": (2, 4, 1, 1), "strided": (2, 4, 3, 3)}
    shapes |= {"grouped": (4, 2, 3, 3), "alike": (4, 2, 3, 3)}
    more = {"strided": {"strides": [2, 2]}, "grouped": {"group": 2}, "alike": {"group": 2}}
    outputs = {n: g.op("Conv", x, g.weight(f"{n}.w", *s), name=n, **more.get(n, {})) for n, s in shapes.items()}
    model = prepare(g.model(**{f"y_{name}": value for name, value in outputs.items()}))
    assert list(names(model).values()) == [["a", "b"], ["narrow"], ["strided"], ["grouped"], ["alike"]]
    assert sites(model)[0].matrix().shape == (36, 7)


def test_a_matmul_that_reads_what_a_conv_reads_is_no_site() -> None:
    """Its channels are the last axis, the Conv's are axis 1: ranges by channel cannot be both."""
    g = GraphBuilder()
    x = g.input("x", ir.DataType.FLOAT, "batch", 4, 4)
    model = prepare(
        g.model(
            y=g.op("Conv", x, g.weight("c.w", 2, 4, 1), name="c"), z=g.op("MatMul", x, g.weight("m.w", 4, 2), name="m")
        )
    )
    assert list(names(model).values()) == [["c"]]


def view_of(weight: np.ndarray, **attributes: object) -> tuple[Site, bool]:
    (site,) = sites(conv(weight, **attributes))
    return site, site.view is None


def test_a_view_is_needed_where_rows_are_more_than_positions() -> None:
    assert view_of(np.ones((2, 3, 1, 1)))[1]
    assert view_of(np.ones((2, 3, 1, 1)), strides=[2, 2])[1]
    padded, none = view_of(np.ones((2, 3, 1, 1)), pads=[0, 0, 1, 0])
    assert not none
    assert padded.view == padded.window
    wide, none = view_of(np.ones((2, 3, 1, 2)))
    assert not none
    assert wide.view == wide.window
    (dense,) = sites(gemm(np.ones((2, 3))))
    assert (dense.view, dense.taps, dense.groups) == (None, 1, 1)
