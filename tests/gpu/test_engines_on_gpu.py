"""TensorRtRuntime on a real GPU, with engines that stand in for TensorRT's."""

import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from standin import INNER, MIB, Context, expected

import calib8
from calib8.errors import DataError, InputError, SetupError
from calib8.gpu.hardware import gpus

SHAPES = ((1, 1), (8, 64), (1024, 4096), (3, 5), (64, 384), (1, 4096))


def small_integers(shape, seed=0):
    return np.random.default_rng(seed).integers(-8, 8, shape).astype(np.float32)


@pytest.mark.parametrize("options", [{}, {"cuda_graphs": 0}, {"contexts": 3}], ids=str)
def test_it_computes_the_right_thing_for_every_shape(workshop, leaks_nothing, options):
    def work() -> None:
        with calib8.open(workshop.path, **options) as runtime:
            assert runtime.description == f"TensorRT 0.0.0 on {gpus()[0].name}"
            for turn in range(3):
                for shape in SHAPES:
                    given = small_integers(shape, turn)
                    assert np.array_equal(runtime(x=given)["y"], expected("chain", given))
                    assert np.array_equal(runtime(x=given[::-1, ::-1])["y"], expected("chain", given[::-1, ::-1]))

    leaks_nothing(work)


def test_a_matrix_product_with_weights_on_the_gpu(workshop, leaks_nothing):
    workshop.write("matmul")

    def work() -> None:
        with calib8.open(workshop.path) as runtime:
            for rows in (1, 7, 64, 7, 7, 7):
                given = small_integers((rows, INNER), rows)
                assert np.array_equal(runtime(x=given)["y"], expected("matmul", given))

    leaks_nothing(work)


def test_graphs_replace_enqueues_and_are_kept_per_shape(workshop, leaks_nothing):
    def work() -> None:
        with calib8.open(workshop.path) as runtime:
            for turn in range(10):
                for shape in ((64, 384), (8, 64), (1, 64)):
                    given = small_integers(shape, turn)
                    assert np.array_equal(runtime(x=given)["y"], expected("chain", given))
            assert workshop.executed == 3 * 3  # plain, plain on a context of its own, captured
            given = small_integers((128, 384))  # buffers grow: the graphs go
            assert np.array_equal(runtime(x=given)["y"], expected("chain", given))
            for turn in range(4):
                given = small_integers((8, 64), turn)
                assert np.array_equal(runtime(x=given)["y"], expected("chain", given))

    leaks_nothing(work)


def test_a_capture_that_fails_is_told_once_and_the_engine_runs_on(workshop, monkeypatch):
    plain = Context.execute_async_v3

    def unfit(self, stream_handle):
        from cuda.bindings import runtime as cuda

        if cuda.cudaStreamIsCapturing(stream_handle)[1] != cuda.cudaStreamCaptureStatus.cudaStreamCaptureStatusNone:
            cuda.cudaStreamSynchronize(stream_handle)  # forbidden while capturing: the capture is broken
        return plain(self, stream_handle)

    monkeypatch.setattr(Context, "execute_async_v3", unfit)
    given = small_integers((8, 64))
    with calib8.open(workshop.path) as runtime:
        runtime(x=given)
        with pytest.warns(RuntimeWarning, match="no more CUDA graphs for this engine, which runs on without them"):
            runtime(x=given)
        for turn in range(4):
            given = small_integers((8, 64), turn)
            assert np.array_equal(runtime(x=given)["y"], expected("chain", given))


@pytest.mark.parametrize("contexts", [1, 4])
def test_threads_share_an_engine(workshop, leaks_nothing, contexts):
    def work() -> None:
        def ask(seed: int) -> None:
            random = np.random.default_rng(seed)
            for _ in range(50):
                given = small_integers((random.integers(1, 9), 64), seed)
                assert np.array_equal(runtime(x=given)["y"], expected("chain", given))

        with calib8.open(workshop.path, contexts=contexts) as runtime, ThreadPoolExecutor(8) as threads:
            list(threads.map(ask, range(8)))

    leaks_nothing(work)


def test_runs_are_submitted_and_waited_for_later(workshop, leaks_nothing):
    def work() -> None:
        with calib8.open(workshop.path, contexts=3) as runtime:
            given = [small_integers((256, 4096), seed) for seed in range(8)]
            runs = [runtime.submit({"x": array}) for array in given]
            for array, run in reversed(list(zip(given, runs, strict=True))):
                assert np.array_equal(run.result()["y"], expected("chain", array))
                assert run.done
            left = [runtime.submit({"x": array}) for array in given[:3]]
        for array, run in zip(given, left, strict=False):
            assert np.array_equal(run.result()["y"], expected("chain", array))

    leaks_nothing(work)


