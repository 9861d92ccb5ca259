"""A float model that TensorRT does not parse is refused before it is calibrated; what it parses costs little."""

from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from trt_builds import recorded
from trt_double import needs_bindings

import calib8
from calib8.engine import parsable
from calib8.engine.parsable import require_parsable
from calib8.errors import BuildError, ModelError
from calib8.graph.builder import GraphBuilder
from calib8.progress import Quiet
from calib8.testing import tiny_encoder

RTX = calib8.Build(targets=("sm86",), family="rtx")
rtx_here = pytest.mark.usefixtures("needs_rtx")


@pytest.fixture
def needs_rtx() -> None:
    pytest.importorskip("tensorrt_rtx", reason="needs pip install tensorrt-rtx")


def model_with(kind: str, tmp_path: Path) -> Path:
    """y = x @ w, and what an operator ``kind`` makes of it; Compress keeps the first three of 64."""
    g = GraphBuilder()
    x = g.input("x", ir.DataType.FLOAT, "batch", 64, 64)
    h = g.op("MatMul", x, g.weight("w", 64, 64), name="product")
    kept = [g.constant("kept", np.arange(64) < 3, bool)] if kind == "Compress" else []
    strange = g.op(kind, h, *kept, name="strange", **({"axis": 1} if kept else {}))
    ir.save(g.model(y=h, z=strange), tmp_path / "model.onnx")
    return tmp_path / "model.onnx"


def data() -> list[dict[str, np.ndarray]]:
    return [{"x": np.random.default_rng(0).standard_normal((32, 64, 64)).astype(np.float32)}]


@rtx_here
def test_what_rtx_does_not_parse_is_refused_before_it_is_calibrated(tmp_path: Path, notes) -> None:
    model, output = model_with("Compress", tmp_path), tmp_path / "out"
    with pytest.raises(BuildError) as refused:
        calib8.convert(model, data(), output, calib8.Convert(build=RTX), progress=notes)
    text = str(refused.value)
    assert text.startswith("TensorRT-RTX 1.")
    assert " cannot parse model.onnx, so there would be no engine: node 'strange' (Compress): " in text
    assert (
        "ONNX node: strange. Remedy: TensorRT lacks this operator: export without it. Nothing was calibrated." in text
    )
    assert text.endswith("build none (--no-engine); or try the other TensorRT (--family tensorrt).")
    assert refused.value.exit_code == 2
    assert not notes.steps
    assert not output.exists()
    assert calib8.convert(model, data(), output, calib8.Convert(build=None)).int8_ops == 1


@rtx_here
def test_where_the_parser_names_no_node_its_operator_is_named(tmp_path: Path) -> None:
    """As of a graph network that adds up what comes along its edges."""
    g = GraphBuilder(opset=18)
    h = g.op("MatMul", g.input("x", ir.DataType.FLOAT, 8, 4), g.weight("w", 4, 4))
    index = g.input("edges", ir.DataType.INT64, 8, 4)
    sums = g.op("ScatterElements", g.constant("zero", np.zeros((8, 4))), index, h, axis=0, reduction="add")
    ir.save(g.model(y=sums), tmp_path / "model.onnx")
    with pytest.raises(
        BuildError, match=r"no engine: ScatterElements: Unsupported reduction type\. Remedy: TensorRT-RTX"
    ):
        require_parsable(calib8.load(tmp_path / "model.onnx"), tmp_path / "model.onnx", RTX, Quiet())


@rtx_here
@pytest.mark.parametrize("external", [False, True])
def test_weights_are_read_where_they_lie(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, external: bool) -> None:
    """Of 64 KiB, so that they are mapped; the graph that the parser gets has none of them."""
    path = tmp_path / "model.onnx"
    ir.save(tiny_encoder(vocabulary=64, width=128), path, external_data="weights.bin" if external else None)
    sizes: list[int] = []
    ask = parsable.run_worker

    def asked(request, progress, visible):
        sizes.append(Path(request["model"]).stat().st_size)
        assert Path(request["weights"]).parent == tmp_path
        return ask(request, progress, visible)

    monkeypatch.setattr(parsable, "run_worker", asked)
    require_parsable(calib8.load(path), path, RTX, Quiet())
    assert sizes[0] < 32_000 < sum(file.stat().st_size for file in tmp_path.iterdir())


@rtx_here
def test_weights_that_no_message_holds_go_to_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = calib8.load(model_with("Relu", tmp_path))
    values = model.graph.initializers["w"]
    values.const_value = ir.tensor(values.const_value.numpy().copy(), name="w")  # no longer in the model's file
    monkeypatch.setattr(parsable, "SINGLE_FILE_LIMIT", 1000)
    require_parsable(model, tmp_path / "model.onnx", RTX, Quiet())


@needs_bindings
@pytest.mark.parametrize("version", ["10.16.1.11", "11.4.0.106"])
def test_the_full_tensorrt_is_asked_too(tensorrt, tmp_path: Path, version: str) -> None:
    path = model_with("Relu", tmp_path)
    calls = tensorrt(version)
    require_parsable(calib8.load(path), path, calib8.Build(), Quiet())
    made = [call for call in recorded(calls) if call[0].startswith(("OnnxParser", "Builder"))]
    assert [call[0] for call in made] == ["Builder", "Builder.create_network", "OnnxParser", "OnnxParser.parse"]
    assert made[-1][1:] == ["bytes", str(path)]


def test_an_operator_that_nobody_knows_the_type_of_is_refused_before_the_work(tmp_path: Path, notes) -> None:
    """Its result would have to become FP16."""
    path = model_with("Relu", tmp_path)
    proto = onnx.load(path)
    proto.graph.node[-1].domain = "com.acme"
    proto.graph.node.append(onnx.helper.make_node("Neg", ["z"], ["u"]))
    proto.graph.output.append(onnx.helper.make_tensor_value_info("u", 1, None))
    proto.opset_import.append(onnx.helper.make_opsetid("com.acme", 1))
    del proto.graph.output[1]
    onnx.save(proto, path)
    with pytest.raises(ModelError, match=r"the output type of node 'strange' \(Relu of domain 'com.acme'\) is unknown"):
        calib8.convert(path, data(), tmp_path / "out", calib8.Convert(build=None), progress=notes)
    assert not notes.steps
