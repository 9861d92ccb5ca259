"""A model of ours in the hands of the real sentence-transformers."""

import inspect
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.evaluation import (
    EmbeddingSimilarityEvaluator,
    InformationRetrievalEvaluator,
    TripletEvaluator,
)

import calib8
from calib8.errors import ConfigError, DataError, InputError, ModelError, SetupError
from calib8.integrations.sentence_transformers import Encoder, load
from calib8.numerics import cosine_rows
from calib8.runtime.null import NullRuntime
from calib8.testing import tiny_encoder

TEXTS = ["a b c", "d", "", "e e a b", "c", "b d d"]
OTHERS = ["d a", "c b", "e", "a", "e e a b", "d"]


@pytest.fixture
def model(tokenizer_folder: Path) -> Path:
    """A sentence encoder with its tokenizer beside it."""
    return calib8.save(tiny_encoder(), tokenizer_folder / "model.onnx")


@pytest.fixture
def encoder(model: Path):
    with load(model) as opened:
        yield opened


def settings(model: Path, **content: object) -> None:
    (model.parent / "config_sentence_transformers.json").write_text(json.dumps(content))


def test_vectors_are_those_of_embed(model: Path, encoder: Encoder) -> None:
    expected = calib8.embed(model, TEXTS)
    got = encoder.encode(TEXTS)
    assert got.dtype == np.float32
    np.testing.assert_array_equal(got, expected)
    assert encoder.encode(TEXTS[0]).shape == (8,)
    np.testing.assert_allclose(encoder.encode(TEXTS[0]), expected[0], atol=1e-6)
    np.testing.assert_array_equal(encoder.encode(tuple(TEXTS), batch_size=1, device="cuda:0"), expected)
    assert encoder.encode([]).shape == (0, 8)


def test_queries_and_documents_are_texts(encoder: Encoder) -> None:
    for method in (encoder.encode_query, encoder.encode_document):
        np.testing.assert_array_equal(method(TEXTS, batch_size=7), encoder.encode(TEXTS))
        np.testing.assert_array_equal(method(TEXTS, None, None, 16), encoder.encode(TEXTS))


def test_inputs_are_known_by_their_former_name(encoder: Encoder) -> None:
    np.testing.assert_array_equal(encoder.encode(sentences=TEXTS), encoder.encode(TEXTS))
    with pytest.raises(ConfigError, match="takes a text or a list of texts as its first argument"):
        encoder.encode("a", sentences="a")
    for wrong in ({}, {"inputs": None}):
        with pytest.raises(ConfigError, match=r"got no text \(None\), expected a text or a list"):
            encoder.encode(**wrong)


def test_a_folder_is_opened_as_hugging_faces_users_do(model: Path, tmp_path: Path) -> None:
    with load(model.parent, device="cpu") as opened:
        np.testing.assert_array_equal(opened.encode(TEXTS), calib8.embed(model, TEXTS))
        assert opened.device == "cpu"
    (model.parent / "model.int8.onnx").write_bytes(b"damaged")
    with pytest.raises(ModelError, match=r"model\.int8\.onnx"):  # which goes first
        load(model.parent)
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=r"empty is a folder without model\.int8\.onnx or model\.fp8\.onnx or model"):
        load(tmp_path / "empty")


def test_texts_are_cut_to_fewer_tokens_if_asked(model: Path, encoder: Encoder) -> None:
    longest = encoder.max_seq_length
    encoder.max_seq_length = 4  # two words between the special tokens
    assert encoder.max_seq_length == 4
    np.testing.assert_allclose(encoder.encode("a b c d e"), encoder.encode("a b"), atol=1e-6)
    for wrong in (2, longest + 1, None):
        with pytest.raises(ConfigError, match=f"got max_seq_length={wrong}, expected 3 to {longest}, which is what"):
            encoder.max_seq_length = wrong


def test_half_a_surrogate_pair_is_the_fault_of_the_text(encoder: Encoder) -> None:
    with pytest.raises(DataError, match="half of a surrogate pair"):
        encoder.encode(["fine", "broken \ud83d"])


