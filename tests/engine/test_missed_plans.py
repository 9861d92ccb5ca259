"""What becomes of engines whose plan is not what was asked for: nothing is lost, and everything is told."""

import json

import engine_models as tiny
import numpy as np
import onnx
import pytest
from engine_models import SHAPES

from calib8.cli.main import main
from calib8.engine import build
from calib8.engine.build import build_engine
from calib8.engine.config import Build
from calib8.engine.plan_check import CHECK
from calib8.engine.sidecar import describe_engine, sidecar_path
from calib8.errors import ConfigError, PlanMismatch

QUICK = Build(targets="sm86", shapes=SHAPES)


def test_all_targets_are_built_and_kept_although_one_misses_its_plan(saved, tmp_path, notes):
    config = Build(targets="sm75,sm86,sm89")
    with pytest.raises(PlanMismatch) as error:
        build_engine(saved(tiny.conv_net()), tmp_path / "x.engine", config, progress=notes)
    assert str(error.value) == (
        "for sm75 (Turing: T4, RTX 20) the plan runs 0 of 2 quantised ops in INT8. Not in INT8: conv0, conv1: "
        "TensorRT-RTX has no INT8 convolution for Turing. Leave this target out (--target), or leave them in float "
        f"(--exclude). Kept all the same: {tmp_path / 'x.sm75.engine'}. To accept that, run this again with "
        "--allow-float-ops 2."
    )
    assert [(engine.target, engine.plan.passed) for engine in error.value.built] == [
        *(("sm75", False), ("sm86", True), ("sm89", True)),
    ]
    assert [describe_engine(engine.path).plan for engine in error.value.built] == [
        engine.plan for engine in error.value.built
    ]
    assert [(plan.target, plan.missing) for plan in error.value.failed] == [("sm75", ("conv0", "conv1"))]


def test_a_missed_plan_is_judged_anew_without_building_again(saved, tmp_path, notes):
    path, output = saved(tiny.conv_net()), tmp_path / "x.engine"
    with pytest.raises(PlanMismatch):
        build_engine(path, output, Build(targets="sm75"))
    before = describe_engine(output)
    for allowed, passed in ((0, False), (1, False), ("99%", False), (2, True), ("100%", True), (1, False)):
        notes.messages.clear()
        config = Build(targets="sm75", allow_float_ops=allowed)
        if passed:
            (built,) = build_engine(path, output, config, progress=notes)
            assert "2 of 2 quantised ops will not run in INT8." in notes.messages
            assert built.plan.missing == ("conv0", "conv1")
        else:
            with pytest.raises(PlanMismatch, match="runs 0 of 2"):
                build_engine(path, output, config, progress=notes)
        assert any(note.startswith("engine is up to date") for note in notes.messages)
        after = describe_engine(output)
        assert after.plan.passed is passed
        assert after.built_at == before.built_at


def test_what_an_older_check_missed_is_built_and_checked_again(saved, tmp_path, notes):
    path, output = saved(tiny.conv_net()), tmp_path / "x.engine"
    with pytest.raises(PlanMismatch):
        build_engine(path, output, Build(targets="sm75"))
    written = json.loads(sidecar_path(output).read_text())
    assert written.pop("plan_check") == CHECK
    sidecar_path(output).write_text(json.dumps({**written, "built_at": "long ago"}))  # as versions before wrote it
    with pytest.raises(PlanMismatch, match="runs 0 of 2"):
        build_engine(path, output, Build(targets="sm75"), progress=notes)
    assert f"building again: the check of its plan changed since {output} was built" in notes.messages
    assert describe_engine(output).plan_check == CHECK
    assert describe_engine(output).built_at != "long ago"


def test_what_an_older_check_passed_is_reused_and_another_version_of_calib8_is_told(saved, tmp_path, notes):
    path, output = saved(tiny.one_gemm()), tmp_path / "x.engine"
    build_engine(path, output, QUICK)
    written = json.loads(sidecar_path(output).read_text())
    sidecar_path(output).write_text(json.dumps({**written, "plan_check": 0}))
    build_engine(path, output, QUICK, progress=notes)
    assert any(note.startswith("engine is up to date") for note in notes.messages)
    sidecar_path(output).write_text(json.dumps({**written, "calib8_version": "0.0.1"}))
    build_engine(path, output, QUICK.model_copy(update={"workspace_mib": 100}), progress=notes)
    changed = "the version of calib8, the options"
    assert notes.messages[-1] == f"building again: {changed} changed since {output} was built"


