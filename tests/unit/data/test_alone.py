"""Models that take one sample at a time: which arrays do for their inputs, and what is made of them."""

import numpy as np
import onnx_ir as ir
import pytest

import calib8
from calib8.calibration.collect import collect, positions
from calib8.data.alone import Samples, takes_one
from calib8.data.batching import Dataset
from calib8.data.inputs import InputSpec, named_dimensions
from calib8.data.sources import Batches
from calib8.data.split import split
from calib8.errors import DataError
from calib8.graph.builder import GraphBuilder
from calib8.graph.dataset import dataset_for, sizes_for
from calib8.graph.rows import has_rows
from calib8.passes.prepare import prepare
from calib8.progress import Quiet
from calib8.quantization.probe import Probe
from calib8.runtime.ort import OrtRuntime
from calib8.runtime.run_all import run_all
from calib8.testing import tiny_encoder, token_feeds

FLOAT = np.dtype(np.float32)
SOUND = InputSpec("sound", FLOAT, ("batch", 4))
STATE = InputSpec("state", FLOAT, (2, "batch", 3))
RATE = InputSpec("rate", np.dtype(np.int64), ())
SPECS = named_dimensions((SOUND, STATE, RATE))


def fed(**arrays: np.ndarray) -> list[dict[str, np.ndarray]]:
    """What the model is fed, run by run."""
    return [batch for _, batch in Dataset(Batches(arrays), SPECS).batches()]


def test_an_input_without_a_batch_makes_every_sample_a_run(notes) -> None:
    sound = np.arange(12, dtype=np.float32).reshape(3, 4)
    state = np.arange(6, dtype=np.float32).reshape(2, 1, 3)
    runs = fed(sound=sound, state=state, rate=np.int64(16000))
    assert [run["sound"].tolist() for run in runs] == [[row] for row in sound.tolist()]
    assert all(run["state"].tolist() == state.tolist() for run in runs)
    assert [(run["rate"].shape, int(run["rate"])) for run in runs] == [((), 16000)] * 3
    assert all(isinstance(array, np.ndarray) for run in runs for array in run.values())  # as ONNX Runtime demands


def test_states_may_differ_from_sample_to_sample() -> None:
    state = np.arange(18, dtype=np.float32).reshape(3, 2, 1, 3)
    runs = fed(sound=np.ones((3, 4), np.float32), state=state, rate=np.array([8, 16, 8]))
    assert [run["state"].tolist() for run in runs] == state.tolist()
    assert [int(run["rate"]) for run in runs] == [8, 16, 8]


def test_a_state_without_data_is_zero_and_told(notes) -> None:
    data = Batches({"sound": np.ones((2, 4), np.float32), "rate": np.array(8)})
    runs = [batch for _, batch in Dataset(data, SPECS, progress=notes).batches()]
    assert runs[1]["state"].tolist() == np.zeros((2, 1, 3)).tolist()
    assert notes.messages == ["no data for state[2, batch, 3]: zeros, as at the start of a stream"]


def test_what_is_no_state_is_asked_for() -> None:
    with pytest.raises(DataError, match="no array for input rate"):
        fed(sound=np.ones((2, 4), np.float32))
    with pytest.raises(DataError, match=r"every array of state, rate has the shape of one run.*\[samples, ...\]"):
        fed(state=np.zeros((2, 1, 3), np.float32), rate=np.array(8))


def test_a_batch_of_a_fixed_number_is_one_sample_and_whole() -> None:
    four = (InputSpec("x", FLOAT, (4, 2)), InputSpec("y", FLOAT, (4,)))
    assert takes_one(four)
    x, y = np.arange(18, dtype=np.float32).reshape(9, 2), np.arange(9, dtype=np.float32)
    runs = [batch for _, batch in Dataset(Batches({"x": x, "y": y}), four).batches()]
    assert [run["x"].tolist() for run in runs] == [x[:4].tolist(), x[4:8].tolist()]  # the ninth fills no batch
    assert [run["y"].tolist() for run in runs] == [[0, 1, 2, 3], [4, 5, 6, 7]]


def recurrent() -> ir.Model:
    """``x`` [1, 4] and ``state`` [2, 1, 3] -> ``y`` [3], without any batch, and the next ``state``."""
    g = GraphBuilder()
    x, state = g.input("x", ir.DataType.FLOAT, 1, 4), g.input("state", ir.DataType.FLOAT, 2, 1, 3)
    mixed = g.op("MatMul", x, g.weight("w", 4, 3), name="mix")
    after = g.op("Add", state, mixed)
    total = g.op("ReduceSum", after, g.constant("axes", [0, 1], np.int64), keepdims=0)
    return g.model(y=total, state_out=after)


def test_all_that_comes_out_is_of_the_one_sample(notes) -> None:
    model, x = recurrent(), np.arange(12, dtype=np.float32).reshape(3, 4)
    dataset = dataset_for(model, Batches({"x": x}), notes)
    with OrtRuntime(model) as runtime:
        outputs = run_all(runtime, dataset, notes)
        assert {name: array.shape for name, array in outputs.items()} == {"y": (3, 3), "state_out": (3, 2, 1, 3)}
        alone = runtime.run({"x": x[2:], "state": np.zeros((2, 1, 3), np.float32)})
        assert outputs["y"][2].tolist() == alone["y"].tolist()
        assert Probe(model, dataset).scores(runtime) == pytest.approx([1, 1, 1])


