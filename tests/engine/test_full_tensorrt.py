"""TensorRT 10 and 11, which need a GPU: builds in a worker process with a double that follows NVIDIA's bindings."""

import json
import re
import struct
from pathlib import Path

import engine_models as tiny
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from trt_builds import recorded
from trt_double import double, needs_bindings

import calib8
from calib8.cli.main import main
from calib8.engine import family, worker
from calib8.engine.config import Build
from calib8.engine.family import TensorRT
from calib8.engine.options import Options
from calib8.engine.plan_check import PlanCheck
from calib8.engine.sidecar import describe_engine
from calib8.errors import CacheError, ConfigError, DataError, ModelError, PlanMismatch, SetupError
from calib8.runtime.tensorrt import runtime

pytestmark = needs_bindings
HEADER = "TRT-101601-MinMaxCalibration"


def float_conv(batch="batch"):
    """y = conv(x), FP32, x [batch, 3, 4, 4]."""
    weight = helper.make_tensor("w", TensorProto.FLOAT, [2, 3, 1, 1], np.ones(6, np.float32))
    node = helper.make_node("Conv", ["x", "w"], ["y"], name="conv0")
    ends = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [batch, c, 4, 4]) for n, c in (("x", 3), ("y", 2))]
    graph = helper.make_graph([node], "float", ends[:1], ends[1:], [weight])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10)


def images(count):
    """``count`` samples [3, 4, 4]; sample i is i + 1 all over, the largest last."""
    return {"x": np.ones((count, 3, 4, 4), np.float32) * np.arange(1, count + 1, dtype=np.float32)[:, None, None, None]}


def only(calls, *names):
    return [call for call in recorded(calls) if call[0] in names]


CONFIGURED = ("IBuilderConfig.set_flag", "IBuilderConfig.clear_flag", "Builder.create_network")


def test_the_double_refuses_what_the_bindings_do_not_have():
    trt = double()
    builder_class, config = trt.Builder, trt.Builder.create_builder_config
    logger = type("Logger", (trt.ILogger,), {})()
    builder = builder_class(logger)
    for wrong in (
        lambda: builder.create_netwrok(1),
        lambda: setattr(builder, "max_workers", 2),
        lambda: setattr(builder, "num_DLA_cores", 2),
        lambda: trt.BuilderFlag.INT9,
    ):
        with pytest.raises(AttributeError):
            wrong()
    uninitialised = type("Silent", (trt.ILogger,), {"__init__": lambda self: None})()
    for wrong in (
        lambda: builder.create_network(1, 2),
        lambda: builder.create_network(flag=1),
        lambda: builder.create_network("1"),
        lambda: builder_class("logger"),
        lambda: builder_class(uninitialised),
        lambda: config(builder).set_memory_pool_limit(trt.BuilderFlag.INT8, 5),
    ):
        with pytest.raises(TypeError):
            wrong()
    assert trt.recorder.calls[-2:] == [["Builder", "Logger"], ["Builder.create_builder_config"]]


@pytest.mark.parametrize(("version", "flags"), [("10.16.1.11", 1 << 1), ("11.4.0.106", 1 << 0)])
def test_a_strongly_typed_network_is_asked_for(version, flags, tensorrt, saved, tmp_path):
    """TensorRT 11 makes no other and ignores the flag, whose number is another there."""
    calls = tensorrt(version)
    (built,) = calib8.build(saved(float_conv()), tmp_path / "x.engine", Build(allow_float=True))
    assert only(calls, *CONFIGURED) == [["Builder.create_network", flags]]  # 1 << STRONGLY_TYPED
    sidecar = describe_engine(built.path)
    assert (sidecar.family, sidecar.target, sidecar.tensorrt_version) == ("tensorrt", "sm86", version)
    assert built.path.read_bytes() == b"an engine of TensorRT"
    assert [(t.name, t.dtype, t.shape) for t in sidecar.tensors] == [
        ("x", "float32", (-1, 3, 4, 4)),
        ("y", "float32", (-1, 2, 4, 4)),
    ]


