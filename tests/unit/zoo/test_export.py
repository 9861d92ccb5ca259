"""The PyTorch export on a tiny random MPNet, and the clean-up of traced graphs."""

import importlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from calib8.errors import FetchError, SetupError
from calib8.graph.io import load
from calib8.graph.limits import dimension_limits
from calib8.passes.prepare import prepare
from calib8.progress import Quiet
from calib8.zoo import export
from calib8.zoo.tidy import tidy

LAYERS, HIDDEN, HEADS = 2, 32, 4


@pytest.fixture
def torch() -> Any:
    if missing := export.missing_packages():
        pytest.skip(f"the export extra is not installed: no {', '.join(missing)}")
    return importlib.import_module("torch")


@pytest.fixture(params=["MPNet"])
def source(request: pytest.FixtureRequest, torch: Any, tmp_path: Path) -> Path:
    """A random model with strong dropout, so that an export in training mode could not pass."""
    from safetensors.torch import save_file

    transformers = importlib.import_module("transformers")
    torch.manual_seed(0)
    config = getattr(transformers, f"{request.param}Config")(
        vocab_size=100,
        hidden_size=HIDDEN,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        intermediate_size=64,
        max_position_embeddings=202,
        hidden_dropout_prob=0.5,
        attention_probs_dropout_prob=0.5,
    )
    folder = tmp_path / "source"
    folder.mkdir()
    model = getattr(transformers, f"{request.param}Model")(config)
    with torch.no_grad():
        for weight in model.parameters():  # no two alike: the exporter would share them
            weight.normal_(0, 0.3)
    save_file(model.state_dict(), folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(config.to_dict()))
    return folder


def answers(path: Path, ids: npt.NDArray[Any], mask: npt.NDArray[Any]) -> npt.NDArray[Any]:
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    output: npt.NDArray[Any] = session.run(None, {"input_ids": ids, "attention_mask": mask})[0]
    return output


