"""Options for ONNX Runtime: read as it reads them, and tried on its CPU provider."""

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest
from canaries import WITHOUT_VNNI, found_exact, inexact
from onnxruntime.capi import onnxruntime_pybind11_state

import calib8
from calib8.data.inputs import Arrays
from calib8.errors import ConfigError, ModelError, ProfileError, SetupError
from calib8.integrations.onnxruntime import NAMES, open_session, providers, session_options
from calib8.runtime.canary import Answer, Kind, question
from calib8.testing import tiny_encoder, token_feeds

FEEDS = token_feeds(5, 3)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A Q/DQ model, as calib8 writes it."""
    source = calib8.save(tiny_encoder(width=32), tmp_path / "source.onnx")
    loaded, data = calib8.load(source), calib8.batches([token_feeds(*range(2, 10), seed=seed) for seed in range(8)])
    return calib8.save(calib8.quantize(loaded, calib8.calibrate(loaded, data)), tmp_path / "model.onnx")


def seen_by_provider(model: Path, options: ort.SessionOptions, folder: Path) -> Counter[str]:
    """What ONNX Runtime makes of the graph before it asks providers which nodes they take: ops, and "weight DQ"."""
    if options.graph_optimization_level == ort.GraphOptimizationLevel.ORT_ENABLE_ALL:
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.optimized_model_filepath = str(folder / "seen.onnx")
    options.log_severity_level = 3  # it warns that what it writes is for this machine
    ort.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
    return ops_of(folder / "seen.onnx")


def ops_of(path: Path) -> Counter[str]:
    graph = onnx.load(path).graph
    constants = {constant.name for constant in graph.initializer}
    weights = sum(node.op_type == "DequantizeLinear" and node.input[0] in constants for node in graph.node)
    return Counter(node.op_type for node in graph.node) + Counter({"weight DQ": weights})


@pytest.mark.parametrize("target", ["tensorrt", "tensorrt-rtx", "openvino", "cpu"])
def test_weights_stay_int8(model: Path, tmp_path: Path, target: str, monkeypatch: pytest.MonkeyPatch) -> None:
    found_exact(monkeypatch)
    written, seen = ops_of(model), seen_by_provider(model, session_options(target), tmp_path)
    assert written["weight DQ"] > 2
    for op in ("QuantizeLinear", "DequantizeLinear", "weight DQ"):
        assert seen[op] == written[op], op


def test_where_int8_saturates_the_cpu_computes_in_float(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found_exact(monkeypatch, *WITHOUT_VNNI)
    written, seen = ops_of(model), seen_by_provider(model, session_options("cpu"), tmp_path)
    assert seen["weight DQ"] == 0
    assert seen["QuantizeLinear"] == written["QuantizeLinear"]


def test_options_with_which_int8_is_wrong_are_refused(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The question is put to the session that these options make."""
    asked = []

    def check(kind: Kind, run: Callable[[ir.Model, Arrays], Arrays]) -> Answer:
        model, feeds, expected = question(kind)
        asked.append({name: array.tolist() for name, array in run(model, feeds).items()}.keys() == expected.keys())
        return inexact(kind)

    monkeypatch.setattr("calib8.integrations.onnxruntime.check", check)
    told = (
        "the CPUExecutionProvider computes INT8 wrong on this CPU with these options: MatMul gives 8160 where 1032256"
    )
    with pytest.raises(SetupError, match=told):
        open_session(model, "cpu", options=ort.SessionOptions())
    assert asked == [True]


def test_cuda_gets_float_weights_and_keeps_the_rounding_of_activations(model: Path, tmp_path: Path) -> None:
    written, seen = ops_of(model), seen_by_provider(model, session_options("cuda"), tmp_path)
    assert seen["weight DQ"] == 0
    assert seen["QuantizeLinear"] == written["QuantizeLinear"]


def test_the_option_that_looks_right_for_tensorrt_makes_weights_float(model: Path, tmp_path: Path) -> None:
    # Why session_options does not set it for TensorRT. If this fails, ONNX Runtime has changed.
    options = ort.SessionOptions()
    options.add_session_config_entry("session.disable_quant_qdq", "1")
    assert seen_by_provider(model, options, tmp_path)["weight DQ"] == 0


def test_options_of_tensorrt(model: Path, tmp_path: Path) -> None:
    cache = tmp_path / "not" / "there"
    shapes = {"input_ids": ("1x2", "4x8", "8x16")}
    first, *others = providers(model, "tensorrt", shapes=shapes, cache=cache, device=1)
    name, options = first
    assert name == "TensorrtExecutionProvider"
    engines = Path(options.pop("trt_engine_cache_path"))
    assert options == {
        "device_id": 1,
        "trt_fp16_enable": False,
        "trt_int8_enable": False,
        "trt_profile_min_shapes": "input_ids:1x2,attention_mask:1x2",
        "trt_profile_opt_shapes": "input_ids:4x8,attention_mask:4x8",
        "trt_profile_max_shapes": "input_ids:8x16,attention_mask:8x16",
        "trt_engine_cache_enable": True,
        "trt_timing_cache_enable": True,
        "trt_timing_cache_path": str(cache),
    }
    assert engines.parent == cache
    assert cache.is_dir()  # ONNX Runtime makes the last folder of a path only
    assert others == [("CUDAExecutionProvider", {"device_id": 1}), ("CPUExecutionProvider", {})]


