"""The canary: whether a runtime multiplies INT8 right here, what is done about it, and what of that is kept."""

import ast
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

import numpy as np
import onnx_ir as ir
import pytest
from canaries import WITHOUT_VNNI, found_exact

import calib8
from calib8.data.inputs import Arrays
from calib8.errors import ModelError, SetupError
from calib8.graph.builder import GraphBuilder
from calib8.graph.weighted import weighted_ops
from calib8.passes.insert_qdq import insert_qdq
from calib8.passes.prepare import prepare
from calib8.runtime import canary, choice, processor
from calib8.runtime.canary import KINDS, Answer, Kind, check, kinds_of, question, wrong
from calib8.runtime.choice import CpuChoice, by_rule, candidates, preferences, remember, remembered
from calib8.runtime.cpu import open_choice, open_cpu
from calib8.runtime.names import CpuRuntime, Form, RuntimeName
from calib8.runtime.openvino import OpenVinoRuntime
from calib8.runtime.ort import OrtRuntime
from calib8.testing import outputs_of, tiny_convnet, tiny_encoder, tiny_mlp

SOURCE = Path(canary.__file__).parents[1]
OPENVINO: tuple[tuple[str, str], ...] = (("openvino", "s8"), ("openvino", "u8"), ("openvino", "u8u8"))


def quantised(make) -> ir.Model:
    model = prepare(make())
    ops = weighted_ops(model)
    return insert_qdq(model, ops, {op.activation.name: 4.0 for op in ops})


