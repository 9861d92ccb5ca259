"""Running sums without a loop: NumPy's cumsum is the reference, positions of real embedding layers the use."""

import contextlib
import importlib
import io
import tracemalloc
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from hypothesis import given
from hypothesis import strategies as st

from calib8.data.sources import Batches
from calib8.graph.builder import GraphBuilder
from calib8.graph.dataset import dataset_for
from calib8.graph.host_driven import HostDriven, host_driven
from calib8.graph.io import load, save
from calib8.graph.limits import dimension_limits
from calib8.graph.running_sum import STANDS_FOR, restore
from calib8.passes import host_loops
from calib8.passes.cpu_form import to_cpu_form
from calib8.passes.half import to_half
from calib8.passes.host_loops import replace_host_loops
from calib8.passes.prepare import prepare
from calib8.testing import assert_models_equal, outputs_of, tiny_encoder, token_feeds
from calib8.zoo import export

BOOL, FLOAT, DOUBLE = ir.DataType.BOOL, ir.DataType.FLOAT, ir.DataType.DOUBLE
INT32, INT64 = ir.DataType.INT32, ir.DataType.INT64


def summing(
    dtype: ir.DataType, dims: tuple[str | int, ...], axis: int, *, through: ir.DataType | None = None, **how: int
) -> ir.Model:
    """x, of another type if ``through`` is given, -> CumSum -> y."""
    g = GraphBuilder()
    x = g.input("x", through or dtype, *dims)
    counted = g.op("Cast", x, to=int(dtype)) if through else x
    return prepare(g.model(y=g.op("CumSum", counted, g.constant("axis", axis, np.int64), name="sum", **how)))


def replaced(model: ir.Model) -> ir.Model:
    """``model`` after the pass: a valid one, without CumSum, whose output has the name and type that it had."""
    found = replace_host_loops(model.clone())
    onnx.checker.check_model(ir.to_proto(found), full_check=True)
    assert "CumSum" not in kinds(found)
    return found


def kinds(model: ir.Model) -> list[str]:
    return [node.op_type for node in model.graph]


@st.composite
def sums(draw: st.DrawFn) -> tuple[Any, int, dict[str, int], ir.DataType]:
    shape = draw(st.lists(st.integers(1, 5), min_size=1, max_size=4))
    axis = draw(st.integers(-len(shape), len(shape) - 1))
    how = {name: draw(st.integers(0, 1)) for name in ("exclusive", "reverse") if draw(st.booleans())}
    dtype = draw(st.sampled_from((INT32, INT64, FLOAT, DOUBLE)))
    largest = draw(st.sampled_from((1, 2**12, 2**21)))  # 5 of the largest are below 2^24
    seed = draw(st.integers(0, 99))
    return np.random.default_rng(seed).integers(-largest, largest + 1, shape), axis, how, dtype


@given(sums())
def test_every_sum_is_numpys(case: tuple[Any, int, dict[str, int], ir.DataType]) -> None:
    x, axis, how, dtype = case
    model = replaced(
        summing(dtype, ("a", *x.shape[1:]), axis, through=INT64 if dtype in (FLOAT, DOUBLE) else None, **how)
    )
    forward = np.flip(x, axis) if how.get("reverse") else x
    expected = np.cumsum(forward, axis) - (forward if how.get("exclusive") else 0)
    expected = np.flip(expected, axis) if how.get("reverse") else expected
    got = outputs_of(model, {"x": x.astype(INT64.numpy() if dtype in (FLOAT, DOUBLE) else dtype.numpy())})["y"]
    assert got.dtype == dtype.numpy()
    np.testing.assert_array_equal(got, expected)


@pytest.mark.parametrize("how", [{}, {"exclusive": 1}, {"reverse": 1}, {"exclusive": 1, "reverse": 1}])
def test_the_way_back(how: dict[str, int], tmp_path: Path) -> None:
    before = summing(INT64, ("a", "b", 4), 1, **how)
    back = restore(load(save(replaced(before), tmp_path / "model.onnx")))
    onnx.checker.check_model(ir.to_proto(back), full_check=True)
    assert kinds(back) == ["CumSum"]
    assert len(back.graph.initializers) == 1
    assert_models_equal(before, back, {"x": np.random.default_rng(0).integers(-9, 9, (2, 3, 4))}, atol=0)


