import json
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
from planted_models import OPS, case, feeds, planted, probe_of

import calib8
from calib8.data.inputs import Arrays
from calib8.data.sources import Batches
from calib8.data.split import First
from calib8.errors import ConfigError, DataError
from calib8.graph.builder import GraphBuilder
from calib8.graph.dataset import dataset_for
from calib8.progress import Quiet
from calib8.quantization.config import Int8
from calib8.quantization.measuring import Measuring, costs_alone
from calib8.quantization.probe import Probe
from calib8.quantization.sensitivity import rank
from calib8.runtime.base import Runtime
from calib8.runtime.ort import OrtRuntime
from calib8.testing import tiny_convnet, tiny_encoder, tiny_mlp, token_feeds
from calib8.verification.named import Least

PLAIN = Int8(treatment="plain", remainder="fp32")


@pytest.fixture
def measuring() -> Iterable[Measuring]:
    own = case(PLAIN)
    with own.switchboard(set(OPS), {}) as board:
        yield Measuring(board, probe_of(own.model))


def test_each_set_is_measured_once(measuring: Measuring, monkeypatch: pytest.MonkeyPatch) -> None:
    runs, run = [], measuring.board._run
    monkeypatch.setattr(measuring.board, "_run", lambda arrays: runs.append(set(measuring.board.int8)) or run(arrays))
    for names in (["first", "last"], ("last", "first"), {"first": 1, "last": 2}, iter(["first", "last"]), ["last"]):
        measuring.scores(names)
    assert len(measuring) == 2
    assert [names for number, names in enumerate(runs) if names not in runs[:number]] == [{"first", "last"}, {"last"}]
    assert len(runs) == 2 * len(list(measuring.probe.data.batches()))
    assert measuring.score(["last"]) == measuring.scores(["last"]).mean()


def test_what_each_op_alone_costs(measuring: Measuring, notes) -> None:
    costs = costs_alone(measuring, notes)
    assert list(costs) == OPS
    assert costs["ruined"] > 0.1
    assert all(0 < costs[name] < 1e-3 for name in OPS if name != "ruined")
    assert notes.steps[-1] == ("sensitivity", 4, 4)


def test_rank_puts_the_ruined_op_first(measuring: Measuring) -> None:
    found = rank(measuring, dict.fromkeys(OPS, ("MatMul", None)), Quiet())
    assert found.samples == 24
    worst = found.ops[0]
    assert (worst.node, worst.kind, worst.recipe) == ("ruined", "MatMul", None)
    assert worst.alone < 0.9
    assert worst.spared > 0.999
    assert sorted(op.node for op in found.ops) == sorted(OPS)
    assert [op.alone for op in found.ops] == sorted(op.alone for op in found.ops)
    assert all(op.spared < 0.9 for op in found.ops[1:])
    assert found.all_float == pytest.approx(1)
    assert found.all_int8 < 0.9


def as_outputs(**arrays: np.ndarray) -> Runtime:
    """A runtime that returns these, whatever it is fed."""

    class Fixed(Runtime):
        description = "fixed"

        def _run(self, _: Arrays) -> Arrays:
            return arrays

        def _free(self) -> None: ...

    with OrtRuntime(planted()) as real:
        return Fixed(real.contract)


def test_the_worst_output_counts_and_nan_is_ruin() -> None:
    g = GraphBuilder()
    x = g.input("x", ir.DataType.FLOAT, "batch", 8)
    model = g.model(y=g.op("Identity", x), z=g.op("Neg", x), best=g.op("ArgMax", x, axis=1, keepdims=0))
    rows = feeds(4)["x"]
    probe = Probe(model, dataset_for(model, Batches([{"x": rows}]), Quiet()))
    best = rows.argmax(axis=1)
    np.testing.assert_allclose(probe.scores(as_outputs(y=rows, z=rows, best=best)), -1)
    np.testing.assert_allclose(probe.scores(as_outputs(y=2 * rows, z=-rows, best=best)), 1)
    half = rows.copy()
    half[1] = np.nan
    np.testing.assert_allclose(probe.scores(as_outputs(y=half, z=-rows, best=best)), [1, -1, 1, 1])
    with pytest.raises(DataError, match=r"'y' has another size quantised than in FP32 \(rows of 7 and 8\)"):
        probe.scores(as_outputs(y=rows[:, :7], z=-rows, best=best))


