import numpy as np
import pytest

from calib8.data.batching import Dataset
from calib8.data.sources import Batches
from calib8.errors import DataError
from calib8.graph.inputs import declared_inputs
from calib8.runtime.null import NullRuntime
from calib8.runtime.run_all import run_all
from calib8.testing import tiny_encoder, token_feeds


@pytest.mark.parametrize("budget", [1, 6, 1000])
def test_outputs_are_in_order_and_padded(notes, budget: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("calib8.data.batching.TOKEN_BUDGET", budget)
    chunks = [token_feeds(2, 5, 3), token_feeds(4, seed=1)]
    data = Dataset(Batches(chunks), declared_inputs(tiny_encoder()))
    got = run_all(NullRuntime(lambda a: {"ids": a["input_ids"], "first": a["input_ids"][:, 0]}), data, notes)
    expected = np.zeros((4, 5), np.int64)
    expected[:3], expected[3, :4] = chunks[0]["input_ids"], chunks[1]["input_ids"]
    assert got["ids"].tolist() == expected.tolist()
    assert got["first"].tolist() == expected[:, 0].tolist()
    assert notes.steps[-1] == ("run", 4, 4)


@pytest.mark.parametrize("output", [np.float32(1), np.zeros((1, 3))])
def test_outputs_without_a_row_per_sample(notes, output: np.ndarray) -> None:
    data = Dataset(Batches(token_feeds(2, 5)), declared_inputs(tiny_encoder()))
    with pytest.raises(DataError, match=r"output 'y' has shape .* for a batch of 2; expected one row per sample"):
        run_all(NullRuntime(lambda _: {"y": np.asarray(output)}), data, notes)