def test_float16_scales_per_channel_of_another_tool_are_built(tensorrt, saved, tmp_path):
    """The full TensorRT scales the accumulator in FP32; for TensorRT-RTX they are refused (test_traps.py)."""
    tensorrt("10.16.1.11")
    config = Build(check_plan=False, shapes=tiny.SHAPES)
    (built,) = calib8.build(saved(tiny.half_scales()), tmp_path / "x.engine", config)
    assert (built.plan.expected, built.precision) == (1, "int8")


def test_tensorrt_11_gets_no_calibrator(tensorrt, saved, tmp_path):
    tensorrt("11.4.0.106")
    saved(float_conv())
    with pytest.raises(
        ConfigError, match=r"TensorRT 11\.4\.0\.\d+ has no calibrator: .* 11 removed them.*calib8 migrate"
    ):
        calib8.build(tmp_path / "model.onnx", tmp_path / "y.engine", Build(calibrator="minmax"), data=images(2))


def test_options_become_the_calls_that_tensorrt_documents(tensorrt, saved, tmp_path):
    calls = tensorrt("10.16.1.11")
    config = Build(
        allow_float=True,
        keep_timings=False,
        workspace_mib=3,
        optimization_level=4,
        tf32=False,
        version_compatible=True,
        exclude_lean_runtime=True,
        hardware_compatibility="ampere+",
        weight_streaming=True,
        shapes=[{"x": ("1x3x4x4", "2x3x4x4", "4x3x4x4")}, {"x": ("5x3x4x4", "6x3x4x4", "8x3x4x4")}],
    )
    (built,) = calib8.build(saved(float_conv()), tmp_path / "x.engine", config)
    told = [call for call in recorded(calls) if call[0].startswith("IBuilderConfig.")]
    assert told == [
        ["IBuilderConfig.profiling_verbosity=", "ProfilingVerbosity.DETAILED"],
        ["IBuilderConfig.set_flag", "BuilderFlag.VERSION_COMPATIBLE"],
        ["IBuilderConfig.set_flag", "BuilderFlag.EXCLUDE_LEAN_RUNTIME"],
        ["IBuilderConfig.set_flag", "BuilderFlag.WEIGHT_STREAMING"],
        ["IBuilderConfig.clear_flag", "BuilderFlag.TF32"],
        ["IBuilderConfig.hardware_compatibility_level=", "HardwareCompatibilityLevel.AMPERE_PLUS"],
        ["IBuilderConfig.set_memory_pool_limit", "MemoryPoolType.WORKSPACE", 3 << 20],
        ["IBuilderConfig.builder_optimization_level=", 4],
        ["IBuilderConfig.add_optimization_profile", "IOptimizationProfile"],
        ["IBuilderConfig.add_optimization_profile", "IOptimizationProfile"],
        ["IBuilderConfig.progress_monitor=", "Monitor"],
    ]
    sidecar = describe_engine(built.path)
    assert sidecar.options() == config.model_copy(update={"precision": "int8"}).options()
    assert [profile.max[0] for profile in sidecar.profiles] == [4, 8]


def test_another_option_is_another_engine_and_the_same_is_reused(tensorrt, saved, tmp_path, notes):
    tensorrt("10.16.1.11")
    model, output = saved(float_conv()), tmp_path / "x.engine"
    calib8.build(model, output, Build(allow_float=True))
    before = describe_engine(output).built_at, describe_engine(output)
    calib8.build(model, output, Build(allow_float=True), progress=notes)
    assert notes.messages[-1].startswith("engine is up to date")
    for change in ({"tf32": False}, {"hardware_compatibility": "same-capability"}, {"version_compatible": True}):
        notes.messages.clear()
        calib8.build(model, output, Build(allow_float=True, **change), progress=notes)
        assert not [said for said in notes.messages if "up to date" in said]
        assert describe_engine(output).options() == Options(precision="int8", **change).options() != before[1].options()


