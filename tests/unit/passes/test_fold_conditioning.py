from functools import partial

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from calib8.calibration import one_pass
from calib8.calibration.config import Calibrate
from calib8.calibration.origin import origin_of
from calib8.data.sources import Batches
from calib8.graph.builder import GraphBuilder
from calib8.graph.dataset import dataset_for
from calib8.passes.fold_conditioning import fold_conditioning
from calib8.passes.half import CONDITIONING, to_half
from calib8.passes.prepare import prepare
from calib8.quantization import apply
from calib8.quantization.case import Case
from calib8.quantization.config import Int8
from calib8.quantization.design import Recipe
from calib8.quantization.solve import ROWS, solve
from calib8.testing import outputs_of

WIDTH = 4
GAMMA, BETA = np.float32([1, 2, 3, 4]), np.float32([0.5, -1, 0, 8])
SHIFT, MULTIPLIER = np.float32([1, 0, -2, 3]), np.float32([2, 0.5, 4, 1])
INDEX = np.array([0, 1, 1, 2, 3])
ALL = {"shift": SHIFT, "multiplier": MULTIPLIER}
X = np.float32([[1, 2, 3, 4], [-3, 0, 7, 0.5]])
PRODUCERS = ("norm", "norm without beta", "mul", "add", "mul add", "add mul", "relu")


class Block(GraphBuilder):
    """``x`` -> a producer -> a chain as ``condition`` writes it -> ``y``."""

    def produce(self, producer: str, x: ir.Value, gamma: ir.Value, beta: ir.Value) -> ir.Value:
        if producer.startswith("norm"):
            return self.op("LayerNormalization", x, *([gamma] if "without" in producer else [gamma, beta]), name="p")
        for kind in producer.split():
            x = self.op("Relu", x) if kind == "relu" else self.op(kind.title(), x, gamma if kind == "mul" else beta)
        return x

    def chain(self, x: ir.Value, shift=None, index=None, multiplier=None) -> ir.Value:
        for kind, array in (("Sub", shift), ("Gather", index), ("Mul", multiplier)):
            if array is not None:
                attributes = {"axis": -1} if kind == "Gather" else {}
                x = self.op(kind, x, self.constant(f"{kind}_{len(self.nodes)}", array, array.dtype), **attributes)
                self.nodes[-1].meta[CONDITIONING] = True
        return x


def block(producer: str, gamma=GAMMA, beta=BETA, **chain: np.ndarray) -> ir.Model:
    g = Block()
    x = g.input("x", ir.DataType.FLOAT, "batch", len(gamma))
    p = g.produce(producer, x, g.constant("gamma", gamma), g.constant("beta", beta))
    return marked(g, y=g.chain(p, **chain))


def marked(g: GraphBuilder, **outputs: ir.Value) -> ir.Model:
    """Shape inference makes new nodes; the marks are put on them again."""
    names = {node.name for node in g.nodes if node.meta.get(CONDITIONING)}
    model = g.model(**outputs)
    for node in model.graph:
        if node.name in names:
            node.meta[CONDITIONING] = True
    return model


def kinds(model: ir.Model) -> list[str]:
    return [node.op_type for node in model.graph]


def numbers(model: ir.Model, node: str, index: int) -> list[float]:
    value = next(n for n in model.graph if n.op_type == node).inputs[index]
    assert value is not None
    assert value.const_value is not None
    return value.const_value.numpy().tolist()


def checked(model: ir.Model) -> ir.Model:
    onnx.checker.check_model(ir.to_proto(model), full_check=True)
    return model


@pytest.mark.parametrize("producer", ["norm", "mul add"])
def test_shift_and_multiplier_join_gamma_and_beta(producer: str) -> None:
    model = checked(fold_conditioning(block(producer, **ALL)))
    assert kinds(model) == (["LayerNormalization"] if producer == "norm" else ["Mul", "Add"])
    assert numbers(model, "LayerNormalization" if producer == "norm" else "Mul", 1) == [2, 1, 12, 4]
    # (0.5 - 1) x 2, (-1 - 0) x 0.5, (0 + 2) x 4, (8 - 3) x 1
    assert numbers(model, *(("LayerNormalization", 2) if producer == "norm" else ("Add", 1))) == [-1, -0.5, 8, 5]
    assert sorted(model.graph.initializers) == ["beta_folded_folded", "gamma_folded"]