def test_an_engine_is_of_one_model(model: Path, tmp_path: Path) -> None:
    # The same graph, one bit of a weight apart: by its names ONNX Runtime would take the old engine.
    def engines() -> str:
        return providers(model, "tensorrt", cache=tmp_path)[0][1]["trt_engine_cache_path"]

    before = engines()
    assert engines() == before
    changed = onnx.load(model)
    weight = next(one for one in changed.graph.initializer if one.data_type == onnx.TensorProto.INT8 and one.dims)
    weight.raw_data = bytes([weight.raw_data[0] ^ 1]) + weight.raw_data[1:]
    onnx.save(changed, model)
    assert engines() != before


def test_options_of_tensorrt_rtx(model: Path, tmp_path: Path) -> None:
    (name, options), *_ = providers(
        model, "tensorrt-rtx", shapes=("input_ids:1x1:1x4:1x8", "input_ids:1x1:8x8:8x16"), cache=tmp_path
    )
    assert name == "NvTensorRTRTXExecutionProvider"
    assert options == {
        "device_id": 0,
        "nv_profile_min_shapes": "input_ids:1x1,attention_mask:1x1,input_ids:1x1,attention_mask:1x1",
        "nv_profile_opt_shapes": "input_ids:1x4,attention_mask:1x4,input_ids:8x8,attention_mask:8x8",
        "nv_profile_max_shapes": "input_ids:1x8,attention_mask:1x8,input_ids:8x16,attention_mask:8x16",
        "nv_runtime_cache_path": str(tmp_path),
    }


def test_without_a_cache_nothing_is_written(model: Path) -> None:
    for target in ("tensorrt", "tensorrt-rtx"):
        assert not [name for name in providers(model, target)[0][1] if "cache" in name]


def test_options_of_openvino(model: Path) -> None:
    (name, options), fallback = providers(model, "openvino")
    assert (name, options["device_type"]) == ("OpenVINOExecutionProvider", "CPU")
    assert json.loads(options["load_config"]) == {"CPU": {"INFERENCE_PRECISION_HINT": "f32"}}
    assert fallback == ("CPUExecutionProvider", {})


def test_names_are_those_of_onnxruntime() -> None:
    library = Path(onnxruntime_pybind11_state.__file__).read_bytes()  # get_all_providers() leaves TensorRT-RTX out
    assert [name for name in NAMES.values() if name.encode() not in library] == []


def test_a_session_on_the_cpu_computes_what_calib8_computes(model: Path) -> None:
    session = open_session(model, "cpu")
    assert session.get_providers() == ["CPUExecutionProvider"]
    (got,) = session.run(None, FEEDS)
    with calib8.open(model, runtime="onnxruntime") as opened:
        (expected,) = opened.run(FEEDS).values()
    rms = np.sqrt(np.mean(expected**2))
    assert np.sqrt(np.mean((got - expected) ** 2)) < 0.02 * rms


def test_own_options_are_taken(model: Path, tmp_path: Path) -> None:
    options = session_options("cpu")
    options.optimized_model_filepath = str(tmp_path / "own.onnx")
    options.log_severity_level = 3
    open_session(model, "cpu", options=options)
    assert (tmp_path / "own.onnx").is_file()


@pytest.mark.parametrize(
    ("target", "package"),
    [("tensorrt", "onnxruntime-gpu, and TensorRT 10"), ("cuda", "onnxruntime-gpu"), ("openvino", "onnxruntime-openv")],
)
def test_a_provider_that_is_not_here_is_no_silent_fallback(model: Path, target: str, package: str) -> None:
    assert NAMES[target] not in ort.get_available_providers()
    with pytest.raises(SetupError, match=rf"has no {NAMES[target]}, only .*CPUExecutionProvider. Install {package}"):
        open_session(model, target)


def test_a_fallback_of_onnxruntime_is_refused(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # It claims a provider whose libraries do not load, and then goes on with the CPU.
    claimed, session = ["CUDAExecutionProvider", "CPUExecutionProvider"], ort.InferenceSession
    monkeypatch.setattr(ort, "get_available_providers", lambda: claimed)
    monkeypatch.setattr(
        ort,
        "InferenceSession",
        lambda path, options, **_: session(path, options, providers=["CPUExecutionProvider"]),
    )
    with pytest.raises(SetupError, match="fell back from CUDAExecutionProvider to CPUExecutionProvider: its libraries"):
        open_session(model, "cuda")


@pytest.mark.parametrize(
    ("target", "options", "error", "message"),
    [
        ("tpu", {}, ConfigError, "got the target 'tpu', expected one of tensorrt, tensorrt-rtx, cuda, openvino, cpu"),
        ("cpu", {"cache": "x"}, ConfigError, "the cpu execution provider has no cache. Leave it out"),
        ("cuda", {"shapes": "input_ids:1x1:1x1:1x1"}, ConfigError, "the cuda execution provider has no shapes"),
        ("tensorrt", {"shapes": "input_ids:1x1:1x8:1x17"}, ProfileError, "goes up to 17, but the model's tables hold"),
        ("tensorrt", {"shapes": "ids:1x1:1x8:1x16"}, ProfileError, "shapes given for 'ids', but the model's inputs"),
    ],
)
def test_impossible_options(model: Path, target: str, options: dict, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        providers(model, target, **options)


def test_a_file_that_is_no_model(tmp_path: Path) -> None:
    (tmp_path / "x.onnx").write_bytes(b"no model")
    with pytest.raises(ModelError, match=r"ONNX Runtime does not open .*x\.onnx on cpu: "):
        open_session(tmp_path / "x.onnx", "cpu")
    with pytest.raises(ModelError, match="not a usable ONNX model"):
        providers(tmp_path / "x.onnx", "tensorrt")
    with pytest.raises(ConfigError, match="got the target 'gpu'"):
        session_options("gpu")
