"""``calib8 bench``: batches by hand, percentiles by hand, the clock by hand, and the command for real."""

import json
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
from hypothesis import given
from hypothesis import strategies as st
from shell import Shell

from calib8.data.batching import Dataset
from calib8.data.sources import Batches
from calib8.errors import ConfigError, DataError
from calib8.graph.dataset import dataset_for
from calib8.graph.inputs import declared_inputs
from calib8.progress import Quiet
from calib8.runtime.null import NullRuntime
from calib8.testing import tiny_encoder, tiny_mlp, token_feeds
from calib8.verification.bench import Workload, measure
from calib8.verification.config import Bench
from calib8.verification.speed import by_turns, latency_of

SPECS = declared_inputs(tiny_encoder())


def encoder_data(*lengths: int) -> Dataset:
    return Dataset(Batches([token_feeds(*lengths)]), SPECS)


def mlp_data(rows: int) -> Dataset:
    x = np.arange(4 * rows, dtype=np.float32).reshape(rows, 4)
    return dataset_for(tiny_mlp(), Batches([{"x": x}]), Quiet())


def test_percentiles_by_hand() -> None:
    found = latency_of([0.010 * number for number in range(1, 102)], samples=8)  # 10, 20 … 1010 ms
    assert (found.runs, found.median_ms, found.p95_ms) == (101, pytest.approx(510), pytest.approx(960))
    assert found.p99_ms == pytest.approx(1000)
    assert found.samples_per_second == pytest.approx(8 / 0.51)


def test_turns_by_the_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    # a takes 2 s and b 1 s: after three rounds 9 s, not before, are at least 7 s
    times = iter(np.cumsum([0, 2, 0, 1] * 3).tolist())
    monkeypatch.setattr("calib8.verification.speed.time.perf_counter", lambda: next(times))
    order: list[str] = []
    taken = by_turns({"a": lambda: order.append("a"), "b": lambda: order.append("b")}, least=1, seconds=7)
    assert taken == {"a": [2, 2, 2], "b": [1, 1, 1]}
    assert order == ["a", "b"] * 3


@given(st.integers(1, 9), st.integers(1, 16), st.lists(st.integers(1, 9), min_size=1, max_size=5))
def test_a_batch_of_any_shape_holds_tokens_only(size: int, length: int, lengths: list[int]) -> None:
    dataset = encoder_data(*lengths)
    arrays = Workload(dataset).batch(size, length)
    given = dataset.chunks[0]
    assert arrays["input_ids"].shape == arrays["attention_mask"].shape == (size, length)
    assert arrays["attention_mask"].all()
    for row in range(size):
        own = np.asarray(given["input_ids"][row % len(lengths)])[: lengths[row % len(lengths)]]
        assert arrays["input_ids"][row].tolist() == np.resize(own, length).tolist()


def test_the_default_length_is_that_of_the_median_sample() -> None:
    assert Workload(encoder_data(2, 9, 5)).lengths(()) == (5,)
    assert Workload(encoder_data(2, 9, 5)).lengths((4, 8)) == (4, 8)
    assert Workload(mlp_data(3)).lengths(()) == (None,)
    with pytest.raises(ConfigError, match="lengths 4 were asked for, but the model has no attention_mask"):
        Workload(mlp_data(3)).lengths((4,))


def test_samples_without_a_sequence_are_repeated() -> None:
    assert Workload(mlp_data(2)).batch(5, None)["x"][:, 0].tolist() == [0, 4, 0, 4, 0]


def test_all_shapes_are_tried_before_any_is_measured(notes) -> None:
    def takes_four(arrays):
        if len(arrays["x"]) > 4:
            raise DataError("too large")
        return {"y": arrays["x"]}

    runtimes = {"a": NullRuntime(lambda arrays: {"y": arrays["x"]}), "b": NullRuntime(takes_four)}
    with pytest.raises(DataError, match="too large"):
        measure(runtimes, mlp_data(3), Bench(batches=(1, 8), seconds=0), notes)
    assert len(runtimes["a"].asked) == 6  # three warm-up runs of each shape
    assert notes.steps == [("measure speed", 0, 2)]  # begun, and none measured
    cells = measure(runtimes, mlp_data(3), Bench(batches=(1, 4), seconds=0, least=7), notes)
    assert [(cell.batch, cell.length) for cell in cells] == [(1, None), (4, None)]
    assert {latency.runs for cell in cells for latency in cell.latencies.values()} == {7}
    assert cells[0].ratio("a") == 1
    assert len(runtimes["b"].asked) == 3 + 1 + 2 * (3 + 7)  # and once in vain


