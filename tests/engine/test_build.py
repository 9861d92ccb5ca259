"""Real builds of tiny models with TensorRT-RTX; no GPU needed."""

import json
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import engine_models as tiny
import numpy as np
import onnx
import pytest
from engine_models import SHAPES

from calib8.engine import process
from calib8.engine.build import build_engine
from calib8.engine.config import Build
from calib8.engine.sidecar import describe_engine
from calib8.errors import BuildError, ConfigError, ModelError, PlanMismatch, ProfileError, SetupError
from calib8.progress import Quiet

trt = pytest.importorskip("tensorrt_rtx", reason="needs pip install tensorrt-rtx")

TARGETS = ("sm75", "sm86", "sm89", "sm120")
QUICK = Build(targets="sm86", shapes=SHAPES)
FLOAT = Build(targets="sm86", shapes=SHAPES, allow_float=True)
TURING = Build(targets="sm75", shapes=SHAPES, allow_float=True)


REQUEST = {
    "family": "rtx",
    "target": "sm86",
    "stage": "build",
    "profiles": [{"x": ((1, 64), (8, 64), (32, 64))}],
    "options": {},
    "timings": None,
    "calibration": None,
}


class Recorder:
    def __init__(self):
        self.updates, self.notes = [], []

    def update(self, stage, done, total):
        self.updates.append((stage, done, total))

    def note(self, message):
        self.notes.append(message)


class Interrupting(Recorder):
    def update(self, stage, done, total):
        if done > 0:
            signal.raise_signal(signal.SIGINT)


@pytest.mark.parametrize(
    ("model", "ops", "kernels"),
    [(tiny.mlp, 3, 3), (tiny.qkv, 4, 2), (tiny.gemm_transposed, 1, 1), (tiny.embedding, 1, 1)],
)
def test_every_gemm_runs_in_int8_on_every_target(model, ops, kernels, saved, tmp_path):
    engines = build_engine(saved(model()), tmp_path / "x.engine")
    assert [engine.path.name for engine in engines] == [f"x.{target}.engine" for target in TARGETS]
    for engine in engines:
        assert (engine.plan.expected, engine.plan.covered, engine.plan.planned_kernels) == (ops, ops, kernels)
        assert engine.plan.missing == ()
        assert engine.size_bytes == engine.path.stat().st_size > 1000


def test_convolutions_run_in_int8_from_ampere_on(saved, tmp_path):
    for engine in build_engine(saved(tiny.conv_net()), tmp_path / "x.engine", Build(targets=TARGETS[1:])):
        assert (engine.plan.expected, engine.plan.covered, engine.plan.planned_kernels) == (2, 2, 2)


@pytest.mark.parametrize("opset", [17, 19, 21, 23])
def test_the_opset_does_not_matter(opset, saved, tmp_path):
    (engine,) = build_engine(saved(tiny.one_gemm(opset=opset)), tmp_path / "x.engine", QUICK)
    assert engine.plan.covered == 1


def test_a_node_without_a_name_is_found_in_the_plan(saved, tmp_path):
    (engine,) = build_engine(saved(tiny.one_gemm(name="")), tmp_path / "x.engine", QUICK)
    assert engine.plan.covered == 1


def test_sidecar_tells_what_the_engine_is(saved, tmp_path):
    model = tiny.one_gemm()
    onnx.helper.set_model_props(model, {"calib8.recipe": "smooth", "other": "x"})
    config = QUICK.model_copy(update={"workspace_mib": 64, "tf32": False})
    (engine,) = build_engine(saved(model), tmp_path / "deep" / "x.engine", config)
    sidecar = describe_engine(engine.path)
    assert sidecar.engine_bytes == engine.size_bytes
    assert (sidecar.family, sidecar.target, sidecar.tensorrt_version) == ("rtx", "sm86", trt.__version__)
    assert sidecar.model_metadata["calib8.recipe"] == "smooth"
    assert "other" not in sidecar.model_metadata
    assert [str(profile) for profile in sidecar.profiles] == list(SHAPES)
    described = [(tensor.name, tensor.mode, tensor.dtype, tensor.shape) for tensor in sidecar.tensors]
    assert described == [("x", "input", "float16", (-1, 64)), ("y", "output", "float16", (-1, 128))]
    assert (sidecar.workspace_mib, sidecar.tf32, sidecar.optimization_level) == (64, False, None)
    assert sidecar.plan == engine.plan


