import sys
from pathlib import Path
from typing import cast

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest
from canaries import WITHOUT_VNNI, found_exact

from calib8.errors import ConfigError, DataError, ModelError, SetupError
from calib8.graph.builder import GraphBuilder
from calib8.graph.io import load, referring, save, serialized
from calib8.graph.weighted import weighted_ops
from calib8.passes.cpu_form import to_cpu_form
from calib8.passes.half import to_half
from calib8.passes.insert_qdq import insert_qdq
from calib8.passes.prepare import prepare
from calib8.runtime import choice, openvino, processor
from calib8.runtime.cpu import open_cpu
from calib8.runtime.names import CpuRuntime
from calib8.runtime.null import NullRuntime
from calib8.runtime.open import open_artefact
from calib8.runtime.openvino import OpenVinoRuntime
from calib8.runtime.ort import OrtRuntime, _open
from calib8.testing import outputs_of, tiny_encoder, tiny_mlp, token_feeds

RUNTIMES = [OrtRuntime, OpenVinoRuntime]
X = {"x": np.float32([[1, -2, 3, 0.5], [0, 0, 0, 0]])}


def quantised(make) -> ir.Model:
    model = prepare(make())
    ops = weighted_ops(model)
    return insert_qdq(model, ops, {op.activation.name: 4.0 for op in ops})


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_runs_and_answers_by_name(runtime) -> None:
    expected = outputs_of(tiny_mlp(), X)
    with runtime(tiny_mlp(), threads=1) as opened:
        np.testing.assert_allclose(opened.run(X)["y"], expected["y"], atol=1e-6)
        np.testing.assert_allclose(opened(**X)["y"], expected["y"], atol=1e-6)
        assert opened.description.endswith(" on CPU")
    opened.close()  # a second time


