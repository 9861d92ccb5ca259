"""More than the server can do, clients that vanish, failures, and the end."""

import json
import os
import signal
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import openai
import pytest
from served import Served, metric, served, until
from shell import Shell

from calib8.cli.serve import _key
from calib8.graph.io import save
from calib8.progress import Quiet
from calib8.serving.batcher import FAILURES, Batcher
from calib8.serving.config import Serve
from calib8.serving.metrics import Metrics
from calib8.serving.refused import Refused
from calib8.testing import tiny_encoder


def ask(server: Served, text: str) -> list[float]:
    return server.openai().embeddings.create(model="tiny", input=text).data[0].embedding


def hold_both_workers(server: Served, clients: ThreadPoolExecutor) -> list[object]:
    """Requests that are being computed until ``go`` is set; whatever comes now waits."""
    server.runtime.go.clear()
    held = []
    for _ in range(2):
        held.append(clients.submit(ask, server, "a"))
        assert server.runtime.started.acquire(timeout=20)
    return held


def test_a_full_queue_is_answered_with_429_and_recovers(tokenizer_folder: Path) -> None:
    config = Serve(port=0, max_tokens=10, queue_tokens=10)
    with served(tokenizer_folder, config) as server, ThreadPoolExecutor(8) as clients:
        hold_both_workers(server, clients)
        waiting = [clients.submit(ask, server, "b") for _ in range(3)]  # 3 tokens each
        until(lambda: metric(server, "calib8_queue_tokens") == 9)
        with pytest.raises(openai.RateLimitError, match="9 tokens are waiting, and there is room for 10") as refused:
            ask(server, "c")
        assert refused.value.code == "rate_limit_exceeded"
        assert 1 <= int(refused.value.response.headers["retry-after"]) <= 60
        server.runtime.go.set()
        expected = server.encoder.embed(["b"])[0]
        for answer in waiting:
            np.testing.assert_allclose(answer.result(), expected, atol=1e-6)
        np.testing.assert_allclose(ask(server, "c"), server.encoder.embed(["c"])[0], atol=1e-6)


def test_requests_beyond_the_limit_are_refused_before_they_are_read(tokenizer_folder: Path) -> None:
    with served(tokenizer_folder, Serve(port=0, max_requests=2)) as server, ThreadPoolExecutor(8) as clients:
        held = hold_both_workers(server, clients)
        with server.http() as client:
            answer = client.post("/v1/embeddings", content="not even JSON")
        assert (answer.status_code, answer.headers["retry-after"]) == (429, "1")
        assert "2 requests are under way" in answer.json()["error"]["message"]
        server.runtime.go.set()
        assert [len(one.result()) for one in held] == [8, 8]
        until(lambda: metric(server, "calib8_requests_under_way") == 0)
        assert len(ask(server, "a")) == 8


def test_what_a_vanished_client_asked_for_is_not_computed(tokenizer_folder: Path) -> None:
    with served(tokenizer_folder) as server, ThreadPoolExecutor(8) as clients:
        held = hold_both_workers(server, clients)
        body = json.dumps({"model": "tiny", "input": ["d", "d d"]}).encode()
        with socket.create_connection(("127.0.0.1", server.port)) as gone:
            head = f"POST /v1/embeddings HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n"
            gone.sendall(head.encode() + body)
            until(lambda: metric(server, "calib8_queue_tokens") == 7)
        until(lambda: metric(server, "calib8_queue_tokens") == 0)
        until(lambda: metric(server, 'calib8_requests_total{path="/v1/embeddings",status="499"}') == 1)
        server.runtime.go.set()
        assert [len(one.result()) for one in held] == [8, 8]
        assert [rows for rows, _ in server.runtime.shapes] == [1, 1]


def test_shutdown_finishes_what_is_under_way(tokenizer_folder: Path) -> None:
    with served(tokenizer_folder) as server, ThreadPoolExecutor(8) as clients:
        under_way = [*hold_both_workers(server, clients), clients.submit(ask, server, "b b")]
        until(lambda: metric(server, "calib8_queue_tokens") == 4)
        server.stop()
        until(lambda: _refuses(server.port))
        assert server.thread.is_alive()
        server.runtime.go.set()
        assert [len(one.result()) for one in under_way] == [8, 8, 8]
        server.thread.join(20)
        assert not server.thread.is_alive()


def test_shutdown_does_not_wait_longer_than_it_may(tokenizer_folder: Path) -> None:
    """What is under way after ``grace_seconds`` is refused, and what waits is never started."""
    with served(tokenizer_folder, Serve(port=0, grace_seconds=1)) as server, ThreadPoolExecutor(8) as clients:
        under_way = [*hold_both_workers(server, clients), clients.submit(ask, server, "b b")]
        until(lambda: metric(server, "calib8_queue_tokens") == 4)
        server.stop()
        server.thread.join(10)
        assert not server.thread.is_alive()
        assert ["503" in str(one.exception()) and "shutting down" in str(one.exception()) for one in under_way] == [
            True
        ] * 3
        server.runtime.go.set()
    assert server.runtime.shapes == [(1, 8), (1, 8)]


def _refuses(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port)).close()
    except ConnectionRefusedError:
        return True
    return False


