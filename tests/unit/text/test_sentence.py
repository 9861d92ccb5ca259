import json
from pathlib import Path

import numpy as np
import pytest

from calib8.data.inputs import Arrays
from calib8.errors import ModelError
from calib8.runtime.contract import Contract
from calib8.runtime.null import NullRuntime
from calib8.runtime.ort import OrtRuntime
from calib8.testing import tiny_encoder
from calib8.text import sentence
from calib8.text.sentence import SentenceEncoder, pool, pooling_of, token_output, unit_rows


def answer(arrays: Arrays) -> Arrays:
    """Each token becomes (id, 1); padding becomes something large that pooling must not see."""
    ids, mask = arrays["input_ids"], arrays["attention_mask"]
    hidden = np.stack([ids, np.ones_like(ids)], axis=2).astype(np.float32)
    return {"pooled": hidden[:, 0], "hidden": np.where(mask[:, :, None] == 1, hidden, np.float32(1e6))}


def test_pool_by_hand() -> None:
    hidden = np.float32([[[1, 2], [3, 6], [100, 100]], [[5, 5], [7, 9], [9, 4]]])
    mask = np.array([[1, 1, 0], [1, 1, 1]])
    # (1 + 3) / 2, (2 + 6) / 2; (5 + 7 + 9) / 3, (5 + 9 + 4) / 3
    assert pool(hidden, mask, "mean").tolist() == [[2, 4], [7, 6]]
    assert pool(hidden, mask, "cls").tolist() == [[1, 2], [5, 5]]


def test_unit_rows() -> None:
    np.testing.assert_allclose(unit_rows(np.float32([[3, 4], [0, 0]])), [[0.6, 0.8], [0, 0]])


def test_embed_keeps_the_order_in_any_batching(tokenizer_folder: Path, notes, monkeypatch: pytest.MonkeyPatch) -> None:
    # "b" is <s> b </s> = 1 5 2: mean id 8 / 3. "a b c" is 1 4 5 6 2: 18 / 5. "" is 1 2: 3 / 2.
    sentences, means = ["b", "a b c", "", "b"], np.array([8 / 3, 18 / 5, 3 / 2, 8 / 3])
    expected = np.stack([means, np.ones(4)], axis=1) / np.sqrt(means**2 + 1)[:, None]
    for budget in (1, 7, 10_000):
        monkeypatch.setattr(sentence, "EMBED_POSITIONS", budget)
        runtime = NullRuntime(answer)
        got = SentenceEncoder(tokenizer_folder, runtime).embed(sentences, notes)
        assert got.dtype == np.float32
        np.testing.assert_allclose(got, expected, rtol=1e-6)
        assert len(runtime.asked) == {1: 4, 7: 3, 10_000: 1}[budget]
        assert notes.steps[-1] == ("embed", 4, 4)


def test_no_sentences(tokenizer_folder: Path) -> None:
    assert SentenceEncoder(tokenizer_folder, NullRuntime(answer)).embed([]).shape[0] == 0


def settings(folder: Path, pooling: object = None, modules: tuple[str, ...] = ()) -> Path:
    """A folder with these sentence-transformers files."""
    if pooling is not None:
        (folder / "1_Pooling").mkdir()
        (folder / "1_Pooling" / "config.json").write_text(json.dumps(pooling))
    if modules:
        listed = [{"type": kind, "path": f"{n}_{kind.rpartition('.')[2]}"} for n, kind in enumerate(modules)]
        (folder / "modules.json").write_text(json.dumps(listed))
    return folder


PLAIN = ("sentence_transformers.models.Transformer", "sentence_transformers.models.Pooling")
UNIT = (*PLAIN, "sentence_transformers.models.Normalize")
OLD = {"word_embedding_dimension": 8, "pooling_mode_mean_tokens": True, "pooling_mode_cls_token": False}