def test_counts_beside_vectors_do_not_make_the_guard_blunt() -> None:
    """One class of four is chance, but vectors that turned are not."""
    g = GraphBuilder()
    x = g.input("x", ir.DataType.FLOAT, "batch", 8)
    model = g.model(y=g.op("Identity", x), z=g.op("ArgMax", x, axis=1, keepdims=0))
    rows = feeds(4)["x"]
    probe = Probe(model, dataset_for(model, Batches([{"x": rows}]), Quiet()))
    assert [one.kind for one in probe.outputs.values()] == ["vectors", "ids"]
    best = rows.argmax(axis=1)
    turned, one_off, two_off = rows + np.roll(rows, 1, axis=1) / 4, best.copy(), best.copy()
    one_off[0] += 1
    two_off[:2] += 1
    assert probe.step == 0
    assert 0.9 < probe.scores(as_outputs(y=turned, z=best)).mean() < 0.99
    np.testing.assert_allclose(probe.scores(as_outputs(y=rows, z=one_off)), 1)
    np.testing.assert_allclose(probe.scores(as_outputs(y=rows, z=two_off)), [0, 0, 1, 1])
    assert probe.only(Least(name="ids", least=0.9)).step == 0.25


@pytest.mark.parametrize(
    ("kind", "worst"), [("classes", 0), ("maps", -1), ("boxes", 0), ("number", -1), ("vectors", -1)]
)
@pytest.mark.parametrize("ruin", [np.nan, np.inf, -np.inf])
def test_what_is_ruined_scores_nothing_whatever_a_kind_sees_in_it(kind: str, worst: float, ruin: float) -> None:
    """NaN is the class 0 to an argmax, no cell above a threshold, and no box that is sure."""
    g = GraphBuilder()
    x = g.input("x", ir.DataType.FLOAT, "batch", 8)
    chosen = np.zeros((5, 6)) if kind == "boxes" else np.arange(8)
    model = g.model(y=g.op("Gather", x, g.constant("chosen", chosen, np.int64), axis=1))
    given = np.full((4, 8), 0.1, np.float32)
    given[:, 0] += 0.1 + np.arange(4) / 80  # the class 0, and below what makes a box
    probe = Probe(model, dataset_for(model, Batches([{"x": given}]), Quiet()), kinds={"y": kind})
    rows = np.take(given, chosen.astype(int), axis=1)
    np.testing.assert_allclose(probe.scores(as_outputs(y=rows)), 1, atol=1e-6)
    half = rows.copy()
    half[1] = ruin
    scores = probe.scores(as_outputs(y=half))
    assert scores[1] == worst
    np.testing.assert_allclose(np.delete(scores, 1), 1, atol=1e-6)
    assert np.isfinite(probe.bound(scores))


@pytest.mark.parametrize(("with_box", "samples", "blind"), [(7, 20, True), (8, 20, False), (4, 4, False), (0, 4, True)])
def test_where_hardly_a_sample_has_a_box_damage_goes_unseen(with_box: int, samples: int, blind: bool) -> None:
    g = GraphBuilder()
    x = g.input("x", ir.DataType.FLOAT, "batch", 2, 6)
    model = g.model(y=g.op("Identity", x))
    given = np.zeros((samples, 2, 6), np.float32)
    given[:with_box] = [0, 0, 10, 10, 0.9, 1]
    given[:, 1, :4] = 1  # never zero throughout
    probe = Probe(model, dataset_for(model, Batches([{"x": given}]), Quiet()), kinds={"y": "boxes"})
    told = (
        f"only {with_box} of {samples} samples that quantised models are measured on have anything to compare (share "
        "of boxes matched at IoU 0.5): damage goes unseen. Calibrate on data in which there is something to find"
    )
    assert probe.blind == (told if blind else None)
    assert Probe(model, dataset_for(model, Batches([{"x": given}]), Quiet()), kinds={"y": "vectors"}).blind is None


