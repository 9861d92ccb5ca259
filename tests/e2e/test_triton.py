"""MPNet's exported tokeniser and pooling, executed, with the exported model between them."""

from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest

import calib8
from calib8.graph.io import load
from calib8.runtime.ort import OrtRuntime
from calib8.text.sentence import SentenceEncoder
from calib8.text.tokenizer import read_sentences
from fake_triton import Step, kernels, text

ROOT = Path(__file__).parents[2]
MODEL, DEMO = ROOT / "models" / "all-mpnet-base-v2", ROOT / "build" / "mpnet"

pytestmark = pytest.mark.skipif(not (DEMO / "report.json").is_file(), reason="run `make demo` first")


@pytest.mark.parametrize("vnni", [True, False])
def test_every_gemm_of_the_exported_model_has_an_integer_kernel(tmp_path: Path, vnni: bool) -> None:
    options = calib8.Triton(name="mpnet", vnni=vnni)
    folder = calib8.export_triton(DEMO / "model.int8.onnx", tmp_path / "repository", options).folder
    # all linear ones but attention's projections; attention multiplies activations with each other
    assert kernels(folder / "mpnet_encoder" / "1" / "model.onnx", tmp_path)["MatMulIntegerToFloat"] == 60


def test_the_ensemble_gives_calib8s_vectors(tmp_path: Path) -> None:
    folder = calib8.export_triton(DEMO / "model.int8.onnx", tmp_path / "repository", calib8.Triton(name="mpnet")).folder
    sentences = [*read_sentences(ROOT / "examples" / "mpnet" / "held_out.txt")[:24], "", "long " * 600]
    exported = folder / "mpnet_encoder" / "1" / "model.onnx"
    session = ort.InferenceSession(str(exported))
    pooling, vectors = Step(folder / "mpnet_pooling"), []
    for tokens in Step(folder / "mpnet_tokeniser")(text(*sentences[:-1]), text(sentences[-1])):
        assert isinstance(tokens, dict)
        hidden = session.run(None, tokens)[0]
        (pooled,) = pooling({"hidden": hidden, "attention_mask": tokens["attention_mask"]})
        assert isinstance(pooled, dict)
        vectors.append(pooled["embedding"])
    assert tokens["input_ids"].shape == (1, 384)
    got = np.concatenate(vectors)
    with OrtRuntime(load(exported), integers=True) as runtime:
        same_form = SentenceEncoder(MODEL, runtime).embed(sentences)
    np.testing.assert_allclose(got, same_form, atol=1e-5)
    # another form of the same INT8 model rounds otherwise
    embedded = calib8.embed(DEMO / "model.int8.onnx", sentences, tokenizer=MODEL)
    assert (got * embedded).sum(axis=1).min() > 0.98