def edited(model: ir.Model, how: str) -> ir.Model:
    last = model.graph.node("y_ReduceSum")
    if how == "mark":
        last.metadata_props[STANDS_FOR] = "one 0 0"
    elif how == "unmarked":
        del last.metadata_props[STANDS_FOR]
    else:
        chosen = last.inputs[0].producer()
        negated = ir.node("Neg", [chosen.outputs[0]])
        negated.outputs[0].name, negated.outputs[0].type = "negated", chosen.outputs[0].type
        model.graph.insert_after(chosen, negated)
        last.replace_input_with(0, negated.outputs[0])
    return model


@pytest.mark.parametrize("how", ["mark", "unmarked", "summed"])
def test_no_way_back_for_a_sum_that_was_edited(how: str) -> None:
    model = edited(replaced(summing(INT64, ("a", "b"), 1)), how)
    before = kinds(model)
    assert kinds(restore(model)) == before


def staying(why: str) -> ir.Model:
    g = GraphBuilder()
    axis = g.constant("axis", 1, np.int64)
    if why == "computed floats":
        x = g.op("Mul", g.input("x", FLOAT, "a", "b"), g.constant("half", 0.5))
    elif why == "floats":
        x = g.input("x", FLOAT, "a", "b")
    elif why == "rounded floats":
        x = g.op("Cast", g.input("x", DOUBLE, "a", "b"), to=int(FLOAT))
    elif why == "large":
        x = g.input("x", INT64, "a", 1 << 14, 2)  # 2^29 numbers to add up
    else:
        x, axis = g.input("x", INT64, "a", "b"), g.input("axis_given", INT64)
    return prepare(g.model(y=g.op("CumSum", x, axis, name="sum")))


@pytest.mark.parametrize("why", ["computed floats", "floats", "rounded floats", "large", "axis given"])
def test_what_stays_is_told(why: str) -> None:
    model = replace_host_loops(staying(why))
    assert kinds(model).count("CumSum") == 1
    assert "ReduceSum" not in kinds(model)
    assert host_driven(model) == (HostDriven("sum", "CumSum: a loop before TensorRT 10.8", jumps=True),)