@pytest.mark.parametrize("everywhere", [False, True])
def test_a_tensor_of_unknown_rank_is_folded_into_what_gives_it(everywhere: bool) -> None:
    model = block("norm", **ALL)
    for value in (value for node in model.graph for value in node.outputs):
        value.shape = None
    expected = outputs_of(model, {"x": X})["y"]
    fold_conditioning(model, everywhere=everywhere)
    assert kinds(model) == ["LayerNormalization"]
    np.testing.assert_allclose(outputs_of(model, {"x": X})["y"], expected, rtol=0, atol=1e-5)


def test_a_normalisation_without_beta_gets_one() -> None:
    model = checked(fold_conditioning(block("norm without beta", **ALL)))
    assert numbers(model, "LayerNormalization", 2) == (-SHIFT * MULTIPLIER).tolist()
    alone = fold_conditioning(block("norm without beta", multiplier=MULTIPLIER))
    assert kinds(alone) == ["LayerNormalization"]
    assert len(next(iter(alone.graph)).inputs) == 2


@pytest.mark.parametrize(
    ("producer", "chain", "left"),
    [
        (
            "norm",
            {**ALL, "index": INDEX, "multiplier": np.ones(5, np.float32)},
            ["LayerNormalization", "Gather", "Mul"],
        ),
        ("norm", {"index": INDEX, "multiplier": np.ones(5, np.float32)}, ["LayerNormalization", "Gather", "Mul"]),
        ("mul", {"multiplier": MULTIPLIER}, ["Mul"]),
        ("mul", ALL, ["Mul", "Sub", "Mul"]),
        ("add", {"shift": SHIFT}, ["Add"]),
        ("add", ALL, ["Add", "Mul"]),
        ("add", {"multiplier": MULTIPLIER}, ["Add", "Mul"]),
        ("add mul", ALL, ["Add", "Mul", "Sub", "Mul"]),
        ("add mul", {"multiplier": MULTIPLIER}, ["Add", "Mul"]),
        ("relu", ALL, ["Relu", "Sub", "Mul"]),
    ],
)
def test_only_what_is_exact_is_folded(producer: str, chain: dict, left: list[str]) -> None:
    model = block(producer, **chain)
    expected = outputs_of(model, {"x": X})["y"]
    assert kinds(fold_conditioning(model)) == left
    np.testing.assert_allclose(outputs_of(checked(model), {"x": X})["y"], expected, rtol=1e-6)


@st.composite
def blocks(draw: st.DrawFn) -> tuple[ir.Model, np.ndarray]:
    width = draw(st.integers(2, 6))

    def vector(low: float, high: float, size: int = width) -> np.ndarray:
        return np.float32(draw(st.lists(st.floats(low, high, width=32), min_size=size, max_size=size)))

    chain = {"shift": vector(-4, 4)} if draw(st.booleans()) else {}
    columns = width
    if draw(st.booleans()):
        chain["index"] = np.array(draw(st.lists(st.integers(0, width - 1), min_size=1, max_size=9)))
        columns = len(chain["index"])
    if draw(st.booleans()):
        chain["multiplier"] = vector(0.0625, 16, columns)
    model = block(draw(st.sampled_from(PRODUCERS)), vector(-4, 4), vector(-4, 4), **chain)
    return model, vector(-8, 8, 3 * width).reshape(3, width)


@settings(max_examples=150, deadline=None)
@given(blocks())
def test_nothing_changes_in_float(case: tuple[ir.Model, np.ndarray]) -> None:
    model, x = case
    expected = outputs_of(model, {"x": x})["y"]
    got = outputs_of(checked(fold_conditioning(model)), {"x": x})["y"]
    # (8 + 4) x 4 + 4, times 16, is the largest term that may cancel; 1e-4 of it is far above, 1e-7 of it just below
    np.testing.assert_allclose(got, expected, rtol=1e-4, atol=2e-4)


