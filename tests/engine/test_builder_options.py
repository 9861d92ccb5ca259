"""Builder options with TensorRT-RTX: what it takes is built, what it takes without doing it is refused."""

import json

import engine_models as tiny
import pytest
from engine_models import SHAPES

import calib8
from calib8.engine import build
from calib8.engine.arithmetic import multiplies
from calib8.engine.build import build_engine
from calib8.engine.config import Build
from calib8.engine.options import Options
from calib8.engine.sidecar import describe_engine, fitting_target, read_sidecar, sidecar_path, why_not_here
from calib8.errors import BuildError, ConfigError, PlanMismatch, ProfileError
from calib8.gpu.hardware import Gpu

trt = pytest.importorskip("tensorrt_rtx", reason="needs pip install tensorrt-rtx")

QUICK = Build(targets="sm86", shapes=SHAPES)
T4, A10, L4, H100 = (
    Gpu(f"NVIDIA {n}", t) for n, t in (("T4", "sm75"), ("A10", "sm86"), ("L4", "sm89"), ("H100", "sm90"))
)


def test_one_engine_for_several_architectures(saved, tmp_path):
    single, joint = build_engine(
        saved(tiny.mlp()), tmp_path / "x.engine", Build(targets="sm86,SM120+sm75", shapes=SHAPES)
    )
    assert (joint.target, joint.path.name) == ("sm75+sm120", "x.sm75+sm120.engine")
    assert (joint.plan.expected, joint.plan.covered) == (3, 3)
    assert joint.size_bytes < 1.1 * single.size_bytes  # one engine, compiled where it runs: not one engine for each
    sidecar = describe_engine(joint.path)
    assert (fitting_target(sidecar, (A10, T4)), fitting_target(sidecar, (A10, L4))) == ("sm75", None)
    assert why_not_here(sidecar, (T4,)) is None
    assert "runs on sm75+sm120 (Turing: T4, RTX 20; Blackwell" in (why_not_here(sidecar, (A10,)) or "")
    assert "does not run on NVIDIA H100" in (why_not_here(sidecar, (H100,)) or "")


def test_such_an_engine_plans_what_its_weakest_member_can(saved, tmp_path):
    with pytest.raises(
        PlanMismatch, match=r"sm75\+sm86 .* runs 0 of 2 .*conv0, conv1: TensorRT-RTX has no INT8 convolution"
    ):
        build_engine(saved(tiny.conv_net()), tmp_path / "x.engine", Build(targets="sm75+sm86"))
    (built,) = build_engine(tmp_path / "model.onnx", tmp_path / "x.engine", Build(targets="sm86+sm89+sm120"))
    assert built.plan.covered == 2
    with pytest.raises(BuildError, match=r"for sm75\+sm86 .*FP32 GEMM is not supported.* ONNX node: plain\."):
        build_engine(saved(tiny.fp32_gemm()), tmp_path / "y.engine", Build(targets="sm75+sm86", allow_float=True))
    with pytest.raises(ProfileError, match="unknown build target 'sm90'"):
        build_engine(saved(tiny.mlp()), tmp_path / "z.engine", Build(targets="sm86+sm90"))


def test_every_profile_is_built_checked_and_told(saved, tmp_path):
    two = Build(targets="sm86", shapes=[{"x": ("1x64", "8x64", "32x64")}, {"x": ("33x64", "64x64", "128x64")}])
    (built,) = build_engine(saved(tiny.qkv()), tmp_path / "x.engine", two)
    assert (built.plan.expected, built.plan.covered, built.plan.planned_kernels) == (4, 4, 2)
    assert [str(profile) for profile in describe_engine(built.path).profiles] == [SHAPES[0], "x:33x64:64x64:128x64"]
    (one,) = build_engine(tmp_path / "model.onnx", tmp_path / "y.engine", QUICK)
    assert built.size_bytes > one.size_bytes  # kernels of its own for each profile


def test_a_profile_that_is_not_in_int8_is_missed(saved, tmp_path, monkeypatch):
    """The kernels of the second profile are there, but in float: the first alone does not make it right."""

    def second_in_float(messages):
        return [
            layer
            for layer in real(messages)
            if not (multiplies(layer, "int8") and "[profile 1]" in layer.name and layer.computes("mm1"))
        ]

    real = build.layers_from_log
    monkeypatch.setattr(build, "layers_from_log", second_in_float)
    two = Build(targets="sm86", shapes=(*SHAPES, "x:33x64:64x64:128x64"))
    with pytest.raises(PlanMismatch, match=r"runs 2 of 3 quantised ops in INT8\. Not in INT8: mm1"):
        build_engine(saved(tiny.mlp()), tmp_path / "x.engine", two)


