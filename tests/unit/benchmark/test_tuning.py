"""Which CPU runtime and form: by rule, and as measured and remembered."""

import json
import time
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
from canaries import WITHOUT_VNNI, found_exact

import calib8
from calib8.benchmark import tune as tuning
from calib8.errors import ConfigError, DataError
from calib8.graph.io import load, save
from calib8.graph.weighted import weighted_ops
from calib8.passes.insert_qdq import insert_qdq
from calib8.passes.prepare import prepare
from calib8.runtime import choice, processor
from calib8.runtime.choice import CpuChoice, Measured, by_rule, candidates, remember, remembered
from calib8.runtime.cpu import open_choice, open_cpu, open_form
from calib8.runtime.forms import in_form
from calib8.runtime.names import Form
from calib8.runtime.null import NullRuntime
from calib8.runtime.openvino import OpenVinoRuntime
from calib8.testing import tiny_encoder, token_feeds

SLOW = CpuChoice(runtime="onnxruntime", form="fp32", streams=1)
MEASURED = Measured(choice=SLOW, samples_per_second={str(SLOW): 1.0})


def int8() -> ir.Model:
    model = prepare(tiny_encoder(vocabulary=32))
    ops = weighted_ops(model)
    return insert_qdq(model, ops, {op.activation.name: 4.0 for op in ops})


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("CALIB8_CACHE", str(tmp_path / "cache"))
    found_exact(monkeypatch)
    return save(int8(), tmp_path / "model.onnx")


def description(model: Path, **options) -> str:
    with open_cpu(load(model), **options) as opened:
        return opened.description


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


@pytest.mark.parametrize(("least", "kept"), [(-1.0, True), (1.1, False)])
def test_bf16_that_costs_too_much_is_left_out(
    least: float, kept: bool, model: Path, tmp_path: Path, notes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(choice, "has_bf16", lambda: True)
    monkeypatch.setattr(tuning, "LEAST_COSINE", least)
    np.savez(tmp_path / "data.npz", **token_feeds(3, 5, 9))
    measured = calib8.tune(model, tmp_path / "data.npz", progress=notes)
    assert any("bf16" in name for name in measured.samples_per_second) == kept
    *judged, remembered = notes.messages
    said = ": taken, cosine to FP32" if kept else ": left out, cosine to FP32"
    assert judged
    assert all(said in message and f"at least {least} is demanded" in message for message in judged)
    file = Path(remembered.removeprefix("remembered in ").removesuffix("; delete that file to forget it"))
    written = json.loads(file.read_text())
    del written["facts"]
    assert Measured.model_validate(written) == measured


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


def test_tune_measures_remembers_and_says(model: Path, tmp_path: Path, notes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choice, "cores", lambda: 2)
    monkeypatch.setattr(choice, "has_bf16", lambda: False)
    data = tmp_path / "data.npz"
    np.savez(data, **token_feeds(3, 5, 9))
    measured = calib8.tune(model, data, progress=notes)
    rates = measured.samples_per_second
    assert set(rates) == {str(one) for one in candidates(load(model))}
    assert rates[str(measured.choice)] == max(rates.values())
    assert remembered(load(model)) == measured.choice
    assert notes.steps[-1] == ("tune", tuning.ROUNDS, tuning.ROUNDS)
    assert [message.split(" in ")[0] for message in notes.messages] == ["remembered"]


@pytest.mark.parametrize("wrong", [1.0, np.nan])
def test_bf16_is_judged_on_all_lengths(notes, wrong: float) -> None:
    """Here only samples of two tokens come out wrong."""

    def answer(arrays):
        length = arrays["input_ids"].shape[1]
        return {"y": np.full((2, 3), wrong if length == 2 else -1.0), "z": np.ones((2, 3))}

    exact, rounded = (CpuChoice(runtime="openvino", form="s8", streams=1, bf16=bf16) for bf16 in (False, True))
    for lengths, kept in (((9, 5, 3), True), ((9, 2, 5), False)):
        opened = {
            exact: NullRuntime(lambda _: {"y": -np.ones((2, 3)), "z": np.ones((2, 3))}),
            rounded: NullRuntime(answer),
        }
        tuning._drop_inexact(opened, [token_feeds(length, length) for length in lengths], notes)
        assert (rounded in opened) == kept


def test_batches_are_judged_from_the_shortest_to_the_longest(
    model: Path, notes, monkeypatch: pytest.MonkeyPatch
) -> None:
    judged = []
    monkeypatch.setattr(
        tuning, "_drop_inexact", lambda _, batches, __: judged.extend(one["input_ids"].shape[1] for one in batches)
    )
    monkeypatch.setattr(tuning, "candidates", lambda _: [SLOW])
    chunks = [token_feeds(*[length] * 2) for length in (7, 2, 12, 16, 5)]
    calib8.tune(model, chunks, progress=notes)
    assert judged == [2, 7, 16]


def test_what_only_starts_slowly_may_win(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A first run of each shape takes long in OpenVINO, which compiles for it: no reason to leave a choice out."""
    seen: set[tuple[int, ...]] = set()

    def opened(_: ir.Model, one: CpuChoice) -> NullRuntime:
        def answer(arrays):  # type: ignore[no-untyped-def]
            shape = arrays["input_ids"].shape
            time.sleep(0.01 if one == SLOW else 0.001 if shape in seen else 0.2)
            if one == quick:
                seen.add(shape)
            return {"y": np.ones((2, 3))}

        return NullRuntime(answer)

    quick = SLOW.model_copy(update={"form": "u8"})
    monkeypatch.setattr(tuning, "candidates", lambda _: [SLOW, quick])
    monkeypatch.setattr(tuning, "open_choice", opened)
    measured = calib8.tune(model, [token_feeds(*[length] * 2) for length in (7, 2, 12)])
    assert measured.choice == quick
    assert measured.samples_per_second[str(quick)] > 2 * measured.samples_per_second[str(SLOW)]


def test_what_fails_never_wins(model: Path, tmp_path: Path, notes, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self, arrays):
        raise DataError("no kernel")

    monkeypatch.setattr(OpenVinoRuntime, "_run", refuse)
    np.savez(tmp_path / "data.npz", **token_feeds(3, 5))
    measured = calib8.tune(model, tmp_path / "data.npz", progress=notes)
    assert {name.partition(",")[0] for name in measured.samples_per_second} == {"ONNX Runtime"}
    assert any("OpenVINO" in message and "no kernel" in message for message in notes.messages)


def test_an_unwritable_cache_is_told_and_no_error(model: Path, tmp_path: Path, notes, monkeypatch) -> None:
    (tmp_path / "cache").write_text("a file")
    monkeypatch.setattr(choice, "has_bf16", lambda: False)
    np.savez(tmp_path / "data.npz", **token_feeds(3))
    calib8.tune(model, tmp_path / "data.npz", progress=notes)
    (message,) = notes.messages
    assert message.startswith("the cache cannot be written")
    assert description(model).startswith("OpenVINO")


def test_engines_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"x\.engine is an engine: .* Name an ONNX model"):
        calib8.tune(tmp_path / "x.engine", tmp_path)


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
