"""Several runs at once, and sentences that stream through them."""

import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from calib8.errors import DataError, SetupError
from calib8.runtime.choice import CpuChoice
from calib8.runtime.contract import contract_of
from calib8.runtime.cpu import open_choice
from calib8.runtime.null import NullRuntime
from calib8.runtime.openvino import OpenVinoRuntime
from calib8.runtime.ort import OrtRuntime
from calib8.runtime.streams import Streams
from calib8.testing import outputs_of, tiny_encoder, tiny_mlp, token_feeds
from calib8.text import sentence
from calib8.text.sentence import SentenceEncoder


def openvino(model, streams: int) -> Streams:
    return Streams(OpenVinoRuntime(model, streams=streams), streams)


def onnxruntime(model, streams: int) -> Streams:
    return Streams(OrtRuntime(model, threads=1), streams)


@pytest.mark.parametrize("make", [openvino, onnxruntime])
def test_results_belong_to_their_inputs(make) -> None:
    feeds = [token_feeds(length, 16 - length, seed=length) for length in range(1, 16)] * 4
    with make(tiny_encoder(), 3) as runtime:
        runs = [runtime.submit(arrays) for arrays in feeds]
        for arrays, run in zip(feeds, runs, strict=True):
            real = arrays["attention_mask"] == 1
            expected = outputs_of(tiny_encoder(), arrays)["last_hidden_state"][real]
            np.testing.assert_allclose(run.result()["last_hidden_state"][real], expected, atol=1e-5)
            assert run.done


