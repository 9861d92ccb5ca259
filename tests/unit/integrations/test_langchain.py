"""A model of ours in the hands of the real langchain-core."""

import asyncio
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from langchain_core.embeddings import Embeddings
from langchain_core.vectorstores import InMemoryVectorStore

import calib8
from calib8.integrations.langchain import Calib8Embeddings
from calib8.testing import tiny_encoder

TEXTS = ["a b c", "d", "e e a b", "c"]


@pytest.fixture
def model(tokenizer_folder: Path) -> Path:
    return calib8.save(tiny_encoder(), tokenizer_folder / "model.onnx")


@pytest.fixture
def embeddings(model: Path):
    opened = Calib8Embeddings(model)
    yield opened
    opened.close()


def test_vectors_are_lists_of_those_of_embed(model: Path, embeddings: Calib8Embeddings) -> None:
    expected = calib8.embed(model, TEXTS)
    assert isinstance(embeddings, Embeddings)
    assert embeddings.embed_documents(TEXTS) == expected.tolist()
    np.testing.assert_allclose(embeddings.embed_query(TEXTS[0]), expected[0], atol=1e-6)
    assert embeddings.embed_documents([]) == []


def test_queries_and_documents_get_their_prompts(model: Path, embeddings: Calib8Embeddings) -> None:
    queries, documents = (embeddings.embed_documents([prompt + text for text in TEXTS]) for prompt in ("a b ", "c "))
    prompts = '{"prompts": {"query": "a b ", "document": "c "}}'
    (model.parent / "config_sentence_transformers.json").write_text(prompts)
    asked = Calib8Embeddings(model)
    np.testing.assert_allclose([asked.embed_query(text) for text in TEXTS], queries, atol=1e-6)
    assert asked.embed_documents(TEXTS) == documents
    asked.close()


def test_many_at_once(model: Path, embeddings: Calib8Embeddings) -> None:
    expected = calib8.embed(model, TEXTS)

    async def ask() -> list[list[float]]:
        return await asyncio.gather(*(embeddings.aembed_query(text) for text in TEXTS * 16))

    np.testing.assert_allclose(asyncio.run(ask()), np.tile(expected, (16, 1)), atol=1e-6)
    np.testing.assert_allclose(asyncio.run(embeddings.aembed_documents(TEXTS)), expected, atol=1e-6)


def test_a_vector_store_finds_what_was_put_in(embeddings: Calib8Embeddings) -> None:
    store = InMemoryVectorStore.from_texts(TEXTS, embeddings)
    for text in TEXTS:
        (found, score), _ = store.similarity_search_with_score(text, k=2)
        assert (found.page_content, score) == (text, pytest.approx(1, abs=1e-5))


def test_without_langchain_the_package_is_named() -> None:
    probe = "import sys; sys.modules['langchain_core'] = None; import calib8.integrations.langchain"
    found = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=False)
    assert "SetupError: langchain-core is not installed. Install it: pip install '.[langchain]'" in found.stderr