@pytest.mark.parametrize(
    ("op_type", "attributes", "message"),
    [
        ("Log", {}, "'y' of ONNX Runtime .* holds NaN or infinity"),
        ("Cast", {"to": int(ir.DataType.STRING)}, "'y' is not of numbers"),
    ],
)
def test_outputs_that_cannot_be_measured(op_type: str, attributes: dict[str, int], message: str) -> None:
    g = GraphBuilder()
    x = g.input("x", ir.DataType.FLOAT, "batch", 8)
    model = g.model(y=g.op(op_type, x, **attributes))
    with pytest.raises(DataError, match=message):
        Probe(model, dataset_for(model, Batches([feeds(4)]), Quiet()))


@pytest.mark.parametrize(("count", "sizes"), [(1, [1]), (3, [3]), (4, [3, 1]), (8, [3, 2, 3]), (99, [3, 2, 3])])
def test_the_first_samples_of_a_source(count: int, sizes: list[int]) -> None:
    chunks = [np.arange(0, 3), np.arange(3, 5), np.arange(5, 8)]
    first = First(Batches([{"x": chunk, "y": -chunk} for chunk in chunks]), count)
    found = list(first.chunks())
    assert [len(chunk["x"]) for chunk in found] == sizes
    assert np.concatenate([chunk["x"] for chunk in found]).tolist() == list(range(min(count, 8)))
    assert all((chunk["x"] == -chunk["y"]).all() for chunk in found)
    assert first.fingerprint() == Batches(found).fingerprint()


MODELS = {
    "encoder": (tiny_encoder, lambda: token_feeds(*[3, 5, 8, 13] * 10, seed=1), 6),
    "convnet": (tiny_convnet, lambda: {"image": np.random.default_rng(1).normal(size=(40, 3, 8, 8))}, 2),
    "mlp": (tiny_mlp, lambda: {"x": np.random.default_rng(1).normal(size=(40, 4))}, 2),  # too few rows to solve
}


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("treatment", ["auto", "plain"])
def test_sensitivity_of_a_file(name: str, treatment, tmp_path: Path) -> None:
    make, data, ops = MODELS[name]
    model, output = tmp_path / "model.onnx", tmp_path / "sensitivity.json"
    ir.save(make(), model)
    arrays = {key: array if array.dtype == np.int64 else array.astype(np.float32) for key, array in data().items()}
    found = calib8.sensitivity(model, [arrays], Int8(treatment=treatment), output=output, samples=3)
    assert (found.samples, len(found.ops)) == (3, ops)
    assert all(0.9 < op.alone <= 1.00001 for op in found.ops)
    solved = treatment == "auto" and name != "mlp"
    assert any(op.recipe is not None for op in found.ops) == solved
    assert json.loads(output.read_text()) == json.loads(found.model_dump_json())


def test_what_sensitivity_refuses(tmp_path: Path) -> None:
    model = tmp_path / "model.onnx"
    ir.save(planted(), model)
    with pytest.raises(ConfigError, match="-3 samples to measure on; expected at least 1"):
        calib8.sensitivity(model, [feeds()], samples=-3)
    with pytest.raises(ConfigError, match="no op is left to measure"):
        calib8.sensitivity(model, [feeds()], Int8(include=("first",), exclude=("f*",)))
    with pytest.raises(ConfigError, match="'thirst' matches no weighted op"):
        calib8.sensitivity(model, [feeds()], Int8(include=("thirst",)))
    with pytest.raises(DataError, match="expected at least 3"):
        calib8.sensitivity(model, [feeds(7)])


def test_the_observer_counts(tmp_path: Path) -> None:
    """A percentile that clips nearly everything ruins what the largest magnitude seen keeps."""
    path = calib8.save(tiny_mlp(), tmp_path / "m.onnx")
    data = Batches({"x": np.random.default_rng(0).normal(size=(64, 4)).astype(np.float32)})
    whole = calib8.sensitivity(path, data, PLAIN)
    clipped = calib8.sensitivity(path, data, PLAIN, calibrate=calib8.Calibrate(observer="percentile", percentile=51))
    assert min(op.alone for op in whole.ops) > 0.999
    assert min(op.alone for op in clipped.ops) < 0.99
