"""Convolutions in OpenVINO on CPUs whose AMX or bf16 kernels compute them wrong."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from calib8.errors import SetupError
from calib8.graph.builder import GraphBuilder
from calib8.graph.io import SOURCE_SHA256
from calib8.graph.weighted import weighted_ops
from calib8.passes.insert_qdq import insert_qdq
from calib8.passes.prepare import prepare
from calib8.runtime import amx, canary, choice, openvino, processor
from calib8.runtime.amx import BEST, SETTING, Instructions, convolves
from calib8.runtime.choice import CpuChoice, Measured, by_rule, candidates, remember, remembered
from calib8.runtime.openvino import OpenVinoRuntime
from calib8.testing import outputs_of, tiny_convnet, tiny_mlp

CHANNELS = 16
FEEDS = {"x": np.random.default_rng(1).normal(size=(1, CHANNELS, 2, 2)).astype(np.float32)}


def quantised(model: ir.Model) -> ir.Model:
    model = prepare(model)
    ops = weighted_ops(model)
    return insert_qdq(model, ops, {op.activation.name or "": 4.0 for op in ops})


def gated() -> ir.Model:
    """Conv -> Relu -> Sub and Mul per channel, twice behind a pooling: as INT8 conditions a squeeze and excitation."""
    g, random = GraphBuilder(), np.random.default_rng(0)
    hidden = g.op("GlobalAveragePool", g.input("x", ir.DataType.FLOAT, "batch", CHANNELS, "height", "width"))
    for number in range(2):
        hidden = g.op("Relu", g.op("Conv", hidden, g.weight(f"w{number}", CHANNELS, CHANNELS, 1, 1)))
        for kind in ("Sub", "Mul"):
            numbers = g.constant(f"{kind}{number}", random.uniform(0.5, 2, (CHANNELS, 1, 1)))
            hidden = g.op(kind, hidden, numbers)
    return quantised(g.model(y=hidden))


@pytest.fixture
def fresh(monkeypatch: pytest.MonkeyPatch) -> Iterator[Instructions]:
    """A process with such a CPU that has not loaded OpenVINO yet."""
    monkeypatch.delenv(SETTING, raising=False)
    monkeypatch.delitem(sys.modules, "openvino", raising=False)
    found = Instructions(affected=True)
    for user in (canary, choice, openvino):
        monkeypatch.setattr(user, "instructions", lambda: found)
    monkeypatch.setattr(canary, "_asked", lambda runtime, form, kind: canary.Answer(exact=True, kind=kind))
    yield found
    os.environ.pop(SETTING, None)


def test_the_first_model_settles_it(fresh: Instructions) -> None:
    assert convolves(quantised(tiny_convnet()))
    assert not convolves(quantised(tiny_mlp()))
    assert by_rule(quantised(tiny_convnet()), "auto", 1).runtime == "openvino"
    assert os.environ[SETTING] == BEST
    assert fresh.settle(convolves=False)
    assert fresh.settle(convolves=True)


def test_a_reference_in_fp32_before_it_settles_it_too(fresh: Instructions) -> None:
    """``verify --runtime openvino`` opens both, that in FP32 first, and it is not refused where it is the second."""
    OpenVinoRuntime(prepare(tiny_convnet())).close()
    assert os.environ[SETTING] == BEST
    assert by_rule(quantised(tiny_convnet()), "openvino", 1).runtime == "openvino"


def test_one_in_fp32_is_opened_after_any_other(fresh: Instructions) -> None:
    assert by_rule(quantised(tiny_mlp()), "auto", 1).runtime == "openvino"
    OpenVinoRuntime(prepare(tiny_convnet())).close()
    assert SETTING not in os.environ


@pytest.mark.parametrize(("has", "affected"), [(True, True), (None, True), (False, False)])
def test_a_cpu_of_which_nobody_knows_may_have_such_kernels(
    has: bool | None, affected: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No /proc/cpuinfo, as on Windows, or one that contradicts cpuid."""
    monkeypatch.delenv(SETTING, raising=False)
    monkeypatch.setattr(amx, "has_bf16", lambda: has)
    found = amx.instructions.__wrapped__()
    found.settle(convolves=False)
    assert found.settle(convolves=True) == (not affected)


@pytest.mark.parametrize(("units", "has"), [({"AVX512F": False}, False), ({"AVX512F": True}, None), ({}, None)])
def test_a_cpu_without_avx512_has_no_such_units(
    units: dict[str, bool], has: bool | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processor, "_units", lambda: units)
    monkeypatch.setattr(processor, "_flags", lambda: None)
    monkeypatch.setattr(processor, "is_x86", lambda: True)
    assert processor.has_bf16() is has


def test_what_was_measured_without_openvino_is_found_again(
    fresh: Instructions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CALIB8_CACHE", str(tmp_path))
    model = quantised(tiny_convnet())
    model.metadata_props[SOURCE_SHA256] = "0" * 64
    choice_made = CpuChoice(runtime="onnxruntime", form="u8", streams=1)
    assert remember(model, Measured(choice=choice_made, samples_per_second={})) is not None
    assert remembered(model) == choice_made


def test_after_another_model_convolutions_go_to_onnx_runtime(fresh: Instructions) -> None:
    conv = quantised(tiny_convnet())
    assert by_rule(quantised(tiny_mlp()), "auto", 1).runtime == "openvino"
    assert SETTING not in os.environ
    assert by_rule(conv, "auto", 1).runtime == "onnxruntime"
    assert {one.runtime for one in candidates(conv)} == {"onnxruntime"}
    with pytest.raises(SetupError, match=r"^OpenVINO uses AMX in this process, whose INT8 convolutions are wrong: "):
        OpenVinoRuntime(conv, integers=True)
    with pytest.raises(SetupError, match=r"no form of INT8 that is exact on this CPU \(OpenVINO, s8 x s8: OpenVINO "):
        by_rule(conv, "openvino", 1)


@pytest.mark.parametrize(("setting", "right"), [("AVX2_VNNI", True), ("avx512_core", True), ("AVX512_CORE_AMX", False)])
def test_a_setting_from_outside_is_kept(
    setting: str, right: bool, fresh: Instructions, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(SETTING, setting)
    assert fresh.settle(convolves=False)
    assert fresh.settle(convolves=True) == right
    assert os.environ[SETTING] == setting


def test_openvino_that_somebody_else_has_loaded_is_not_trusted(
    fresh: Instructions, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "openvino", amx)
    assert not fresh.settle(convolves=True)
    assert Instructions(affected=False).settle(convolves=True)


@pytest.mark.parametrize("form", ["s8", "u8"])
def test_few_positions_are_convolved_right(form: str) -> None:
    """In a process of its own, where nothing is settled; on a CPU with AMX this gave wrong numbers or crashed."""
    code = (
        "import numpy as np, test_amx as t; from calib8.runtime.choice import CpuChoice; "
        "from calib8.runtime.cpu import open_choice; "
        f"opened = open_choice(t.gated(), CpuChoice(runtime='openvino', form='{form}', streams=1)); "
        "print(opened.run(t.FEEDS)['y'].ravel().tolist())"
    )
    folder = Path(__file__).parent
    done = subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    got, expected = np.array(json.loads(done.stdout)), outputs_of(gated(), FEEDS)["y"].ravel()
    assert np.linalg.norm(got - expected) <= 0.02 * np.linalg.norm(expected)  # a tie may be rounded the other way