def test_progress_grows_to_the_end_and_choices_are_told(saved, tmp_path):
    recorder = Recorder()
    build_engine(saved(tiny.mlp()), tmp_path / "x.engine", Build(targets="sm86"), progress=recorder)
    done = [done for _, done, _ in recorder.updates]
    assert done == sorted(done)
    assert len(done) > 5
    assert recorder.updates[-1] == ("build for sm86", 1, 1)
    assert recorder.notes == ["Shapes (name:min:opt:max), chosen by calib8: x:1x64:8x64:64x64."]


def test_a_model_without_quantised_ops_is_built_only_on_request(saved, tmp_path):
    path = saved(tiny.fp32_gemm())
    with pytest.raises(ModelError, match=r"model\.onnx has no quantised op: .* compute in float.*--allow-float"):
        build_engine(path, tmp_path / "x.engine", QUICK)
    assert [entry.name for entry in tmp_path.iterdir()] == ["model.onnx"]
    (engine,) = build_engine(path, tmp_path / "x.engine", FLOAT)
    assert engine.plan.expected == 0


def test_nobody_is_given_a_target_that_cannot_run_the_model_unless_it_was_asked_for(saved, tmp_path):
    recorder = Recorder()
    built = build_engine(saved(tiny.conv_net()), tmp_path / "x.engine", progress=recorder)
    assert [engine.target for engine in built] == ["sm86", "sm89", "sm120"]
    (note,) = (note for note in recorder.notes if "sm75" in note)
    assert "no engine for sm75 (Turing: T4, RTX 20): TensorRT-RTX has no INT8 convolution for Turing" in note
    assert "--target sm75" in note
    with pytest.raises(PlanMismatch, match="for sm75"):
        build_engine(tmp_path / "model.onnx", tmp_path / "x.engine", Build(targets="sm75,sm86"))


def test_engines_of_another_model_go_when_the_new_one_is_there(saved, tmp_path):
    """Also where the number of targets changes the names; whatever else lies there stays."""
    output = tmp_path / "x.engine"
    for name in ("x.mine.engine", "xy.sm86.engine"):
        build_engine(saved(tiny.mlp()), tmp_path / name, QUICK)
    build_engine(saved(tiny.mlp()), output, QUICK)
    build_engine(saved(tiny.mlp()), output, Build(targets="sm86,sm89", shapes=SHAPES))
    (tmp_path / "x.sm120.engine").write_bytes(b"not ours")
    assert (tmp_path / "x.engine").is_file()  # the same model
    recorder = Recorder()
    build_engine(saved(tiny.one_gemm()), output, Build(targets="sm75,sm86", shapes=SHAPES), progress=recorder)
    assert sorted(path.name for path in tmp_path.glob("*.engine*")) == [
        *("x.mine.engine", "x.mine.engine.json", "x.sm120.engine"),
        *("x.sm75.engine", "x.sm75.engine.json", "x.sm86.engine", "x.sm86.engine.json"),
        *("xy.sm86.engine", "xy.sm86.engine.json"),
    ]
    removed = [note for note in recorder.notes if note.startswith("removed")]
    assert removed[0] == f"removed {output}: it was built from another model"
    assert len(removed) == 3
    build_engine(saved(tiny.mlp()), output, QUICK)
    assert [path.name for path in tmp_path.glob("x.sm*.engine")] == ["x.sm120.engine"]


def test_the_sidecar_knows_the_table_that_an_input_indexes(saved, tmp_path):
    graph = tiny.Graph()
    graph.node("Gather", [graph.constant("table", np.ones((100, 64), np.float16)), "ids"], "y")
    model = graph.model({"ids": ["batch", "sequence"]}, {"y": ["batch", "sequence", 64]})
    model.graph.input[0].type.tensor_type.elem_type = onnx.TensorProto.INT64
    (engine,) = build_engine(saved(model), tmp_path / "x.engine", Build(targets="sm86", allow_float=True))
    assert [tensor.rows for tensor in describe_engine(engine.path).tensors] == [100, None]


def test_nothing_is_printed_and_other_loggers_do_not_matter(saved, tmp_path, capfd):
    runtime = trt.Runtime(trt.Logger(trt.Logger.ERROR))  # TensorRT's logger is global to a process
    capfd.readouterr()
    build_engine(saved(tiny.one_gemm()), tmp_path / "x.engine", QUICK)
    with pytest.raises(BuildError):
        build_engine(saved(tiny.fp32_gemm()), tmp_path / "y.engine", TURING)
    assert tuple(capfd.readouterr()) == ("", "")
    del runtime


