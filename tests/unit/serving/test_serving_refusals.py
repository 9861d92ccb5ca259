"""Requests that are not served: each gets OpenAI's error, and the server goes on."""

import socket
from collections.abc import Iterator
from pathlib import Path

import openai
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from served import Served, served

from calib8.errors import ConfigError, ModelError
from calib8.serving.config import Serve
from calib8.serving.protocol import smaller_of

LIMITED = Serve(port=0, max_inputs=3, max_tokens=20, queue_tokens=100, max_body_bytes=1000)


@pytest.fixture
def server(tokenizer_folder: Path) -> Iterator[Served]:
    with served(tokenizer_folder, LIMITED) as found:
        yield found


def refusal(server: Served, body: str | bytes, status: int = 400) -> dict[str, str]:
    with server.http() as client:
        answer = client.post("/v1/embeddings", content=body)
    assert answer.status_code == status, answer.text
    error = answer.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    return error


@pytest.mark.parametrize(
    ("body", "param", "message"),
    [
        ("", None, "body: Invalid JSON"),
        ("[1]", None, "body: Input should be an object"),
        ('{"model": "tiny"}', "input", "input: Field required"),
        ('{"input": "a"}', "model", "model: Field required"),
        ('{"model": "tiny", "input": 7}', "input", "input: expected a text, a list of texts, a list of token numbers"),
        ('{"model": "tiny", "input": ["a", 4]}', "input", "input: expected a text"),
        ('{"model": "tiny", "input": [true]}', "input", "input: expected a text"),
        ('{"model": "tiny", "input": ""}', "input", "it is empty or holds an empty text"),
        ('{"model": "tiny", "input": []}', "input", "it is empty or holds an empty text"),
        ('{"model": "tiny", "input": [[4], []]}', "input", "it is empty or holds an empty text"),
        ('{"model": "tiny", "input": [4, -1]}', "input", "input 0 holds token -1, expected 0 to 8"),
        ('{"model": "tiny", "input": [[4], [9]]}', "input", "input 1 holds token 9, expected 0 to 8"),
        ('{"model": "tiny", "input": [99999999999999999999999]}', "input", "expected 0 to 8"),
        ('{"model": "tiny", "input": [4,4,4,4,4,4,4,4,4,4,4,4,4,4,4,4,4]}', "input", "maximum of 16 tokens"),
        ('{"model": "tiny", "input": ["a", "a", "a", "a"]}', "input", "got 4 inputs, expected at most 3"),
        ('{"model": "tiny", "input": ["a a a a a a a", "a a a a a a a", "a a a a a a a"]}', "input", "got 27 tokens"),
        ('{"model": "tiny", "input": "a", "encoding_format": "hex"}', "encoding_format", "'float' or 'base64'"),
        ('{"model": "tiny", "input": "a", "dimensions": 0}', "dimensions", "greater than 0"),
        ('{"model": "tiny", "input": "a", "dimensions": 4}', "dimensions", "does not support specifying dimensions"),
        ('{"model": "tiny", "input": "a", "colour": 1}', "colour", "Extra inputs are not permitted"),
        (b'{"model": "tiny", "input": "\xff"}', None, "Invalid JSON"),
        (b'{"model": "tiny", "input": "\\ud800"}', None, "Invalid JSON"),
    ],
)
def test_malformed_requests(server: Served, body: str | bytes, param: str | None, message: str) -> None:
    error = refusal(server, body)
    assert (error["type"], error["param"]) == ("invalid_request_error", param)
    assert message in error["message"]


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    body=st.binary(max_size=200) | st.text(max_size=20).map(lambda text: f'{{"model":"tiny","input":{text}}}'.encode())
)
def test_no_bytes_bring_the_server_down(server: Served, body: bytes) -> None:
    with server.http() as client:
        assert client.post("/v1/embeddings", content=body).status_code in (200, 400, 404, 413)


def test_another_model(server: Served) -> None:
    with pytest.raises(openai.NotFoundError, match="'text-embedding-3-small' does not exist; this server has 'tiny'"):
        server.openai().embeddings.create(model="text-embedding-3-small", input="a")


def test_pages_that_are_not_there(server: Served) -> None:
    with server.http() as client:
        assert client.post("/v1/completions").json()["error"]["message"] == "POST /v1/completions: Not Found."
        slash = client.post("/v1/embeddings/", follow_redirects=False)
        assert (slash.status_code, slash.json()["error"]["message"]) == (404, "POST /v1/embeddings/: Not Found.")
        answer = client.get("/v1/embeddings")
    assert (answer.status_code, answer.headers["allow"]) == (405, "POST")
    assert answer.json()["error"]["type"] == "invalid_request_error"


@pytest.mark.parametrize("chunked", [False, True])
def test_bodies_that_are_too_large(server: Served, chunked: bool) -> None:
    body = b'{"model": "tiny", "input": "' + b"a " * 3_000_000 + b'"}'
    pieces = (body[start : start + 65536] for start in range(0, len(body), 65536))
    with server.http() as client:
        answer = client.post("/v1/embeddings", content=pieces if chunked else body)
        assert (answer.status_code, answer.json()["error"]["message"]) == (
            413,
            "the body is larger than 1000 bytes. Send fewer inputs in one request.",
        )
        assert client.get("/health").status_code == 200


def test_a_body_that_does_not_arrive(server: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("calib8.serving.app.BODY_SECONDS", 0.1)
    with socket.create_connection(("127.0.0.1", server.port), timeout=20) as slow:
        slow.sendall(b'POST /v1/embeddings HTTP/1.1\r\nHost: x\r\nContent-Length: 30\r\n\r\n{"model": ')
        answer = slow.recv(65536).decode()
    assert answer.startswith("HTTP/1.1 408 ")
    assert "the body did not arrive within 0.1 s." in answer
    assert server.openai().embeddings.create(model="tiny", input="a").usage.total_tokens == 3


def test_only_those_with_the_key_are_served(tokenizer_folder: Path) -> None:
    with served(tokenizer_folder, Serve(port=0, api_key="open sesame")) as server:
        assert server.openai("open sesame").embeddings.create(model="tiny", input="a").usage.total_tokens == 3
        for wrong in ("open", "open sesame!", "none"):
            with pytest.raises(openai.AuthenticationError, match="Incorrect API key provided") as refused:
                server.openai(wrong).embeddings.create(model="tiny", input="a")
            assert refused.value.code == "invalid_api_key"
        with pytest.raises(openai.AuthenticationError):
            server.openai("wrong").models.list()
        with server.http("open sesame") as client:
            assert client.post("/v1/embeddings", headers={"Authorization": "Basic open sesame"}).status_code == 401
            assert client.get("/health", headers={"Authorization": ""}).status_code == 200


def test_a_key_need_not_be_ascii(tokenizer_folder: Path) -> None:
    with served(tokenizer_folder, Serve(port=0, api_key="sésame")) as server, server.http() as client:
        for key, status in (("sésame", 200), ("sesame", 401)):
            answer = client.get("/v1/models", headers={"Authorization": f"Bearer {key}".encode()})
            assert answer.status_code == status


def test_a_request_that_could_never_be_queued_is_no_setting() -> None:
    with pytest.raises(ConfigError, match=r"max_tokens=50 of a request is more than queue_tokens=40"):
        Serve(max_tokens=50, queue_tokens=40)


def test_a_damaged_model_configuration(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"matryoshka_dimensions": "all"}')
    with pytest.raises(ModelError, match=r"matryoshka_dimensions is 'all', expected a list of numbers"):
        smaller_of(tmp_path)