def test_samples_are_held_back_with_what_all_share(notes) -> None:
    given = Batches({"x": np.ones((40, 4), np.float32), "state": np.ones((2, 1, 3), np.float32)})
    source = Samples(
        given, named_dimensions((InputSpec("x", FLOAT, (1, 4)), InputSpec("state", FLOAT, (2, 1, 3)))), notes
    )
    kept, held = (dataset_for(recurrent(), part, notes) for part in split(source))
    assert (len(kept), len(held)) == (35, 5)
    assert [array.shape for array in next(iter(held.batches()))[1].values()] == [(1, 4), (2, 1, 3)]
    assert source.fingerprint() == given.fingerprint()


def test_the_batch_of_such_a_model_is_what_it_was_run_with() -> None:
    g = GraphBuilder()
    x, state = g.input("x", ir.DataType.FLOAT, "batch", "n"), g.input("state", ir.DataType.FLOAT, 2, "batch", 3)
    model = g.model(y=g.op("ReduceMean", x), z=g.op("Relu", state))
    dataset = dataset_for(model, Batches({"x": np.ones((3, 5), np.float32)}), Quiet())
    assert dataset.sizes() == {"batch": (1, 1, 1), "n": (5, 5, 5)}
    profiles = calib8.Build().profiles(model, sizes_for(model, dataset.source))
    assert list(map(str, profiles)) == ["x:1x5:1x5:1x5", "state:2x1x3:2x1x3:2x1x3"]


def test_it_is_converted_like_any_other(tmp_path, notes) -> None:
    ir.save(recurrent(), tmp_path / "model.onnx")
    x = np.random.default_rng(0).standard_normal((64, 4)).astype(np.float32)
    report = calib8.convert(
        tmp_path / "model.onnx", [{"x": x}], tmp_path / "out", calib8.Convert(build=None), progress=notes
    )
    assert (report.passed, report.int8_ops, report.weighted_ops, report.calibration.samples) == (True, 1, 1, 56)
    assert notes.messages.count("no data for state[2, 1, 3]: zeros, as at the start of a stream") == 1


def by_time(batch: str | int = "batch") -> ir.Model:
    """``x`` [batch, 3, 4] -> ``y`` [3, batch, 2], as a recognizer of text puts it out."""
    g = GraphBuilder()
    x = g.input("x", ir.DataType.FLOAT, "batch", 3, 4)
    if batch == 1:  # as traced
        x = g.op("Reshape", x, g.constant("to", [1, 3, 4], np.int64))
    y = g.op("MatMul", g.op("Transpose", x, perm=[1, 0, 2]), g.weight("w", 4, 2), name="mm")
    return g.model(y=y)


@pytest.mark.parametrize("batch", ["batch", 1])
def test_outputs_without_a_row_for_each_sample(batch: str | int, notes) -> None:
    model, x = by_time(batch), np.random.default_rng(0).standard_normal((6, 3, 4)).astype(np.float32)
    assert has_rows(model) is (False if batch == "batch" else None)
    dataset = dataset_for(model, Batches({"x": x}), notes)
    with OrtRuntime(model) as runtime:
        outputs = run_all(runtime, dataset, notes)
        assert outputs["y"].shape == (6, 3, 1, 2)
        assert outputs["y"][5].tolist() == runtime.run({"x": x[5:]})["y"].tolist()


def test_rows_are_rows_however_the_output_is_declared() -> None:
    g = GraphBuilder()
    model = g.model(y=g.op("MatMul", g.input("x", ir.DataType.FLOAT, "batch", 4), g.weight("w", 4, 2)))
    for declared in (["n", 2], [1, 2], []):
        model.graph.outputs[0].shape = ir.Shape(declared)
        assert has_rows(model) is True


def test_an_output_that_says_to_begin_with_time_is_asked() -> None:
    """As a recurrent detector's: x [batch, 3, time] -> y [time, batch, 2]."""
    g = GraphBuilder()
    x = g.op("Transpose", g.input("x", ir.DataType.FLOAT, "batch", 3, "time"), perm=[2, 0, 1])
    model = g.model(y=g.op("MatMul", x, g.weight("w", 3, 2)))
    model.graph.outputs[0].shape = ir.Shape(["time", "batch", 2])
    assert has_rows(model) is False
    rows = g.op("Transpose", model.graph.outputs[0], perm=[1, 0, 2])
    model.graph.append(rows.producer())
    model.graph.outputs[0] = rows
    rows.shape = ir.Shape(["time", "batch", 2])  # a name that does not hold
    assert has_rows(model) is True


def test_padding_counts_in_no_sample_of_a_fixed_batch_of_one(notes) -> None:
    model = tiny_encoder()
    for value in model.graph.inputs:
        value.shape = ir.Shape([1, 8])
    fed = token_feeds(3, 8, 5)
    dataset = dataset_for(model, Batches(fed), notes)
    assert (dataset.alone, dataset.mask, positions(dataset)) == (True, "attention_mask", 16)
    assert all(batch["attention_mask"].shape == (1, 8) for _, batch in dataset.batches())
    seen = collect(prepare(model), dataset, notes)
    free = collect(prepare(tiny_encoder()), dataset_for(tiny_encoder(), Batches(fed), notes), notes)
    assert {name: found.amax for name, found in seen.items()} == pytest.approx(
        {name: found.amax for name, found in free.items()}, rel=1e-5
    )
    with OrtRuntime(model) as runtime:
        assert run_all(runtime, dataset, notes)["last_hidden_state"].shape == (3, 8, 8)
