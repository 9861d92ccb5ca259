"""How many samples a group of ops is measured on: few where they leave no doubt."""

from types import SimpleNamespace

import numpy as np
import pytest
from planted_models import planted, probe_of

from calib8.passes.prepare import prepare
from calib8.quantization.measuring import Measuring
from calib8.runtime.ort import OrtRuntime


class Scores:
    """A probe of samples that lose what each op takes of them; and what it was asked."""

    def __init__(self, losses: dict[str, list[float]], *, counts: bool = False) -> None:
        self.losses, self.counts = losses, counts
        self.samples, self.few = len(next(iter(losses.values()))), 8
        self.asked: list[tuple[list[str], int | None]] = []

    def scores(self, board: SimpleNamespace, samples: int | None = None) -> np.ndarray:
        self.asked.append((sorted(board.int8), samples))
        lost = sum((np.array(self.losses[name]) for name in board.int8), np.zeros(self.samples))
        return (1 - lost)[:samples]


def measuring(probe: Scores) -> Measuring:
    return Measuring(SimpleNamespace(int8=()), probe)  # type: ignore[arg-type]


#: Of 8 samples a mean of 0.5 with a standard error of 0.1 / sqrt(7), and then something else.
SPREAD = [0.4, 0.6] * 4
ERROR = 0.1 / np.sqrt(7)


@pytest.mark.parametrize(("limit", "sure"), [(0.5 - 3.01 * ERROR, True), (0.5 - 2.99 * ERROR, False), (0.7, True)])
def test_few_samples_are_enough_beyond_three_standard_errors(limit: float, sure: bool) -> None:
    probe = Scores({"op": [*SPREAD, *[0.0] * 8]})
    assert measuring(probe).damage(["op"], limit) == pytest.approx(0.5 if sure else 0.25)
    assert probe.asked == [([], None), (["op"], 8), *([] if sure else [(["op"], None)])]


def test_all_samples_where_counts_have_no_spread_or_there_are_few() -> None:
    one_wrong = {"op": [0.0] * 15 + [1.0]}
    probe = Scores(one_wrong, counts=True)
    assert measuring(probe).damage(["op"], 0.01) == 1 / 16
    assert probe.asked == [([], None), (["op"], None)]
    few = Scores({"op": [0.25] * 15})
    assert measuring(few).damage(["op"], 0.1) == 0.25
    assert few.asked == [([], None), (["op"], None)]


def test_what_is_not_a_number_is_measured_in_full() -> None:
    probe = Scores({"op": [float("nan")] * 16})
    assert np.isnan(measuring(probe).damage(["op"], 0.1))
    assert len(probe.asked) == 3


def test_the_first_batches_are_few() -> None:
    """Of 24 samples in batches of 16 and 8; 3 are all that there are."""
    model = prepare(planted())
    probe = probe_of(model)
    assert (probe.few, probe_of(model, 3).few, probe.counts) == (16, 3, False)
    with OrtRuntime(model) as runtime:
        assert [len(probe.scores(runtime, samples)) for samples in (None, 16, 17)] == [24, 16, 24]