def test_what_others_read_is_left_to_them() -> None:
    """A post-LN encoder: the residual reads the output, too."""
    for also_output in (True, False):
        g = Block()
        p = g.produce(
            "norm", g.input("x", ir.DataType.FLOAT, "batch", WIDTH), g.constant("g", GAMMA), g.constant("b", BETA)
        )
        conditioned = g.chain(p, **ALL)
        model = marked(g, y=conditioned, **({"z": p} if also_output else {"z": g.op("Add", p, conditioned)}))
        before = kinds(model)
        assert kinds(fold_conditioning(model)) == before


def test_a_decomposed_normalisation_whose_product_others_read_takes_the_shift_only() -> None:
    g = Block()
    u = g.produce("mul", g.input("x", ir.DataType.FLOAT, "batch", WIDTH), g.constant("g", GAMMA), g.constant("b", BETA))
    model = marked(g, y=g.chain(g.op("Add", u, g.constant("beta", BETA)), **ALL), z=g.op("Neg", u))
    expected = outputs_of(model, {"x": X})
    assert kinds(checked(fold_conditioning(model))) == ["Mul", "Add", "Mul", "Neg"]
    got = outputs_of(model, {"x": X})
    np.testing.assert_allclose(got["y"], expected["y"], rtol=1e-6)
    np.testing.assert_array_equal(got["z"], expected["z"])


@pytest.mark.parametrize("constant_first", [True, False])
def test_shared_constants_are_not_changed(constant_first: bool) -> None:
    g = Block()
    x, gamma, beta = (
        g.input("x", ir.DataType.FLOAT, "batch", WIDTH),
        g.constant("gamma", GAMMA),
        g.constant("beta", BETA),
    )
    sides = [(gamma, x), (x, gamma)]
    u = g.op("Mul", *sides[not constant_first])
    y = g.chain(g.op("Add", *((beta, u) if constant_first else (u, beta))), **ALL)
    model = marked(g, y=y, z=g.op("LayerNormalization", x, gamma, beta))
    expected = outputs_of(model, {"x": X})
    assert kinds(checked(fold_conditioning(model))) == ["Mul", "Add", "LayerNormalization"]
    assert numbers(model, "LayerNormalization", 1) == GAMMA.tolist()
    assert numbers(model, "LayerNormalization", 2) == BETA.tolist()
    got = outputs_of(model, {"x": X})
    np.testing.assert_allclose(got["y"], expected["y"], rtol=1e-6)
    np.testing.assert_array_equal(got["z"], expected["z"])


def test_only_marked_nodes_are_folded() -> None:
    model = block("norm", **ALL)
    for node in model.graph:
        node.meta.pop(CONDITIONING, None)
    assert kinds(fold_conditioning(model)) == ["LayerNormalization", "Sub", "Mul"]


def test_scalars_and_rows_are_no_channel_vectors() -> None:
    for array in (np.float32(2), np.ones((WIDTH, 1), np.float32), np.ones((WIDTH, WIDTH), np.float32)):
        g = Block()
        x = g.op("Mul", g.input("x", ir.DataType.FLOAT, WIDTH, WIDTH), g.constant("c", array))
        assert kinds(fold_conditioning(marked(g, y=g.chain(x, multiplier=MULTIPLIER)))) == ["Mul", "Mul"]


def test_a_normalisation_over_more_axes_is_left() -> None:
    for axis, folded in ((1, False), (2, True), (-1, True)):
        g = Block()
        x = g.input("x", ir.DataType.FLOAT, "batch", WIDTH, WIDTH)
        gamma = GAMMA if folded else np.ones((WIDTH, WIDTH))
        x = g.op("LayerNormalization", x, g.constant("gamma", gamma), axis=axis)
        model = fold_conditioning(marked(g, y=g.chain(x, **ALL)))
        assert kinds(model) == (["LayerNormalization"] if folded else ["LayerNormalization", "Sub", "Mul"])


