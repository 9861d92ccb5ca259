"""TensorRT 10 and 11 tell of their engines through an inspector, which calib8 prefers to the log."""

import engine_models as tiny
import pytest
from plan_text import as_json
from trt_builds import CRASH, recorded
from trt_double import needs_bindings

import calib8
from calib8.engine.config import Build
from calib8.engine.layers import Layer

pytestmark = needs_bindings


def both_in_int8():
    """What an inspector would tell of the same engine if both convolutions were in INT8."""
    int8 = "sm80_xmma_fprop_implicit_gemm_interleaved_i8f16_i8i32_f32_nchw"
    return as_json([Layer(node, "CaskConvolution", int8, nodes=(node,)) for node in ("conv0", "conv1")])


def test_the_inspector_is_asked_before_the_log(tensorrt, saved, tmp_path):
    """The log says that one of two is in INT8."""
    calls = tensorrt("10.16.1.11", inspected=both_in_int8())
    (built,) = calib8.build(saved(tiny.conv_net()), tmp_path / "x.engine")
    assert (built.plan.covered, built.plan.planned_kernels, built.plan.passed) == (2, 2, True)
    names = ("IBuilderConfig.profiling_verbosity=", "EngineInspector.get_engine_information")
    assert [call[1] for call in recorded(calls) if call[0] in names] == [
        "ProfilingVerbosity.DETAILED",
        "LayerInformationFormat.JSON",
    ]


@pytest.mark.parametrize("inspected", [None, "", '{"Layers": ["conv0", "conv1"]}', CRASH], ids=str)
def test_an_inspector_that_tells_nothing_costs_no_engine(inspected, tensorrt, saved, tmp_path):
    tensorrt("10.16.1.11", inspected=inspected)
    (built,) = calib8.build(saved(tiny.conv_net()), tmp_path / "x.engine", Build(allow_float_ops=1))
    assert (built.plan.covered, built.plan.missing, built.plan.passed) == (1, ("conv1",), True)
    assert built.path.read_bytes() == b"an engine of TensorRT"