def test_how_close_each_is_to_the_first_by_hand() -> None:
    def hidden(*positions: tuple[float, float]):  # [1, sequence, 2]: the mean over positions is what is compared
        return NullRuntime(lambda arrays: {"y": np.array([positions], np.float32)})

    others = {
        "opposite": NullRuntime(lambda arrays: {"y": -np.array([[[3.0, 4.0]]], np.float32)}),
        "same mean": hidden((2, 4), (4, 4)),
        "0.6 of it": hidden((5, 0)),
        "wider": NullRuntime(lambda arrays: {"y": np.ones((1, 1, 3), np.float32)}),
        "broken": hidden((np.nan, 0)),
        "of other names": NullRuntime(lambda arrays: {"z": np.ones((1, 1, 2), np.float32)}),
    }
    [cell] = measure({"first": hidden((3, 4)), **others}, mlp_data(1), Bench(batches=(1,), seconds=0), Quiet())
    found = {name: latency.cosine for name, latency in cell.latencies.items()}
    assert found == {
        "first": pytest.approx(1),
        "opposite": pytest.approx(-1),
        "same mean": None,  # another length, and so not the same output
        "0.6 of it": pytest.approx(0.6),
        "wider": None,
        "broken": None,
        "of other names": None,
    }


def test_rows_that_only_fill_a_batch_up_are_not_compared() -> None:
    first = NullRuntime(lambda arrays: {"y": np.ones((4, 2), np.float32)})
    filled = NullRuntime(lambda arrays: {"y": np.array([[2, 2], [2, 2], [1, -1], [1, -1]], np.float32)})
    [cell] = measure({"a": first, "b": filled}, mlp_data(2), Bench(batches=(2,), seconds=0), Quiet())
    assert cell.latencies["b"].cosine == pytest.approx(1)


def test_the_command(calib8: Shell, tmp_path: Path, tokenizer_folder: Path) -> None:
    first, second = tokenizer_folder / "first.onnx", tokenizer_folder / "second.onnx"
    for path in (first, second):
        ir.save(tiny_encoder(), path)
    text, report = tmp_path / "text.txt", tmp_path / "bench.json"
    text.write_text("a b c\nd\n")
    arguments = ("bench", first, second, "--text", text, "--batches", "1,4", "--lengths", "8,16", "--seconds", "0")
    code, out, err = calib8(*arguments, "-o", report)
    assert code == 0, err
    assert max(map(len, out.splitlines())) <= 80
    assert out.count("second.onnx") == 5  # one for each shape, one below with the version
    assert out.count("in O") == 8  # each row says what ran it
    saved = json.loads(report.read_text())
    assert list(saved["runtimes"]) == ["first.onnx", "second.onnx"]
    assert [(cell["batch"], cell["length"]) for cell in saved["cells"]] == [(1, 8), (1, 16), (4, 8), (4, 16)]
    assert saved["activity"] is None
    code, out, _ = calib8(*arguments, "--json")
    assert json.loads(out)["format"] == "calib8.bench/1"
    assert "position table ends at 16" in calib8(*arguments, "--lengths", "17")[2]
    assert "the same artefact was named twice" in calib8("bench", first, first, "--text", text)[2]
    assert "expected whole numbers such as 1,8,32" in calib8(*arguments, "--batches", "one")[2]
    assert "got --batches 0, expected more than 0" in calib8(*arguments, "--batches", "0")[2]
    other = tmp_path / "second.onnx"
    ir.save(tiny_encoder(), other)
    code, out, _ = calib8("bench", second, other, "--text", text, "--seconds", "0", "--json")
    assert list(json.loads(out)["runtimes"]) == [str(second), str(other)]


class Clocked(NullRuntime):
    """On a GPU whose clock says one number after the other."""

    on_gpu = True

    def __init__(self, *ms: float) -> None:
        super().__init__(lambda arrays: arrays)
        self.ms = list(ms)

    def gpu_ms(self, arrays, *, least: float = 0.02) -> float:
        self.ms.append(self.ms.pop(0))
        return self.ms[-1]


def test_the_clock_of_the_gpu_by_turns_beside_the_way_from_host_to_host() -> None:
    slow, fast = Clocked(4, 9, 4, 4, 4, 1, 4), Clocked(2)
    runtimes = {"cpu": NullRuntime(lambda arrays: arrays), "slow": slow, "fast": fast}
    (cell,) = measure(runtimes, mlp_data(4), Bench(batches="2", seconds=0), Quiet())
    assert [one.gpu_ms for one in cell.latencies.values()] == [None, 4, 2]  # medians of seven
    assert [cell.gpu_ratio(name) for name in runtimes] == [None, 1.0, 2.0]  # to the first engine
    assert slow.ms == [4, 9, 4, 4, 4, 1, 4]
