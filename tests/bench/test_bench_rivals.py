"""What the comparisons on a GPU are made of: models as differences, a large BERT, the encoder in PyTorch."""

import importlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from calib8.graph.io import load
from calib8.graph.weighted import weighted_ops
from calib8.passes.gelu import gelu_ops
from calib8.passes.prepare import prepare
from calib8.passes.sequence_first import sequence_first
from calib8.progress import Quiet
from calib8.testing import outputs_of
from calib8.zoo import export

BENCH = Path(__file__).parents[2] / "bench"


def bench(name: str, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(BENCH)
    return importlib.import_module(name)


def product(**weights: np.ndarray[Any, Any]) -> onnx.ModelProto:
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 40]) for name in ("x", "y")]
    node = helper.make_node("MatMul", ["x", "w"], ["y"])
    initializers = [numpy_helper.from_array(array, name) for name, array in weights.items()]
    graph = helper.make_graph([node], "one", ends[:1], ends[1:], initializers)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10)


def test_a_difference_gives_the_model_back_to_the_bit(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    w, same, own = (random.standard_normal((40, 40)).astype(np.float32) for _ in range(3))
    half = w.astype(np.float16)
    half[3, 4], half[0, 0], half[39, 39] = 6e-8, -0.0, np.nan  # what a tool rounds in its own way
    base, made = product(w=w, same=same, other=w), product(w=half, same=same, other=own, scale=np.ones(1, np.float16))
    onnx.save(base, tmp_path / "base.onnx")
    onnx.save(made, tmp_path / "made.onnx")

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, str(BENCH / "difference.py"), *arguments]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)

    assert run("less", "base.onnx", "made.onnx", "less.onnx").returncode == 0
    left = {tensor.name: list(tensor.dims) for tensor in onnx.load(tmp_path / "less.onnx").graph.initializer}
    assert left == {"w": [3 * (8 + 2)], "same": [0], "other": [40, 40], "scale": [1]}
    assert run("whole", "base.onnx", "less.onnx", "back.onnx").returncode == 0
    assert (tmp_path / "back.onnx").read_bytes() == made.SerializeToString()

    w[0, 1] += 1
    onnx.save(product(w=w, same=same, other=w), tmp_path / "base.onnx")
    other = run("whole", "base.onnx", "less.onnx", "none.onnx")
    assert "ValueError: base.onnx has SHA-256" in other.stderr
    assert not (tmp_path / "none.onnx").exists()


def test_the_large_bert_is_one_that_calib8_knows(monkeypatch: pytest.MonkeyPatch) -> None:
    script = bench("bert_large", monkeypatch)
    for name, size in {"WIDTH": 16, "HEADS": 2, "BETWEEN": 32, "WORDS": 50, "POSITIONS": 12}.items():
        monkeypatch.setattr(script, name, size)
    model = script.bert(2)
    ids = np.arange(18).reshape(2, 9) + 1
    mask = np.ones_like(ids)
    mask[0, 5:] = 0
    whole = outputs_of(model, {"input_ids": ids, "attention_mask": mask})["last_hidden_state"]
    alone = outputs_of(model, {"input_ids": ids[:1, :5], "attention_mask": mask[:1, :5]})["last_hidden_state"]
    assert whole.shape == (2, 9, 16)
    np.testing.assert_allclose(whole[:1, :5], alone, atol=1e-5)  # padding has no say
    assert np.abs(whole[1, 0] - whole[1, 1]).max() > 0.1
    prepared = prepare(model)
    assert len(weighted_ops(prepared)) == 2 * 6
    assert gelu_ops(prepared, "tanh") == 2
    assert sequence_first(model)


@pytest.mark.filterwarnings("default")  # of transformers and torch, whatever their versions
def test_pytorch_gets_the_weights_of_the_onnx_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if missing := export.missing_packages():
        pytest.skip(f"the export extra is not installed: no {', '.join(missing)}")
    torch, transformers = importlib.import_module("torch"), importlib.import_module("transformers")
    save_file = importlib.import_module("safetensors.torch").save_file
    torch.manual_seed(0)
    sizes = {"vocab_size": 100, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = transformers.MPNetConfig(**sizes, intermediate_size=64, max_position_embeddings=202)
    model = transformers.MPNetModel(config)
    with torch.no_grad():
        for weight in model.parameters():
            weight.normal_(0, 0.3)
    save_file(model.state_dict(), tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps(config.to_dict()))
    export.export(tmp_path, tmp_path / "model.onnx", {}, Quiet())

    script = bench("pytorch_gpu", monkeypatch)
    ids, mask = np.random.default_rng(0).integers(2, 100, (3, 150)), np.ones((3, 150), np.int64)
    mask[1, 70:], ids[1, 70:] = 0, 1
    expected = outputs_of(load(tmp_path / "model.onnx"), {"input_ids": ids, "attention_mask": mask})
    kept = mask.astype(bool)
    with torch.inference_mode():
        for form in (script.AsItComes, script.Fused):
            found = form(script.mpnet(tmp_path, torch.float32, torch.device("cpu")))
            got = found(torch.from_numpy(ids), torch.from_numpy(mask)).numpy()
            np.testing.assert_allclose(got[kept], expected["last_hidden_state"][kept], atol=1e-4)
