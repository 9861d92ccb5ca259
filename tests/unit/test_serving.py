"""What OpenAI's own client gets from a real server."""

import base64
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import openai
import pytest
from served import Served, served

from calib8.serving.config import Serve

TEXTS = ["a b c", "e", "b b b b b b", "d a"]


@pytest.fixture
def server(tokenizer_folder: Path) -> Iterator[Served]:
    with served(tokenizer_folder) as found:
        yield found


def test_a_text_becomes_the_vector_that_embed_gives(server: Served) -> None:
    answer = server.openai().embeddings.create(model="tiny", input="a b")
    assert (answer.object, answer.model, answer.data[0].index) == ("list", "tiny", 0)
    assert answer.usage.prompt_tokens == answer.usage.total_tokens == 4  # <s> a b </s>
    np.testing.assert_allclose([answer.data[0].embedding], server.encoder.embed(["a b"]), atol=1e-6)


def test_the_order_is_that_of_the_inputs(server: Served) -> None:
    answer = server.openai().embeddings.create(model="tiny", input=TEXTS)
    assert [one.index for one in answer.data] == [0, 1, 2, 3]
    np.testing.assert_allclose([one.embedding for one in answer.data], server.encoder.embed(TEXTS), atol=1e-6)
    assert answer.usage.prompt_tokens == 5 + 3 + 8 + 4


def test_base64_and_float_are_the_same_numbers(server: Served) -> None:
    create = server.openai().embeddings.create
    encoded = create(model="tiny", input="c d", encoding_format="base64").data[0].embedding
    plain = create(model="tiny", input="c d", encoding_format="float").data[0].embedding
    assert np.frombuffer(base64.b64decode(encoded), "<f4").tolist() == plain
    assert len(plain) == 8


def test_token_lists_are_taken_as_they_are(server: Served) -> None:
    create = server.openai().embeddings.create
    text = create(model="tiny", input="a b").data[0].embedding
    one = create(model="tiny", input=[1, 4, 5, 2])
    np.testing.assert_allclose(one.data[0].embedding, text, atol=1e-6)
    assert one.usage.total_tokens == 4
    two = create(model="tiny", input=[[1, 8, 2], [1, 4, 5, 2]])
    np.testing.assert_allclose(two.data[1].embedding, text, atol=1e-6)


def test_models_are_listed_and_found(server: Served) -> None:
    listed = server.openai().models.list().data
    assert [(model.id, model.owned_by, model.created) for model in listed] == [("tiny", "calib8", 1_700_000_000)]
    assert server.openai().models.retrieve("tiny").id == "tiny"
    with pytest.raises(openai.NotFoundError, match=r"model 'a/b' does not exist; this server has 'tiny'"):
        server.openai().models.retrieve("a/b")


def test_many_clients_get_their_own_vectors_from_shared_batches(server: Served) -> None:
    texts = [" ".join("abcde"[(number >> shift) % 5] for shift in range(1 + number % 5)) for number in range(120)]
    expected = server.encoder.embed(texts)
    server.runtime.shapes.clear()
    server.runtime.go.clear()

    def ask(text: str) -> list[float]:
        return server.openai().embeddings.create(model="tiny", input=text).data[0].embedding

    with ThreadPoolExecutor(len(texts)) as clients:
        answers = [clients.submit(ask, text) for text in texts]
        assert all(server.runtime.started.acquire(timeout=20) for _ in range(2))  # both workers hold one request
        server.runtime.go.set()
        np.testing.assert_allclose([answer.result() for answer in answers], expected, atol=1e-6)
    assert sum(rows for rows, _ in server.runtime.shapes) == 120
    assert len(server.runtime.shapes) < 60, server.runtime.shapes


@pytest.mark.parametrize(
    ("settings", "allowed", "refused"),
    [
        ({"is_matryoshka": True}, (1, 4, 8), r"9; those of this model are 1 to 8"),
        ({"matryoshka_dimensions": [2, 4]}, (2, 4, 8), r"9; those of this model are \[2, 4, 8\]"),
        ({}, (8,), r"9; those of this model are \[8\]"),
    ],
)
def test_dimensions_are_cut_where_the_model_says_so(
    tokenizer_folder: Path, settings: dict[str, object], allowed: tuple[int, ...], refused: str
) -> None:
    (tokenizer_folder / "config.json").write_text(json.dumps(settings))
    with served(tokenizer_folder) as server:
        create = server.openai().embeddings.create
        whole = np.array(create(model="tiny", input="a b").data[0].embedding)
        for width in allowed:
            got = create(model="tiny", input="a b", dimensions=width).data[0].embedding
            np.testing.assert_allclose(got, whole[:width] / np.linalg.norm(whole[:width]), atol=1e-6)
        with pytest.raises(openai.BadRequestError, match=refused):
            create(model="tiny", input="a", dimensions=9)
        for width in {3, 5} - set(allowed) if "is_matryoshka" not in settings else ():
            with pytest.raises(openai.BadRequestError, match=f"got {width}; those of"):
                create(model="tiny", input="a", dimensions=width)


def test_long_texts_are_cut_only_if_the_server_says_so(tokenizer_folder: Path) -> None:
    long = "a " * 40
    with served(tokenizer_folder) as server, pytest.raises(openai.BadRequestError) as refusal:
        server.openai().embeddings.create(model="tiny", input=["b", long])
    assert "input 1 is longer than this model's maximum of 16 tokens" in str(refusal.value)
    assert refusal.value.code == "context_length_exceeded"
    with served(tokenizer_folder, Serve(port=0, truncate=True)) as server:
        answer = server.openai().embeddings.create(model="tiny", input=long)
        assert answer.usage.prompt_tokens == 16
        np.testing.assert_allclose([answer.data[0].embedding], server.encoder.embed([long]), atol=1e-6)


def test_health_and_metrics(server: Served) -> None:
    server.openai().embeddings.create(model="tiny", input=["a", "b b"])
    with server.http() as client:
        assert client.get("/health").json() == {"status": "ok"}
        client.get("/no/such/page")
        text = client.get("/metrics").text
    lines = text.splitlines()
    assert 'calib8_requests_total{path="/v1/embeddings",status="200"} 1.0' in lines
    assert 'calib8_requests_total{path="other",status="404"} 1.0' in lines
    assert "calib8_tokens_total 7.0" in lines  # <s> a </s> and <s> b b </s>, in two rows of 4
    assert "calib8_padding_tokens_total 1.0" in lines
    assert "calib8_queue_tokens 0.0" in lines
    assert "calib8_requests_under_way 0.0" in lines
    assert "process_resident_memory_bytes" in text


def test_a_server_runs_few_shapes(tokenizer_folder: Path) -> None:
    """Lengths 1 to 16 are as they are, beyond that every second, fourth, ...; numbers go 1 to 8, 10, 12, 14, 16, 20."""
    (tokenizer_folder / "sentence_bert_config.json").write_text('{"max_seq_length": 39}')
    with served(tokenizer_folder, Serve(port=0, batch_tokens=2048), positions=64) as server:
        create = server.openai().embeddings.create
        for length, padded in ((9, 9), (16, 16), (17, 18), (18, 18), (33, 36), (37, 39)):
            server.runtime.shapes.clear()
            create(model="tiny", input=[[4] * length])
            assert server.runtime.shapes == [(1, padded)]
        server.runtime.shapes.clear()
        create(model="tiny", input=[[4, 5]] * 23)
        assert sorted(server.runtime.shapes) == [(3, 2), (20, 2)]
