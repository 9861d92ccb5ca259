"""Convolutions that stay in float for latency, since no codes come of them at once."""

from collections.abc import Callable

import numpy as np
import onnx_ir as ir
import pytest

import calib8
from calib8.graph.builder import GraphBuilder
from calib8.graph.weighted import weighted_ops
from calib8.passes.prepare import prepare
from calib8.provenance import PLAN
from calib8.quantization.from_codes import FOLLOWED, GROUPED, not_to_codes
from calib8.quantization.policy import Findings, make_plan
from calib8.quantization.quant_plan import QuantPlan
from calib8.quantization.worth import not_faster

FLOAT = ir.DataType.FLOAT


class Net(GraphBuilder):
    """Convolutions of four channels."""

    def start(self) -> ir.Value:
        return self.conv(self.input("x", FLOAT, "batch", 4, 8, 8), "first")

    def conv(self, x: ir.Value, name: str, group: int = 1) -> ir.Value:
        weight = self.weight(f"{name}.w", 4, 4 // group, 3, 3)
        return self.op("Conv", x, weight, name=name, pads=[1, 1, 1, 1], group=group)


def swish(g: GraphBuilder, x: ir.Value) -> ir.Value:
    """x * clip(x + 3, 0, 6) / 6."""
    three, none, six = (g.constant(f"{x.name}.{number}", np.float32(number)) for number in (3, 0, 6))
    return g.op("Div", g.op("Mul", x, g.op("Clip", g.op("Add", x, three), none, six)), six)


Step = Callable[[GraphBuilder, ir.Value], ir.Value]
STEPS: dict[str, Step] = {
    "nothing": lambda g, x: x,
    "Relu": lambda g, x: g.op("Relu", x),
    "SiLU": lambda g, x: g.op("Mul", x, g.op("Sigmoid", x)),
    "swish": swish,
    "LeakyRelu": lambda g, x: g.op("LeakyRelu", x),
    "pooled LeakyRelu": lambda g, x: g.op("MaxPool", g.op("LeakyRelu", x), kernel_shape=[2, 2]),
}


def reasons(group: int, step: str, *, codes: bool) -> dict[str, str]:
    """Of Conv ``conv`` with ``step`` behind it, read by Conv ``last`` or by an average."""
    g = Net()
    x = STEPS[step](g, g.conv(g.start(), "conv", group))
    y = g.conv(x, "last") if codes else x
    return not_faster(prepare(g.model(y=g.op("GlobalAveragePool", y))))


@pytest.mark.parametrize("group", [4, 2])
@pytest.mark.parametrize("step", STEPS)
def test_a_grouped_convolution_is_int8_where_a_kernel_ends_in_codes(group: int, step: str) -> None:
    expected = {} if step in ("nothing", "Relu", "SiLU") else {"conv": GROUPED}
    assert reasons(group, step, codes=True) == expected
    assert reasons(group, step, codes=False) == {"conv": GROUPED}


@pytest.mark.parametrize("step", STEPS)
def test_another_is_int8_unless_its_activation_goes_on_in_float(step: str) -> None:
    assert reasons(1, step, codes=True) == {}
    assert reasons(1, step, codes=False) == ({} if step in ("nothing", "Relu", "SiLU") else {"conv": FOLLOWED})


def test_what_is_added_to_another_tensor_is_a_kernel_of_its_own_anyway() -> None:
    g = Net()
    x = g.start()
    y = g.op("Add", swish(g, g.conv(x, "conv")), x)
    assert not_faster(prepare(g.model(y=g.op("GlobalAveragePool", y)))) == {}


def chain() -> ir.Model:
    """first -> swish -> depthwise -> pointwise -> swish -> last."""
    g = Net()
    x = g.conv(swish(g, g.start()), "depthwise", group=4)
    x = swish(g, g.conv(x, "pointwise"))
    return prepare(g.model(y=g.op("GlobalAveragePool", g.conv(x, "last"))))


def test_leaving_out_one_leaves_those_in_front_without_codes() -> None:
    model = chain()
    assert not_to_codes(weighted_ops(model)) == {}
    without_last = [op for op in weighted_ops(model) if op.name != "last"]
    assert not_to_codes(without_last) == {"pointwise": FOLLOWED, "depthwise": GROUPED, "first": FOLLOWED}


def test_the_plan_goes_by_what_stays_int8_in_the_end() -> None:
    model, data = chain(), [{"x": np.random.default_rng(0).normal(size=(8, 4, 8, 8)).astype(np.float32)}]
    ranges = calib8.calibrate(model, data)

    def treated(**options: object) -> dict[str, tuple[str, str]]:
        config = calib8.Int8(**{"min_sqnr_db": 0, "treatment": "plain", "optimize": "latency", **options})
        quantised = calib8.quantize(model, ranges, config)
        plan = QuantPlan.model_validate_json(quantised.metadata_props[PLAN])
        return {op.node: (op.treatment, op.reason) for op in plan.ops}

    assert {name: treatment for name, (treatment, _) in treated().items()} == dict.fromkeys(
        ["first", "depthwise", "pointwise", "last"], "int8"
    )
    with_reader_in_float = treated(exclude=("pointwise",))
    assert with_reader_in_float["depthwise"] == ("float", GROUPED)
    assert with_reader_in_float["first"] == ("float", FOLLOWED)
    assert with_reader_in_float["last"][0] == "int8"
    assert treated(exclude=("pointwise",), optimize="accuracy")["depthwise"][0] == "int8"


def test_what_a_measurement_left_in_float_reads_no_codes() -> None:
    model = chain()
    ranges = calib8.calibrate(model, [{"x": np.ones((8, 4, 8, 8), np.float32)}])
    config = calib8.Int8(min_sqnr_db=0, treatment="plain", optimize="latency")
    plan = make_plan(model, ranges, config, measured=Findings(left_out={"pointwise": "it costs too much"}))
    assert {op.node: op.reason for op in plan.ops if op.treatment == "float"} == {
        "first": FOLLOWED,
        "depthwise": GROUPED,
        "pointwise": "it costs too much",
    }