def test_rule_5_what_was_folded_into_stays_fp32() -> None:
    """Narrow channels far from 0, half by the offset: FP16 constants would move every row by INT8 steps."""
    random = np.random.default_rng(0)
    width = 64
    centre, spread = random.uniform(5, 50, width), random.uniform(0.02, 0.2, width)
    x = (random.normal(size=(500, width)) + centre / 2 / spread).astype(np.float16).astype(np.float32)
    step = np.float32(spread * 4 / 127)
    shift = np.float32(np.round(centre / step) * step)  # a multiple of the step, as ``design`` has it
    beta, multiplier = np.float32(centre / 2), np.float32(1 / step)

    def codes(fold: bool, keep: bool) -> np.ndarray:
        model = block("mul add", np.float32(spread), beta, shift=shift, multiplier=multiplier)
        model = fold_conditioning(model) if fold else model
        for node in model.graph:
            if not keep and node.op_type in ("Mul", "Add"):
                node.meta.pop(CONDITIONING, None)
        return outputs_of(checked(to_half(model)), {"x": x})["y"]

    exact = ((x.astype(np.float64) * np.float32(spread) + beta) - shift) * multiplier  # in INT8 steps
    kept, rounded, chain = (
        np.abs((codes(*case) - exact).mean(axis=0)) for case in ((True, True), (True, False), (False, True))
    )
    # measured, largest and median channel: 0.001 and 0.0001; 7 and 0.4; 12 and 0.4
    assert kept.max() < 0.01
    assert rounded.max() > 1
    assert np.median(rounded) > 0.1
    assert chain.max() > 1


def pre_ln(decomposed: bool) -> ir.Model:
    """``y`` = x + FFN(norm(x)), 64 channels wide: the norm feeds the FFN alone."""
    g = GraphBuilder()
    x = g.input("x", ir.DataType.FLOAT, "batch", 64)
    gamma, beta = (g.constant(name, g.random.normal(size=64)) for name in ("gamma", "beta"))
    if decomposed:
        axes = {"axes": [-1], "keepdims": 1}
        centred = g.op("Sub", x, g.op("ReduceMean", x, **axes))
        variance = g.op("ReduceMean", g.op("Pow", centred, g.constant("two", 2)), **axes)
        root = g.op("Sqrt", g.op("Add", variance, g.constant("epsilon", 1e-5)))
        normal = g.op("Add", g.op("Mul", g.op("Div", centred, root), gamma, name="scale"), beta, name="norm")
    else:
        normal = g.op("LayerNormalization", x, gamma, beta, name="norm")
    up = g.op("Relu", g.op("MatMul", normal, g.weight("up.weight", 64, 128), name="up"))
    return g.model(y=g.op("Add", g.op("MatMul", up, g.weight("down.weight", 128, 64), name="down"), x))


@pytest.mark.parametrize("decomposed", [True, False])
@pytest.mark.parametrize("remainder", ["fp16", "fp32"])
def test_a_pre_ln_block_keeps_its_numbers(
    decomposed: bool, remainder: str, notes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(apply, "solve", partial(solve, recipes=(Recipe(0.5, shift=True),)))
    original = prepare(pre_ln(decomposed))
    feeds = {"x": np.random.default_rng(3).normal(size=(200, 64)).astype(np.float32)}
    data = dataset_for(original, Batches(feeds), notes)
    origin = origin_of("m", data.fingerprint, Calibrate())
    seen = one_pass.calibrate(original, data, Calibrate(), origin, notes, sample=ROWS)

    def quantised() -> ir.Model:
        config = Int8(min_sqnr_db=0, remainder=remainder)
        case = Case(original, seen.ranges, seen.statistics, config)
        return checked(case.apply(case.solutions(notes))[0])

    folded = quantised()
    monkeypatch.setattr(apply, "fold_conditioning", lambda model, **_: model)
    chained = quantised()
    before = {folded: "Add" if decomposed else "LayerNormalization", chained: "Mul"}
    for model, kind in before.items():
        q = next(node for node in model.graph if node.op_type == "QuantizeLinear")
        assert q.inputs[0].producer().op_type == kind
        assert q.inputs[0].dtype == ir.DataType.FLOAT
    # the Sub and Mul behind the norm are gone; those behind the Relu, into which nothing can be folded, are not
    assert [kinds(chained).count(kind) - kinds(folded).count(kind) for kind in ("Sub", "Mul")] == [1, 1]
    y, z, exact = (outputs_of(model, feeds)["y"] for model in (folded, chained, original))
    errors = [float(np.square(array - exact).mean()) for array in (y, z)]
    assert errors[0] < 1.01 * errors[1]
    assert errors[0] < 1e-3 * np.square(exact).mean()
    # the same INT8 codes, but for a few that lie between two
    assert np.quantile(np.abs(y - z), 0.5) < (1e-6 if remainder == "fp32" else 2e-3)