def test_threads_that_are_the_first_to_use_openvino_do_not_lock_up() -> None:
    """Bindings initialise themselves in a process's first run: without a lock, five processes of six never ended."""
    script = (
        "import sys\n"
        "from calib8.runtime.openvino import OpenVinoRuntime\n"
        "from calib8.runtime.streams import Streams\n"
        "from calib8.testing import tiny_encoder, token_feeds\n"
        "sys.setswitchinterval(1e-6)\n"
        "with Streams(OpenVinoRuntime(tiny_encoder(), streams=3), 3) as runtime:\n"
        "    runs = [runtime.submit(token_feeds(3, 5)) for _ in range(12)]\n"
        "    print(len({run.result()['last_hidden_state'].tobytes() for run in runs}))\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False)
    assert (done.stdout, done.returncode) == ("1\n", 0), done.stderr


def test_as_many_runs_go_on_at_once_as_there_are_streams() -> None:
    together = threading.Barrier(3, timeout=20)

    def answer(arrays):
        together.wait()  # breaks unless three runs are in here at once
        return arrays

    with Streams(NullRuntime(answer), 3) as runtime:
        assert runtime.streams == 3
        assert runtime.description == "null runtime, 3 streams"
        runs = [runtime.submit({"x": np.array([number])}) for number in range(3)]
        assert [int(run.result()["x"][0]) for run in runs] == [0, 1, 2]


@pytest.mark.parametrize(("streams", "expected"), [(1, 4), (2, 1), (3, 1)])
def test_streams_of_onnxruntime_have_no_threads_in_common(streams: int, expected: int) -> None:
    choice = CpuChoice(runtime="onnxruntime", form="fp32", streams=streams)
    with open_choice(tiny_mlp(), choice, 4) as opened:
        session = getattr(opened, "_runtime", opened)._session
        assert session.get_session_options().intra_op_num_threads == expected
        assert opened.streams == streams


def test_wait_does_not_raise_and_result_does() -> None:
    def answer(arrays):
        raise DataError("no")

    with Streams(NullRuntime(answer), 1) as runtime:
        run = runtime.submit({"x": np.ones(1)})
        run.wait()
        assert run.done
        with pytest.raises(DataError, match="^no$"):
            run.result()


def test_runs_that_had_to_wait_end_with_the_runtime() -> None:
    begun, leave = threading.Event(), threading.Event()

    def answer(arrays):
        begun.set()
        leave.wait(20)
        return arrays

    runtime = Streams(NullRuntime(answer), 1)
    runs = [runtime.submit({"x": np.array([number])}) for number in range(3)]
    begun.wait(20)
    closing = threading.Thread(target=runtime.close)
    closing.start()
    runs[2].wait()  # it never began
    with pytest.raises(SetupError, match="closed before this run began"):
        runs[2].result()
    leave.set()
    closing.join(20)
    assert int(runs[0].result()["x"][0]) == 0


@pytest.mark.parametrize("make", [openvino, onnxruntime])
def test_closing_waits_for_runs_of_other_threads(make) -> None:
    """More threads than streams, all in ``run`` while the runtime is closed: each run ends well or is refused."""
    feeds = token_feeds(*[16] * 64)
    runtime = make(tiny_encoder(), 2)
    expected = runtime.run(feeds)["last_hidden_state"]
    begun, refused = threading.Barrier(7), []

    def use() -> None:
        begun.wait(20)
        while not refused:
            try:
                np.testing.assert_allclose(runtime.run(feeds)["last_hidden_state"], expected, atol=1e-5)
            except SetupError as error:
                refused.append(str(error))

    threads = [threading.Thread(target=use, daemon=True) for _ in range(6)]
    for thread in threads:
        thread.start()
    begun.wait(20)
    time.sleep(0.05)
    runtime.close()
    for thread in threads:
        thread.join(20)
        assert not thread.is_alive()
    assert refused
    assert all("the model was closed" in reason for reason in refused)


def test_a_run_that_is_under_way_is_finished_before_anything_is_freed() -> None:
    begun, leave, freed = threading.Event(), threading.Event(), []

    def answer(arrays):
        begun.set()
        assert leave.wait(20)
        freed.append(runtime.closed)
        return arrays

    runtime = NullRuntime(answer)
    running = threading.Thread(target=runtime.run, args=({"x": np.ones(1)},))
    running.start()
    assert begun.wait(20)
    closing = threading.Thread(target=runtime.close)
    closing.start()
    while not runtime._closed:
        time.sleep(0.001)
    with pytest.raises(SetupError, match="was closed"):
        runtime.run({"x": np.ones(1)})
    leave.set()
    for thread in (running, closing):
        thread.join(20)
    assert (freed, runtime.closed) == ([False], True)


def test_a_stream_that_is_closed_while_a_run_is_submitted(monkeypatch: pytest.MonkeyPatch) -> None:
    runtime = Streams(NullRuntime(lambda arrays: arrays), 1)
    fitted = runtime._fitted

    def closed_meanwhile(arrays):
        given = fitted(arrays)
        runtime.close()
        return given

    monkeypatch.setattr(runtime, "_fitted", closed_meanwhile)
    with pytest.raises(SetupError, match="the model was closed"):
        runtime.submit({"x": np.ones(1)})


def test_what_does_not_fit_is_refused_at_once() -> None:
    with Streams(NullRuntime(lambda arrays: arrays, contract_of(tiny_mlp())), 2) as runtime:
        with pytest.raises(DataError, match="got arrays for z, expected x"):
            runtime.submit({"z": np.ones((1, 4))})
        inner = runtime._runtime
    assert inner.closed
    with pytest.raises(SetupError, match="was closed"):
        runtime.submit({"x": np.ones((1, 4), np.float32)})


def test_sentences_stream_in_windows(tokenizer_folder: Path, notes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sentence, "WINDOW", 4)
    read = []

    def texts():
        for number in range(11):
            read.append(number)
            yield "a " * (number % 5) + "b"

    with openvino(tiny_encoder(), 2) as runtime:
        encoder = SentenceEncoder(tokenizer_folder, runtime)
        whole = encoder.embed(["a " * (number % 5) + "b" for number in range(11)])
        windows = encoder.stream(texts(), notes)
        first = next(windows)
        assert len(read) <= 8  # one window computed, one read ahead
        found = [first, *windows]
    assert [len(part) for part, _ in found] == [4, 4, 3]
    assert [text for part, _ in found for text in part] == [*texts()]
    np.testing.assert_allclose(np.concatenate([vectors for _, vectors in found]), whole, atol=1e-6)
    assert notes.steps[-2:] == [("embed", 11, None), ("embed", 11, 11)]


def test_a_pause_ends_a_window(tokenizer_folder: Path) -> None:
    with openvino(tiny_encoder(), 2) as runtime:
        found = SentenceEncoder(tokenizer_folder, runtime).stream(iter(["a", None, None, "b", "c", None, "d"]))
        assert [part for part, _ in found] == [["a"], ["b", "c"], ["d"]]


def test_few_sentences_are_shared_among_the_streams(tokenizer_folder: Path) -> None:
    null = NullRuntime(lambda arrays: {"y": np.ones((*arrays["input_ids"].shape, 2), np.float32)})
    with Streams(null, 4) as runtime:
        SentenceEncoder(tokenizer_folder, runtime).embed(["a b"] * 8)
    assert [len(arrays["input_ids"]) for arrays in null.asked] == [2, 2, 2, 2]


def test_an_error_of_the_model_ends_the_stream(tokenizer_folder: Path) -> None:
    def answer(arrays):
        raise DataError("no")

    with Streams(NullRuntime(answer), 2) as runtime, pytest.raises(DataError, match="^no$"):
        SentenceEncoder(tokenizer_folder, runtime).embed(["a"] * 50)