def test_the_log_is_kept_even_if_the_build_fails(saved, tmp_path):
    config = Build(targets="sm86,sm75", shapes=SHAPES, log=tmp_path / "build.log", allow_float=True)
    with pytest.raises(BuildError, match="sm75"):
        build_engine(saved(tiny.fp32_gemm()), tmp_path / "x.engine", config)
    assert "[VERBOSE] Layers:" in (tmp_path / "build.sm86.log").read_text()
    assert "[ERROR]" in (tmp_path / "build.sm75.log").read_text()
    assert (tmp_path / "x.sm86.engine").is_file()
    assert not (tmp_path / "x.sm75.engine").exists()


def test_external_weights_are_found(tmp_path):
    onnx.save(tiny.one_gemm(), tmp_path / "m.onnx", save_as_external_data=True, size_threshold=0, location="m.data")
    (engine,) = build_engine(tmp_path / "m.onnx", tmp_path / "x.engine", QUICK)
    assert engine.plan.covered == 1


@pytest.mark.parametrize("content", [b"", b"not a model" * 300, onnx.ModelProto().SerializeToString(), None], ids=str)
def test_unusable_model_files_are_refused(content, tmp_path):
    path = tmp_path / "model.onnx"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ModelError, match=r"not a usable ONNX model|not found"):
        build_engine(path, tmp_path / "x.engine", QUICK)


def test_a_truncated_model_is_refused(saved, tmp_path):
    path = saved(tiny.mlp())
    path.write_bytes(path.read_bytes()[:-2000])
    with pytest.raises(ModelError, match="not a usable ONNX model"):
        build_engine(path, tmp_path / "x.engine", QUICK)


def test_tensorrt_parses_an_empty_file_and_the_worker_notices(tmp_path):
    (tmp_path / "empty.onnx").write_bytes(b"")
    request = {**REQUEST, "model": str(tmp_path / "empty.onnx"), "engine": str(tmp_path / "x.engine")}
    outcome = process.run_worker(request, Quiet())
    assert outcome.refused == ["the model has no outputs: the file is empty or no ONNX model"]
    assert not (tmp_path / "x.engine").exists()


@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        (("ids:1x1:8x16:8x32",), "'ids', but the model's inputs are input_ids, mask"),
        (("input_ids:1x1:8x16:8x32", "mask:1x1:8x16:8x64"), "disagree about the dimension 'sequence'"),
        (("input_ids:1x1:8x16:8x200",), "goes up to 200, but the model's tables hold only 100"),
        (("input_ids:8x1:1x1:8x8",), "min <= opt <= max"),
    ],
)
def test_profiles_that_tensorrt_accepts_silently_are_refused(shapes, message, saved, tmp_path):
    path = saved(tiny.masked_embedding())  # no GEMM
    with pytest.raises(ProfileError, match=message):
        build_engine(
            path,
            tmp_path / "x.engine",
            Build(targets="sm86", shapes=shapes, allow_float=True),
            limits={"sequence": 100},
        )
    (engine,) = build_engine(
        path, tmp_path / "x.engine", Build(targets="sm86", allow_float=True), limits={"sequence": 100}
    )
    assert [profile.max for profile in describe_engine(engine.path).profiles] == [(64, 100), (64, 100)]


def test_unknown_targets_and_options_are_refused(saved, tmp_path):
    with pytest.raises(ProfileError, match=r"unknown build target 'sm99'.* builds for: sm75 \(Turing.*sm120"):
        build_engine(saved(tiny.mlp()), tmp_path / "x.engine", Build(targets="sm99"))
    with pytest.raises(ProfileError, match="unknown build target 'current'"):
        build_engine(saved(tiny.mlp()), tmp_path / "x.engine", Build(targets="current"))
    with pytest.raises(ConfigError, match="workspace_mib"):
        Build(workspace_mib=0)
    with pytest.raises(ConfigError, match=r"got target='sm86', expected no such option\. Known options: .*targets"):
        Build(target="sm86")


def test_ctrl_c_stops_the_build_at_once_and_leaves_nothing(saved, tmp_path):
    path, started = saved(tiny.mlp(12)), time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        build_engine(path, tmp_path / "x.engine", QUICK, progress=Interrupting())
    assert time.monotonic() - started < 5
    assert [entry.name for entry in tmp_path.iterdir()] == ["model.onnx"]
    assert Path(f"/proc/self/task/{os.getpid()}/children").read_text() == ""