def test_the_timing_cache_is_read_extended_and_replaced_if_foreign(tensorrt, saved, tmp_path, notes):
    calls = tensorrt("10.16.1.11")
    cache, model = tmp_path / "timing.cache", saved(float_conv())
    config = Build(allow_float=True, timing_cache=cache)

    def build_anew(content):
        if content is not None:
            cache.write_bytes(content)
        calib8.build(model, tmp_path / "x.engine", config, progress=notes)
        (tmp_path / "x.engine").unlink()
        return cache.read_bytes()

    assert build_anew(None) == b"+timed"
    assert build_anew(b"known") == b"known+timed"
    assert only(calls, "IBuilderConfig.set_timing_cache")[-1][1:] == ["ITimingCache", False]
    assert not [said for said in notes.messages if "timing cache" in said]
    for foreign in (b"foreign device", b"garbage"):
        assert build_anew(foreign) == b"+timed"
        assert notes.messages[-1] == (
            f"{cache} is of another GPU or another TensorRT, or damaged: began a new timing cache"
        )
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "model.onnx",
        "modules",
        "timing.cache",
        "x.engine.json",
    ]


@pytest.mark.parametrize(
    ("algorithm", "base"), [("minmax", "IInt8MinMaxCalibrator"), ("entropy2", "IInt8EntropyCalibrator2")]
)
def test_a_calibrator_gets_every_sample_in_whole_batches(algorithm, base, tensorrt, saved, tmp_path, notes):
    calls, cache = tensorrt("10.16.1.11"), tmp_path / "calibration.cache"
    config = Build(calibrator=algorithm, calibration_cache=cache, calibration_batch=4)
    (built,) = calib8.build(saved(float_conv()), tmp_path / "x.engine", config, data=images(10), progress=notes)
    made = recorded(calls)
    assert [base] in made
    assert ["IBuilderConfig.int8_calibrator=", "Calibrator"] in made
    assert only(calls, *CONFIGURED) == [
        ["Builder.create_network", 0],  # strong typing would leave the calibrator nothing to decide
        ["IBuilderConfig.set_flag", "BuilderFlag.INT8"],
        ["IBuilderConfig.set_flag", "BuilderFlag.FP16"],
    ]
    assert only(calls, "IBuilderConfig.set_calibration_profile") == [
        ["IBuilderConfig.set_calibration_profile", "IOptimizationProfile"]
    ]
    assert [call[2] for call in made if call[0] == "batch"] == [[1, 2, 3, 4], [5, 6, 7, 8], [9, 10, 1, 2]]
    quarters = (0.25, 0.5, 0.75)
    assert notes.steps == [
        ("build for sm86", 0, 1),
        ("calibrate", 0, 3),
        *(("engine to calibrate with", share, 1) for share in (*quarters, 1)),
        *(("calibrate", batch, 3) for batch in (1, 2, 3)),
        *(("build for sm86", share, 1) for share in (*quarters, 1)),
    ]
    assert "filled the last calibration batch up with 2 of the first samples: batches are whole" in notes.messages
    assert notes.messages[-1].startswith("nobody looked whether FP16, which TensorRT takes where it is faster, holds")
    header, entry = cache.read_text().split("\n")[:2]
    assert header == ("TRT-101601-MinMaxCalibration" if algorithm == "minmax" else "TRT-101601-EntropyCalibration2")
    assert entry == f"x: {struct.pack('>f', 10 / 127).hex()}"
    assert built.plan.calibrated == (1, 3)  # of three layers one multiplies in INT8
    assert built.plan.describe() == "1 of 3 kernels in INT8, as the builder chose"
    assert describe_engine(built.path).calibration.batch == 4


