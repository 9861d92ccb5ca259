from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import cache

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from calib8.calibration import one_pass
from calib8.calibration.config import Calibrate
from calib8.calibration.origin import origin_of
from calib8.calibration.ranges import Ranges
from calib8.data.inputs import Arrays
from calib8.data.sources import Batches
from calib8.graph.builder import GraphBuilder
from calib8.graph.dataset import dataset_for
from calib8.graph.io import serialized
from calib8.graph.weighted import weighted_ops
from calib8.passes import quantize_embedding
from calib8.passes.prepare import prepare
from calib8.progress import Quiet
from calib8.quantization.apply import apply_plan, quantize_ops, solve_sites
from calib8.quantization.config import Int8
from calib8.quantization.policy import make_plan
from calib8.quantization.solve import ROWS, Solution
from calib8.quantization.switchboard import GATES, Switchboard, switched
from calib8.runtime.ort import OrtRuntime
from calib8.testing import outputs_of, tiny_convnet, tiny_encoder, tiny_mlp, token_feeds


@dataclass(frozen=True)
class Case:
    """A prepared model, what to feed it, and how its ops become INT8."""

    model: ir.Model
    feeds: Arrays
    ranges: Ranges
    solutions: Mapping[str, Solution]

    @property
    def names(self) -> list[str]:
        return [op.name for op in weighted_ops(self.model)]

    def board(self, names: Collection[str] | None = None, *, embedding: bool = False) -> Switchboard:
        chosen = self.names if names is None else names
        return Switchboard(self.model, chosen, self.ranges, self.solutions, embedding=embedding)


def random(*shape: int) -> np.ndarray:
    """Channels, on axis 1, that differ in size and place."""
    numbers = np.random.default_rng(1)
    channels = (shape[1], *[1] * (len(shape) - 2))
    x = numbers.normal(size=shape) * np.exp(numbers.normal(size=channels)) + 2 * numbers.normal(size=channels)
    return x.astype(np.float32)


def two_outputs() -> ir.Model:
    """Two of three ops are outputs, one of them also read by another; a MatMul behind a MatMul."""
    g = GraphBuilder()
    x = g.input("x", ir.DataType.FLOAT, "batch", 4)
    a = g.op("MatMul", x, g.weight("a.w", 4, 6), name="a")
    b = g.op("Gemm", x, g.weight("b.w", 5, 4), g.weight("b.b", 5), name="b", transB=1)
    return g.model(z=b, y=a, last=g.op("MatMul", a, g.weight("c.w", 6, 2), name="c"))


def fork() -> ir.Model:
    """A MatMul whose output, as it is, two others read."""
    g = GraphBuilder()
    a = g.op("MatMul", g.input("x", ir.DataType.FLOAT, "batch", 4), g.weight("a.w", 4, 6), name="a")
    b, c = (g.op("MatMul", a, g.weight(f"{name}.w", 6, 6), name=name) for name in "bc")
    return g.model(y=g.op("Add", g.op("Relu", b), c))


MODELS = {
    "encoder": (tiny_encoder, lambda: token_feeds(*range(3, 14), seed=1)),
    "convnet": (tiny_convnet, lambda: {"image": random(70, 3, 8, 8)}),
    "gemm": (tiny_mlp, lambda: {"x": random(90, 4)}),
    "fork": (fork, lambda: {"x": random(90, 4)}),
    "two outputs": (two_outputs, lambda: {"x": random(90, 4)}),
}


@cache
def case(name: str, *, solved: bool = True) -> Case:
    make, feeds_of = MODELS[name]
    model, feeds, quiet = prepare(make()), feeds_of(), Quiet()
    data = dataset_for(model, Batches([feeds]), quiet)
    found = one_pass.calibrate(model, data, Calibrate(), origin_of("m", "d", Calibrate()), quiet, sample=ROWS)
    names = {op.name for op in weighted_ops(model)}
    solutions = solve_sites(model, names, found.statistics, quiet) if solved else {}
    assert set(solutions) == (names if solved else set())
    return Case(model, feeds, found.ranges, solutions)


def assert_close(got: Arrays, expected: Arrays) -> None:
    """Up to the order of sums: a wrong step of an INT8 grid would be a hundred times that."""
    for (name, array), own in zip(expected.items(), got.values(), strict=True):
        assert own.dtype == array.dtype
        np.testing.assert_allclose(own, array, rtol=0, atol=2e-5 * np.abs(array).max(), err_msg=name)


