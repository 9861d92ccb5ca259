"""What the GPU computes for on one run, by its own clock: a graph of its own, launched until enough time has passed."""

import warnings
from pathlib import Path

import numpy as np
import pytest
from fake_tensorrt import World, ids

from calib8.errors import ConfigError, DataError, SetupError
from calib8.runtime.null import NullRuntime


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    return World(tmp_path, monkeypatch)


def test_as_many_launches_as_take_the_time_without_the_copies(world):
    with world.open() as runtime:
        # the fake clock counts a millisecond for each thing enqueued, and a run is one: 1 launch, then 7 that count
        assert runtime.gpu_ms({"ids": ids(2, 3)}, least=0.007) == pytest.approx(1.0)
        assert len(world.cuda.named("cudaGraphLaunch")) == 1 + 7
        assert runtime.gpu_ms({"ids": ids(2, 3)}, least=0) == pytest.approx(1.0)
        assert len(world.cuda.named("cudaGraphLaunch")) == 8 + 1 + 3  # never fewer than three
    assert world.cuda.left_behind == {}


def test_other_runs_have_as_many_graphs_as_before(world):
    with world.open(cuda_graphs=1) as runtime:
        for _ in range(3):
            np.testing.assert_array_equal(runtime(ids=ids(2, 3))["out"], 2 * ids(2, 3))
        captures, launches = (len(world.cuda.named(call)) for call in ("cudaStreamBeginCapture", "cudaGraphLaunch"))
        runtime.gpu_ms({"ids": ids(2, 3)}, least=0)
        np.testing.assert_array_equal(runtime(ids=ids(2, 3))["out"], 2 * ids(2, 3))
        assert len(world.cuda.named("cudaStreamBeginCapture")) == captures + 1
        assert len(world.cuda.named("cudaGraphLaunch")) == launches + 4 + 1


def test_without_graphs_the_context_is_asked_each_time(world):
    with world.open(cuda_graphs=0) as runtime, warnings.catch_warnings():
        warnings.simplefilter("error")
        assert runtime.gpu_ms({"ids": ids(2, 3)}, least=0.005) == pytest.approx(1.0)
    assert world.cuda.named("cudaGraphLaunch") == []


def test_what_cannot_be_captured_is_timed_all_the_same(world):
    with world.open() as runtime:
        world.cuda.status = {"cudaStreamBeginCapture": 900}
        with pytest.warns(RuntimeWarning, match="no more CUDA graphs"):
            assert runtime.gpu_ms({"ids": ids(2, 3)}, least=0.005) == pytest.approx(1.0)


def test_what_cannot_be_timed(world):
    with world.open() as runtime, pytest.raises(DataError, match="ids"):
        runtime.gpu_ms({"ids": ids(9, 9)})
    with pytest.raises(SetupError, match="closed"):
        runtime.gpu_ms({"ids": ids(2, 3)})
    with pytest.raises(ConfigError, match="it computes on no GPU"):
        NullRuntime(lambda arrays: arrays).gpu_ms({})