def test_a_run_that_fails_is_one_request_s_problem(tokenizer_folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    with served(tokenizer_folder) as server:
        compute = server.runtime._runtime.run
        server.runtime._runtime.run = lambda arrays: 1 / 0
        with pytest.raises(openai.InternalServerError, match="the server failed on this request; its log says why"):
            ask(server, "a")
        server.runtime._runtime.run = compute
        assert len(ask(server, "a")) == 8
    assert [record.message for record in caplog.records if record.name == "calib8.serving"] == [
        "a batch of 1 failed: ZeroDivisionError: division by zero"
    ]


def test_a_server_whose_runs_fail_is_not_healthy_until_one_succeeds(tokenizer_folder: Path) -> None:
    with served(tokenizer_folder) as server, server.http() as client:
        compute = server.runtime._runtime.run
        server.runtime._runtime.run = lambda arrays: 1 / 0
        for number in range(FAILURES):
            assert client.get("/health").status_code == 200, number
            with pytest.raises(openai.InternalServerError):
                ask(server, "a")
        answer = client.get("/health")
        assert (answer.status_code, answer.json()["error"]["message"]) == (
            503,
            "the last 5 runs failed; the log says why.",
        )
        server.runtime._runtime.run = compute
        assert len(ask(server, "a")) == 8
        assert client.get("/health").status_code == 200


def test_whatever_fails_in_a_run_is_answered_and_leaves_the_worker_alive(
    tokenizer_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A sequence without tokens, which no request brings: dividing by their number failed outside the net."""
    with served(tokenizer_folder) as server:
        zeros = np.zeros((1, 8), np.float32)
        monkeypatch.setattr(server.encoder, "embed_batch", lambda tokens, length: zeros)
        with Batcher(server.encoder, Serve(port=0), Metrics(), Quiet()) as batcher:
            with pytest.raises(Refused, match="the server failed on this request"):
                batcher.submit([[]]).vectors.result(20)
            assert batcher.trouble is None
            assert batcher.submit([[4]]).vectors.result(20).shape == (1, 8)


def test_failures_are_told_however_quiet_the_server_is() -> None:
    """Without a handler of the application's own, Python writes the log's errors to stderr; ``-q`` does not stop it."""
    code = "from calib8.serving.batcher import log; log.error('a batch of %d failed: %s', 1, 'X')"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stderr
    assert said == "a batch of 1 failed: X\n"


@pytest.fixture
def model(tokenizer_folder: Path) -> Path:
    return save(tiny_encoder(), tokenizer_folder / "tiny.onnx")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_command_serves_until_it_is_told_to_stop(model: Path, number: signal.Signals) -> None:
    key = model.with_name("key")
    key.write_text("sesame\n")
    process = subprocess.Popen(
        [sys.executable, "-m", "calib8", "serve", model, "--port", "0", "--api-key-file", key],
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"COLUMNS": "200"},
    )
    assert process.stderr is not None
    with process:
        told = iter(process.stderr.readline, "")
        lines = (line for line in told if line != "get ready ...\n" and " left" not in line and ": 0 of" not in line)
        assert next(lines).startswith("tiny in ONNX Runtime")
        assert next(lines).startswith("warm up: ")
        with openai.OpenAI(base_url=next(lines).strip(), api_key="sesame", max_retries=0) as client:
            assert len(client.embeddings.create(model="tiny", input="a").data[0].embedding) == 8
        process.send_signal(number)
        assert process.wait(20) == 0
        assert process.stderr.read() == "stopped\n"


def test_answers_are_not_held_back(tokenizer_folder: Path) -> None:
    with served(tokenizer_folder) as server:  # of any other socket asyncio leaves Nagle's algorithm on: 40 ms an answer
        assert server.listener.proto == socket.IPPROTO_TCP


def test_an_address_that_is_taken(model: Path, calib8: Shell) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        code, _, said = calib8("serve", model, "--port", port)
    assert code == 2
    assert f"cannot listen on 127.0.0.1, port {port}: Address already in use" in said


def test_an_empty_key_is_no_key(model: Path, calib8: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    key = model.with_name("key")
    key.write_text(" \n")
    code, _, said = calib8("serve", model, "--api-key-file", key)
    assert (code, "holds no key; expected one line of text" in said) == (2, True)
    for nothing in ("", " \n"):
        monkeypatch.setenv("CALIB8_API_KEY", nothing)
        code, _, said = calib8("serve", model)
        assert (code, "$CALIB8_API_KEY holds no key; expected one line of text" in said) == (2, True)


def test_a_key_has_no_space_around_it_wherever_it_comes_from(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "key").write_text("sesame\n")
    monkeypatch.setenv("CALIB8_API_KEY", " sesame\n")
    for key in (_key(tmp_path / "key"), _key(None)):
        assert key is not None
        assert key.get_secret_value() == "sesame"


def test_without_the_extra(model: Path, calib8: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("calib8.serving.server.find_spec", lambda name: None)
    code, _, said = calib8("serve", model)
    assert code == 2
    assert "starlette, uvicorn, prometheus-client, httptools not installed" in said
    assert "pip install '.[serve]'" in said
