"""TensorRtRuntime on a fake TensorRT and a fake CUDA, and against the real TensorRT-RTX without a GPU."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from fake_tensorrt import SCRATCH, World, ids, ids_profile

import calib8
from calib8.engine import sidecar as sidecar_module
from calib8.engine.profiles import profile_sets
from calib8.engine.sidecar import TensorInfo, sidecar_path
from calib8.errors import DataError, InputError, ModelError, SetupError
from calib8.gpu.hardware import Gpu
from calib8.runtime.tensorrt import require
from calib8.runtime.tensorrt.profiles import profile_for
from calib8.runtime.tensorrt.runtime import TensorRtRuntime

ON_CPU = r"On the CPU use the ONNX model that it was built from\.$"


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    return World(tmp_path, monkeypatch)


def refusal(world: World) -> str:
    """What opening says that never reaches TensorRT."""
    with pytest.raises(SetupError) as caught:
        world.open()
    assert world.trt.named("deserialise") == []
    return str(caught.value)


# Running


def test_it_runs_in_the_right_order(world):
    with world.open() as runtime:
        assert runtime.description == "TensorRT 10.13.3.9 on NVIDIA A10"
        opened = len(world.cuda.calls)
        out = runtime(ids=ids(2, 3))["out"]
        during = world.cuda.calls[opened:]
        stream = world.trt.named("execute")[0][1]
    assert out.dtype == np.float32
    np.testing.assert_array_equal(out, 2 * ids(2, 3))
    assert world.trt.events == [
        ("runtime",),
        ("deserialise",),
        ("context", "ours"),
        ("profile", 0, stream),
        ("shape", "ids", (2, 3)),
        ("infer",),
        ("address", "ids"),
        ("address", "out"),
        ("execute", stream),
    ]
    copies = {"cudaMemcpyAsync": lambda call: (call[0], *call[3:])}
    calls = [copies.get(call[0], lambda call: call[:2])(call) for call in during]
    assert calls == [
        ("cudaSetDevice", 1),
        ("cudaMalloc", 48),
        ("cudaHostAlloc", 24),
        ("cudaMalloc", 24),
        ("cudaHostAlloc", 48),
        ("cudaMemcpyAsync", 48, "in", stream),
        ("cudaMemcpyAsync", 24, "out", stream),
        ("cudaSetDevice", 0),
        ("cudaSetDevice", 1),
        ("cudaStreamSynchronize", stream),
        ("cudaSetDevice", 0),
    ]
    assert world.cuda.left_behind == {}


def test_buffers_grow_and_never_shrink(world):
    with world.open(cuda_graphs=0) as runtime:
        world.cuda.calls.clear()
        for rows in (2, 1, 2, 4):
            np.testing.assert_array_equal(runtime(ids=ids(rows, 4))["out"], 2 * ids(rows, 4))
        assert [call[1] for call in world.cuda.named("cudaMalloc")] == [64, 32, 128, 64]
        assert [call[1] for call in world.cuda.named("cudaHostAlloc")] == [32, 64, 64, 128]
        assert world.cuda.used == SCRATCH + 128 + 64
    assert len(world.trt.named("profile")) == 1


def test_what_the_context_is_set_to_is_not_set_again(world):
    with world.open(cuda_graphs=0) as runtime:
        for _ in range(3):
            runtime(ids=ids(2, 3))
    assert len(world.trt.named("shape", "infer")) == 2
    assert len(world.trt.named("execute")) == 3


def test_results_of_earlier_runs_stay(world):
    with world.open() as runtime:
        first = runtime(ids=ids(2, 3))["out"]
        runtime(ids=ids(2, 3) + 5)
    np.testing.assert_array_equal(first, 2 * ids(2, 3))


def test_the_thread_stays_on_the_gpu_that_it_had_chosen(world):
    with world.open() as runtime:
        world.cuda.cudaSetDevice(0)
        runtime(ids=ids(2, 3))
        assert world.cuda.cudaGetDevice() == (0, 0)


def test_a_strided_input_is_run_as_it_looks(world):
    with world.open() as runtime:
        given = ids(4, 6)[::2, ::-3]
        np.testing.assert_array_equal(runtime(ids=given)["out"], 2 * given)


def test_the_tightest_profile_is_used(world):
    world.write(profiles=(ids_profile("1x1", "8x16"), ids_profile("1x1", "1x16"), ids_profile("64x1", "99x16")))
    world.trt.profiles = 3
    with world.open() as runtime:
        for shape in ((1, 4), (1, 5), (2, 4), (64, 1), (8, 16)):
            runtime(ids=ids(*shape))
    assert [event[1] for event in world.trt.named("profile")] == [1, 0, 2, 0]


def test_the_profiles_of_a_sidecar_belong_to_optimisation_profiles_in_order():
    a0, b0, a1, b1 = (ids_profile("1", high, name) for high in ("2", "3") for name in ("a", "b"))
    assert profile_sets([]) == ({},)
    assert profile_sets([a0, b0, a1, b1]) == profile_sets([a0, a1, b0, b1]) == ({"a": a0, "b": b0}, {"a": a1, "b": b1})


def test_fixed_inputs_need_no_profile():
    assert profile_for({"x": (2, 3)}, profile_sets([])) == 0


# Data that does not fit: nothing reaches the GPU


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({}, r"^got arrays for nothing, expected ids\.$"),
        ({"ids": ids(1, 1), "mask": ids(1, 1)}, r"^got arrays for ids, mask, expected ids\.$"),
        ({"ids": ids(1, 1).astype(np.float32)}, r"^ids has dtype float32, expected int64\. Convert it"),
        ({"ids": np.arange(3)}, r"^ids has rank 1 \(shape \[3\]\), expected rank 2 \[ids\[0\], ids\[1\]\]\.$"),
        ({"ids": ids(8, 16) + 1990}, r"^ids holds the index 2117, but the model's table has 2000 rows"),
        (
            {"ids": ids(9, 16)},
            r"^the engine was not built for ids 9x16: expected ids 1x1 to 8x16 or ids 64x1 to 99x16\. Split the batch "
            r"or cut the sequences, or build with larger --shapes\.$",
        ),
        ({"ids": ids(0, 4)}, r"the data is empty"),
    ],
)
def test_data_that_does_not_fit_never_reaches_the_gpu(world, arrays, message):
    tensors = (
        TensorInfo(name="ids", mode="input", dtype="int64", shape=(-1, -1), rows=2000),
        TensorInfo(name="out", mode="output", dtype="float32", shape=(-1, -1)),
    )
    world.write(tensors=tensors, profiles=(ids_profile("1x1", "8x16"), ids_profile("64x1", "99x16")))
    world.trt.profiles = 2
    with world.open() as runtime:
        world.trt.events.clear()
        world.cuda.calls.clear()
        with pytest.raises(DataError, match=message):
            runtime.run(arrays)
        assert world.trt.events == world.cuda.calls == []
        np.testing.assert_array_equal(runtime(ids=ids(8, 16))["out"], 2 * ids(8, 16))


def test_the_longest_profile_bounds_what_the_engine_takes(world):
    world.write(profiles=(ids_profile("1x1", "8x16"), ids_profile("64x1", "99x24")))
    world.trt.profiles = 2
    with world.open() as runtime:
        assert (runtime.largest("ids", 1), runtime.largest("mask", 1)) == (24, None)


@pytest.mark.parametrize(
    ("refusing", "kind", "message"),
    [
        ("shape", DataError, r"TensorRT could not take ids 2x3: dimensions differ\.$"),
        ("infer", DataError, r"could not combine the shapes ids 2x3: dimensions differ\. Inputs usually share"),
        ("profile", SetupError, r"TensorRT could not take optimisation profile 0: dimensions differ\.$"),
        ("address", SetupError, r"TensorRT could not take the memory of 'ids': dimensions differ\.$"),
        ("execute", SetupError, r"TensorRT could not run on ids 2x3: dimensions differ\.$"),
    ],
)
def test_what_tensorrt_refuses_is_told_and_nothing_leaks(world, refusing, kind, message):
    with world.open() as runtime:
        world.trt.refusing, world.trt.reason = refusing, "dimensions differ."
        with pytest.raises(kind, match=message):
            runtime(ids=ids(2, 3))
        world.trt.refusing = ""
        np.testing.assert_array_equal(runtime(ids=ids(2, 3))["out"], 2 * ids(2, 3))
    assert world.cuda.left_behind == {}


def test_an_error_without_a_reason_says_so_and_old_reasons_are_forgotten(world):
    with world.open() as runtime:
        world.trt.refusing, world.trt.reason = "execute", "first"
        with pytest.raises(SetupError, match="first"):
            runtime(ids=ids(2, 3))
        world.trt.reason = ""
        with pytest.raises(SetupError, match=r"could not run on ids 2x3: no reason given; too little free GPU memory"):
            runtime(ids=ids(2, 3))


def test_an_output_that_depends_on_values_is_refused(world):
    world.trt.out_shape = (-1, 3)
    with world.open() as runtime, pytest.raises(ModelError, match="the shape of output 'out' depends on the values"):
        runtime(ids=ids(2, 3))


@pytest.mark.parametrize(
    "failing", ["cudaSetDevice", "cudaMemcpyAsync", "cudaStreamSynchronize", "cudaMalloc", "cudaHostAlloc"]
)
def test_a_cuda_error_in_a_run_leaks_nothing_and_is_over_with_it(world, failing):
    with world.open() as runtime:
        world.cuda.status = {failing: 700}
        with pytest.raises(SetupError, match=r"CUDA: .* failed on NVIDIA A10: error 700\."):
            runtime(ids=ids(2, 3))
        world.cuda.status = {}
        np.testing.assert_array_equal(runtime(ids=ids(2, 3))["out"], 2 * ids(2, 3))
    assert world.cuda.left_behind == {}


def test_too_little_memory_is_told_and_smaller_batches_still_run(world):
    with world.open() as runtime:
        runtime(ids=ids(2, 3))
        used = world.cuda.used
        world.cuda.total = 1000
        with pytest.raises(
            SetupError,
            match=r"allocating 1,024 bytes failed on NVIDIA A10: error 2\. [\d,]+ bytes are free\. Use smaller",
        ):
            runtime(ids=ids(8, 16))
        assert world.cuda.used < used
        for _ in range(3):
            np.testing.assert_array_equal(runtime(ids=ids(2, 3))["out"], 2 * ids(2, 3))
    assert world.cuda.left_behind == {}


def test_a_single_number_is_checked_too(world):
    tensors = (
        TensorInfo(name="ids", mode="input", dtype="int64", shape=(-1, -1)),
        TensorInfo(name="scale", mode="input", dtype="float32", shape=()),
        TensorInfo(name="out", mode="output", dtype="float32", shape=(-1, -1)),
    )
    world.write(tensors=tensors)
    world.trt.names = ("ids", "scale", "out")
    with world.open() as runtime:
        runtime(ids=ids(2, 3), scale=np.float32(2))
        for wrong in (2.0, np.float32([2])):
            with pytest.raises(
                DataError, match=r"scale has shape \[1?\] and dtype float.., expected a single number: np.float32"
            ):
                runtime(ids=ids(2, 3), scale=wrong)


def test_the_options_of_open_arrive(world):
    with calib8.open(world.path, contexts=3, cuda_graphs=0) as runtime:
        for _ in range(3):
            np.testing.assert_array_equal(runtime.run({"ids": ids(2, 3)})["out"], 2 * ids(2, 3))
        assert world.cuda.used == 3 * SCRATCH + 48 + 24
    assert world.cuda.named("cudaStreamBeginCapture") == []


# Closing


def test_closing_twice_is_fine_and_a_closed_engine_says_so(world):
    runtime = world.open()
    runtime(ids=ids(2, 3))
    runtime.close()
    runtime.close()
    assert world.cuda.left_behind == {}
    with pytest.raises(SetupError, match=r"the model was closed\. Open it again with calib8\.open\(\)"):
        runtime(ids=ids(2, 3))


def test_one_failing_free_does_not_keep_the_rest(world):
    runtime = world.open()
    runtime(ids=ids(2, 3))
    world.cuda.status = {"cudaFree": 700}
    with pytest.raises(SetupError, match="cudaFree failed"):
        runtime.close()
    assert world.cuda.left_behind == {}


# Refusals when opening


def test_without_such_a_gpu_nothing_is_imported_and_the_reason_is_told(world):
    world.monkeypatch.setitem(sys.modules, "tensorrt", None)
    world.monkeypatch.setattr(sidecar_module, "gpus", tuple)
    world.monkeypatch.setattr(require, "imported", lambda *_: pytest.fail("imported"))
    message = refusal(world)
    assert message.startswith(f"{world.path} cannot run here: the engine runs on sm86 (Ampere: A10, A40, RTX 30); ")
    assert "this machine has no NVIDIA GPU, or no driver (nvidia-smi finds none). On the CPU use" in message
    world.monkeypatch.setattr(sidecar_module, "gpus", lambda: (Gpu("NVIDIA H100 80GB HBM3", "sm90"),))
    world.write(family="rtx")
    assert "TensorRT-RTX does not run on NVIDIA H100 80GB HBM3 (sm90)" in refusal(world)


def test_a_missing_tensorrt_is_told(world):
    world.monkeypatch.setitem(sys.modules, "tensorrt", None)
    message = refusal(world)
    assert "cannot run here: the engine needs TensorRT 10.13.3.9, and there is no usable TensorRT" in message
    assert "Install that version: pip install tensorrt==10.13.3.9. On the CPU use" in message


@pytest.mark.parametrize(
    ("family", "built", "here", "message"),
    [
        (
            "rtx",
            "1.6.0.9",
            "1.7.1.116",
            "the engine was built with TensorRT-RTX 1.6.0.9 and runs only on that, but TensorRT-RTX 1.7.1.116 is "
            "installed. Install that version: pip install tensorrt-rtx==1.6.0.9. Or build the engine again. On the",
        ),
        ("tensorrt", "10.13.0.35", "10.13.2.6", "pip install tensorrt==10.13.0.35. Or build the engine again."),
    ],
)
def test_another_version_is_told(world, family, built, here, message):
    world.trt.module.__version__ = here
    world.monkeypatch.setitem(sys.modules, "tensorrt_rtx", world.trt.module)
    world.write(family=family, tensorrt_version=built)
    assert message in refusal(world)


@pytest.mark.parametrize(("here", "runs"), [("10.14.1.2", True), ("10.9.0.34", False), ("11.0.0.1", False)])
def test_a_version_compatible_engine_runs_on_later_versions(world, here, runs):
    world.trt.module.__version__ = here
    world.write(version_compatible=True)
    if runs:
        with world.open(host_code=True) as runtime:
            np.testing.assert_array_equal(runtime(ids=ids(2, 3))["out"], 2 * ids(2, 3))
        assert world.trt.loader.engine_host_code_allowed
    else:
        assert f"runs only on that and later ones of its major version, but TensorRT {here} is" in refusal(world)


def test_a_missing_cuda_python_is_told(world):
    world.monkeypatch.setitem(sys.modules, "cuda.bindings.runtime", None)
    message = refusal(world)
    assert "cannot run here: cuda-python is not usable on this machine (" in message
    assert "Install it: pip install cuda-python. On the CPU use" in message


@pytest.mark.parametrize(
    ("refusing", "what"),
    [("runtime", "start"), ("deserialise", "load the engine"), ("context", "make room to run the engine")],
)
def test_a_failing_start_is_told_and_frees_what_was_taken(world, refusing, what):
    world.trt.refusing, world.trt.reason = refusing, "out of memory"
    with pytest.raises(SetupError, match=rf"cannot run here: TensorRT could not {what}: out of memory\. {ON_CPU}"):
        world.open()
    assert world.cuda.left_behind == {}


def test_a_null_from_tensorrt_without_a_reason_shows_what_python_said(world):
    world.trt.refusing = "runtime"
    with pytest.raises(SetupError, match=r"could not start: pybind11::init\(\): factory function returned nullptr\."):
        world.open()


def test_too_little_memory_for_all_contexts_frees_those_that_were_made(world):
    world.cuda.total = 3 * SCRATCH
    with pytest.raises(SetupError, match=r"cannot run here: CUDA: allocating 512 bytes failed .* 0 bytes are free"):
        world.open(contexts=4)
    assert world.cuda.left_behind == {}


@pytest.mark.parametrize(
    ("change", "kind", "message"),
    [
        (
            {"profiles": 2},
            InputError,
            r"has the tensors ids, out and 2 optimisation profiles, x\.engine\.json tells of",
        ),
        ({"names": ("ids", "y")}, InputError, r"has the tensors ids, y and 1 .* tells of ids, out and 1\. Build the"),
        ({"location": "HOST"}, ModelError, r"keeps ids, out on the CPU"),
    ],
)
def test_an_engine_that_is_not_what_its_sidecar_tells_is_refused(world, change, kind, message):
    vars(world.trt).update(change)
    with pytest.raises(kind, match=message):
        world.open()
    assert world.cuda.left_behind == {}


def test_a_missing_sidecar_is_told(world):
    sidecar_path(world.path).unlink()
    with pytest.raises(InputError, match=r"has no x\.engine\.json beside it"):
        world.open()


@pytest.mark.parametrize("content", [b"an engin", b"an enginE"], ids=["truncated", "damaged"])
def test_a_file_that_is_not_what_was_built_is_told(world, content):
    world.path.write_bytes(content)
    with pytest.raises(
        InputError, match=r"x\.engine\.json describes another engine than .*: the SHA-256 differs\. Build"
    ):
        world.open()
    assert world.trt.events == world.cuda.calls == []


# The real thing, as far as it goes without a GPU


@pytest.fixture(scope="module")
def real_engine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny engine for sm86, built here by TensorRT-RTX."""
    pytest.importorskip("tensorrt_rtx", reason="TensorRT-RTX is not installed")
    import onnx
    from onnx import TensorProto, helper

    from calib8.engine.build import build_engine
    from calib8.engine.config import Build

    folder = tmp_path_factory.mktemp("engine")
    rows = [helper.make_tensor_value_info(name, TensorProto.FLOAT16, ["rows", 8]) for name in ("x", "y")]
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"], name="relu")], "tiny", rows[:1], rows[1:])
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10), folder / "model.onnx"
    )
    shapes = ("x:1x8:2x8:4x8",)
    config = Build(targets=("sm86",), shapes=shapes, allow_float=True)
    (built,) = build_engine(folder / "model.onnx", folder / "x.engine", config)
    return built.path


def test_a_real_engine_says_why_it_cannot_run_without_its_gpu(real_engine):
    if any(gpu.target == "sm86" for gpu in sidecar_module.gpus()):
        pytest.skip("this machine has the GPU that the engine is for")
    with pytest.raises(SetupError, match=rf"x\.engine cannot run here: .*(no NVIDIA GPU|this machine has).* {ON_CPU}"):
        TensorRtRuntime(real_engine)


def test_the_real_tensorrt_refuses_a_real_engine_without_a_gpu(real_engine, world):
    """Past our own checks: TensorRT itself answers None and its log has the reason."""
    pytest.importorskip("tensorrt_rtx", reason="TensorRT-RTX is not installed")
    with pytest.raises(SetupError, match=r"TensorRT could not load the engine: .*CUDA driver version is insufficient"):
        TensorRtRuntime(real_engine)
    assert world.cuda.left_behind == {}


def test_importing_the_runtime_imports_neither_cuda_nor_tensorrt():
    code = (
        "import sys, calib8.runtime.tensorrt.runtime;"
        "print([m for m in sys.modules if m.split('.')[0] in ('cuda', 'tensorrt', 'tensorrt_rtx', 'onnxruntime')])"
    )
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "[]"
