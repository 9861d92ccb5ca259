"""What only TensorRT-RTX has: it captures graphs by itself, and keeps compiled kernels between processes."""

import ast
import inspect
import re
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from fake_tensorrt import FakeContext, FakeEngine, FakeInspector, FakeTensorRT, World, ids

from trt_bindings import stubs_of


class RtxEngine(FakeEngine):
    def create_runtime_config(self) -> Any:
        return self.trt.config

    def create_execution_context(self, runtime_config: Any) -> Any:
        assert runtime_config is self.trt.config
        self.trt.answer("context", runtime_config.cuda_graph_strategy)
        return RtxContext(self.trt)


class RtxContext(FakeContext):
    set_device_memory = None  # it has its own


class RtxConfig:
    def __init__(self, trt: FakeTensorRT) -> None:
        self.trt = trt
        self.cuda_graph_strategy = ""

    def create_runtime_cache(self) -> Any:
        self.cache = RtxCache(self.trt)
        return self.cache

    def set_runtime_cache(self, cache: Any) -> bool:
        return cache is self.cache and self.trt.answer("cache")


class RtxCache:
    """Holds the names of kernels; of another environment's it wants nothing."""

    def __init__(self, trt: FakeTensorRT) -> None:
        self.trt, self.kernels = trt, b""

    def deserialize(self, blob: bytes) -> bool:
        if not blob.startswith(b"sm86:"):
            return False
        self.kernels = blob
        return True

    def serialize(self) -> Any:
        kernels = {f"{event[2]}".encode() for event in self.trt.named("shape")}
        return memoryview(self.kernels or (b"sm86:" + b";".join(sorted(kernels)) if kernels else b""))


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    made = World(tmp_path, monkeypatch)
    made.trt.config = RtxConfig(made.trt)
    made.trt.engine = lambda: RtxEngine(made.trt)
    monkeypatch.setitem(sys.modules, "tensorrt_rtx", made.trt.module)
    made.write(family="rtx")
    made.trt.module.CudaGraphStrategy = SimpleNamespace(DISABLED="off", WHOLE_GRAPH_CAPTURE="whole")
    return made


def kept(world: World) -> list[Path]:
    return [path for path in (world.path.parent / "cache").rglob("*") if path.is_file()]


@pytest.mark.parametrize(("cuda_graphs", "strategy"), [(8, "whole"), (0, "off")])
def test_rtx_captures_its_graphs_itself(world, cuda_graphs, strategy):
    with world.open(contexts=2, cuda_graphs=cuda_graphs) as runtime:
        for _ in range(4):
            np.testing.assert_array_equal(runtime(ids=ids(2, 3))["out"], 2 * ids(2, 3))
    assert world.trt.config.cuda_graph_strategy == strategy
    assert world.cuda.named("cudaStreamBeginCapture") == []
    assert len(world.trt.named("context")) == 2
    assert world.cuda.left_behind == {}


def test_layers_are_timed_on_a_context_that_captures_nothing(world):
    world.trt.timings = [[("a", 1.0)], [("a", 2.0)]]
    with world.open(contexts=2) as runtime:
        (time,) = runtime.layer_times({"ids": ids(2, 3)}, runs=1, warm_up=1)
    assert (time.layer.name, time.ms) == ("a", 2.0)
    assert world.trt.named("context") == [("context", "whole"), ("context", "whole"), ("context", "off")]


def test_compiled_kernels_are_kept_for_the_next_time(world):
    with world.open() as runtime:
        runtime(ids=ids(2, 3))
        assert kept(world) == []
    (path,) = kept(world)
    assert path.read_bytes() == b"sm86:(2, 3)"
    assert path.parent == world.path.parent / "cache" / "calib8" / "rtx"
    written = path.stat().st_mtime_ns
    with world.open() as runtime:
        assert world.trt.config.cache.kernels == b"sm86:(2, 3)"
        runtime(ids=ids(2, 3))
    assert path.stat().st_mtime_ns == written  # nothing new, nothing written


def test_kernels_of_another_gpu_are_replaced(world):
    world.open().close()
    path = world.path.parent / "cache" / "calib8" / "rtx"
    assert kept(world) == []  # nothing was compiled
    with world.open() as runtime:
        runtime(ids=ids(1, 1))
    (path,) = kept(world)
    path.write_bytes(b"sm120:(1, 1)")
    with world.open() as runtime:
        runtime(ids=ids(1, 1))
    assert path.read_bytes() == b"sm86:(1, 1)"


def test_a_cache_that_cannot_be_written_is_no_error(world):
    (world.path.parent / "cache").write_text("a file where the folder would be")
    with world.open() as runtime:
        np.testing.assert_array_equal(runtime(ids=ids(2, 3))["out"], 2 * ids(2, 3))
    assert world.cuda.left_behind == {}


# The doubles against the real thing

DOUBLES = [
    (FakeEngine, "ICudaEngine"),
    (FakeContext, "IExecutionContext"),
    (FakeInspector, "EngineInspector"),
    (RtxConfig, "IRuntimeConfig"),
    (RtxCache, "IRuntimeCache"),
]
METHODS = [
    (double, real, name)
    for double, real in DOUBLES
    for name in vars(double)
    if not name.startswith("_") and callable(vars(double)[name])
]


@pytest.mark.parametrize(("double", "real", "name"), METHODS, ids=[f"{real}.{name}" for _, real, name in METHODS])
def test_the_doubles_have_the_parameters_of_tensorrt_rtx(double, real, name):
    trt = pytest.importorskip("tensorrt_rtx", reason="TensorRT-RTX is not installed")
    text = getattr(getattr(trt, real), name).__doc__
    signatures = [
        re.findall(r"(?:\(|, )(\w+): ", line)
        for line in text.splitlines()
        if re.match(rf"(\d\. )?{name}\(self: ", line)
    ]
    assert list(inspect.signature(vars(double)[name]).parameters) in signatures


@pytest.mark.parametrize("version", ["10.6", "10.16", "11.4"])
@pytest.mark.parametrize(("double", "real"), DOUBLES[:3])
def test_the_doubles_have_the_parameters_of_tensorrt(double, real, version):
    if not stubs_of(version).is_file():
        pytest.skip(f"no bindings of TensorRT {version} for this Python: make .venv/bindings/ready")
    body = next(
        node.body
        for node in ast.parse(stubs_of(version).read_text()).body
        if isinstance(node, ast.ClassDef) and node.name == real
    )
    for name in (name for owner, kind, name in METHODS if (owner, kind) == (double, real)):
        signatures = [[a.arg for a in item.args.args] for item in body if getattr(item, "name", "") == name]
        assert list(inspect.signature(vars(double)[name]).parameters) in signatures, name


def test_tensorrt_rtx_has_what_is_asked_for_by_name():
    trt = pytest.importorskip("tensorrt_rtx", reason="TensorRT-RTX is not installed")
    assert {"DISABLED", "WHOLE_GRAPH_CAPTURE"} <= set(trt.CudaGraphStrategy.__members__)
    assert "USER_MANAGED" in trt.ExecutionContextAllocationStrategy.__members__
    assert isinstance(trt.IRuntimeConfig.cuda_graph_strategy, property)
    assert isinstance(trt.IExecutionContext.profiler, property)
    assert isinstance(trt.IExecutionContext.enqueue_emits_profile, property)
    assert isinstance(trt.ICudaEngine.device_memory_size_v2, property)
    assert isinstance(trt.Runtime.engine_host_code_allowed, property)
