"""Engines of the full TensorRT: many threads, CUDA graphs, the lean runtime, and builds that are interrupted."""

import subprocess
import sys
import warnings
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from engines import SHAPES, build, write_encoder

import calib8
from calib8.engine.sidecar import describe_engine
from calib8.gpu.graph import Graph
from calib8.testing import outputs_of, token_feeds

trt = pytest.importorskip("tensorrt", reason="needs pip install tensorrt")
SMALL = "input_ids:1x1:1x16:1x32"
THREADS, ROUNDS = 8, 25
#: Runs ``calib8`` and presses Ctrl-C as soon as some of a stage is done.
AT_STAGE = """
import os, signal, sys
from calib8.__main__ import main
from calib8.console import ConsoleProgress

draw, stage = ConsoleProgress.update, sys.argv.pop(1)

def update(self, name, done, total):
    draw(self, name, done, total)
    if name.startswith(stage) and done:
        os.killpg(0, signal.SIGINT)

ConsoleProgress.update = update
main()
"""

#: Runs an engine in a process of its own, as if only the lean runtime were installed: the bindings of two versions of
#: TensorRT crash in one process.
LEAN_ALONE = """
import sys
sys.modules["tensorrt"] = None
import numpy as np
import calib8

with calib8.open(sys.argv[1]) as runtime, np.load(sys.argv[2], allow_pickle=False) as given:
    print(runtime.description)
    np.savez(sys.argv[3], **runtime.run(dict(given)))
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("real")
    write_encoder(folder)
    return folder


@pytest.fixture(scope="module")
def engine(folder: Path) -> Path:
    """With two profiles, one for single texts; from a mask that a CumSum counts."""
    config = calib8.Build(family="tensorrt", shapes=(SMALL, *SHAPES), precision="fp16")
    (built,) = calib8.build(folder / "model.onnx", folder / "two.engine", config)
    return built.path


def feeds(rows: int, length: int, seed: int = 0) -> dict[str, np.ndarray]:
    return token_feeds(*[length] * rows, vocabulary=64, seed=seed)


@pytest.mark.parametrize("graphs", [0, 8])
def test_threads_profiles_and_streams_change_no_bit(graphs: int, engine: Path) -> None:
    shapes = [(1, 7), (1, 32), (2, 16), (8, 16), (8, 32), (3, 5)]
    given = [feeds(*shape, seed) for shape in shapes for seed in range(4)]
    with calib8.open(engine, cuda_graphs=graphs) as runtime:
        expected = [runtime.run(arrays)["last_hidden_state"] for arrays in given]
    with calib8.open(engine, contexts=4, cuda_graphs=graphs) as runtime, ThreadPoolExecutor(THREADS) as threads:

        def ask(seed: int) -> None:
            for number in np.random.default_rng(seed).integers(0, len(given), ROUNDS):
                np.testing.assert_array_equal(runtime.run(given[number])["last_hidden_state"], expected[number])

        list(threads.map(ask, range(THREADS)))


def test_a_graph_is_captured_of_an_encoder_whose_mask_a_cumsum_counts(engine: Path, folder: Path, monkeypatch) -> None:
    launched, launch = [], Graph.launch

    def counting(graph: Graph) -> None:
        launched.append(graph)
        launch(graph)

    monkeypatch.setattr(Graph, "launch", counting)
    assert describe_engine(engine).plan.host_driven == {}
    with warnings.catch_warnings(), calib8.open(engine) as runtime:
        warnings.simplefilter("error")  # a capture that fails is told by a RuntimeWarning
        results = [runtime.run(feeds(8, 16, seed))["last_hidden_state"] for seed in range(6)]
    assert len(launched) == 4  # plain, captured, and from the third on a launch
    model = calib8.load(folder / "model.onnx")
    for seed, got in enumerate(results):
        expected = outputs_of(model, feeds(8, 16, seed))["last_hidden_state"]
        np.testing.assert_allclose(got.astype(np.float32), expected, atol=0.03)


def test_a_lean_engine_runs_where_only_the_lean_runtime_is(folder: Path, measured) -> None:
    if find_spec("tensorrt_lean") is None:
        pytest.skip(f"needs pip install tensorrt-lean=={trt.__version__}")
    options = {"precision": "fp16", "version_compatible": True, "exclude_lean_runtime": True}
    path = build(folder / "model.onnx", folder / "lean.engine", **options)
    full = build(folder / "model.onnx", folder / "full.engine", precision="fp16")
    given = feeds(8, 16)
    np.savez(folder / "given.npz", **given)
    arguments = [sys.executable, "-c", LEAN_ALONE, path, folder / "given.npz", folder / "got.npz"]
    done = subprocess.run(arguments, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "lean runtime" in done.stdout
    measured(f"{describe_engine(path).builder}'s engine in {done.stdout.strip()}")
    with calib8.open(full) as runtime, np.load(folder / "got.npz", allow_pickle=False) as got:
        expected = runtime.run(given)["last_hidden_state"].astype(np.float32)
        np.testing.assert_allclose(got["last_hidden_state"].astype(np.float32), expected, atol=0.03)


@pytest.mark.parametrize(
    ("stage", "options"),
    [
        ("build for", ["--precision", "fp16"]),
        ("calibrate", ["--calibrator", "minmax", "--data", "data.npz", "--cache", "calibration.cache", "--batch", "4"]),
    ],
    ids=["build", "calibration"],
)
def test_ctrl_c_while_tensorrt_builds_leaves_nothing(stage: str, options: list[str], tmp_path: Path) -> None:
    if stage == "calibrate" and not hasattr(trt, "IInt8MinMaxCalibrator"):
        pytest.skip(f"TensorRT {trt.__version__} has no calibrators: 10 has")
    write_encoder(tmp_path)
    before = sorted(path.name for path in tmp_path.iterdir())
    command = ["build", "model.onnx", "-o", "x.engine", "--family", "tensorrt", "--shapes", SHAPES[0], *options]
    done = subprocess.run(
        [sys.executable, "-c", AT_STAGE, stage, *command, "--timing-cache", "timings"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
        start_new_session=True,
    )
    assert done.returncode == 130, done.stderr
    assert done.stderr.splitlines()[-1] == "interrupted; nothing half-written was left behind"
    assert sorted(path.name for path in tmp_path.iterdir()) == before
