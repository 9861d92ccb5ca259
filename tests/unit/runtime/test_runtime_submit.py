"""Runs under way: several contexts, back-pressure, threads, errors that only show on the GPU."""

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from fake_tensorrt import World, ids

from calib8.errors import DataError, SetupError
from calib8.runtime.null import NullRuntime


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    return World(tmp_path, monkeypatch)


def test_submitted_runs_are_computed_when_they_are_waited_for(world):
    with world.open(contexts=2) as runtime:
        first, second = runtime.submit({"ids": ids(2, 3)}), runtime.submit({"ids": ids(4, 4) + 1})
        assert not first.done
        assert world.cuda.named("cudaStreamSynchronize") == []
        np.testing.assert_array_equal(second.result()["out"], 2 * (ids(4, 4) + 1))
        np.testing.assert_array_equal(first.result()["out"], 2 * ids(2, 3))
        assert first.result() is first.result()
        assert first.done
        streams = {event[1] for event in world.trt.named("execute")}
        assert len(streams) == 2
    assert world.cuda.left_behind == {}


def test_where_all_contexts_are_taken_the_oldest_run_is_finished_first(world):
    with world.open(contexts=2) as runtime:
        runs = [runtime.submit({"ids": ids(2, 3) + number}) for number in range(5)]
        assert [run.done for run in runs] == [True, True, True, False, False]
        for number, run in reversed(list(enumerate(runs))):
            np.testing.assert_array_equal(run.result()["out"], 2 * (ids(2, 3) + number))


def test_the_caller_may_overwrite_host_arrays_at_once(world):
    given = ids(2, 3)
    with world.open() as runtime:
        run = runtime.submit({"ids": given})
        given[...] = 99
        np.testing.assert_array_equal(run.result()["out"], 2 * ids(2, 3))


def test_a_single_thread_stays_on_one_context(world):
    with world.open(contexts=3) as runtime:
        for _ in range(4):
            runtime(ids=ids(2, 3))
    assert len({event[1] for event in world.trt.named("execute")}) == 1


def test_closing_finishes_what_is_under_way_and_its_results_stay(world):
    runtime = world.open(contexts=2)
    runs = [runtime.submit({"ids": ids(2, 3) + number}) for number in range(2)]
    runtime.close()
    assert world.cuda.left_behind == {}
    for number, run in enumerate(runs):
        np.testing.assert_array_equal(run.result()["out"], 2 * (ids(2, 3) + number))
    with pytest.raises(SetupError, match="the model was closed"):
        runtime.submit({"ids": ids(2, 3)})


def test_an_error_on_the_gpu_belongs_to_its_run_alone(world):
    with world.open() as runtime:
        failing = runtime.submit({"ids": ids(2, 3)})
        world.cuda.status = {"cudaStreamSynchronize": 700}
        failing.wait()
        world.cuda.status = {}
        assert failing.done
        later = runtime.submit({"ids": ids(2, 3)})
        for _ in range(2):
            with pytest.raises(SetupError, match="cudaStreamSynchronize failed on NVIDIA A10: error 700"):
                failing.result()
        np.testing.assert_array_equal(later.result()["out"], 2 * ids(2, 3))
    assert world.cuda.left_behind == {}


def test_data_that_does_not_fit_is_told_by_submit_and_takes_no_context(world):
    with world.open() as runtime:
        for _ in range(3):
            with pytest.raises(DataError, match="the engine was not built for ids 9x16"):
                runtime.submit({"ids": ids(9, 16)})
        runtime.submit({"ids": ids(2, 3)}).wait()


@pytest.mark.parametrize("contexts", [1, 3])
def test_many_threads_get_what_they_asked_for(world, contexts):
    def work(seed: int) -> None:
        random = np.random.default_rng(seed)
        for _ in range(30):
            given = random.integers(0, 1000, random.integers(1, (9, 17)))
            np.testing.assert_array_equal(runtime(ids=given)["out"], 2 * given)

    with world.open(contexts=contexts) as runtime, ThreadPoolExecutor(8) as threads:
        list(threads.map(work, range(8)))
        assert len(world.cuda.streams) == 1 + 1 + contexts
    assert world.cuda.left_behind == {}


def test_threads_may_wait_for_runs_of_others(world):
    with world.open(contexts=2) as runtime, ThreadPoolExecutor(4) as threads:
        for number in range(20):
            run = runtime.submit({"ids": ids(2, 3) + number})
            for results in threads.map(lambda run: run.result(), [run] * 4):
                np.testing.assert_array_equal(results["out"], 2 * (ids(2, 3) + number))


def test_a_thread_that_waits_for_a_context_learns_that_the_engine_was_closed(world):
    runtime = world.open()
    answers: list[BaseException] = []
    entered, leave = threading.Event(), threading.Event()
    begin = world.cuda.cudaMemcpyAsync

    def slow(*arguments):
        entered.set()
        assert leave.wait(20)
        return begin(*arguments)

    world.monkeypatch.setattr(world.cuda, "cudaMemcpyAsync", slow, raising=False)

    def work() -> None:
        try:
            runtime(ids=ids(2, 3))
        except SetupError as error:
            answers.append(error)

    threads = [threading.Thread(target=work) for _ in range(3)]
    threads[0].start()
    assert entered.wait(20)
    for thread in threads[1:]:
        thread.start()
    closing = threading.Thread(target=runtime.close)
    closing.start()
    while not runtime._closed:
        pass
    leave.set()
    for thread in (*threads, closing):
        thread.join(20)
        assert not thread.is_alive()
    assert all("was closed" in str(error) for error in answers)
    assert world.cuda.left_behind == {}


def test_on_the_cpu_a_submitted_run_is_over_at_once():
    with NullRuntime(lambda arrays: {"y": arrays["x"] * 2}) as runtime:
        run = runtime.submit({"x": np.ones(1)})
        run.wait()
        assert run.done
        assert run.result()["y"].tolist() == [2]