def saturating(model: ir.Model, feeds: Arrays) -> Arrays:
    """What a kernel answers that adds two products of u8 and s8 in 16 bits: of the first MatMul of ``question``."""
    answers = outputs_of(model, feeds)
    codes = feeds["x0.float"].astype(np.int64) + 128
    weight = model.graph.initializers["w0.float_quantized"].const_value.numpy().astype(np.int64)
    pairs = (codes[:, :, None] * weight).reshape(len(codes), -1, 2, weight.shape[1]).sum(2)
    answers["y0.float"] = (np.clip(pairs, -(2**15), 2**15 - 1).sum(1) - 128 * weight.sum(0)).astype(np.float32)
    return answers


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setenv("CALIB8_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(canary, "_found", {})
    return tmp_path / "cache" / "canary"


@pytest.mark.parametrize("kind", KINDS)
def test_the_right_answers_are_those_of_the_graph_computed_in_float(kind: Kind) -> None:
    model, feeds, expected = question(kind)
    got = outputs_of(model, feeds)
    assert set(got) == set(expected)
    for name, right in expected.items():
        np.testing.assert_array_equal(got[name], right)
    assert set(kinds_of(model)) == {kind, kind.removeprefix("scaled ")}


@pytest.mark.parametrize("kind", KINDS)
def test_every_question_goes_beyond_16_bits_in_both_directions(kind: Kind) -> None:
    _, feeds, expected = question(kind)
    for name, sums in expected.items():
        assert sums.max() > 2 * 127 * 127 - 1, name
        assert sums.min() < -2 * 127 * 127 + 1, name
        assert set(np.unique(feeds[name.replace("y", "x")])) >= {127}


def test_64770_is_no_number_of_16_bits() -> None:
    """By hand: 64 products of 255 by 127 in pairs that end at 32767, less 128 x 127 of each for the zero point."""
    answer = check("MatMul", saturating)
    assert 32 * 32767 - 64 * 128 * 127 == 8160
    assert 64 * 127 * 127 == 1032256
    assert answer == Answer(exact=False, kind="MatMul", got=8160, expected=1032256)
    assert str(answer) == "MatMul gives 8160 where 1032256 is right"
    assert check("MatMul", outputs_of) == Answer(exact=True, kind="MatMul")


def test_a_runtime_that_refuses_or_answers_nan_is_not_exact() -> None:
    def refuse(model: ir.Model, feeds: Arrays) -> Arrays:
        raise ModelError("no such kernel")

    assert str(check("Conv", refuse)) == "Conv is refused: no such kernel"

    def nan(model: ir.Model, feeds: Arrays) -> Arrays:
        return {name: array * np.float32("nan") for name, array in outputs_of(model, feeds).items()}

    answer = check("Gemm", nan)
    assert not answer.exact
    assert re.fullmatch(r"Gemm gives no finite number where -?\d+ is right", str(answer))


def test_an_answer_that_is_no_number_is_read_as_it_was_kept(cache: Path) -> None:
    facts = canary._facts("onnxruntime", "u8", "MatMul")
    kept = Answer(exact=False, kind="MatMul", expected=3)
    canary._keep(facts, kept)
    assert len(list(cache.iterdir())) == 1
    assert str(canary._asked("onnxruntime", "u8", "MatMul")) == "MatMul gives no finite number where 3 is right"


def test_a_user_without_a_home_opens_models(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a container that runs as a number: there is no cache, and the ops are run once in the process."""

    def homeless() -> Path:
        raise RuntimeError("Could not determine home directory.")

    for name in ("CALIB8_CACHE", "XDG_CACHE_HOME", "LOCALAPPDATA"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(Path, "home", homeless)
    runs = []
    monkeypatch.setattr(canary, "_run", lambda runtime, form, *asked: runs.append(form) or outputs_of(*asked))
    for _ in range(2):
        with open_cpu(quantised(tiny_encoder), "onnxruntime") as opened:
            assert opened.description.startswith("ONNX Runtime")
    assert len(runs) == 1


@pytest.mark.parametrize(
    ("make", "kinds"),
    [(tiny_mlp, ("MatMul", "Gemm")), (tiny_convnet, ("Gemm", "Conv")), (tiny_encoder, ("MatMul",))],
)
def test_only_kinds_that_the_model_has_are_asked_for(make, kinds: tuple[Kind, ...]) -> None:
    assert kinds_of(quantised(make)) == kinds
    assert kinds_of(prepare(make())) == ()


def test_a_depthwise_conv_is_a_kind_of_its_own() -> None:
    g = GraphBuilder()
    image = g.input("image", ir.DataType.FLOAT, "batch", 4, 6, 6)
    hidden = g.op("Conv", image, g.weight("w", 4, 1, 3, 3), group=4)
    hidden = g.op("Conv", hidden, g.weight("v", 8, 1, 3, 3), group=4)  # two of each
    assert kinds_of(quantised(lambda: g.model(y=hidden))) == ("depthwise Conv", "grouped Conv")


def misread(model: ir.Model, feeds: Arrays) -> Arrays:
    """What a kernel answers that takes the constant of the first channel for that of each."""
    answers = outputs_of(model, feeds)
    for name in filter(lambda name: name.endswith("fused"), answers):
        answers[name] = answers[name] + 1000 * np.arange(answers[name].shape[1]).reshape(
            -1, *[1] * (answers[name].ndim - 2)
        )
    return answers


@pytest.mark.parametrize("kind", KINDS)
def test_a_constant_that_is_misread_behind_an_activation_is_seen(kind: Kind) -> None:
    """As OpenVINO 2026.4 misreads those behind grouped Convs."""
    assert not check(kind, misread).exact


@pytest.mark.parametrize("factor", [-1.0, 1.0])
@pytest.mark.parametrize("kind", ["MatMul", "Conv"])
def test_a_negative_factor_behind_a_relu_is_right_in_what_is_chosen(kind: str, factor: float) -> None:
    g, factors = GraphBuilder(), np.full(8, factor) * np.arange(1, 9)
    shape, trailing = ((8, 4, 1, 1), (1, 1)) if kind == "Conv" else ((4, 8), ())
    x = g.input("x", ir.DataType.FLOAT, "b", 4, *trailing)
    hidden = g.op("Relu", g.op(kind, x, g.constant("w", np.full(shape, 127.0))))
    model = g.model(y=g.op("Mul", hidden, g.constant("c", factors.reshape(-1, *trailing))))
    ops = weighted_ops(model)
    insert_qdq(model, ops, {op.activation.name or "": 127.0 for op in ops})
    assert (f"scaled {kind}" in kinds_of(model)) == (factor < 0)
    feeds = {"x": np.full((1, 4, *trailing), 100, np.float32)}
    with open_cpu(model) as opened:
        np.testing.assert_array_equal(opened.run(feeds)["y"].ravel(), 4 * 127 * 100 * factors)


@pytest.mark.parametrize("runtime", ["auto", "onnxruntime"])
def test_groups_before_a_constant_are_right_in_what_is_chosen(runtime: CpuRuntime) -> None:
    """Grouped Conv, Relu, a constant for each channel, with numbers that INT8 holds exactly."""
    g, codes = GraphBuilder(), np.arange(-128, 128).reshape(2, 8, 4, 4).astype(np.float32)
    weight = np.fromfunction(lambda o, i: 127 - 40 * i - 15 * o, (8, 2)).reshape(8, 2, 1, 1)
    weight[:, 0] = 127
    hidden = g.op("Relu", g.op("Conv", g.input("x", ir.DataType.FLOAT, "b", 8, 4, 4), g.constant("w", weight), group=4))
    model = g.model(y=g.op("Sub", hidden, g.constant("c", 1000.0 * np.arange(8).reshape(8, 1, 1))))
    ops = weighted_ops(model)
    insert_qdq(model, ops, {op.activation.name or "": 127.0 for op in ops})
    with open_cpu(model, runtime) as opened:
        np.testing.assert_array_equal(opened.run({"x": codes})["y"], outputs_of(model, {"x": codes})["y"])


def test_a_runtime_that_saturates_is_refused_and_a_right_one_taken(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Through all of it, a fake in OpenVINO's place; the texts name both."""
    monkeypatch.setattr(choice, "is_x86", lambda: True)
    monkeypatch.setattr(
        canary, "_run", lambda runtime, form, *asked: (saturating if runtime == "openvino" else outputs_of)(*asked)
    )
    model = quantised(tiny_encoder)
    assert str(by_rule(model, "auto", 1)) == "ONNX Runtime, u8, 1 stream"
    with open_cpu(model) as opened:
        assert re.fullmatch(
            r"ONNX Runtime [\d.]+ on CPU, u8 x s8 \(inexact on this CPU: OpenVINO, s8 x s8\)", opened.description
        )
    with pytest.raises(
        SetupError,
        match=r"^OpenVINO has no form of INT8 that is exact on this CPU \(OpenVINO, s8 x s8: MatMul gives 8160 where "
        r"1032256 is right; .*\)\. Name no --runtime, which takes ONNX Runtime, u8 x s8\.$",
    ):
        open_cpu(model, "openvino")
    with pytest.raises(
        SetupError,
        match=r"^OpenVINO, s8 x s8 is not used on this CPU: MatMul gives .* Take ONNX Runtime, u8 x s8: name no",
    ):
        open_choice(model, CpuChoice(runtime="openvino", form="s8", streams=1))


STEPS: list[tuple[CpuRuntime, int, str]] = [
    ("auto", 0, "OpenVINO, s8"),
    ("auto", 1, "ONNX Runtime, u8"),
    ("auto", 2, "ONNX Runtime, u8 x u8"),
    ("auto", 3, "OpenVINO, u8"),
    ("auto", 4, "OpenVINO, u8 x u8"),
    ("auto", 5, "ONNX Runtime, s8"),
    ("auto", 6, "ONNX Runtime, FP32"),
    ("onnxruntime", 0, "ONNX Runtime, u8"),
    ("onnxruntime", 3, "ONNX Runtime, FP32"),
    ("openvino", 2, "OpenVINO, u8 x u8"),
]


@pytest.mark.parametrize(("runtime", "refused", "expected"), STEPS)
def test_every_step_down_to_exact_integers_in_float(
    runtime: CpuRuntime, refused: int, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(choice, "is_x86", lambda: True)
    found_exact(monkeypatch, *preferences(runtime)[:refused])
    model = quantised(tiny_mlp)
    assert str(by_rule(model, runtime, 1)) == f"{expected}, 1 stream"
    feeds = {"x": np.float32([[1, -2, 3, 0.5], [4, 4, -4, -4]])}
    with open_cpu(model, runtime) as opened:
        got = opened.run(feeds)["y"]
        assert ("inexact" in opened.description) == (refused > 0)
        assert ("Q and DQ in FP32, slowly" in opened.description) == ("FP32" in expected)
    if "FP32" in expected:
        np.testing.assert_allclose(got, outputs_of(model, feeds)["y"], atol=1e-6)


def test_the_last_step_computes_no_codes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import onnxruntime

    class Kept(onnxruntime.SessionOptions):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.optimized_model_filepath = str(tmp_path / "optimised.onnx")

    monkeypatch.setattr(onnxruntime, "SessionOptions", Kept)
    found_exact(monkeypatch, *preferences("auto")[:-1])
    open_cpu(quantised(tiny_convnet)).close()
    kinds = {node.op_type for node in ir.load(tmp_path / "optimised.onnx").graph}
    assert not [kind for kind in kinds if kind.startswith("QLinear") or "Integer" in kind or kind == "QGemm"], kinds


def test_what_was_measured_before_is_followed_only_where_it_is_exact(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = calib8.load(calib8.save(quantised(tiny_mlp), tmp_path / "m.onnx"))
    tuned = CpuChoice(runtime="openvino", form="u8", streams=1)
    remember(model, choice.Measured(choice=tuned, samples_per_second={}))
    found_exact(monkeypatch)
    assert remembered(model) == tuned
    found_exact(monkeypatch, *WITHOUT_VNNI)
    assert remembered(model) is None
    assert {(one.runtime, one.form) for one in candidates(model)}.isdisjoint(WITHOUT_VNNI)


def counted(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, ...]]:
    runs: list[tuple[str, ...]] = []

    def run(runtime: RuntimeName, form: Form, model: ir.Model, feeds: Arrays) -> Arrays:
        runs.append((runtime, form, *kinds_of(model)))
        return outputs_of(model, feeds)

    monkeypatch.setattr(canary, "_run", run)
    return runs


def test_an_answer_is_kept(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runs = counted(monkeypatch)
    for _ in range(2):
        assert wrong("onnxruntime", "u8", ("MatMul", "Gemm")) is None
        canary._found.clear()  # as another process
    assert runs == [("onnxruntime", "u8", "MatMul"), ("onnxruntime", "u8", "Gemm")]
    kept = [json.loads(path.read_text()) for path in cache.iterdir()]
    assert {one["facts"]["kind"] for one in kept} == {"MatMul", "Gemm"}
    assert all(one["answer"]["exact"] for one in kept)


@pytest.mark.parametrize("fact", ["cpu", "units", "settings", "machine", "version"])
def test_an_answer_is_not_trusted_elsewhere(fact: str, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runs, known = counted(monkeypatch), processor.identity()
    wrong("onnxruntime", "u8", ("MatMul",))
    if fact == "version":
        monkeypatch.setattr(canary, "version_of", lambda _: "97")
    else:
        monkeypatch.setattr(canary, "identity", lambda: known | {fact: known[fact] + " another"})
    wrong("onnxruntime", "u8", ("MatMul",))
    assert len(runs) == 2


def test_the_key_has_all_flags_and_what_cpuid_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processor, "_cpuinfo", lambda: "model name: X\nflags: fpu avx2 new\n\nflags: other\n")
    monkeypatch.setattr(processor, "_units", lambda: {"AVX2": True, "AVX512F": False, "AVX": True})
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "AVX2")
    found = processor.identity()
    assert found["cpu"] == "model name: X\nflags: fpu avx2 new"
    assert found["units"] == "AVX AVX2"
    assert "ONEDNN_MAX_CPU_ISA=AVX2" in found["settings"]


@pytest.mark.parametrize("damage", ["", "{}", "\xff", "another's", "other format"])
def test_a_damaged_file_is_no_error_and_not_believed(damage: str, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runs = counted(monkeypatch)
    wrong("onnxruntime", "u8", ("MatMul",))
    (path,) = cache.iterdir()
    content = json.loads(path.read_text())
    content["answer"] = {"exact": False, "kind": "MatMul", "got": 1.0, "expected": 2.0}
    if damage == "another's":
        content["facts"]["units"] += " MORE"
    content |= {"format": "calib8.canary/0"} if damage == "other format" else {}
    path.write_text(json.dumps(content) if " " in damage or "'" in damage else damage, encoding="latin-1")
    canary._found.clear()
    assert wrong("onnxruntime", "u8", ("MatMul",)) is None
    assert len(runs) == 2


def test_what_is_kept_for_this_very_machine_is_believed(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runs = counted(monkeypatch)
    wrong("onnxruntime", "u8", ("MatMul",))
    (path,) = cache.iterdir()
    content = json.loads(path.read_text())
    content["answer"] = {"exact": False, "kind": "MatMul", "got": 1.0, "expected": 2.0}
    path.write_text(json.dumps(content))
    canary._found.clear()
    assert str(wrong("onnxruntime", "u8", ("MatMul",))) == "MatMul gives 1 where 2 is right"
    assert len(runs) == 1


def test_a_cache_that_cannot_be_written_is_no_error(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runs = counted(monkeypatch)
    cache.parent.write_text("a file")
    for _ in range(2):
        assert wrong("onnxruntime", "u8", ("MatMul",)) is None
    assert len(runs) == 1  # in one process


def test_nothing_is_asked_of_an_fp32_model(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runs = counted(monkeypatch)
    open_cpu(tiny_encoder()).close()
    open_cpu(tiny_encoder(), "openvino").close()
    assert runs == []


def test_openvino_is_not_imported_for_another_runtime(tmp_path: Path) -> None:
    code = (
        "import sys, calib8; calib8.open(sys.argv[1], runtime='onnxruntime').close(); print('openvino' in sys.modules)"
    )
    path = calib8.save(quantised(tiny_encoder), tmp_path / "m.onnx")
    found = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "False"


def test_runtimes_that_are_opened_without_the_canary_compute_no_codes() -> None:
    feeds = {"x": np.float32([[1, -2, 3, 0.5], [4, 4, -4, -4]])}
    model = quantised(tiny_mlp)
    with OrtRuntime(model) as opened:
        np.testing.assert_allclose(opened.run(feeds)["y"], outputs_of(model, feeds)["y"], atol=1e-6)
    with pytest.raises(ModelError, match="with INT8 kernels only. Open it with open_cpu"):
        OpenVinoRuntime(model)


def test_no_place_can_go_around_the_canary() -> None:
    """Kernels on integers are allowed in three places, which ask it; other sessions compute float or are named here."""
    allowed, sessions = {}, set()
    for path in SOURCE.rglob("*.py"):
        name = path.relative_to(SOURCE).as_posix()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.Call):
                continue
            if any(word.arg == "integers" for word in node.keywords):
                allowed[name] = allowed.get(name, 0) + 1
            called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            if called in ("InferenceSession", "compile_model", "open_form"):
                sessions.add((name, called))
    openers = {"runtime/ort.py": 1, "runtime/openvino.py": 1}  # what cpu.py calls
    assert allowed == {"runtime/cpu.py": 1, "runtime/judged.py": 2, **openers, "quantization/switchboard.py": 1}
    assert sessions == {
        ("runtime/ort.py", "InferenceSession"),
        ("runtime/openvino.py", "compile_model"),
        ("runtime/cpu.py", "open_form"),  # open_choice, behind the canary
        ("runtime/canary.py", "open_form"),  # the canary
        ("integrations/onnxruntime.py", "InferenceSession"),  # behind the canary
        ("testing.py", "InferenceSession"),  # node by node
        ("zoo/contract.py", "InferenceSession"),  # FP32 models, as they are fetched
        ("zoo/export.py", "InferenceSession"),
    }


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("runtime", get_args(RuntimeName))
def test_the_choice_on_this_machine_is_right(runtime: RuntimeName, kind: Kind) -> None:
    """Asked once more, of the model as ``open_cpu`` opens it."""
    model, feeds, expected = question(kind)
    refused = all(wrong(name, form, (kind,)) for name, form in preferences(runtime))
    with open_cpu(model, "auto" if refused else runtime) as opened:
        got = opened.run(feeds)
    for name, right in expected.items():
        np.testing.assert_array_equal(got[name], right)