def test_a_worker_that_says_nothing_is_killed_too(saved, tmp_path, monkeypatch):
    endless = "import json, time; print(json.dumps(['progress', 'x', 1, 2]), flush=True); time.sleep(60)"
    monkeypatch.setattr(process, "WORKER", endless)
    started = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        build_engine(saved(tiny.mlp()), tmp_path / "x.engine", QUICK, progress=Interrupting())
    assert time.monotonic() - started < 10


def test_a_worker_ends_when_its_caller_is_gone(saved, tmp_path):
    request = {**REQUEST, "model": str(saved(tiny.mlp(12))), "engine": str(tmp_path / "x.engine")}
    with process._start(subprocess.DEVNULL, None) as worker:
        worker.stdout.close()
        worker.stdin.write(json.dumps(request))
        worker.stdin.close()
        assert worker.wait(timeout=20) == 1
    assert not (tmp_path / "x.engine").exists()


def test_a_worker_that_dies_before_it_listens_is_reported(monkeypatch):
    monkeypatch.setattr(process, "WORKER", "raise SystemExit(3)")
    outcome = process.run_worker({"more than a pipe holds": "x" * 1_000_000}, Quiet())
    assert (outcome.exit_code, outcome.built, outcome.refused) == (3, None, None)


def test_files_in_the_working_folder_do_not_shadow_modules(saved, tmp_path, monkeypatch):
    (tmp_path / "json.py").write_text("raise SystemExit('shadowed')")
    monkeypatch.chdir(tmp_path)
    (engine,) = build_engine(Path(saved(tiny.one_gemm()).name), Path("x.engine"), QUICK)
    assert engine.plan.covered == 1


def test_what_libraries_print_is_kept_apart_from_the_events():
    program = (
        f"import os, sys; sys.path[:] = {sys.path}; from calib8.engine.worker import _event_stream; "
        "emit = _event_stream(); os.write(1, b'noise'); emit('progress', 0.5)"
    )
    printed = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert (printed.stdout, printed.stderr) == ('["progress", 0.5]\n', "noise")


def test_the_workspace_limit_reaches_tensorrt(saved, tmp_path):
    config = QUICK.model_copy(update={"workspace_mib": 1})
    with pytest.raises(BuildError, match=r"within workspace limit.* Remedy: raise the workspace limit"):
        build_engine(saved(tiny.one_gemm()), tmp_path / "x.engine", config)


@pytest.mark.parametrize("limit", [0, 20_000], ids=["no byte", "half the engine"])
def test_a_full_disk_leaves_nothing(limit, saved, tmp_path):
    path = saved(tiny.one_gemm())
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        with pytest.raises(SetupError, match=r"could not write .*x\.engine: .*Free disk space"):
            build_engine(path, tmp_path / "x.engine", QUICK)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert [entry.name for entry in tmp_path.iterdir()] == ["model.onnx"]


def test_a_failed_build_keeps_the_engine_that_was_there(saved, tmp_path):
    build_engine(saved(tiny.one_gemm()), tmp_path / "x.engine", QUICK)
    before = (tmp_path / "x.engine").read_bytes()
    with pytest.raises(BuildError):
        build_engine(saved(tiny.fp32_gemm()), tmp_path / "x.engine", TURING)
    assert (tmp_path / "x.engine").read_bytes() == before
    assert describe_engine(tmp_path / "x.engine").target == "sm86"


@pytest.mark.parametrize(
    ("program", "message"),
    [
        ("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", "its process died of SIGSEGV"),
        ("raise SystemExit('lost its way')", "its process ended with code 1 lost its way"),
        (  # glibc's loader, of a library that needs more than there is
            "raise SystemExit('cannot allocate memory for thread-local data: ABORT')",
            r"cannot allocate memory .* Remedy: free memory, or give",
        ),
    ],
)
def test_a_crash_inside_tensorrt_is_a_build_error(program, message, saved, tmp_path, monkeypatch):
    monkeypatch.setattr(process, "WORKER", program)
    with pytest.raises(BuildError, match=message):
        build_engine(saved(tiny.one_gemm()), tmp_path / "x.engine", QUICK)
    assert [entry.name for entry in tmp_path.iterdir()] == ["model.onnx"]
