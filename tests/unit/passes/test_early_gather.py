"""Split channels, repeated in the weights before or in the codes behind."""

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from calib8.graph.builder import GraphBuilder
from calib8.graph.io import serialized
from calib8.passes.cpu_form import to_cpu_form
from calib8.passes.early_gather import early_gather
from calib8.passes.prepare import prepare
from calib8.testing import outputs_of

FLOAT = ir.DataType.FLOAT
WIDTH, COLUMNS = 4, 8
INDEX = [0, 1, 2, 3, 4, 5, 6, 7, 7]  # 9 of at most 1.125 x 8
X = {"x": np.random.default_rng(3).normal(size=(5, WIDTH)).astype(np.float32)}


def chain(
    *,
    index: list[int] = INDEX,
    multiplier: list[float] | None = None,
    read: str = "",
    gemm: str = "INT8",
    scale: object = 0.05,
) -> ir.Model:
    """x -> MatMul, Add (or Gemm) -> Relu -> Gather -> Mul -> Q -> DQ -> y; ``read`` names a value that is an output."""
    g = GraphBuilder(opset=21)
    random = np.random.default_rng(0)
    x = g.input("x", FLOAT, "batch", WIDTH)
    weight = g.weight("w", WIDTH, COLUMNS)
    bias = g.constant("b", random.normal(size=COLUMNS))
    if gemm != "float":
        numbers, transposed = random.integers(-127, 128, (WIDTH, COLUMNS)), gemm == "Gemm"
        codes = g.constant("codes", numbers.T if transposed else numbers, np.int8)
        steps = g.constant("s", random.uniform(0.01, 0.02, COLUMNS))
        weight = g.op("DequantizeLinear", codes, steps, axis=0 if transposed else 1)
    if gemm == "Gemm":
        product = added = g.op("Gemm", x, weight, bias, transB=1, alpha=0.5, beta=2.0, name="gemm")
    else:
        product = g.op("MatMul", x, weight, name="gemm")
        added = g.op("Add", product, bias, name="bias")
    rows = g.op("Relu", added, name="relu")
    value = g.op("Gather", rows, g.constant("index", index, np.int64), axis=-1, name="gather")
    if multiplier is not None:
        value = g.op("Mul", value, g.constant("m", multiplier), name="multiply")
    grid = g.constant("grid", scale), g.constant("zero", np.zeros(np.shape(scale)), np.int8)
    q = g.op("QuantizeLinear", value, *grid, name="quantise")
    outputs = {"y": g.op("DequantizeLinear", q, *grid)}
    extra = {"product": product, "rows": rows, "gathered": value}
    if read:
        outputs[read] = extra[read]
    return prepare(g.model(**outputs))


def kinds(model: ir.Model) -> list[str]:
    return [node.op_type for node in model.graph]


def moved(model: ir.Model) -> ir.Model:
    """``model`` after the pass, which changed no bit of any output."""
    before = outputs_of(model.clone(), X)
    early_gather(model)
    onnx.checker.check_model(ir.to_proto(model), full_check=True)
    after = outputs_of(model, X)
    for name, array in before.items():
        np.testing.assert_array_equal(after[name], array)
    return model


@pytest.mark.parametrize("multiplier", [None, [1, 2, 3, 4, 5, 6, 7, 0.5, 0.5], [1, 2, 3, 4, 5, 6, 7, 0.5, 0.25]])
def test_columns_of_the_gemm_are_repeated(multiplier: list[float] | None) -> None:
    model = moved(chain(multiplier=multiplier))
    assert "Gather" not in kinds(model)
    constants = {name: value.const_value.numpy() for name, value in model.graph.initializers.items()}
    codes = constants["codes_repeated"]
    assert codes.shape == (WIDTH, 9)
    np.testing.assert_array_equal(codes[:, 8], codes[:, 7])
    assert constants["s_repeated"].shape == constants["b_repeated"].shape == (9,)
    assert not {"codes", "s", "b", "index"} & constants.keys()


def test_of_a_gemm_its_rows_where_the_weight_is_transposed() -> None:
    model = moved(chain(gemm="Gemm"))
    assert kinds(model) == ["DequantizeLinear", "Gemm", "Relu", "QuantizeLinear", "DequantizeLinear"]
    constants = {name: value.const_value.numpy() for name, value in model.graph.initializers.items()}
    np.testing.assert_array_equal(constants["codes_repeated"][8], constants["codes_repeated"][7])
    assert constants["codes_repeated"].shape == (9, WIDTH)
    assert constants["s_repeated"].shape == constants["b_repeated"].shape == (9,)


BEHIND = {
    "no int8 weight": {"gemm": "float"},
    "too many columns": {"index": [*INDEX, 0]},
    "product read elsewhere": {"read": "product"},
    "rows read elsewhere": {"read": "rows"},
}


@pytest.mark.parametrize("case", BEHIND)
def test_else_codes_are_gathered(case: str) -> None:
    options = BEHIND[case]
    index = options.get("index", INDEX)
    factors = 1 / np.arange(1, COLUMNS + 1)
    model = moved(chain(multiplier=factors[index].tolist(), **options))
    order = kinds(model)
    assert order.index("Mul") < order.index("QuantizeLinear") < order.index("Gather")
    (gather,) = (node for node in model.graph if node.op_type == "Gather")
    assert gather.inputs[0].dtype == gather.outputs[0].dtype == ir.DataType.INT8
    assert model.graph.initializers["m_once"].const_value.numpy().tolist() == np.float32(factors).tolist()


def test_codes_are_gathered_without_a_multiplier() -> None:
    order = kinds(moved(chain(gemm="float")))
    assert order.index("QuantizeLinear") < order.index("Gather")


UNTOUCHED = {
    "copies of a channel differ": {"gemm": "float", "multiplier": [1, 1, 1, 1, 1, 1, 1, 1, 2]},
    "a scale per channel": {"gemm": "float", "scale": [0.05] * 9},
    "channels left out": {"index": [0, 1, 2, 3, 4, 5, 6, 6]},
    "gathered values read elsewhere": {"read": "gathered"},
}


@pytest.mark.parametrize("case", UNTOUCHED)
def test_what_does_not_fit_stays(case: str) -> None:
    model = chain(**UNTOUCHED[case])
    before = serialized(model)
    assert serialized(early_gather(model)) == before


@pytest.mark.parametrize("unsigned", [False, True])
def test_it_is_part_of_the_cpu_form(unsigned: bool) -> None:
    model = chain(gemm="float")
    expected = outputs_of(model.clone(), X)["y"]
    form = to_cpu_form(model, unsigned=unsigned)
    (gather,) = (node for node in form.graph if node.op_type == "Gather")
    assert gather.inputs[0].dtype == (ir.DataType.UINT8 if unsigned else ir.DataType.INT8)
    np.testing.assert_array_equal(outputs_of(form, X)["y"], expected)
