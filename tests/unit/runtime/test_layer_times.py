"""What each layer of an engine takes: TensorRT's profiler on a context of its own, medians by hand."""

import json
import threading
from pathlib import Path

import numpy as np
import pytest
from fake_tensorrt import World, ids, ids_profile

from calib8.engine.layers import Layer
from calib8.errors import ConfigError, DataError, SetupError
from calib8.runtime.null import NullRuntime
from calib8.runtime.tensorrt.profiler import layer_times, of_profile


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    return World(tmp_path, monkeypatch)


def listed(*layers: tuple[str, str]) -> str:
    """The inspector's document."""
    return json.dumps({"Layers": [{"Name": name, "LayerType": kind} for name, kind in layers]})


def told(times) -> list[tuple[str, str, int, float]]:
    return [(one.layer.name, one.layer.kind, one.launches, one.ms) for one in times]


def test_medians_of_the_runs_after_the_warm_up(world):
    world.trt.plan = listed(("a", "gemm"), ("b", "kgen"), ("never run", "kgen"))
    slow = [("a", 90.0), ("b", 90.0), ("c", 90.0)]
    runs = [[("a", a), ("b", b), ("a", 0.5), ("c", 0.25)] for a, b in ((1.0, 8.0), (4.0, 2.0), (2.0, 4.0))]
    world.trt.timings = [slow, slow, *runs]
    with world.open() as runtime:
        times = runtime.layer_times({"ids": ids(2, 3)}, runs=3, warm_up=2)
        # a comes twice a run, 1.5, 4.5 and 2.5 ms in all; TensorRT's plan does not tell of c
        assert told(times) == [("a", "gemm", 2, 2.5), ("b", "kgen", 1, 4.0), ("c", "", 1, 0.25)]
    assert world.cuda.left_behind == {}


def test_a_run_without_a_layer_counts_as_none_of_its_time():
    runs = [[("a", 3.0)], [("a", 1.0), ("loop", 2.0)], [("a", 2.0), ("loop", 4.0), ("loop", 4.0)]]
    assert told(layer_times(runs, [])) == [("a", "", 1, 2.0), ("loop", "", 2, 2.0)]


def test_other_runs_have_neither_profiler_nor_fewer_graphs(world):
    world.trt.timings = [[("a", 1.0)]] * 12
    with world.open() as runtime:
        for _ in range(3):
            np.testing.assert_array_equal(runtime(ids=ids(2, 3))["out"], 2 * ids(2, 3))
        before, captures = len(world.trt.named("context")), len(world.cuda.named("cudaStreamBeginCapture"))
        assert captures == 1
        for _ in range(2):  # again and again the same run, and none is captured
            runtime.layer_times({"ids": ids(2, 3)}, runs=5, warm_up=1)
        assert len(world.trt.named("context")) == before + 2
        np.testing.assert_array_equal(runtime(ids=ids(2, 3))["out"], 2 * ids(2, 3))
        assert len(world.cuda.named("cudaStreamBeginCapture")) == captures
        assert len(world.trt.named("report")) == 12
    assert world.cuda.left_behind == {}


def test_it_finishes_a_run_under_way_first_and_gives_its_context_back(world):
    world.trt.timings = [[("a", 1.0)], [("a", 2.0)]]
    with world.open() as runtime:
        run = runtime.submit({"ids": ids(2, 3)})
        assert told(runtime.layer_times({"ids": ids(4, 4)}, runs=1, warm_up=1)) == [("a", "", 1, 2.0)]
        np.testing.assert_array_equal(run.result()["out"], 2 * ids(2, 3))
        np.testing.assert_array_equal(runtime(ids=ids(4, 4))["out"], 2 * ids(4, 4))


def test_what_tensorrt_does_not_tell_is_an_error_with_its_reason(world):
    world.trt.refusing, world.trt.reason = "report", "no events"
    with world.open() as runtime:
        with pytest.raises(SetupError, match=r"TensorRT could not tell what each of its layers took: no events\."):
            runtime.layer_times({"ids": ids(2, 3)})
        with pytest.raises(DataError, match="the engine was not built for ids 9x9"):
            runtime.layer_times({"ids": ids(9, 9)})
        world.trt.refusing, world.trt.timings = "", [[]]
        with pytest.raises(SetupError, match="TensorRT could not tell what any of its layers took: no reason given"):
            runtime.layer_times({"ids": ids(2, 3)})
        with pytest.raises(ConfigError, match=r"got runs=0 and warm_up=5, expected at least 1 and 0\."):
            runtime.layer_times({"ids": ids(2, 3)}, runs=0)
        np.testing.assert_array_equal(runtime(ids=ids(2, 3))["out"], 2 * ids(2, 3))
    with pytest.raises(SetupError, match="the model was closed"):
        runtime.layer_times({"ids": ids(2, 3)})
    assert world.cuda.left_behind == {}


def test_closing_waits_for_it(world, monkeypatch):
    world.trt.timings = [[("a", 1.0)]] * 3
    runtime, closed = world.open(), threading.Event()
    closing = threading.Thread(target=lambda: (runtime.close(), closed.set()))
    answer = world.trt.answer

    def meanwhile(name, *values):
        if name == "report" and not closing.ident:
            closing.start()
            assert not closed.wait(0.05)
        return answer(name, *values)

    monkeypatch.setattr(world.trt, "answer", meanwhile)
    assert told(runtime.layer_times({"ids": ids(2, 3)}, runs=2, warm_up=1)) == [("a", "", 1, 1.0)]
    closing.join()
    assert world.cuda.left_behind == {}


def test_a_name_that_several_profiles_have_is_that_of_the_profile_used(world):
    world.trt.profiles = 2
    world.write(profiles=(ids_profile("1x1", "2x4"), ids_profile("1x1", "8x16")))
    world.trt.plan = listed(("f", "small"), ("only", "one"), ("f", "large"))
    world.trt.timings = [[("f", 1.0), ("only", 1.0)]] * 2
    with world.open() as runtime:
        kinds = [
            told(runtime.layer_times({"ids": ids(*shape)}, runs=1, warm_up=0))[0][1] for shape in ((1, 1), (8, 16))
        ]
    assert kinds == ["small", "large"]


def test_shares_of_profiles():
    layers = [Layer("f", kind) for kind in ("0a", "0b", "1a", "1b")]
    assert [[layer.kind for layer in of_profile(layers, profile, 2)] for profile in (0, 1)] == [["0a"], ["1a"]]


def test_nothing_but_an_engine_tells():
    with pytest.raises(ConfigError, match=r"it does not tell what its layers take\. Build an engine"):
        NullRuntime(lambda arrays: arrays).layer_times({})
