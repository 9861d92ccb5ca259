"""CUDA graphs of runs that come again. The fakes refuse what TensorRT forbids: see ``FakeContext``."""

import warnings
from pathlib import Path

import numpy as np
import pytest
from fake_tensorrt import World, ids

from calib8.errors import SetupError
from calib8.runtime.tensorrt import execution


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    return World(tmp_path, monkeypatch)


def right(runtime, rows: int, columns: int = 4, offset: int = 0) -> None:
    np.testing.assert_array_equal(runtime(ids=ids(rows, columns) + offset)["out"], 2 * (ids(rows, columns) + offset))


def launched(world: World) -> int:
    return len(world.cuda.named("cudaGraphLaunch"))


def test_the_second_run_is_captured_and_the_third_is_the_graph(world):
    with world.open() as runtime:
        right(runtime, 2)
        assert world.cuda.executables == {}
        right(runtime, 2, offset=1)
        assert (len(world.cuda.executables), launched(world)) == (1, 0)
        executed = len(world.trt.named("execute"))
        for offset in range(2, 5):
            right(runtime, 2, offset=offset)
        assert launched(world) == 3
        assert len(world.trt.named("execute")) == executed == 3  # plain, plain on a context of its own, captured
    assert world.cuda.left_behind == {}


def test_all_contexts_of_a_stream_work_in_the_same_scratch_memory(world):
    with world.open() as runtime:
        used = world.cuda.used
        for _ in range(3):
            for rows in (1, 2, 3):
                right(runtime, rows)
        assert len(world.trt.named("context")) == 4
        assert world.cuda.used - used == 3 * 4 * (8 + 4)  # the buffers of the largest shape


def test_shapes_that_take_turns_each_have_their_graph(world):
    with world.open() as runtime:
        right(runtime, 8)  # buffers have their size
        for turn in range(5):
            for rows in (1, 2, 3):
                right(runtime, rows, offset=turn)
        assert len(world.cuda.executables) == 3
        assert launched(world) == 3 * 3


def test_graphs_are_bounded_and_a_busy_one_stays(world):
    with world.open(cuda_graphs=2) as runtime:
        right(runtime, 8)
        for _ in range(4):
            for rows in (1, 2, 3):
                right(runtime, rows)
        assert len(world.cuda.executables) == 2
        assert len(world.trt.named("context")) == 3  # the third shape is never tried


def test_a_graph_out_of_use_makes_room(world, monkeypatch):
    monkeypatch.setattr(execution, "PATIENCE", 3)
    with world.open(cuda_graphs=1) as runtime:
        right(runtime, 2)
        right(runtime, 2)
        (first,) = world.cuda.executables
        for _ in range(4):
            right(runtime, 1)
        (second,) = world.cuda.executables
        assert first != second
        assert launched(world) == 1  # captured at the third of the four


def test_growing_buffers_destroys_the_graphs_that_point_into_them(world):
    with world.open() as runtime:
        for _ in range(3):
            right(runtime, 2)
        right(runtime, 8)
        assert world.cuda.executables == {}
        for _ in range(4):
            right(runtime, 2)
        assert len(world.cuda.executables) == 1


def test_no_graphs_on_request(world):
    with world.open(cuda_graphs=0) as runtime:
        for _ in range(4):
            right(runtime, 2)
    assert world.cuda.named("cudaStreamBeginCapture") == []
    assert len(world.trt.named("context")) == 1


@pytest.mark.parametrize("failing", ["cudaStreamBeginCapture", "cudaStreamEndCapture", "cudaGraphInstantiate"])
def test_a_capture_that_fails_is_told_once_and_the_engine_runs_on(world, failing):
    with world.open() as runtime:
        right(runtime, 2)
        world.cuda.status = {failing: 900}
        with pytest.warns(
            RuntimeWarning,
            match=rf"no more CUDA graphs for this engine.*: CUDA: {failing} failed.*cuda_graphs=0 to not",
        ):
            right(runtime, 2, offset=1)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            for _ in range(3):
                right(runtime, 2, offset=2)
        world.cuda.status = {}
    assert world.cuda.left_behind == {}


def test_no_room_for_a_context_of_its_own_is_told_once_and_the_engine_runs_on(world):
    with world.open() as runtime:
        right(runtime, 2)
        world.trt.refusing, world.trt.reason = "context", "out of memory"
        with pytest.warns(RuntimeWarning, match="runs on without them: TensorRT could not make room .*: out of memory"):
            right(runtime, 2)
        right(runtime, 2)
    assert world.cuda.left_behind == {}


def test_a_graph_that_fails_to_launch_is_an_error_of_that_run(world):
    with world.open() as runtime:
        for _ in range(3):
            right(runtime, 2)
        world.cuda.status = {"cudaGraphLaunch": 719}
        with pytest.raises(SetupError, match="cudaGraphLaunch failed on NVIDIA A10: error 719"):
            right(runtime, 2)
        world.cuda.status = {}
        right(runtime, 2)
    assert world.cuda.left_behind == {}
