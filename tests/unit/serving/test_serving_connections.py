"""Clients that send what is no request, too much of it, or nothing, and clients that do not take their answer."""

import json
import re
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import pytest
from served import Served, metric, served, until

from calib8.serving import app, connection
from calib8.serving.config import Serve
from calib8.serving.connection import HEAD_BYTES, HEADERS, most_connections
from calib8.text.tokenizer import TextTokenizer

GONE = 'calib8_requests_total{path="/v1/embeddings",status="499"}'
UNDER_WAY = "calib8_requests_under_way"
START = b"GET /health HTTP/1.1\r\nHost: x\r\n"


@pytest.fixture
def server(tokenizer_folder: Path) -> Iterator[Served]:
    with served(tokenizer_folder) as found:
        yield found


def connected(server: Served, said: bytes = b"") -> socket.socket:
    client = socket.create_connection(("127.0.0.1", server.port), timeout=20)
    client.sendall(said)
    return client


def posting(server: Served, body: bytes, size: int | None = None) -> socket.socket:
    """A client that has sent ``body``, of the ``size`` bytes that it announced."""
    head = f"POST /v1/embeddings HTTP/1.1\r\nHost: x\r\nContent-Length: {size or len(body)}\r\n\r\n"
    return connected(server, head.encode() + body)


def answer(client: socket.socket) -> tuple[int, dict[str, str], str]:
    """Status, headers, and the message of the error."""
    told = client.recv(65_536).decode()
    head, _, body = told.partition("\r\n\r\n")
    status, *headers = head.split("\r\n")
    return int(status.split()[1]), dict(line.split(": ", 1) for line in headers), json.loads(body)["error"]["message"]


@pytest.mark.parametrize(
    "said",
    [
        START + b"X: " + b"a" * HEAD_BYTES,  # not finished
        START + b"X: " + b"a" * HEAD_BYTES + b"\r\n\r\n",
        b"GET /" + b"a" * HEAD_BYTES,
        START + b"X: a\r\n" * HEADERS + b"\r\n",
        b"\r\n" * HEAD_BYTES,
        b"POST /v1/embeddings HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nX: " + b"a" * 2 * HEAD_BYTES,
    ],
    ids=["header", "whole", "path", "many", "nothing", "trailer"],
)
def test_a_head_that_is_too_large(server: Served, said: bytes) -> None:
    half = len(said) // 2
    with connected(server, said[:half]) as client:
        metric(server, UNDER_WAY)  # answered when that is read, so that the halves come apart
        client.sendall(said[half:])
        status, headers, message = answer(client)
    assert (status, headers["connection"]) == (431, "close")
    assert message == "the request's line and headers are more than 16384 bytes or 100 headers."


def test_a_head_of_many_bytes_and_a_body_of_more_are_taken(server: Served) -> None:
    with server.http() as client:
        assert client.get("/health", headers={"x": "a" * (HEAD_BYTES - 1000)}).status_code == 200
        body = json.dumps({"model": "tiny", "input": "a" + " " * 5 * HEAD_BYTES}).encode()
        for _ in range(2):
            assert client.post("/v1/embeddings", content=iter([body[:9], body[9:70_000], body[70_000:]])).is_success


