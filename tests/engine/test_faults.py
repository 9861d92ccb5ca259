"""What may happen to a build from outside: killed, interrupted, two at once, no memory. Nothing half-written stays."""

import contextlib
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import engine_models as tiny
import onnx
import pytest
from engine_models import SHAPES

from calib8.engine import build, process
from calib8.engine.build import build_engine
from calib8.engine.config import Build
from calib8.engine.sidecar import describe_engine
from calib8.errors import BuildError, InputError, SetupError
from calib8.files import locked

pytest.importorskip("tensorrt_rtx", reason="needs pip install tensorrt-rtx")

QUICK = Build(targets="sm86", shapes=SHAPES)
BUILD = """import signal, sys; sys.path[:0] = {path!r}
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell starts what runs in the background without it
from pathlib import Path
from calib8.engine.build import build_engine
from calib8.engine.config import Build
class Told:
    def update(self, stage, done, total):
        print("progress", done, flush=True)
    def note(self, message):
        pass
(built,) = build_engine(Path({model!r}), Path({engine!r}), Build(targets="sm86", shapes={shapes!r}), progress=Told())
print("built", flush=True)
"""


def start(model, engine):
    program = BUILD.format(path=sys.path, model=str(model), engine=str(engine), shapes=SHAPES)
    return subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def until_it_builds(process):
    """Wait for the first progress of the compiler; the worker's process id."""
    while (line := process.stdout.readline()) and line.split()[1] in ("0", "0.0"):
        pass
    assert line.startswith("progress")
    (worker,) = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    return int(worker)


def gone(pid):
    """Has the process of this number ended, or does it within ten seconds?"""
    for _ in range(100):
        with contextlib.suppress(FileNotFoundError):
            if Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z":
                time.sleep(0.1)
                continue
        return True
    return False


@pytest.mark.parametrize("by", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM], ids=lambda number: number.name)
def test_a_build_whose_parent_is_stopped_leaves_no_engine_and_runs_again(by, saved, tmp_path):
    model, engine = saved(tiny.mlp(24)), tmp_path / "x.engine"
    with start(model, engine) as parent:
        worker = until_it_builds(parent)
        os.kill(parent.pid, by)
        assert parent.wait(timeout=20) != 0
        parent.stdout.close()
        parent.stderr.close()
    assert gone(worker)
    assert not engine.exists()
    if by == signal.SIGINT:  # whoever can still act cleans up; a killed process cannot
        assert [path.name for path in tmp_path.iterdir()] == ["model.onnx"]
    (built,) = build_engine(model, engine, QUICK)
    assert describe_engine(engine).plan == built.plan
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model.onnx", "x.engine", "x.engine.json"]


def test_a_stopped_build_keeps_the_engine_that_was_there(saved, tmp_path):
    engine = tmp_path / "x.engine"
    build_engine(saved(tiny.one_gemm()), engine, QUICK)
    before = engine.read_bytes()
    with start(saved(tiny.mlp(24)), engine) as parent:
        until_it_builds(parent)
        parent.kill()
    assert engine.read_bytes() == before
    assert describe_engine(engine).target == "sm86"


@pytest.mark.parametrize("same", [True, False], ids=["the same model", "two models"])
def test_two_builds_into_one_folder_leave_a_whole_engine(same, tmp_path):
    models = [tmp_path / "a.onnx", tmp_path / "b.onnx"]
    for model, proto in zip(models, (tiny.mlp(3), tiny.mlp(3) if same else tiny.mlp(5)), strict=True):
        onnx.save(proto, model)
    engine = tmp_path / "out" / "x.engine"
    both = [start(model, engine) for model in models]
    for each in both:
        printed, errors = each.communicate(timeout=120)
        assert (each.returncode, printed.splitlines()[-1:]) == (0, ["built"]), errors
    sidecar = describe_engine(engine)  # the SHA-256 of the engine is in it
    assert sidecar.plan.covered == sidecar.plan.expected
    assert sidecar.plan.expected in ((3,) if same else (3, 5))
    assert sorted(path.name for path in engine.parent.iterdir()) == ["x.engine", "x.engine.json"]


@pytest.mark.parametrize("missing", ["x.engine.json", "x.engine"])
def test_half_of_an_earlier_build_is_built_again(missing, saved, tmp_path):
    """As a kill between the two renames leaves it."""
    engine = tmp_path / "x.engine"
    build_engine(saved(tiny.one_gemm()), engine, QUICK)
    (tmp_path / missing).unlink()
    with pytest.raises(InputError, match=r"has no x\.engine\.json|not found"):
        describe_engine(engine)
    build_engine(tmp_path / "model.onnx", engine, QUICK)
    assert describe_engine(engine).target == "sm86"


def test_engine_and_sidecar_are_put_in_place_by_one_build_at_a_time(saved, tmp_path):
    engine = tmp_path / "x.engine"
    with locked(tmp_path):
        waiting = start(saved(tiny.mlp(2)), engine)
        worker = until_it_builds(waiting)
        assert gone(worker)
        time.sleep(0.5)
        assert not engine.exists()
        assert not (tmp_path / "x.engine.json").exists()
    printed, errors = waiting.communicate(timeout=60)
    assert printed.splitlines()[-1] == "built", errors
    assert describe_engine(engine).plan.covered == 2


def test_an_engine_that_another_build_put_in_this_place_meanwhile_is_left_alone(saved, tmp_path, monkeypatch):
    engine = tmp_path / "x.engine"

    def overtaken(*arguments):
        monkeypatch.undo()
        build_engine(saved(tiny.mlp(2)), engine, QUICK)
        return real(*arguments)

    real = build._remove_stale
    monkeypatch.setattr(build, "_remove_stale", overtaken)
    build_engine(saved(tiny.one_gemm()), engine, QUICK)
    assert describe_engine(engine).plan.covered == 2


def test_too_little_memory_is_a_build_error(saved, tmp_path, monkeypatch):
    limit = "import resource; resource.setrlimit(resource.RLIMIT_AS, (600_000_000, 600_000_000)); "
    monkeypatch.setattr(process, "WORKER", process.WORKER.replace("from calib8", f"{limit}from calib8", 1))
    with pytest.raises(BuildError, match=r"did not build model\.onnx for sm86 .*: .*Remedy: free memory, or give"):
        build_engine(saved(tiny.mlp()), tmp_path / "x.engine", QUICK)
    assert [path.name for path in tmp_path.iterdir()] == ["model.onnx"]


def test_a_full_disk_leaves_the_engine_that_was_there(saved, tmp_path):
    engine = tmp_path / "x.engine"
    build_engine(saved(tiny.one_gemm()), engine, QUICK)
    before = engine.read_bytes(), (tmp_path / "x.engine.json").read_bytes()
    model = saved(tiny.mlp(2))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))
    try:
        with pytest.raises(SetupError, match="Free disk space"):
            build_engine(model, engine, QUICK)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert (engine.read_bytes(), (tmp_path / "x.engine.json").read_bytes()) == before