def test_a_fitting_cache_is_used_instead_of_data(tensorrt, saved, tmp_path, notes):
    calls, cache, model = tensorrt("10.16.1.11"), tmp_path / "calibration.cache", saved(float_conv())
    cache.write_text(f"{HEADER}\nx: 3c010204\n")
    config = Build(calibrator="minmax", calibration_cache=cache)
    calib8.build(model, tmp_path / "x.engine", config, progress=notes)
    assert only(calls, "calibrated from cache", "batch") == [["calibrated from cache", f"{HEADER}\nx: 3c010204\n"]]
    assert {stage for stage, _, _ in notes.steps} == {"build for sm86"}
    assert [said for said in notes.messages if "nothing says which model and data" in said]
    assert [said for said in notes.messages if said.startswith(f"the scales come from {cache}")]
    before = (tmp_path / "x.engine.json").read_text()
    calib8.build(model, tmp_path / "x.engine", config, progress=notes)
    assert (tmp_path / "x.engine.json").read_text() == before  # nothing changed
    cache.write_text(f"{HEADER}\nx: 3c010205\n")
    calib8.build(model, tmp_path / "x.engine", config, progress=notes)
    assert (tmp_path / "x.engine.json").read_text() != before


@pytest.mark.parametrize("header", ["TRT-101600-MinMaxCalibration", "TRT-101601-EntropyCalibration2"])
def test_a_cache_of_another_version_or_algorithm_is_made_anew(header, tensorrt, saved, tmp_path, notes):
    calls, cache = tensorrt("10.16.1.11"), tmp_path / "calibration.cache"
    cache.write_text(f"{header}\nx: 3c010204\n")
    config = Build(calibrator="minmax", calibration_cache=cache)
    with pytest.raises(ConfigError, match=f"or a calibration cache .* that begins with '{HEADER}'"):
        calib8.build(saved(float_conv()), tmp_path / "x.engine", config)
    calib8.build(tmp_path / "model.onnx", tmp_path / "x.engine", config, data=images(3), progress=notes)
    assert f"{cache} does not begin with {HEADER}: calibrating again" in notes.messages
    assert len(only(calls, "batch")) == 1  # one batch of 8: that of the usual shape, filled up
    assert cache.read_text().startswith(HEADER)


def test_a_cache_remembers_its_model_and_data(tensorrt, saved, tmp_path, notes):
    calls, cache = tensorrt("10.16.1.11"), tmp_path / "calibration.cache"
    config, model = Build(calibrator="minmax", calibration_cache=cache), saved(float_conv())
    calib8.build(model, tmp_path / "x.engine", config, data=images(3))
    (tmp_path / "x.engine").unlink()
    written = cache.read_text()
    calib8.build(model, tmp_path / "x.engine", config, data=images(3))
    assert only(calls, "calibrated from cache") == [["calibrated from cache", written]]
    with pytest.raises(CacheError, match="was made from another data"):
        calib8.build(model, tmp_path / "y.engine", config, data=images(4))
    with pytest.raises(CacheError, match="was made from another model"):
        calib8.build(saved(float_conv(batch="other")), tmp_path / "y.engine", config, data=images(3))
    cache.unlink()
    calib8.build(model, tmp_path / "x.engine", config, data=images(4), progress=notes)
    assert not [said for said in notes.messages if "up to date" in said]
    assert cache.read_text() != written


def test_what_is_no_cache_is_not_overwritten(tensorrt, saved, tmp_path):
    tensorrt("10.16.1.11")
    (tmp_path / "notes.txt").write_text("milk, bread")
    config = Build(calibrator="minmax", calibration_cache=tmp_path / "notes.txt")
    with pytest.raises(
        CacheError, match=r"notes\.txt is not a TensorRT calibration cache: its first line is 'milk, bread'"
    ):
        calib8.build(saved(float_conv()), tmp_path / "x.engine", config, data=images(2))
    assert (tmp_path / "notes.txt").read_text() == "milk, bread"