@pytest.mark.parametrize(
    "said", [b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", b"hello\r\n\r\n"], ids=["tls", "text"]
)
def test_what_is_no_http(server: Served, said: bytes) -> None:
    with connected(server, said) as client:
        status, _, message = answer(client)
    assert (status, message) == (400, "got bytes that are no HTTP request; expected HTTP/1.1, not TLS.")


@pytest.mark.parametrize("said", [b"", START, b"\r\n"])
def test_a_head_that_does_not_arrive(server: Served, said: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "HEAD_SECONDS", 0.2)
    with connected(server, said) as client:
        while client.recv(65_536):  # what was asked for is answered, then it is closed
            pass
    with server.http() as other:
        assert other.get("/health").status_code == 200


@pytest.mark.parametrize("behind", [START + b"\r\n", b"?\r\n\r\n"], ids=["page", "text"])
def test_what_comes_behind_a_request_ends_the_connection_after_its_answer(server: Served, behind: bytes) -> None:
    """HTTP allows many requests at once, but no client in use does it, and a connection would have to keep them all."""
    server.runtime.go.clear()
    body = b'{"model": "tiny", "input": "a"}'
    with posting(server, body + behind, len(body)) as client:
        until(lambda: metric(server, UNDER_WAY) == 1)
        server.runtime.go.set()
        told = b"".join(iter(lambda: client.recv(65_536), b""))
    head, _, answered = told.partition(b"\r\n\r\n")
    assert (head.count(b"HTTP/1.1"), b"connection: close" in head) == (1, True)
    assert json.loads(answered)["usage"]["total_tokens"] == 3


def test_a_request_that_is_computed_for_long_has_no_deadline(server: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "HEAD_SECONDS", 0.1)
    server.runtime.go.clear()
    threading.Timer(0.4, server.runtime.go.set).start()
    assert len(server.openai().embeddings.create(model="tiny", input="a").data[0].embedding) == 8


def test_more_connections_than_may_be_open(tokenizer_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "most_connections", lambda max_requests: 2)
    with served(tokenizer_folder) as server:
        with connected(server), connected(server), connected(server) as third:
            status, headers, message = answer(third)
        assert (status, headers["Retry-After"], message) == (429, "1", "2 connections are open. Ask again in 1 s.")
        until(lambda: metric(server, "process_open_fds") > 0)  # an answer, when the others are gone


def test_connections_are_as_many_as_files_may_be_open(monkeypatch: pytest.MonkeyPatch) -> None:
    resource = pytest.importorskip("resource")
    for files, most in ((1024, 264), (256, 192), (10, 1), (resource.RLIM_INFINITY, 264)):
        monkeypatch.setattr(resource, "getrlimit", lambda kind, files=files: (files, files))
        assert most_connections(100) == most


def test_a_client_that_goes_while_its_body_arrives(server: Served, capsys: pytest.CaptureFixture[str]) -> None:
    posting(server, b'{"model": ', 300).close()
    until(lambda: metric(server, GONE) == 1)
    assert metric(server, UNDER_WAY) == 0
    assert capsys.readouterr().err == ""


def test_a_body_that_still_arrives_when_the_server_stops(tokenizer_folder: Path) -> None:
    config = Serve(port=0, grace_seconds=0)
    with served(tokenizer_folder, config) as server, posting(server, b'{"model": ', 300) as client:
        until(lambda: metric(server, UNDER_WAY) == 1)
        server.stop()
        status, _, message = answer(client)
    assert (status, message) == (503, "the server is shutting down.")


def not_read(server: Served) -> socket.socket:
    """A client with an answer of half a megabyte that it does not take, in a system that buffers little."""
    server.listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    client.settimeout(20)
    client.connect(("127.0.0.1", server.port))
    body = json.dumps({"model": "tiny", "input": [[4]] * 2048}).encode()
    client.sendall(b"POST /v1/embeddings HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
    assert client.recv(15) == b"HTTP/1.1 200 OK"
    return client


def test_a_request_is_under_way_until_its_answer_is_taken(tokenizer_folder: Path) -> None:
    with served(tokenizer_folder, Serve(port=0, max_requests=1)) as server, not_read(server) as client:
        with posting(server, b"") as other:
            status, _, message = answer(other)
        assert (status, message) == (429, "1 requests are under way. Ask again in 1 s.")
        taken = bytearray()
        while b'"usage"' not in taken[-100:]:
            taken += client.recv(65_536)
        until(lambda: metric(server, UNDER_WAY) == 0)


def test_answers_that_are_not_taken_are_so_many_bytes(tokenizer_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(app, "UNSENT", 300_000)
    with served(tokenizer_folder) as server:
        with not_read(server), posting(server, b"") as other:
            status, headers, message = answer(other)
        assert (status, headers["retry-after"]) == (429, "1")
        assert re.match(r"clients have not taken \d{6} bytes of answers yet\. Ask again in 1 s\.", message)
        until(lambda: metric(server, UNDER_WAY) == 0)
        assert len(server.openai().embeddings.create(model="tiny", input="a").data) == 1


def test_an_answer_that_is_not_taken(tokenizer_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "ANSWER_SECONDS", 0.3)
    with served(tokenizer_folder) as server, not_read(server):
        until(lambda: metric(server, UNDER_WAY) == 0)


def test_an_answer_that_is_not_taken_when_the_server_stops(
    tokenizer_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with served(tokenizer_folder, Serve(port=0, grace_seconds=0)) as server, not_read(server):
        server.stop()
        server.thread.join(10)
        assert not server.thread.is_alive()
    assert "Traceback" not in capsys.readouterr().err


def test_large_bodies_are_so_many_at_once(tokenizer_folder: Path) -> None:
    with served(tokenizer_folder, Serve(port=0, max_body_bytes=5000)) as server, ExitStack() as clients:
        for _ in range(4):
            clients.enter_context(posting(server, b" " * 4990, 5000))
        until(lambda: metric(server, UNDER_WAY) == 4)
        with posting(server, b" " * 4990, 5000) as fifth:
            status, headers, message = answer(fifth)
        assert (status, headers["retry-after"]) == (429, "2")
        assert message == "19960 bytes of large requests are being read, and there is room for 20000. Ask again in 2 s."
        assert len(server.openai().embeddings.create(model="tiny", input="a").data) == 1
        clients.close()
        until(lambda: metric(server, UNDER_WAY) == 0)
        with posting(server, b" " * 5000) as sixth:
            assert answer(sixth)[0] == 400  # there is room, and what is in it is no JSON


def test_what_is_computed_does_not_wait_for_what_is_read(server: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    """Requests whose texts take long to tokenise, many of them, hold up neither small ones nor a large answer."""
    tokenise, go = TextTokenizer.encoded_rows, threading.Event()

    def slow(self: TextTokenizer, texts: list[str]) -> tuple[list[list[int]], list[int]]:
        assert len(texts[0]) < 5000 or go.wait(20)
        return tokenise(self, texts)

    monkeypatch.setattr(TextTokenizer, "encoded_rows", slow)
    create = server.openai().embeddings.create
    with ThreadPoolExecutor(40) as clients:
        held = [clients.submit(create, model="tiny", input="a" + " " * 5000) for _ in range(40)]
        try:
            until(lambda: metric(server, UNDER_WAY) == 40)
            assert len(create(model="tiny", input="a").data) == 1
            assert len(create(model="tiny", input=["a"] * 300).data) == 300
        finally:
            go.set()
        assert [len(one.result().data) for one in held] == [1] * 40
