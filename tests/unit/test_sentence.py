import json
from pathlib import Path

import numpy as np
import pytest

from calib8.data.inputs import Arrays
from calib8.errors import ModelError
from calib8.models import sentence
from calib8.models.sentence import SentenceEncoder, pool, pooling_of, unit_rows
from calib8.runtime.null import NullRuntime


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
        monkeypatch.setattr(sentence, "TOKEN_BUDGET", budget)
        runtime = NullRuntime(answer)
        got = SentenceEncoder(tokenizer_folder, runtime).embed(sentences, notes)
        assert got.dtype == np.float32
        np.testing.assert_allclose(got, expected, rtol=1e-6)
        assert len(runtime.asked) == {1: 4, 7: 3, 10_000: 1}[budget]
        assert notes.steps[-1] == ("embed", 4, 4)


def test_no_sentences(tokenizer_folder: Path) -> None:
    assert SentenceEncoder(tokenizer_folder, NullRuntime(answer)).embed([]).shape[0] == 0


@pytest.mark.parametrize(
    ("pooling", "modules", "expected"),
    [
        (None, None, ("mean", True)),
        ({"pooling_mode_mean_tokens": True, "pooling_mode_cls_token": False}, None, ("mean", True)),
        ({"pooling_mode_cls_token": True}, '["sentence_transformers.models.Normalize"]', ("cls", True)),
        (None, '["sentence_transformers.models.Pooling"]', ("mean", False)),
    ],
)
def test_pooling_of(tmp_path: Path, pooling: dict | None, modules: str | None, expected: tuple[str, bool]) -> None:
    if pooling is not None:
        (tmp_path / "1_Pooling").mkdir()
        (tmp_path / "1_Pooling" / "config.json").write_text(json.dumps(pooling))
    if modules is not None:
        (tmp_path / "modules.json").write_text(modules)
    assert pooling_of(tmp_path) == expected


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"pooling_mode_max_tokens": true}', "asks for pooling_mode_max_tokens; calib8 supports mean or CLS pooling"),
        ('{"pooling_mode_cls_token": true, "pooling_mode_mean_tokens": true}', "asks for pooling_mode_cls_token, pool"),
        ("{", r"config\.json is not a pooling setting: it is no valid JSON"),
    ],
)
def test_unusable_pooling(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "1_Pooling").mkdir()
    (tmp_path / "1_Pooling" / "config.json").write_text(content)
    with pytest.raises(ModelError, match=message):
        pooling_of(tmp_path)


def test_vectors_are_normalised_only_if_asked(tokenizer_folder: Path) -> None:
    (tokenizer_folder / "modules.json").write_text("[]")
    got = SentenceEncoder(tokenizer_folder, NullRuntime(answer)).embed(["b"])
    np.testing.assert_allclose(got, [[8 / 3, 1]], rtol=1e-6)


def test_a_model_that_is_no_token_encoder(tokenizer_folder: Path) -> None:
    encoder = SentenceEncoder(tokenizer_folder, NullRuntime(lambda arrays: {"y": np.zeros((1, 2))}))
    with pytest.raises(
        ModelError, match=r"no token encoder: expected an output \[batch, sequence, width\].*\{'y': 2\}"
    ):
        encoder.embed(["a"])