@pytest.mark.parametrize("source", ["MPNet", "Bert"], indirect=True)
@pytest.mark.parametrize(("rows", "length"), [(1, 1), (5, 2), (2, 200)])
def test_the_export_answers_like_pytorch(source: Path, torch: Any, tmp_path: Path, rows: int, length: int) -> None:
    from transformers import AutoModel

    target = tmp_path / "model.onnx"
    assert export.export(source, target, {}, Quiet()) <= export.TOLERANCE
    random = np.random.default_rng(7)
    ids = random.integers(2, 100, size=(rows, length), dtype=np.int64)
    mask = np.ones_like(ids)
    mask[0, (length + 1) // 2 :] = 0
    ids[mask == 0] = 1
    model = AutoModel.from_pretrained(source, local_files_only=True).eval()
    with torch.inference_mode():
        expected = model(input_ids=torch.from_numpy(ids), attention_mask=torch.from_numpy(mask)).last_hidden_state
    difference = np.abs(answers(target, ids, mask) - expected.numpy())
    assert difference[mask == 1].max() < 1e-4


def test_the_graph_is_small_and_readable(source: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    target = tmp_path / "model.onnx"
    export.export(source, target, {"calib8.reference": "tiny"}, Quiet())
    assert capfd.readouterr() == ("", ""), "the exporter must not talk"
    onnx.checker.check_model(str(target), full_check=True)
    model = onnx.load(target)
    counts: dict[str, int] = {}
    for node in model.graph.node:
        counts[node.op_type] = counts.get(node.op_type, 0) + 1
    assert model.opset_import[0].version == export.OPSET
    assert counts["LayerNormalization"] == 1 + 2 * LAYERS
    assert counts["MatMul"] == 8 * LAYERS
    assert not {"Constant", "Dropout", "Expand", "GatherND", "Range", "Concat"} & set(counts)
    assert len(model.graph.node) == 22 + 35 * LAYERS
    names = {node.name for node in model.graph.node}
    assert {"/encoder/layer.0/intermediate/dense/MatMul", "/encoder/layer.1/attention/attn/q/MatMul"} <= names
    weights = {tensor.name for tensor in model.graph.initializer}
    assert {"encoder.layer.1.output.dense.weight.T", "encoder.layer.1.output.dense.bias"} <= weights
    assert not any(name.startswith("onnx::") for name in weights)
    assert {item.key: item.value for item in model.metadata_props} == {"calib8.reference": "tiny"}


def test_the_same_weights_give_the_same_bytes(source: Path, tmp_path: Path) -> None:
    for name in ("a.onnx", "b.onnx"):
        export.export(source, tmp_path / name, {}, Quiet())
    assert (tmp_path / "a.onnx").read_bytes() == (tmp_path / "b.onnx").read_bytes()


def test_a_difference_to_pytorch_is_an_error(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(export, "MASKED", 0.0)  # a mask that masks nothing
    with pytest.raises(FetchError, match=r"differs from PyTorch by .* on a batch of 1 x 7 tokens, expected at most"):
        export.export(source, tmp_path / "model.onnx", {}, Quiet())


def test_weights_of_another_config_are_an_error(source: Path, tmp_path: Path) -> None:
    config = json.loads((source / "config.json").read_text())
    (source / "config.json").write_text(json.dumps({**config, "num_hidden_layers": LAYERS + 1}))
    with pytest.raises(FetchError, match=r"holds weights that its config\.json does not describe"):
        export.export(source, tmp_path / "model.onnx", {}, Quiet())


def test_a_model_of_another_family_is_an_error(source: Path, tmp_path: Path) -> None:
    config = json.loads((source / "config.json").read_text())
    (source / "config.json").write_text(json.dumps({**config, "model_type": "gpt2"}))
    with pytest.raises(FetchError, match=r"holds a model of type 'gpt2', expected mpnet or bert\."):
        export.export(source, tmp_path / "model.onnx", {}, Quiet())


@pytest.mark.parametrize("source", ["Bert"], indirect=True)
def test_the_end_of_an_exported_position_table_is_found(source: Path, tmp_path: Path) -> None:
    target = tmp_path / "model.onnx"
    export.export(source, target, {}, Quiet())
    assert dimension_limits(prepare(load(target))) == {"sequence": 202}


def test_missing_packages_say_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(export, "missing_packages", lambda: ["torch"])
    with pytest.raises(SetupError, match=r"this Python has no torch\. .*pip install '\.\[export\]'"):
        export.export(tmp_path, tmp_path / "model.onnx", {}, Quiet())


def traced_reshape(*, same: bool) -> onnx.ModelProto:
    """Reshape(x @ w + b, [dim 0 of x, dim 1 of x, 2, 3]); with ``same`` unset, dim 1 comes from another tensor."""
    constants = {"zero": 0, "one": 1, "heads": [2], "size": [3], "axes": [0]}
    nodes = [
        helper.make_node("Constant", [], [name], name=name, value=numpy_helper.from_array(np.array(value, np.int64)))
        for name, value in constants.items()
    ]
    nodes += [
        helper.make_node("MatMul", ["x", "onnx::MatMul_7"], ["xw"], name="/layer/dense/MatMul"),
        helper.make_node("Add", ["b", "xw"], ["xwb"], name="/layer/dense/Add"),
        helper.make_node("Shape", ["x"], ["shape"], name="shape_of_x"),
        helper.make_node("Shape", ["x" if same else "other"], ["shape_2"], name="shape_2"),
        helper.make_node("Gather", ["shape", "zero"], ["d0"], name="d0"),
        helper.make_node("Gather", ["shape_2", "one"], ["d1"], name="d1"),
        helper.make_node("Unsqueeze", ["d0", "axes"], ["u0"], name="u0"),
        helper.make_node("Unsqueeze", ["d1", "axes"], ["u1"], name="u1"),
        helper.make_node("Concat", ["u0", "u1", "heads", "size"], ["target"], name="target", axis=0),
        helper.make_node("Reshape", ["xwb", "target"], ["y"], name="/layer/Reshape"),
    ]
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", "sequence", 4])
    other = helper.make_tensor_value_info("other", TensorProto.FLOAT, ["batch", "sequence"])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", "sequence", 2, 3])
    weights = np.arange(24, dtype=np.float32).reshape(4, 6)
    initializers = [
        numpy_helper.from_array(weights, "onnx::MatMul_7"),
        numpy_helper.from_array(np.ones(6, np.float32), "b"),
    ]
    graph = helper.make_graph(nodes, "traced", [x, other], [y], initializers)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


@pytest.mark.parametrize("same", [True, False])
def test_tidy_keeps_the_numbers(same: bool) -> None:
    proto = traced_reshape(same=same)
    model = ir.from_proto(traced_reshape(same=same))  # another one: it shares its tensors with the proto
    tidy(model)
    tidied = ir.to_proto(model)
    feeds = {"x": np.ones((2, 5, 4), np.float32), "other": np.ones((2, 5), np.float32)}
    got, expected = (
        onnxruntime.InferenceSession(item.SerializeToString(), providers=["CPUExecutionProvider"]).run(None, feeds)[0]
        for item in (tidied, proto)
    )
    np.testing.assert_array_equal(got, expected)


def test_tidy_makes_a_provable_target_constant() -> None:
    model = ir.from_proto(traced_reshape(same=True))
    tidy(model)
    assert [node.op_type for node in model.graph] == ["MatMul", "Add", "Reshape"]
    target = model.graph.initializers["/layer/Reshape_shape"].const_value
    assert target is not None
    assert target.numpy().tolist() == [0, 0, 2, 3]
    assert "layer.dense.weight.T" in model.graph.initializers


def test_tidy_leaves_a_target_from_another_tensor_alone() -> None:
    model = ir.from_proto(traced_reshape(same=False))
    tidy(model)
    assert "Concat" in [node.op_type for node in model.graph]
    assert "Constant" not in [node.op_type for node in model.graph]