@pytest.mark.parametrize("value", ["", "-1", "x", "1.5", "101%", "1e2%", "10 %", None, True, 0.5], ids=str)
def test_what_is_no_number_of_ops_is_refused(value):
    with pytest.raises(ConfigError, match=r"allow_float_ops.*expected a number of ops such as 3, or a share of them"):
        Build(allow_float_ops=value)


@pytest.mark.parametrize(
    ("value", "ops", "allowed"),
    [(0, 45, 0), ("3", 45, 3), ("10%", 45, 4), ("100%", 45, 45), ("0%", 45, 0), ("2.3%", 1000, 23), ("29%", 100, 29)],
)
def test_a_share_of_the_ops_is_rounded_down(value, ops, allowed):
    assert Build(allow_float_ops=value).allowed_float_ops(ops) == allowed


@pytest.mark.parametrize(("name", "loops"), [("CumSum", {}), ("LSTM", {"/rec": "LSTM: a loop"})])
def test_a_loop_that_the_host_drives_is_told_with_its_op(name, loops, saved, tmp_path, notes):
    """TensorRT-RTX makes one kernel of CumSum, and a loop of an LSTM over a dynamic axis."""
    graph = tiny.Graph()
    if name == "LSTM":
        weights = [graph.constant(n, np.ones((1, 64, k), np.float32)) for n, k in (("w", 8), ("r", 16))]
        graph.node("LSTM", ["x", *weights], "y", name="/rec", hidden_size=16)
        model = graph.model({"x": ["time", "batch", 8]}, {"y": ["time", 1, "batch", 16]})
    else:
        graph.node("CumSum", ["x", graph.constant("axis", np.int64(0))], "y", name="/rec")
        model = graph.model({"x": ["time", "batch", 8]}, {"y": ["time", "batch", 8]})
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.elem_type = onnx.TensorProto.FLOAT
    config = Build(targets="sm86", shapes="x:1x1x8:16x8x8:64x64x8", allow_float=True)
    (built,) = build_engine(saved(model), tmp_path / "x.engine", config, progress=notes)
    assert built.plan.host_driven == describe_engine(built.path).plan.host_driven == loops
    said = "the host drives /rec (LSTM: a loop), so no CUDA graph can be captured of this engine"
    assert [said in note for note in notes.messages] == [True] * len(loops)


def test_an_engine_whose_plan_is_not_told_is_kept_and_fails(saved, tmp_path, monkeypatch):
    monkeypatch.setattr(build, "layers_from_log", lambda messages: [])
    with pytest.raises(PlanMismatch, match="mm: TensorRT told of no kernels, so nothing shows what runs in INT8"):
        build_engine(saved(tiny.one_gemm()), tmp_path / "x.engine", QUICK)
    assert describe_engine(tmp_path / "x.engine").plan.passed is False


@pytest.mark.parametrize("form", ["text", "--json"])
def test_the_command_line_shows_what_it_kept(form, saved, tmp_path, monkeypatch, capsys):
    output = tmp_path / "x.engine"
    command = ["build", str(saved(tiny.conv_net())), "-o", str(output), "--target", "sm75", "-q"]
    for options, code in (([], 1), (["--allow-float-ops", "50%"], 1), (["--allow-float-ops", "2"], 0)):
        monkeypatch.setattr("sys.argv", ["calib8", *command, *options, *([form] if form == "--json" else [])])
        with pytest.raises(SystemExit) as ended:
            main()
        assert (ended.value.code or 0) == code
        printed = capsys.readouterr()
        assert ("To accept that, run this again with --allow-float-ops 2." in printed.err) is (code == 1)
        if form == "--json":
            (engine,) = json.loads(printed.out)["engines"]
            assert (engine["path"], engine["plan"]["passed"]) == (str(output), code == 0)
        else:
            verdict = ": FAILED the plan check" if code else ""
            assert printed.out.endswith(f" kB, INT8 ops planned 0 of 2 in 0 kernels{verdict}\n")