def test_vectors_are_cut_before_they_are_normalised(model: Path, encoder: Encoder) -> None:
    whole = encoder.encode(TEXTS)
    np.testing.assert_array_equal(encoder.encode(TEXTS, truncate_dim=3), whole[:, :3])
    normalised = encoder.encode(TEXTS, truncate_dim=3, normalize_embeddings=True)
    np.testing.assert_allclose(normalised, whole[:, :3] / np.linalg.norm(whole[:, :3], axis=1)[:, None], rtol=1e-5)
    with load(model, truncate_dim=3) as short:
        np.testing.assert_array_equal(short.encode(TEXTS), whole[:, :3])
        np.testing.assert_array_equal(short.encode(TEXTS, truncate_dim=5), whole[:, :5])
        assert short.get_embedding_dimension() == short.get_sentence_embedding_dimension() == 3
    assert encoder.get_embedding_dimension() == 8


def test_tensors_if_asked(encoder: Encoder) -> None:
    whole = encoder.encode(TEXTS)
    tensor = encoder.encode(TEXTS, convert_to_tensor=True)
    assert isinstance(tensor, torch.Tensor)
    np.testing.assert_array_equal(tensor.numpy(), whole)
    listed = encoder.encode(TEXTS, convert_to_numpy=False)
    assert [type(one) for one in listed] == [torch.Tensor] * len(TEXTS)
    np.testing.assert_array_equal(listed[3].numpy(), whole[3])


def test_precision_by_hand(encoder: Encoder) -> None:
    whole = encoder.encode(TEXTS)
    bits = encoder.encode(TEXTS, precision="ubinary")
    np.testing.assert_array_equal(np.unpackbits(bits, axis=1), whole > 0)
    low, high = whole.min(axis=0), whole.max(axis=0)  # 255 steps from a column's lowest value to its highest
    expected = np.floor((whole - low) / (high - low) * 255)
    assert np.abs(encoder.encode(TEXTS, precision="uint8") - expected).max() <= 1
    np.testing.assert_array_equal(encoder.encode(TEXTS, precision=None), whole)


def test_similarities(encoder: Encoder) -> None:
    first, second = encoder.encode(TEXTS), encoder.encode(OTHERS)
    np.testing.assert_allclose(encoder.similarity(first, second), first @ second.T, atol=1e-5)
    np.testing.assert_allclose(encoder.similarity_pairwise(first, second), cosine_rows(first, second), atol=1e-5)
    encoder.similarity_fn_name = "euclidean"
    assert encoder.similarity(first, first)[0, 1] == pytest.approx(-np.linalg.norm(first[0] - first[1]), abs=1e-3)
    with pytest.raises(ConfigError, match="got the similarity 'hamming', expected one of cosine, dot, euclidean, man"):
        encoder.similarity_fn_name = "hamming"


def test_their_similarity_evaluator_runs_unchanged(model: Path, encoder: Encoder) -> None:
    # Told our own cosines as scores, it must find perfect correlation; told their opposite, perfect anticorrelation.
    scores = cosine_rows(calib8.embed(model, TEXTS), calib8.embed(model, OTHERS))
    for sign in (1, -1):
        found = EmbeddingSimilarityEvaluator(TEXTS, OTHERS, list(sign * scores), name="own")(encoder)
        assert found["own_spearman_cosine"] == pytest.approx(sign)
        assert found["own_pearson_cosine"] == pytest.approx(sign, abs=1e-5)
        assert encoder.model_card_data.metrics == found


@pytest.mark.parametrize("precision", ["int8", "binary"])
def test_their_similarity_evaluator_with_precision(model: Path, encoder: Encoder, precision: str) -> None:
    scores = cosine_rows(calib8.embed(model, TEXTS), calib8.embed(model, OTHERS))
    found = EmbeddingSimilarityEvaluator(TEXTS, OTHERS, list(scores), precision=precision, truncate_dim=7)(encoder)
    assert found["spearman_cosine"] > 0.5


def test_their_other_evaluators_run_unchanged(encoder: Encoder) -> None:
    texts = {str(number): text for number, text in enumerate(TEXTS)}
    itself = {number: {number} for number in texts}
    found = InformationRetrievalEvaluator(texts, texts, itself, accuracy_at_k=[1], map_at_k=[1], ndcg_at_k=[1])(encoder)
    assert found["cosine_accuracy@1"] == 1
    assert TripletEvaluator(TEXTS, TEXTS, OTHERS[::-1])(encoder)["cosine_accuracy"] == 1