def test_a_fixed_batch_is_kept_and_needs_no_profile(tensorrt, saved, tmp_path):
    calls = tensorrt("10.16.1.11")
    model = saved(float_conv(batch=2))
    with pytest.raises(ConfigError, match="takes batches of 2 only, got --calibration-batch 8"):
        calib8.build(model, tmp_path / "x.engine", Build(calibrator="minmax", calibration_batch=8), data=images(4))
    calib8.build(model, tmp_path / "x.engine", Build(calibrator="minmax"), data=images(4))
    assert [call[2] for call in only(calls, "batch")] == [[1, 2], [3, 4]]
    assert only(calls, "IBuilderConfig.set_calibration_profile", "IBuilderConfig.add_optimization_profile") == []


def test_sequences_are_padded_where_there_is_a_mask(tensorrt, tmp_path):
    calls = tensorrt("10.16.1.11")
    model = helper.make_model(
        helper.make_graph(
            [helper.make_node("Mul", ["input_ids", "attention_mask"], ["y"], name="mul")],
            "ids",
            [helper.make_tensor_value_info(n, 7, ["batch", "sequence"]) for n in ("input_ids", "attention_mask")],
            [helper.make_tensor_value_info("y", 7, ["batch", "sequence"])],
        ),
        opset_imports=[helper.make_opsetid("", 17)],
        ir_version=10,
    )
    onnx.save(model, tmp_path / "model.onnx")
    ragged = [{n: np.full((2, size), size) for n in ("input_ids", "attention_mask")} for size in (3, 5)]
    calib8.build(
        tmp_path / "model.onnx", tmp_path / "x.engine", Build(calibrator="entropy2", calibration_batch=2), data=ragged
    )
    given = only(calls, "IOptimizationProfile.set_shape")[-2:]
    assert [call[1] for call in given] == ["input_ids", "attention_mask"]
    assert ["Dims", [2, 5]] in recorded(calls)
    assert [call[2] for call in only(calls, "batch") if call[1] == "input_ids"] == [[3, 3], [5, 5]]


def test_data_that_cannot_be_batched_is_refused(tensorrt, saved, tmp_path):
    tensorrt("10.16.1.11")
    model, config = saved(float_conv("batch")), Build(calibrator="minmax")
    for data, message in (
        ({"z": np.ones((2, 3, 4, 4), np.float32)}, "no array for input x"),
        ({"x": np.full((2, 3, 4, 4), np.nan, np.float32)}, "NaN or infinity"),
        ({"x": np.ones((2, 3, 5, 4), np.float32)}, "size 5 on axis 2, expected 4"),
    ):
        with pytest.raises(DataError, match=message):
            calib8.build(model, tmp_path / "x.engine", config, data=data)
    with pytest.raises(ConfigError, match="data without a calibrator"):
        calib8.build(model, tmp_path / "x.engine", Build(allow_float=True), data=images(1))
    with pytest.raises(ModelError, match="has Q/DQ nodes already, and TensorRT would ignore the calibrator"):
        calib8.build(saved(tiny.conv_net()), tmp_path / "x.engine", config, data=images(1))


def test_too_little_gpu_memory_ends_calibration_with_its_reason(tensorrt, saved, tmp_path, monkeypatch):
    """An exception inside a callback reaches nobody; TensorRT would take the data it has for all of it."""
    tensorrt("10.16.1.11")
    monkeypatch.setenv("CUDA_DOUBLE_BYTES", "100")
    config = Build(calibrator="minmax", calibration_cache=tmp_path / "calibration.cache")
    with pytest.raises(SetupError, match=r"allocating 1,536 bytes failed on NVIDIA A10: out of memory.*smaller batch"):
        calib8.build(saved(float_conv()), tmp_path / "x.engine", config, data=images(9))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model.onnx", "modules"]