def test_what_openvino_does_not_take_goes_to_onnx_runtime(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise ModelError("OpenVINO does not accept the model: dynamic rank.")

    model = quantised(tiny_mlp)
    found_exact(monkeypatch)
    assert choice.by_rule(model, "auto", 1).runtime == "openvino"
    monkeypatch.setattr(openvino, "OpenVinoRuntime", refuse)
    for throughput, streams in ((False, 1), (True, 2)):  # a run alone has all threads
        with open_cpu(model, threads=2, throughput=throughput) as opened:
            assert opened.description.startswith("ONNX Runtime")
            assert opened.streams == streams
            assert np.isfinite(opened.run(X)["y"]).all()
    with pytest.raises(ModelError, match="dynamic rank"):
        open_cpu(model, "openvino")


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_an_input_that_nothing_reads(runtime) -> None:
    model = tiny_mlp()
    model.graph.inputs.append(ir.Value(name="unread", type=ir.TensorType(ir.DataType.INT64), shape=ir.Shape(["n"])))
    with runtime(model, threads=1) as opened:
        got = opened.run({**X, "unread": np.zeros(2, np.int64)})["y"]
    np.testing.assert_allclose(got, outputs_of(tiny_mlp(), X)["y"], atol=1e-6)


def test_a_float_activation_is_not_quantised_on_the_way() -> None:
    """ONNX Runtime would do so where only the weight is INT8: one scale for each block of 32."""
    g = GraphBuilder()
    random = np.random.default_rng(0)
    x = random.normal(size=(16, 64)).astype(np.float32)
    codes = g.constant("codes", random.integers(-127, 128, (64, 8)), np.int8)
    scale, zero = g.constant("scale", random.uniform(0.5, 1, 8)), g.constant("zero", np.zeros(8), np.int8)
    weight = g.op("DequantizeLinear", codes, scale, zero, axis=1)
    model = g.model(y=g.op("MatMul", g.input("x", ir.DataType.FLOAT, "batch", 64), weight))
    expected = x @ (codes.const_value.numpy() * scale.const_value.numpy())
    with OrtRuntime(model) as opened:
        got = opened.run({"x": x})["y"]
    np.testing.assert_allclose(got, expected, rtol=0, atol=1e-5 * np.abs(expected).max())


def test_a_matmul_with_a_bias_runs_on_integers(tmp_path: Path) -> None:
    """ONNX Runtime would make a Gemm of a quantised MatMul and its Add, and compute that in float."""
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimised.onnx")
    _open(to_cpu_form(quantised(tiny_mlp), unsigned=True), options)
    kinds = [node.op_type for node in ir.load(tmp_path / "optimised.onnx").graph]
    assert kinds.count("MatMulIntegerToFloat") == 1, kinds  # and a Gemm, which the model has itself


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_results_of_earlier_runs_stay(runtime) -> None:
    with runtime(tiny_mlp()) as opened:
        first = opened.run(X)["y"]
        kept = first.copy()
        opened.run({"x": X["x"] + 1})
        np.testing.assert_array_equal(first, kept)


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_dynamic_shapes(runtime) -> None:
    with runtime(tiny_encoder()) as opened:
        for lengths in ((3,), (5, 2), (16, 16, 1)):
            feeds = token_feeds(*lengths)
            expected = outputs_of(tiny_encoder(), feeds)["last_hidden_state"]
            np.testing.assert_allclose(opened.run(feeds)["last_hidden_state"], expected, atol=1e-4)


@pytest.mark.parametrize(
    ("runtime", "message"),
    [
        (OrtRuntime, "ONNX Runtime does not accept the model: .*onnx.checker"),
        (OpenVinoRuntime, "OpenVINO does not acc"),
    ],
)
def test_refused_model(runtime, message: str) -> None:
    model = tiny_mlp()
    model.graph[0].op_type = "NoSuchOp"
    with pytest.raises(ModelError, match=message):
        runtime(model)


IDS = token_feeds(3, 9)
NOT_FIT = {
    "a missing input": (
        {"input_ids": IDS["input_ids"]},
        "got arrays for input_ids, expected input_ids, att",
    ),
    "an unknown input": ({**IDS, "ids": IDS["input_ids"]}, "got arrays for attention_mask, ids, input_ids, expected"),
    "float ids": ({**IDS, "input_ids": IDS["input_ids"] + 0.7}, "input_ids has dtype float64, expected int64"),
    "an id beyond the table": ({**IDS, "input_ids": IDS["input_ids"] + 31}, "but the model's table has 32 rows"),
    "a negative id": ({**IDS, "input_ids": IDS["input_ids"] - 9}, "input_ids holds the index -9"),
    "too long": (token_feeds(17), r"input_ids has 17 positions along 'sequence', but .* position table ends at 16"),
    "another rank": ({k: a[0] for k, a in IDS.items()}, "input_ids has rank 1 .* expected rank 2"),
    "two lengths": (
        {**IDS, "attention_mask": IDS["attention_mask"][:, :1]},
        "attention_mask has size 1 along 'sequence', input_ids has 9: the model takes one size there",
    ),
    "ragged lists": ({k: [[5, 6], [7]] for k in IDS}, "input_ids is not an array: .* Pad its rows to one length"),
    "no sample": ({k: a[:0] for k, a in IDS.items()}, "the data is empty"),
}


@pytest.mark.parametrize("case", NOT_FIT)
@pytest.mark.parametrize("runtime", RUNTIMES)
def test_bad_input_is_refused_alike(runtime, case: str) -> None:
    feeds, message = NOT_FIT[case]
    with runtime(quantised(tiny_encoder), integers=True) as opened:
        opened.run(IDS)  # OpenVINO would take what is missing from here
        with pytest.raises(DataError, match=message):
            opened.run(feeds)


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_int32_and_lists_are_converted(runtime) -> None:
    with runtime(tiny_encoder()) as opened:
        expected = opened.run(IDS)["last_hidden_state"]
        for feeds in ({k: a.astype(np.int32) for k, a in IDS.items()}, {k: a.tolist() for k, a in IDS.items()}):
            np.testing.assert_array_equal(opened.run(feeds)["last_hidden_state"], expected)


def test_lists_of_numbers_have_no_dtype_of_their_own() -> None:
    with OrtRuntime(tiny_mlp()) as opened:
        expected = opened.run({"x": np.float32([[0.1, 2, -3, 4]])})["y"]
        np.testing.assert_array_equal(opened(x=[[0.1, 2, -3, 4]])["y"], expected)
        assert opened(x=[[1, 2, 3, 4]])["y"].shape == (1, 3)
        with pytest.raises(DataError, match="x holds numbers that are too large for the model's float32"):
            opened(x=[[1e39, 0, 0, 0]])
        with pytest.raises(DataError, match="NaN or infinity"):
            opened(x=[[float("nan"), 0, 0, 0]])
        with pytest.raises(DataError, match="x has dtype float64, expected float32"):
            opened(x=np.ones((1, 4)))
        with pytest.raises(ConfigError, match=r"on CPU.*: no output is on a GPU\. Use run\(\), or build an engine"):
            opened.run_on_gpu({"x": [[1, 2, 3, 4]]})


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_a_fixed_batch_runs_and_is_checked(runtime) -> None:
    g = GraphBuilder()
    x, scale = g.input("x", ir.DataType.FLOAT, 1, 4), g.input("scale", ir.DataType.FLOAT)
    with runtime(g.model(y=g.op("Mul", x, scale))) as opened:
        assert opened(x=np.ones((1, 4), np.float32), scale=np.float32(2))["y"].tolist() == [[2] * 4]
        with pytest.raises(DataError, match=r"x has size 2 on axis 0, expected 1 \[1, 4\]"):
            opened(x=np.ones((2, 4), np.float32), scale=np.float32(2))


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_what_bounds_an_input(runtime) -> None:
    with runtime(tiny_encoder()) as opened:
        assert [opened.largest("input_ids", axis) for axis in (0, 1, 2)] == [None, 16, None]
        assert opened.largest("absent", 0) is None
        assert opened.contract.names == ("input_ids", "attention_mask")


def test_the_bound_survives_what_is_done_for_the_cpu() -> None:
    with open_cpu(to_half(quantised(tiny_encoder))) as opened:
        assert opened.largest("input_ids", 1) == 16
        assert opened.contract.specs[0].limit == 32


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_a_model_that_cannot_compute_an_input(runtime) -> None:
    g = GraphBuilder()
    x, index = g.input("x", ir.DataType.FLOAT, "rows", "columns"), g.input("shape", ir.DataType.INT64, 2)
    with runtime(g.model(y=g.op("Reshape", x, index))) as opened, pytest.raises(DataError, match="the model failed on"):
        opened(x=np.ones((2, 3), np.float32), shape=np.array([4, 5]))


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_a_closed_runtime_says_so(runtime) -> None:
    opened = runtime(tiny_mlp())
    opened.close()
    with pytest.raises(SetupError, match=r"on CPU: the model was closed\. Open it again with calib8\.open\(\)"):
        opened.run(X)


def test_openvino_that_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(SetupError, match=r"OpenVINO is not installed\. Install it: pip install '\.\[openvino\]'"):
        OpenVinoRuntime(tiny_mlp())


@pytest.mark.parametrize(
    ("make", "installed", "name"),
    [
        (lambda: prepare(tiny_mlp()), True, "ONNX Runtime"),
        (lambda: quantised(tiny_mlp), True, "OpenVINO"),
        (lambda: quantised(tiny_mlp), False, "ONNX Runtime"),
    ],
    ids=["fp32", "int8 with openvino", "int8 without"],
)
def test_auto_choice(make, installed: bool, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choice, "find_spec", lambda _: object() if installed else None)
    found_exact(monkeypatch)
    with open_cpu(make()) as opened:
        assert opened.description.startswith(name)


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino", "auto"])
@pytest.mark.parametrize("inexact", [(), WITHOUT_VNNI])
def test_int8_fp16_model_runs_everywhere_and_stays_as_it_is(
    runtime: CpuRuntime, inexact: tuple[tuple[str, str], ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    found_exact(monkeypatch, *inexact)
    model = to_half(quantised(tiny_encoder))
    before = serialized(model)
    feeds = token_feeds(5, 3)
    expected = outputs_of(tiny_encoder(), feeds)["last_hidden_state"]
    with open_cpu(model, runtime) as opened:
        got = opened.run(feeds)["last_hidden_state"]
    assert got.dtype == np.float32
    real = feeds["attention_mask"] == 1
    assert 0 < np.abs(got - expected)[real].max() < 0.3
    assert serialized(model) == before


@pytest.mark.parametrize(
    ("machine", "flags", "units", "expected"),
    [
        ("x86_64", "avx2 avx512f avx512_vnni", {"AVX2", "AVX512F", "AVX512VNNI"}, True),
        ("x86_64", "avx2 avx_vnni", {"AVX2"}, True),
        ("AMD64", "avx2", {"AVX2"}, False),
        ("aarch64", "avx512_vnni", {"AVX2"}, False),
        ("x86_64", "avx2 avx512f avx512_vnni", {"AVX2"}, None),
        ("x86_64", "avx2 gfni avx_vnni", {"AVX2"}, None),
    ],
    ids=["server", "desktop", "old", "ARM", "emulated on a server", "emulated on a desktop"],
)
def test_has_vnni(
    machine: str, flags: str, units: set[str], expected: bool | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An emulated CPU without AVX-512 reads the host's /proc/cpuinfo: nobody knows then."""
    known = dict.fromkeys(("AVX2", "GFNI", "AVX512F", "AVX512VNNI", "AVX512_SKX"), False)
    monkeypatch.setattr(processor.platform, "machine", lambda: machine)
    monkeypatch.setattr(processor, "_cpuinfo", lambda: f"processor\t: 0\nflags\t\t: {flags}\n")
    monkeypatch.setattr(processor, "_units", lambda: known | dict.fromkeys(units, True))
    assert processor.has_vnni() is expected


def test_open_artefact(tmp_path: Path) -> None:
    with open_artefact(save(tiny_mlp(), tmp_path / "a.onnx")) as opened:
        assert opened.run(X)["y"].shape == (2, 3)


@pytest.mark.parametrize("options", [{"contexts": 2}, {"cuda_graphs": 0}, {"contexts": 1, "cuda_graphs": 8}])
def test_options_of_engines_are_refused_on_the_cpu(options, tmp_path: Path) -> None:
    path = save(tiny_mlp(), tmp_path / "a.onnx")
    given = ", ".join(f"{name}={number}" for name, number in options.items())
    with pytest.raises(
        ConfigError, match=rf"a\.onnx cannot be opened with {given}: that is for engines \(\.engine, \.p"
    ):
        open_artefact(path, **options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"threads": 4},
            r"x\.engine cannot be opened with threads=4: that is for ONNX models on the CPU; an engine has c",
        ),
        ({"contexts": 0}, r"^got contexts=0, expected 1 or more\.$"),
        ({"cuda_graphs": -1}, r"^got cuda_graphs=-1, expected 0 or more\.$"),
    ],
)
def test_options_that_an_engine_cannot_have_are_refused_before_it_is_read(options, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        open_artefact(Path("x.engine"), **options)


def test_null_runtime_remembers() -> None:
    with NullRuntime(lambda arrays: {"y": arrays["x"] * 2}) as runtime:
        assert runtime(x=np.ones(1))["y"].tolist() == [2]
    assert len(runtime.asked) == 1
    assert runtime.closed


def test_close_follows_an_error() -> None:
    def fail() -> None:
        with runtime:
            raise KeyboardInterrupt

    runtime = NullRuntime(lambda arrays: arrays)
    with pytest.raises(KeyboardInterrupt):
        fail()
    assert runtime.closed


@pytest.mark.parametrize("limit", [10**9, 1], ids=["small", "beyond the protobuf limit"])
def test_weights_are_read_where_they_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: int) -> None:
    """Mapped, made since, or those of a file that was replaced: the session computes what the model says."""
    monkeypatch.setattr("calib8.runtime.ort.SINGLE_FILE_LIMIT", limit)
    g = GraphBuilder()
    x = g.input("x", ir.DataType.FLOAT, "batch", 64)
    made = g.op("MatMul", x, g.weight("a", 64, 64))
    path = save(g.model(y=g.op("MatMul", made, g.weight("b", 64, 64))), tmp_path / "model.onnx")
    model = load(path)
    model.graph.initializers["b"].const_value = ir.tensor(np.eye(64, dtype=np.float32), name="b")
    array = np.arange(128, dtype=np.float32).reshape(2, 64)
    expected = array @ model.graph.initializers["a"].const_value.numpy()
    assert len(referring(model)[0]) < 4 * 64 * 64 + 1000  # b and no a
    for _ in range(2):
        with OrtRuntime(model) as opened:
            np.testing.assert_allclose(opened.run({"x": array})["y"], expected, rtol=1e-4)
        save(tiny_encoder(), path)  # another model of the same name


def test_openvino_takes_more_weights_than_protobuf_does(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("calib8.graph.io.SINGLE_FILE_LIMIT", 1)
    expected = outputs_of(tiny_mlp(), X)["y"]
    with OpenVinoRuntime(tiny_mlp()) as opened:
        np.testing.assert_allclose(opened.run(X)["y"], expected, rtol=1e-4)


def test_openvino_keeps_to_the_cores_that_are_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    """A container's quota is no affinity: OpenVINO would start a thread for each core of the machine."""
    monkeypatch.setattr(openvino, "cores", lambda: 1)
    with open_cpu(tiny_mlp(), "openvino") as opened:
        assert opened._compiled.get_property("INFERENCE_NUM_THREADS") == 1


def test_a_graph_without_weights() -> None:
    g = GraphBuilder()
    with OrtRuntime(g.model(y=g.op("Neg", g.input("x", ir.DataType.FLOAT, "batch")))) as opened:
        assert opened.run({"x": np.float32([1])})["y"].tolist() == [-1]


def test_openvino_keeps_the_names_of_outputs_behind_eliminated_nodes() -> None:
    g = GraphBuilder()
    x = g.input("x", ir.DataType.FLOAT, "batch", 2)
    doubled = g.op("Mul", x, g.constant("two", 2.0), name="a_double")
    model = prepare(g.model(z_twice=g.op("Concat", doubled, axis=0), z_plain=g.op("Relu", x)))
    with OpenVinoRuntime(model) as runtime:
        outputs = runtime(x=np.float32([[1, -1]]))
    assert {name: array.tolist() for name, array in outputs.items()} == {"z_twice": [[2, -2]], "z_plain": [[1, 0]]}


@pytest.mark.parametrize("make", [tiny_mlp, lambda: quantised(tiny_mlp)], ids=["fp32", "int8"])
def test_an_unknown_runtime_is_refused(make) -> None:
    unknown = cast("CpuRuntime", "ncnn")
    with pytest.raises(ConfigError, match="unknown CPU runtime 'ncnn': expected auto or one of onnxruntime, openvino"):
        open_cpu(make(), unknown)
