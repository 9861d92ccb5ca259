"""Which CPU runtime and form: by rule, and as measured and remembered."""

import json
from pathlib import Path

import onnx_ir as ir
import pytest
from canaries import WITHOUT_VNNI, found_exact
from cpu_models import description, int8

from calib8.graph.io import load, save
from calib8.graph.weighted import weighted_ops
from calib8.passes.prepare import prepare
from calib8.runtime import choice, processor
from calib8.runtime.choice import CpuChoice, Measured, by_rule, candidates, remember, remembered
from calib8.runtime.cpu import open_choice, open_form
from calib8.runtime.forms import in_form
from calib8.runtime.names import Form
from calib8.runtime.openvino import OpenVinoRuntime
from calib8.testing import tiny_encoder

SLOW = CpuChoice(runtime="onnxruntime", form="fp32", streams=1)
MEASURED = Measured(choice=SLOW, samples_per_second={str(SLOW): 1.0})


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("CALIB8_CACHE", str(tmp_path / "cache"))
    found_exact(monkeypatch)
    return save(int8(), tmp_path / "model.onnx")


@pytest.mark.parametrize(
    ("quantised", "openvino", "vnni", "expected"),
    [
        (True, True, True, "OpenVINO, s8, 1 stream"),
        (True, True, False, "ONNX Runtime, u8 x u8, 1 stream"),
        (True, False, True, "ONNX Runtime, u8, 1 stream"),
        (True, False, False, "ONNX Runtime, u8 x u8, 1 stream"),
        (False, True, False, "ONNX Runtime, FP32, 1 stream"),
    ],
)
def test_the_rule(quantised: bool, openvino: bool, vnni: bool, expected: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choice, "is_x86", lambda: True)
    monkeypatch.setattr(choice, "find_spec", lambda _: object() if openvino else None)
    found_exact(monkeypatch, *([] if vnni else WITHOUT_VNNI))
    assert str(by_rule(int8() if quantised else tiny_encoder(), "auto", 1)) == expected


def test_candidates_begin_with_the_rule_and_saturate_nowhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choice, "cores", lambda: 4)
    monkeypatch.setattr(choice, "has_bf16", lambda: False)
    monkeypatch.setattr(choice, "is_x86", lambda: True)
    for vnni in (True, False):
        found_exact(monkeypatch, *([] if vnni else WITHOUT_VNNI))
        found = candidates(int8())
        assert found[0] == by_rule(int8(), "auto", 4)
        assert len(set(found)) == len(found) == (8 if vnni else 4)
        assert {one.form for one in found} == ({"s8", "u8"} if vnni else {"u8u8"})


def test_bf16_is_a_candidate_where_the_cpu_has_it_and_never_the_rule(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choice, "cores", lambda: 4)
    monkeypatch.setattr(choice, "is_x86", lambda: True)
    found_exact(monkeypatch)
    for has, expected in [(True, 2), (False, 0)]:
        monkeypatch.setattr(choice, "has_bf16", lambda has=has: has)
        found = candidates(int8())
        assert [(one.runtime, one.streams) for one in found if one.bf16] == [("openvino", 4)] * expected
        assert not found[0].bf16
        assert not any(one.bf16 for one in candidates(prepare(tiny_encoder())))


def test_what_was_measured_is_taken_for_this_model_only(model: Path, tmp_path: Path) -> None:
    assert description(model).startswith("OpenVINO")
    path = remember(load(model), MEASURED)
    assert path is not None
    assert path.parent == tmp_path / "cache" / "cpu"
    assert remembered(load(model)) == SLOW
    assert description(model).startswith("ONNX Runtime")
    assert description(model, runtime="openvino").startswith("OpenVINO")
    other = int8()
    other.graph.name = "another"
    assert remembered(load(save(other, tmp_path / "other.onnx"))) is None
    assert remembered(int8()) is None  # was never a file