@pytest.mark.parametrize(
    ("pooling", "modules", "expected"),
    [
        (None, (), ("mean", True)),
        (OLD, (), ("mean", True)),
        ({"pooling_mode_cls_token": True, "include_prompt": True}, UNIT, ("cls", True)),
        ({"pooling_mode": "cls", "embedding_dimension": 8}, PLAIN, ("cls", False)),
        ({"pooling_mode": ["mean"]}, ("a.b.Transformer", "c.Pooling"), ("mean", False)),
        ({"word_embedding_dimension": 8}, UNIT, ("mean", True)),
    ],
)
def test_pooling_of(tmp_path: Path, pooling: dict | None, modules: tuple[str, ...], expected: tuple[str, bool]) -> None:
    assert pooling_of(settings(tmp_path, pooling, modules)) == expected


def test_the_folder_of_the_pooling_module_is_what_modules_say(tmp_path: Path) -> None:
    settings(tmp_path, {"pooling_mode": "max"})
    (tmp_path / "pool").mkdir()
    (tmp_path / "pool" / "config.json").write_text('{"pooling_mode": "cls"}')
    kinds = {"Transformer": "", "Pooling": "pool"}
    (tmp_path / "modules.json").write_text(json.dumps([{"type": k, "path": p} for k, p in kinds.items()]))
    assert pooling_of(tmp_path) == ("cls", False)
    (tmp_path / "pool" / "config.json").unlink()
    with pytest.raises(ModelError, match=r"names a Pooling module, but there is no .*pool/config\.json"):
        pooling_of(tmp_path)