@pytest.mark.parametrize("change", [{"tf32": False}, {"weight_streaming": True}], ids=str)
def test_what_rtx_takes_changes_the_engine_and_is_recorded(change, saved, tmp_path, notes):
    plain = Build(targets="sm86", shapes=SHAPES, allow_float=True)
    path, output = saved(tiny.fp32_gemm()), tmp_path / "x.engine"
    build_engine(path, output, plain)
    before = output.read_bytes()
    build_engine(path, output, plain.model_copy(update=change), progress=notes)
    assert notes.messages == [f"building again: the options changed since {output} was built"]  # not reused
    assert output.read_bytes() != before
    assert describe_engine(output).options() == Options(precision="int8", **change).options()


@pytest.mark.parametrize(
    ("change", "instead"),
    [
        (
            {"optimization_level": 5},
            r"has no optimization_level \(--optimization-level\): it builds the same engine at every level",
        ),
        ({"version_compatible": True}, "TensorRT 10 and 11 have this option"),
        ({"hardware_compatibility": "ampere+"}, r"asked for as sm80\+sm86"),
        ({"timing_cache": "timings"}, "it times nothing while it builds"),
        (
            {"calibrator": "minmax"},
            "TensorRT-RTX .* has no calibrator: .*`calib8 migrate calibration.cache model.onnx`",
        ),
    ],
    ids=str,
)
def test_what_rtx_lacks_is_refused_with_what_to_do_instead(change, instead, saved, tmp_path):
    with pytest.raises(ConfigError, match=instead):
        calib8.build(saved(tiny.mlp()), tmp_path / "x.engine", Build(targets="sm86", **change))
    assert [path.name for path in tmp_path.iterdir()] == ["model.onnx"]


@pytest.mark.filterwarnings("ignore:.*timing:DeprecationWarning", "ignore:.*Timing cache:DeprecationWarning")
def test_rtx_does_not_do_what_calib8_refuses():
    """If TensorRT-RTX begins to, the refusals of ``family.RTX_LACKS`` can go."""
    proto, logger = tiny.mlp(1).SerializeToString(), trt.Logger(trt.Logger.INTERNAL_ERROR)

    def built(configure):
        builder = trt.Builder(logger)
        network = builder.create_network(1)
        trt.OnnxParser(network, logger).parse(proto)
        config = builder.create_builder_config()
        config.num_compute_capabilities = 1
        config.set_compute_capability(trt.ComputeCapability.SM86, 0)
        profile = builder.create_optimization_profile()
        profile.set_shape("x", (1, 64), (8, 64), (32, 64))
        config.add_optimization_profile(profile)
        configure(config)
        engine = builder.build_serialized_network(network, config)
        return None if engine is None else bytes(engine)

    def with_timings(config):
        caches.append(config.create_timing_cache(b""))
        config.set_timing_cache(caches[0], False)
        caches.append(bytes(caches[0].serialize()))

    caches = []
    plain = built(lambda config: None)
    assert plain == built(lambda config: setattr(config, "builder_optimization_level", 0))
    assert plain == built(lambda config: setattr(config, "builder_optimization_level", 5))
    level = trt.HardwareCompatibilityLevel.AMPERE_PLUS
    assert plain == built(lambda config: setattr(config, "hardware_compatibility_level", level))
    assert built(lambda config: config.set_flag(trt.BuilderFlag.VERSION_COMPATIBLE)) is None
    assert plain == built(with_timings)
    assert bytes(caches[0].serialize()) == caches[1]  # nothing was timed
    assert not hasattr(trt, "IInt8MinMaxCalibrator")


def test_a_sidecar_without_the_newer_options_is_read(saved, tmp_path):
    (built,) = build_engine(saved(tiny.mlp()), tmp_path / "x.engine", QUICK)
    path = sidecar_path(built.path)
    content = json.loads(path.read_text())
    for name in (
        "tf32",
        "version_compatible",
        "hardware_compatibility",
        "weight_streaming",
        "calibrator",
        "calibration",
    ):
        del content[name]
    path.write_text(json.dumps(content))
    assert read_sidecar(path).options() == Options(precision="int8").options()


def test_ampere_compatible_engines_run_on_everything_from_ampere_on(saved, tmp_path):
    (built,) = build_engine(saved(tiny.mlp()), tmp_path / "x.engine", QUICK)
    sidecar = describe_engine(built.path).model_copy(
        update={"family": "tensorrt", "hardware_compatibility": "ampere+", "target": "sm86"}
    )
    assert [sidecar.fits(gpu.target) for gpu in (T4, A10, L4, H100)] == [False, True, True, True]
    assert "sm86 (Ampere: A10, A40, RTX 30) and everything from Ampere on" in (why_not_here(sidecar, (T4,)) or "")