def test_too_little_memory_is_told_and_smaller_inputs_still_run(workshop, device):
    given = small_integers((64, 384))
    huge = np.zeros((256 * MIB // 4096, 4096), np.float32)  # 1 GiB
    workshop.write(layers=1)
    with calib8.open(workshop.path) as runtime:
        for _ in range(3):
            runtime(x=given)
        hog = _all_but(device, 600 * MIB)
        try:
            with pytest.raises(
                SetupError, match=r"allocating 1,073,741,824 bytes failed .*out of memory.* Use smaller"
            ):
                runtime(x=huge)
            for _ in range(3):
                assert np.array_equal(runtime(x=given)["y"], expected("chain", given, 1))
        finally:
            for address in hog:
                device.free(address)
        assert runtime(x=huge)["y"][-1, -1] == 1


def _all_but(device, left: int) -> list[int]:
    """Take all of the GPU's memory but about so much."""
    taken: list[int] = []
    size = device.free_bytes() - left
    while size > 64 * MIB and device.free_bytes() > left + 64 * MIB:
        try:
            taken.append(device.malloc(min(size, device.free_bytes() - left)))
        except SetupError:
            size //= 2
    return taken


def test_too_little_memory_for_the_scratch_is_told_when_opening(workshop, leaks_nothing):
    workshop.write(scratch=1 << 44)

    def work() -> None:
        with pytest.raises(
            SetupError, match=r"x\.engine cannot run here: CUDA: allocating 17,592,186,044,416 bytes failed"
        ):
            calib8.open(workshop.path)

    leaks_nothing(work)


def test_nothing_leaks_after_errors(workshop, leaks_nothing, monkeypatch):
    def work() -> None:
        with calib8.open(workshop.path, contexts=2) as runtime:
            runtime(x=small_integers((1024, 1024)))
            with pytest.raises(DataError, match="the engine was not built for x 1x5000"):
                runtime(x=np.zeros((1, 5000), np.float32))
            with monkeypatch.context() as patch:
                patch.setattr(Context, "execute_async_v3", lambda self, stream: False)
                with pytest.raises(SetupError, match="TensorRT could not run on x 2x2"):
                    runtime(x=np.ones((2, 2), np.float32))
                with pytest.raises(SetupError, match="TensorRT could not run on x 2x2"):
                    runtime.run_on_gpu({"x": np.ones((2, 2), np.float32)})

    leaks_nothing(work)


def test_closing_while_threads_run_ends_well(workshop, leaks_nothing):
    def work() -> None:
        runtime = calib8.open(workshop.path, contexts=2)
        started = threading.Barrier(5)

        def ask() -> None:
            given = small_integers((8, 64))
            started.wait(20)
            while np.array_equal(runtime(x=given)["y"], expected("chain", given)):
                pass

        with ThreadPoolExecutor(4) as threads:
            running = [threads.submit(ask) for _ in range(4)]
            started.wait(20)
            time.sleep(0.05)
            runtime.close()
            for run in running:
                with pytest.raises(SetupError, match="was closed"):
                    run.result(60)

    leaks_nothing(work)


def test_a_file_that_is_not_what_was_built_never_reaches_the_gpu(workshop):
    workshop.path.write_bytes(b"an engin")
    with pytest.raises(InputError, match=r"x\.engine\.json describes another engine than"):
        calib8.open(workshop.path)


BROKEN = """
import sys, pathlib
sys.path.insert(0, {here!r})
import numpy as np
import calib8
from standin import Workshop
workshop = Workshop(pathlib.Path({folder!r}))
sys.modules["tensorrt"] = workshop.module
path = workshop.write("broken")
runtime = calib8.open(path)
for _ in range(2):
    try:
        runtime(x=np.ones((1, 4), np.float32))
    except calib8.Calib8Error as error:
        print("told:", error)
runtime.close()
print("closed")
"""


def test_a_kernel_that_crashes_is_told_and_closing_is_quiet(tmp_path):
    """In a process of its own: such an error leaves no CUDA context that could be used."""
    script = BROKEN.format(here=str(Path(__file__).parent), folder=str(tmp_path))
    answer = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120, check=False)
    told = [line for line in answer.stdout.splitlines() if line.startswith("told: CUDA:")]
    assert len(told) == 2, answer.stdout + answer.stderr
    assert "illegal memory access" in told[0]
    assert answer.stdout.splitlines()[-1] == "closed"
    assert answer.returncode == 0