@pytest.mark.parametrize(
    ("dims", "axis", "terms"),
    [
        (("a", 8, 3), 1, 8 * 3 * 8),
        ((9, 8, 3), 1, 8 * 3 * 8),  # of one sample
        ((9, 8, 3), 0, 9 * 8 * 3 * 9),
        (("a", "b", 3), 1, 512 * 3 * 512),
        (("a",), 0, 512 * 512),
    ],
)
def test_the_largest_that_is_replaced(
    dims: tuple[str | int, ...], axis: int, terms: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = summing(INT64, dims, axis)
    monkeypatch.setattr(host_loops, "MOST_TERMS", terms)
    replaced(model)
    monkeypatch.setattr(host_loops, "MOST_TERMS", terms - 1)
    assert kinds(replace_host_loops(model)) == ["CumSum"]


@pytest.mark.parametrize("replace", [True, False])
def test_sums_and_what_they_count_stay_out_of_half_precision(replace: bool) -> None:
    model = summing(FLOAT, ("a", "b"), 1, through=BOOL)
    half = to_half(replaced(model) if replace else model)
    assert ir.DataType.FLOAT16 not in {value.dtype for node in half.graph for value in node.outputs}
    assert outputs_of(half, {"x": np.ones((1, 3002), bool)})["y"][0].tolist() == list(range(1, 3003))


# --- encoders ---


def test_an_encoder_and_its_cpu_form() -> None:
    model = prepare(tiny_encoder())
    form = replaced(model)
    feeds = token_feeds(9, 5, 1)
    feeds["attention_mask"][0, 3] = 0  # a hole
    assert_models_equal(model, form, feeds, atol=0)
    assert kinds(to_cpu_form(form.clone(), unsigned=False)) == kinds(model)
    assert_models_equal(model, to_cpu_form(to_half(form), unsigned=True), feeds, atol=0.01)


@pytest.mark.parametrize("positions", [4, 16, 512])
def test_the_end_of_the_position_table(positions: int) -> None:
    model = tiny_encoder(positions=positions)
    form = replaced(model)
    assert dimension_limits(form) == dimension_limits(model) == {"sequence": positions}
    assert "ReduceSum" in kinds(form)  # to ask is not to change


def test_asking_for_a_long_table_needs_little_memory() -> None:
    model = replaced(tiny_encoder(positions=8192))  # as large as BGE-M3's: 0.5 GB for a length times a length
    tracemalloc.start()
    assert dimension_limits(model) == {"sequence": 8192}
    assert tracemalloc.get_traced_memory()[1] < 50e6
    tracemalloc.stop()


def test_calibration_asks_the_same_of_its_data(notes) -> None:
    model = tiny_encoder()
    before, after = (dataset_for(m, Batches(token_feeds(9, 5)), notes) for m in (model, replaced(model)))
    assert before.fingerprint == after.fingerprint


@pytest.fixture
def torch() -> Any:
    if missing := export.missing_packages():
        pytest.skip(f"the export extra is not installed: no {', '.join(missing)}")
    return importlib.import_module("torch")


@pytest.mark.parametrize("dynamo", [False, True])
@pytest.mark.parametrize("family", ["MPNet", "Roberta", "XLMRoberta"])
def test_exported_embeddings(family: str, dynamo: bool, torch: Any, tmp_path: Path) -> None:
    if dynamo:
        pytest.importorskip("onnxscript", reason="PyTorch's dynamo exporter needs pip install onnxscript")
    transformers = importlib.import_module("transformers")
    name = {"MPNet": "mpnet", "Roberta": "roberta", "XLMRoberta": "xlm_roberta"}[family]
    home = importlib.import_module(f"transformers.models.{name}.modeling_{name}")

    class OfIds(torch.nn.Module):  # type: ignore[misc]
        """Without the further parameters, which would become inputs."""

        def __init__(self, embeddings: Any) -> None:
            super().__init__()
            self.embeddings = embeddings

        def forward(self, input_ids: Any) -> Any:
            return self.embeddings(input_ids)

    torch.manual_seed(0)
    config = getattr(transformers, f"{family}Config")(vocab_size=50, hidden_size=8, max_position_embeddings=66)
    layer = OfIds(getattr(home, f"{family}Embeddings")(config)).eval()
    path, ids = tmp_path / "embeddings.onnx", torch.randint(2, 50, (3, 9))
    sizes: dict[str, Any] = {"dynamic_axes": {"input_ids": {0: "batch", 1: "sequence"}}, "opset_version": 17}
    if dynamo:
        dims = {0: torch.export.Dim("batch"), 1: torch.export.Dim("sequence", max=64)}
        sizes = {"dynamic_shapes": (dims,), "verbose": False}
    with warnings.catch_warnings(), torch.no_grad(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")  # both exporters warn of themselves
        torch.onnx.export(layer, (ids,), path, input_names=["input_ids"], output_names=["y"], dynamo=dynamo, **sizes)
    model = prepare(load(path))
    assert kinds(model).count("CumSum") == 1
    form = replaced(model)
    ids[0, 4:], ids[1, 2:5], ids[2] = config.pad_token_id, config.pad_token_id, config.pad_token_id
    assert_models_equal(model, form, {"input_ids": ids.numpy()}, atol=0)
    with torch.no_grad():
        np.testing.assert_allclose(outputs_of(form, {"input_ids": ids.numpy()})["y"], layer(ids).numpy(), atol=1e-5)
    assert dimension_limits(form) == dimension_limits(model) == {"sequence": 64}
    assert host_driven(form) == ()


# --- what is left to the host ---


def test_sizes_that_data_decides() -> None:
    g = GraphBuilder()
    x = g.input("x", INT64, "a", "b")
    shape = g.op("Shape", x, name="shape")
    rows = g.op("Gather", shape, g.constant("first", 0, np.int64), name="rows")
    zero, one = g.constant("zero", 0, np.int64), g.constant("one", 1, np.int64)
    known = g.op("Range", zero, rows, one, name="known")
    longest = g.op("ReduceMax", x, name="longest", keepdims=0)
    counted = g.op("Range", zero, longest, one, name="counted")
    behind = g.op("Expand", known, g.op("Shape", counted, name="its_shape"), name="behind")
    at = g.op("NonZero", x, name="at")
    model = g.model(known=known, counted=counted, at=at, behind=behind)
    assert host_driven(model) == (
        HostDriven("counted", "Range: the data decides its size", jumps=False),
        HostDriven("at", "NonZero: as many results as the data has", jumps=False),
    )


def test_constants_among_the_inputs_are_no_data() -> None:
    g = GraphBuilder()
    shape = g.constant("shape", [0, -1], np.int64)
    model = g.model(y=g.op("Reshape", g.input("x", FLOAT, "a", "b", 3), shape, name="flat"))
    model.graph.inputs.append(shape)
    assert host_driven(model) == ()


def test_an_operator_of_another_domain_that_is_called_alike() -> None:
    g = GraphBuilder()
    x = g.input("x", INT64, "a", "b")
    model = g.model(y=g.op("CumSum", x, g.constant("axis", 1, np.int64), name="sum"))
    model.graph.node("sum").domain = "other"
    assert host_driven(replace_host_loops(model)) == ()
    assert kinds(model) == ["CumSum"]