@pytest.mark.parametrize("fact", ["cores", "versions", "identity"])
def test_another_machine_or_version_measures_anew(fact: str, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    remember(load(model), MEASURED)
    changed = {"cores": lambda: 97, "versions": lambda: {"openvino": "97.0"}, "identity": lambda: {"cpu": "vnni 97"}}
    monkeypatch.setattr(choice, fact, changed[fact])
    assert remembered(load(model)) is None


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("model name\t: EPYC\nflags\t: avx512_vnni avx512_bf16\n", "model name\t: EPYC\nflags\t: avx2\n"),
        ("CPU part\t: 0xd0c\n\nCPU part\t: 0xd0c\n", "CPU part\t: 0xd40\n\nCPU part\t: 0xd40\n"),
    ],
)
def test_processors_of_one_name_are_told_apart(
    one: str, other: str, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processor, "_cpuinfo", lambda: one)
    remember(load(model), MEASURED)
    monkeypatch.setattr(processor, "_cpuinfo", lambda: other)
    assert remembered(load(model)) is None
    monkeypatch.setattr(processor, "_cpuinfo", lambda: one)
    assert remembered(load(model)) == MEASURED.choice


@pytest.mark.parametrize(
    ("told", "expected"), [("200000 100000\n", 2), ("50000 100000\n", 1), ("max 100000\n", 64), ("", 64)]
)
def test_a_container_has_as_many_cores_as_its_quota(
    told: str, expected: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "cpu.max").write_text(told)
    monkeypatch.setattr(processor, "CPU_MAX", tmp_path / "cpu.max")
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(64)), raising=False)
    assert processor.cores() == expected


@pytest.mark.parametrize("damage", ["", "{}", '{"choice": 3}', "\xff"])
def test_a_damaged_note_is_no_error(damage: str, model: Path) -> None:
    path = remember(load(model), MEASURED)
    assert path is not None
    path.write_text(damage, encoding="latin-1")
    assert description(model).startswith("OpenVINO")


def test_a_note_of_a_runtime_that_went_away_is_not_followed(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    remember(load(model), MEASURED.model_copy(update={"choice": by_rule(load(model), "openvino", 1)}))
    assert remembered(load(model)) is not None
    monkeypatch.setattr(choice, "versions", lambda: {"onnxruntime": "1", "openvino": ""})
    assert remembered(load(model)) is None


@pytest.mark.parametrize("form", ["s8", "u8"])
def test_every_gemm_of_an_int8_model_runs_on_integers(form: Form) -> None:
    with open_form(in_form(int8(), form), CpuChoice(runtime="openvino", form=form, streams=1)) as opened:
        assert isinstance(opened, OpenVinoRuntime)
        gemms = [precision for kind, precision in opened.executed() if kind == "FullyConnected"]
    assert gemms == ["u8" if form == "u8" else "i8"] * len(weighted_ops(prepare(tiny_encoder()))) != []


def test_on_other_processors_the_int8_form_is_the_rule(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choice, "is_x86", lambda: False)
    found_exact(monkeypatch)
    assert by_rule(int8(), "onnxruntime", 1).form == "s8"
    assert {one.form for one in candidates(int8())} == {"s8"}


@pytest.mark.parametrize("vnni", [True, False])
def test_every_gemm_of_an_int8_model_runs_on_integers_in_onnx_runtime(
    vnni: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where those of u8 and s8 are inexact, of uint8 weights, too."""
    import onnxruntime

    class Kept(onnxruntime.SessionOptions):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.optimized_model_filepath = str(tmp_path / "optimised.onnx")

    monkeypatch.setattr(onnxruntime, "SessionOptions", Kept)
    monkeypatch.setattr(choice, "is_x86", lambda: True)
    found_exact(monkeypatch, *([] if vnni else WITHOUT_VNNI))
    open_choice(int8(), by_rule(int8(), "onnxruntime", 1)).close()
    graph = ir.load(tmp_path / "optimised.onnx").graph
    gemms = [node for node in graph if node.op_type == "MatMulIntegerToFloat"]
    assert len(gemms) == len(weighted_ops(prepare(tiny_encoder())))
    weights = {node.inputs[1].dtype for node in gemms}
    assert weights == {ir.DataType.INT8 if vnni else ir.DataType.UINT8}


def test_the_note_says_what_was_measured(model: Path) -> None:
    path = remember(load(model), MEASURED)
    assert path is not None
    assert json.loads(path.read_text(encoding="utf-8"))["samples_per_second"] == {"ONNX Runtime, FP32, 1 stream": 1.0}