@pytest.mark.parametrize(
    ("pooling", "message"),
    [
        ({"pooling_mode_max_tokens": True}, "asks for pooling_mode_max_tokens; calib8 supports mean or CLS pooling"),
        ({"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": True}, "asks for pooling_mode_cls_token, pool"),
        ({"pooling_mode": "lasttoken"}, "asks for lasttoken"),
        ({"pooling_mode": ["mean", "max"]}, "asks for max, mean"),
        ({"pooling_mode": "mean", "weights": [1]}, "asks for mean, weights"),
        ({"pooling_mode_mean_tokens": False}, "asks for no pooling"),
        (["mean"], r"config\.json is not a pooling setting: it holds a list, expected an object"),
    ],
)
def test_unsupported_pooling(tmp_path: Path, pooling: object, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        pooling_of(settings(tmp_path, pooling))


@pytest.mark.parametrize(
    ("modules", "message"),
    [
        (
            (*UNIT[:2], "sentence_transformers.models.Dense", UNIT[2]),
            "asks for Transformer, Pooling, Dense, Normalize;",
        ),
        (("sentence_transformers.models.StaticEmbedding",), "asks for StaticEmbedding; calib8 supports"),
        (UNIT[:1], "asks for Transformer;"),
        ((*PLAIN, PLAIN[1]), "asks for Transformer, Pooling, Pooling;"),
        ((PLAIN[0], *UNIT), "asks for Transformer, Transformer, Pooling, Normalize;"),
    ],
)
def test_unsupported_modules(tmp_path: Path, modules: tuple[str, ...], message: str) -> None:
    with pytest.raises(ModelError, match=message):
        pooling_of(settings(tmp_path, OLD, modules))


@pytest.mark.parametrize("content", [b"{", b"[1]", b'{"a": 1}', b"7", b'[{"type": 1, "path": ""}]', b'["\xff"]'])
def test_damaged_modules(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "modules.json").write_bytes(content)
    with pytest.raises(ModelError, match=r"modules\.json is (no|not a) list of modules"):
        pooling_of(tmp_path)


def test_damaged_pooling(tmp_path: Path) -> None:
    (tmp_path / "1_Pooling").mkdir()
    (tmp_path / "1_Pooling" / "config.json").write_text("{")
    with pytest.raises(ModelError, match=r"config\.json is not a pooling setting: it is no valid JSON"):
        pooling_of(tmp_path)


def test_vectors_are_normalised_only_if_asked(tokenizer_folder: Path) -> None:
    settings(tokenizer_folder, OLD, PLAIN)
    got = SentenceEncoder(tokenizer_folder, NullRuntime(answer)).embed(["b"])
    np.testing.assert_allclose(got, [[8 / 3, 1]], rtol=1e-6)


def test_a_model_with_segments_gets_the_first(tokenizer_folder: Path) -> None:
    contract = Contract(("input_ids", "attention_mask", "token_type_ids"), (), {})

    class Segments(NullRuntime):
        def run(self, arrays: Arrays) -> Arrays:
            return self._run(contract.fitted(arrays))

    runtime = Segments(answer, contract)
    SentenceEncoder(tokenizer_folder, runtime).embed(["a b", "c"])
    assert runtime.asked[0]["token_type_ids"].tolist() == [[0] * 4] * 2


@pytest.mark.parametrize("own", [5, 40])
def test_sentences_are_cut_to_what_the_model_takes(tokenizer_folder: Path, own: int, notes) -> None:
    (tokenizer_folder / "sentence_bert_config.json").write_text(json.dumps({"max_seq_length": own}))
    with OrtRuntime(tiny_encoder(positions=16)) as runtime:
        encoder = SentenceEncoder(tokenizer_folder, runtime)
        assert encoder.embed(["a " * 60, "b"], notes).shape == (2, 8)
    assert encoder.tokenizer.max_length == min(own, 16)
    assert notes.messages == [f"1 of 2 sentences is longer than {min(own, 16)} tokens and was cut"]


def test_a_model_that_is_no_token_encoder(tokenizer_folder: Path) -> None:
    encoder = SentenceEncoder(tokenizer_folder, NullRuntime(lambda arrays: {"y": np.zeros((1, 2))}))
    with pytest.raises(
        ModelError, match=r"no token encoder: expected an output \[batch, sequence, width\].*\{'y': 2\}"
    ):
        encoder.embed(["a"])


PROMPT = '{"prompts": {"query": "a b "}, "default_prompt_name": "query"}'


def test_a_prompt_by_default_is_pooled_too(tokenizer_folder: Path) -> None:
    (tokenizer_folder / "config_sentence_transformers.json").write_text(PROMPT)
    settings(tokenizer_folder, OLD | {"include_prompt": True}, PLAIN)
    encoder = SentenceEncoder(tokenizer_folder, NullRuntime(answer))
    np.testing.assert_allclose(encoder.embed(["c"]), [[18 / 5, 1]])  # 1 4 5 6 2
    without = SentenceEncoder(tokenizer_folder, NullRuntime(answer), prompt="")
    np.testing.assert_allclose(without.embed(["c"]), [[9 / 3, 1]])  # 1 6 2


def test_a_prompt_that_pooling_would_leave_out(tokenizer_folder: Path) -> None:
    settings(tokenizer_folder, OLD | {"include_prompt": False}, PLAIN)
    SentenceEncoder(tokenizer_folder, NullRuntime(answer))  # without a prompt there is none to leave out
    (tokenizer_folder / "config_sentence_transformers.json").write_text(PROMPT)
    with pytest.raises(
        ModelError, match=r"has the prompt 'a b ' before every text, and its pooling leaves the prompt's tokens out"
    ):
        SentenceEncoder(tokenizer_folder, NullRuntime(answer))
    SentenceEncoder(tokenizer_folder, NullRuntime(answer), prompt="")


def test_the_token_output_goes_by_its_name_and_else_by_its_rank() -> None:
    assert token_output({"sparse": 3, "last_hidden_state": 3}) == "last_hidden_state"
    assert token_output({"first_hidden": 3, "pooled": 2, "token_embeddings": 3}) == "token_embeddings"
    assert token_output({"pooled": 2, "tokens": 3, "more": 3}) == "tokens"
    assert token_output({"last_hidden_state": 2}) is None