def test_encode_has_their_parameters() -> None:
    ours, theirs = (inspect.signature(one.encode).parameters for one in (Encoder, SentenceTransformer))
    expected = [name for name in theirs if name not in ("pool", "chunk_size", "kwargs")]
    assert [name for name in ours if name != "others"] == expected
    expected.remove("inputs")  # theirs has no default; who gives `sentences` to ours gives none
    assert [ours[name].default for name in expected] == [theirs[name].default for name in expected]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"prompt": 7}, "got a prompt of type int, expected a text"),
        ({"prompt_name": "search"}, "got prompt_name='search', expected one of query, document"),
        ({"pool": {}, "chunk_size": 3}, "called with pool, chunk_size, which calib8 does not have. Leave it out"),
        ({"output_value": "token_embeddings"}, "got output_value='token_embeddings'; calib8 has 'sentence_embedding'"),
        ({"precision": "int4"}, "got precision='int4', expected one of float32, int8, uint8, binary, ubinary"),
        ({"batch_size": 0}, "got batch_size=0, expected 1 or more"),
        ({"truncate_dim": 0}, "got truncate_dim=0, expected 1 or more dimensions"),
    ],
)
def test_what_it_cannot_do_is_refused(encoder: Encoder, options: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        encoder.encode(TEXTS, **options)


@pytest.mark.parametrize("inputs", [["a", 3], [0], [["a", "b"]], [None]])
def test_inputs_that_are_no_texts(encoder: Encoder, inputs: list) -> None:
    with pytest.raises(DataError, match=f"got an input of type {type(inputs[-1]).__name__}, expected texts"):
        encoder.encode(inputs)


@pytest.mark.parametrize("inputs", [{"text": "a b"}, 3, 2.5, b"a b", np.array("a b")])
def test_inputs_that_hold_no_texts(encoder: Encoder, inputs: object) -> None:
    with pytest.raises(DataError, match=f"got inputs of type {type(inputs).__name__}, expected a text or a list of te"):
        encoder.encode(inputs)


def test_any_collection_of_texts(encoder: Encoder) -> None:
    whole = encoder.encode(TEXTS)
    for inputs in (np.array(TEXTS), np.array(TEXTS, object), iter(TEXTS), dict.fromkeys(TEXTS).keys()):
        np.testing.assert_array_equal(encoder.encode(inputs), whole)


class Recorder(torch.nn.Module):
    """The modules of a model of theirs: remembers the texts, prompts before them, that it is given."""

    def __init__(self) -> None:
        super().__init__()
        self.texts: list[str] = []

    def preprocess(self, inputs: list[str], prompt: str | None = None, **_: object) -> dict[str, torch.Tensor]:
        self.texts += [(prompt or "") + text for text in inputs]
        return {"count": torch.zeros(len(inputs))}

    def forward(self, features: dict[str, torch.Tensor], **_: object) -> dict[str, torch.Tensor]:
        return features | {"sentence_embedding": torch.zeros(len(features["count"]), 2)}


MANY: tuple[dict, ...] = (
    {},
    {"prompts": {"query": "a ", "document": "b "}},
    {"prompts": {"query": "a ", "passage": "b "}},
    {"prompts": {"query": "", "passage": None, "long": "c d "}, "default_prompt_name": "long"},
    {"prompts": {"query": "a "}, "default_prompt_name": "query"},
    {"default_prompt_name": "document"},
)
CALLS: tuple[dict, ...] = (
    {},
    *({"prompt_name": name} for name in ("query", "document", "passage", "long")),
    *({"prompt": prompt} for prompt in ("", "e ")),
    {"prompt": "e ", "prompt_name": "query"},
    {"prompt": "e ", "prompt_name": "unknown"},
)


@pytest.mark.parametrize("content", MANY)
@pytest.mark.parametrize("method", ["encode", "encode_query", "encode_document"])
def test_prompts_are_those_of_sentence_transformers(
    model: Path, monkeypatch: pytest.MonkeyPatch, content: dict, method: str
) -> None:
    recorder, texts = Recorder(), []
    their_prompts = {name: prompt or "" for name, prompt in content.get("prompts", {}).items()}  # as from a file
    theirs = SentenceTransformer(modules=[recorder], device="cpu", **(content | {"prompts": their_prompts}))
    settings(model, **content)
    with load(model) as ours:
        assert (ours.prompts, ours.default_prompt_name) == (theirs.prompts, theirs.default_prompt_name)
        monkeypatch.setattr(ours._encoder, "embed", lambda asked: texts.extend(asked) or np.zeros((len(asked), 8)))
        for options in CALLS:
            recorder.texts, texts[:] = [], []
            try:
                getattr(theirs, method)(["x", "y z"], **options)
            except ValueError:
                with pytest.raises(ConfigError, match="got prompt_name='"):
                    getattr(ours, method)(["x", "y z"], **options)
            else:
                getattr(ours, method)(["x", "y z"], **options)
                assert sorted(texts) == sorted(recorder.texts), options


def test_a_prompt_is_a_part_of_the_text(model: Path) -> None:
    plain = calib8.embed(model, ["a b " + text for text in TEXTS])
    settings(model, prompts={"query": "a b "}, similarity_fn_name="dot")
    with load(model) as encoder:
        assert encoder.similarity_fn_name == "dot"
        np.testing.assert_array_equal(encoder.encode_query(TEXTS), plain)
        np.testing.assert_array_equal(encoder.encode(TEXTS, prompt_name="query"), plain)
        np.testing.assert_array_equal(encoder.encode(TEXTS), calib8.embed(model, TEXTS))
    settings(model, prompts={"query": "a b "}, default_prompt_name="query")
    with load(model) as encoder:
        np.testing.assert_array_equal(encoder.encode(TEXTS), plain)
        np.testing.assert_array_equal(calib8.embed(model, TEXTS), plain)
    settings(model, prompts=["find: "])
    with pytest.raises(ModelError, match="its prompts are of type list, expected an object"):
        load(model)


def test_a_prompt_that_pooling_leaves_out(model: Path) -> None:
    (model.parent / "1_Pooling").mkdir()
    (model.parent / "1_Pooling" / "config.json").write_text('{"pooling_mode": "mean", "include_prompt": false}')
    settings(model, prompts={"query": "a "}, default_prompt_name="query")
    with load(model) as encoder:
        for method in (encoder.encode, encoder.encode_query):
            with pytest.raises(ConfigError, match="got the prompt 'a ', but the model's pooling leaves .* prompt=''"):
                method(TEXTS)
        assert encoder.encode(TEXTS, prompt="").shape == encoder.encode_document(TEXTS).shape == (6, 8)
    with pytest.raises(ModelError, match="has the prompt 'a ' before every text"):
        calib8.embed(model, TEXTS)


def test_one_vector_has_no_range(encoder: Encoder) -> None:
    with pytest.raises(ConfigError, match="1 vectors cannot be made int8: "):
        encoder.encode("a", precision="int8")


def test_a_model_that_is_refused_is_closed(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = NullRuntime(lambda arrays: {})
    monkeypatch.setattr("calib8.integrations.sentence_transformers.open_artefact", lambda *_, **__: opened)
    with pytest.raises(ModelError, match="no tokenizer"):
        load(model, model.parent.parent)
    with pytest.raises(SetupError, match="was closed"):
        opened.submit({})


def test_progress_is_shown_only_if_asked(encoder: Encoder, capsys: pytest.CaptureFixture[str]) -> None:
    encoder.encode(TEXTS)
    assert capsys.readouterr().err == ""
    encoder.encode(TEXTS, show_progress_bar=True)
    assert "embed: 6 done" in capsys.readouterr().err


def test_a_closed_encoder_says_so(model: Path) -> None:
    encoder = load(model)
    encoder.close()
    encoder.close()
    with pytest.raises(SetupError, match="the model was closed"):
        encoder.encode("a")


def test_neither_their_package_nor_pytorch_is_needed_for_vectors(model: Path) -> None:
    probe = f"""
import sys
sys.modules["sentence_transformers"] = sys.modules["torch"] = None
from calib8.integrations.sentence_transformers import load
from calib8.errors import SetupError
model = load({str(model)!r})
assert model.encode(["a", "b"], normalize_embeddings=True).shape == (2, 8)
for lacking, options in (("PyTorch", dict(convert_to_tensor=True)), ("sentence-transformers", dict(precision="int8"))):
    try:
        model.encode(["a", "b"], **options)
    except SetupError as error:
        assert lacking in str(error), error
    else:
        raise AssertionError(lacking)
"""
    found = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stderr
