"""What OpenAI's own client gets from a real server."""

import base64
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import openai
import pytest
from hypothesis import given
from hypothesis import strategies as st
from served import Served, metric, served, until

from calib8.progress import Quiet
from calib8.serving.batcher import Batcher
from calib8.serving.config import Serve
from calib8.serving.metrics import Metrics
from calib8.serving.shapes import Shapes

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
        until(lambda: metric(server, "calib8_requests_under_way") == len(texts))  # and the others wait for them
        server.runtime.go.set()
        np.testing.assert_allclose([answer.result() for answer in answers], expected, atol=1e-6)
    assert sum(rows for rows, _ in server.runtime.shapes) == 120
    assert len(server.runtime.shapes) < 30, server.runtime.shapes


@pytest.mark.parametrize(
    ("settings", "allowed", "refused"),
    [
        ({"is_matryoshka": True}, (1, 4, 8), r"9; those of this model are 1 to 8"),
        ({"matryoshka_dimensions": [2, 4]}, (2, 4, 8), r"9; those of this model are \[2, 4, 8\]"),
        ({}, (8,), "9; This model does not support specifying dimensions other than its own 8"),
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
            with pytest.raises(openai.BadRequestError, match=f"got {width}; "):
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
    assert "calib8_tokens_total 7.0" in lines  # <s> a </s> and <s> b b </s>, in two rows of 8
    assert "calib8_padding_tokens_total 9.0" in lines
    assert "calib8_queue_tokens 0.0" in lines
    assert "calib8_requests_under_way 0.0" in lines
    assert "process_resident_memory_bytes" in text


def test_shapes_are_run_before_anybody_waits_and_no_other_comes(tokenizer_folder: Path) -> None:
    texts = [" ".join("abcde"[number % 5] for _ in range(1 + number % 14)) for number in range(150)]
    with served(tokenizer_folder, Serve(port=0, batch_tokens=64)) as server, ThreadPoolExecutor(20) as clients:
        create = server.openai().embeddings.create
        server.openai().embeddings.create(model="tiny", input=texts)
        list(clients.map(lambda text: create(model="tiny", input=text), texts))
        assert sum(rows for rows, _ in server.runtime.shapes) == 300
        assert set(server.runtime.shapes) <= set(server.warm)
        assert len(server.warm) == len(set(server.warm)) == len(Shapes(64, 16, lambda _: 64))
        assert [rows * length for rows, length in server.warm[:2]] == [64, 64]  # what needs most memory comes first


def test_few_shapes() -> None:
    shapes = Shapes(512, 39, lambda _: 512)
    assert [shapes.padded(tokens) for tokens in (1, 8, 9, 16, 17, 33, 37, 39)] == [8, 8, 10, 16, 20, 39, 39, 39]
    assert shapes.most(8) == 64
    assert [shapes.count(available, 12) for available in (1, 3, 4, 15, 16, 41, 42, 100)] == [1, 1, 4, 4, 16, 16, 42, 42]
    assert sorted({length for _, length in shapes}) == [*range(8, 17, 2), *range(20, 33, 4), 39]
    assert len(Shapes(512, 384, lambda _: 512)) == 67


@given(st.integers(1, 3000), st.integers(1, 600), st.integers(1, 40) | st.just(10**6))
def test_a_batch_keeps_within_the_budget(budget: int, longest: int, most_rows: int) -> None:
    shapes = Shapes(budget, longest, lambda _: most_rows)
    known = list(shapes)
    assert len(known) == len(set(known)) == len(shapes)
    for rows, length in known:
        assert rows == 1 or (rows * length <= budget and rows <= most_rows)
    for tokens in range(1, longest + 1):
        length = shapes.padded(tokens)
        assert tokens <= length <= max(8, tokens + tokens // 4)
        assert all((shapes.count(available, length), length) in known for available in (1, 2, 5, 64))


def test_those_of_a_rare_length_are_not_overtaken_for_long(tokenizer_folder: Path) -> None:
    """One long text among short ones that keep coming: it is chosen among the oldest, whatever is nearer to others."""
    config = Serve(port=0, batch_tokens=16)
    with served(tokenizer_folder) as server:
        batcher = Batcher(server.encoder, config, Metrics(), Quiet())
        for tokens in [3] * 40 + [16] + [3] * 200:
            batcher.submit([[4] * tokens])
        lengths = [len(batcher._next()[0].tokens) for _ in range(60)]
        assert lengths.index(16) == 20  # after the 40 that were there before, two at a time