def test_a_full_tensorrt_is_held_to_its_plan_too(tensorrt, saved, tmp_path):
    tensorrt("10.16.1.11")
    output = tmp_path / "x.engine"
    with pytest.raises(PlanMismatch, match="runs 1 of 2 quantised ops in INT8") as missed:
        calib8.build(saved(tiny.conv_net()), output)
    assert [engine.path for engine in missed.value.built] == [output]
    assert describe_engine(output).plan.passed is False


def test_every_option_is_refused_by_name_where_it_is_missing():
    rtx = TensorRT("rtx", double())
    for name in ("optimization_level", "version_compatible", "hardware_compatibility", "timing_cache", "device"):
        option = name.replace("_", "-")
        with pytest.raises(ConfigError, match=rf"has no {name} \(--{option}\): "):
            rtx.require({name: 1})
    assert TensorRT("tensorrt", double()).require({"calibrator": "minmax", "timing_cache": "x"}) is None
    with pytest.raises(ConfigError, match="calibrators exist in TensorRT 10 only"):
        TensorRT("tensorrt", double("11.4.0.106")).require({"calibrator": "minmax"})


def test_combinations_that_contradict_themselves_are_refused():
    with pytest.raises(ConfigError, match="choose a calibrator"):
        Build(calibration_batch=3)
    with pytest.raises(ConfigError, match="has a lean runtime to exclude"):
        Build(exclude_lean_runtime=True)
    with pytest.raises(ConfigError, match="a timing cache, and that no timings are to be kept"):
        Build(timing_cache="x", keep_timings=False)
    with pytest.raises(ConfigError, match="weight streaming needs a strongly typed network"):
        Build(calibrator="minmax", weight_streaming=True)


def test_the_plan_of_a_calibrated_engine_reads_back():
    plan = PlanCheck(target="sm86", expected=0, covered=0, planned_kernels=0, calibrated=(1, 3))
    assert PlanCheck.model_validate(json.loads(plan.model_dump_json())) == plan
    assert plan.raise_for_failure() is None


def test_the_command_line_calibrates(tensorrt, saved, tmp_path, monkeypatch, capsys):
    calls = tensorrt("10.16.1.11")
    model, cache, data = saved(float_conv()), tmp_path / "calibration.cache", tmp_path / "calib_data"
    data.mkdir()
    np.save(data / "x.npy", images(4)["x"])
    options = f"--calibrator entropy2 --data {data} --cache {cache} --batch 2 --timing-cache {tmp_path / 'timings'} -q"
    monkeypatch.setattr("sys.argv", ["calib8", "build", str(model), "-o", str(tmp_path / "x.engine"), *options.split()])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code in (0, None)
    assert capsys.readouterr().out.split(": ")[1] == "21 bytes, 1 of 3 kernels in INT8, as the builder chose\n"
    assert [call[2] for call in only(calls, "batch")] == [[1, 2], [3, 4]]
    assert cache.read_text().startswith("TRT-101601-EntropyCalibration2\nx: ")
    assert (tmp_path / "timings").read_bytes() == b"+timed"


def test_what_all_families_are_asked_for_is_in_tensorrt_rtx():
    """RTX lacks what TensorRT 11 removed: none of that is used but a calibrator's part, which ``family`` guards."""
    rtx = pytest.importorskip("tensorrt_rtx", reason="needs pip install tensorrt-rtx")
    folder = Path(runtime.__file__).parent
    sources = [*folder.glob("*.py"), Path(worker.__file__), Path(family.__file__)]
    used = {name for source in sources for name in re.findall(r"\.(\w+)", source.read_text(encoding="utf-8"))}
    module, asked = double(), 0
    for owner in ("Builder", "IBuilderConfig", "ICudaEngine", "IExecutionContext", "Runtime", "OnnxParser"):
        names = used & set(dir(getattr(module, owner)))
        missing = names - set(dir(getattr(rtx, owner))) - {"initialised"}  # the double's own
        assert missing <= {"int8_calibrator", "set_calibration_profile"}
        asked += len(names)
    assert asked > 30