def assert_different(got: Arrays, expected: Arrays) -> None:
    pairs = zip(got.values(), expected.values(), strict=True)
    assert any(np.abs(own - array).max() > 1e-4 * np.abs(array).max() for own, array in pairs)


each_model = pytest.mark.parametrize("name", MODELS)
each_way = pytest.mark.parametrize("solved", [True, False], ids=["solved", "ranges alone"])


@each_model
@each_way
def test_without_a_gate_it_is_the_float_model(name: str, solved: bool) -> None:
    found = case(name, solved=solved)
    with found.board() as board:
        assert board.names == found.names
        assert_close(board.run(found.feeds), outputs_of(found.model, found.feeds))


@each_model
@each_way
def test_with_all_gates_it_is_the_quantised_model(name: str, solved: bool) -> None:
    found = case(name, solved=solved)
    config = Int8(remainder="fp32", embedding=False, min_sqnr_db=0)
    plan = make_plan(found.model, found.ranges, config, found.solutions)
    assert plan.nodes("int8") == found.names
    expected = outputs_of(apply_plan(found.model, found.ranges, plan, config, found.solutions), found.feeds)
    with found.board() as board:
        before = board.run(found.feeds)
        board.int8 = found.names
        assert_close(board.run(found.feeds), expected)
        assert_different(expected, before)
        board.int8 = ()
        assert_close(board.run(found.feeds), before)


@each_model
@each_way
def test_each_gate_quantises_its_op_alone(name: str, solved: bool) -> None:
    found = case(name, solved=solved)
    with found.board() as board:
        for op in found.names:
            alone = found.model.clone()
            quantize_ops(alone, {op}, found.ranges, found.solutions)
            board.int8 = {op}
            got = board.run(found.feeds)
            assert_close(got, outputs_of(alone, found.feeds))
            assert_different(got, outputs_of(found.model, found.feeds))


def test_two_gates_of_three_that_share_a_grid() -> None:
    found = case("encoder")
    some = found.model.clone()
    quantize_ops(some, {"q", "v", "down"}, found.ranges, found.solutions)
    with found.board() as board:
        board.int8 = ["down", "v", "q"]
        assert_close(board.run(found.feeds), outputs_of(some, found.feeds))


def test_ops_without_a_switch_stay_in_float() -> None:
    found = case("encoder")
    with found.board(["up", "k"]) as board:
        assert board.names == ["k", "up"]  # in the model's order
        board.int8 = found.names
        some = found.model.clone()
        quantize_ops(some, {"k", "up"}, found.ranges, found.solutions)
        assert_close(board.run(found.feeds), outputs_of(some, found.feeds))


@pytest.mark.parametrize(
    "name",
    ["encoder", "fork", *[pytest.param(name) for name in ("convnet", "gemm", "two outputs")]],
)
def test_inputs_and_outputs_keep_names_and_order(name: str) -> None:
    found = case(name)
    outputs = [value.name for value in found.model.graph.outputs]
    model = switched(found.model, found.names, found.ranges, found.solutions, embedding=False)
    assert [value.name for value in model.graph.outputs] == outputs
    assert [value.name for value in model.graph.inputs] == [*(v.name for v in found.model.graph.inputs), GATES]
    with found.board() as board:
        assert list(board.run(found.feeds)) == outputs
        assert board.contract.names == tuple(value.name for value in found.model.graph.inputs)


@pytest.mark.parametrize("name", [name if name != "fork" else pytest.param(name) for name in MODELS])
@each_way
def test_the_model_is_valid_and_the_original_untouched(name: str, solved: bool) -> None:
    found = case(name, solved=solved)
    before = serialized(found.model)
    model = switched(found.model, found.names, found.ranges, found.solutions, embedding=False)
    assert serialized(found.model) == before
    onnx.checker.check_model(ir.to_proto(model), full_check=True)
    kinds = [node.op_type for node in model.graph]
    assert kinds.count("If") == len(found.names)
    assert not {"MatMul", "Gemm", "Conv"} & set(kinds) - ({"MatMul"} if name == "encoder" else set())


def test_embeddings_are_int8_in_every_plan(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quantize_embedding, "MINIMUM_BYTES", 1)
    found = case("encoder")
    tables = found.model.clone()
    quantize_embedding.quantize_embeddings(tables)
    with OrtRuntime(tables) as runtime, found.board(embedding=True) as board:
        expected = runtime.run(found.feeds)
        assert_close(board.run(found.feeds), expected)
        assert_different(expected, outputs_of(found.model, found.feeds))
