"""Every silent trap of TensorRT that a quantised model can contain, built for real."""

import engine_models as tiny
import numpy as np
import onnx_ir as ir
import pytest
from engine_models import SHAPES, Trap

from calib8.engine.build import build_engine
from calib8.engine.config import Build
from calib8.engine.quantized import quantized_ops
from calib8.engine.sidecar import describe_engine
from calib8.errors import BuildError, ModelError, PlanMismatch
from calib8.progress import Quiet

pytest.importorskip("tensorrt_rtx", reason="needs pip install tensorrt-rtx")

TARGETS = ("sm75", "sm86", "sm89", "sm120")
SILENT = {
    "weight scales along K": (Trap(weight_axis=0), "run along axis 0; output channels are axis 1"),
    "activation scale per channel": (Trap(activation_scale=np.full(64, 0.03)), "has 64 activation scales"),
    "float weight": (Trap(quantised_weight=False), "second input is not quantised"),
    "float activation": (Trap(quantised_activation=False), "its activation .* has no QuantizeLinear"),
    "scale computed at run time": (Trap(runtime_scale=True), "computed at run time"),
}
REFUSED = {
    "uint8 zero point": (Trap(zero_point_type=np.uint8), "uses uint8; write an int8 zero point of 0"),
    "no zero point": (Trap(zero_point_type=None), "uses uint8; write an int8 zero point of 0"),
    "other zero point": (Trap(zero_point=3), "zero point other than 0"),
    "scale 0": (Trap(activation_scale=0.0), "zero, negative or not finite"),
    "negative scale": (Trap(activation_scale=-0.1), "zero, negative or not finite"),
    "NaN scale": (Trap(activation_scale=np.nan), "zero, negative or not finite"),
}


class Notes(Quiet):
    def __init__(self):
        self.said = []

    def note(self, message):
        self.said.append(message)


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("name", SILENT)
def test_silent_dequantisation_is_found_and_named(name, target, saved, tmp_path):
    trap, reason = SILENT[name]
    with pytest.raises(PlanMismatch, match=rf"runs 0 of 1 quantised ops in INT8. Not in INT8: mm: .*{reason}"):
        build_engine(saved(tiny.one_gemm(trap)), tmp_path / "x.engine", Build(targets=target, shapes=SHAPES))
    plan = describe_engine(tmp_path / "x.engine").plan  # kept, and marked
    assert (plan.passed, plan.missing) == (False, ("mm",))


@pytest.mark.parametrize("name", SILENT)
def test_these_traps_are_silent_without_the_plan_check(name, saved, tmp_path):
    """If TensorRT starts to run or refuse one of them, the check for it can go."""
    config = Build(targets="sm86", shapes=SHAPES, check_plan=False)
    notes = Notes()
    (built,) = build_engine(saved(tiny.one_gemm(SILENT[name][0])), tmp_path / "x.engine", config, progress=notes)
    assert notes.said == ["1 of 1 quantised ops will not run in INT8."]
    assert built.plan.missing == ("mm",)
    assert built.path.is_file()


@pytest.mark.parametrize("name", REFUSED)
def test_what_tensorrt_refuses_or_misreads_is_refused_before_it(name, saved, tmp_path):
    trap, reason = REFUSED[name]
    with pytest.raises(ModelError, match=rf"QuantizeLinear 'x_q_QuantizeLinear' .*{reason}"):
        build_engine(saved(tiny.one_gemm(trap)), tmp_path / "x.engine", Build(targets="sm86", shapes=SHAPES))


def test_uint8_weights_and_int32_biases_are_refused(saved, tmp_path):
    for dtype, advice in ((np.uint8, "uint8; write an int8"), (np.int32, "int32; .* leave biases in float")):
        graph = tiny.Graph()
        codes = [graph.constant("codes", np.ones((64, 128), dtype)), graph.constant("scale", np.float32(0.1))]
        w = graph.cast(graph.node("DequantizeLinear", codes, "w"), 10)
        graph.node("MatMul", [graph.pair("x"), w], "y", name="mm")
        with pytest.raises(ModelError, match=f"DequantizeLinear 'w_DequantizeLinear' uses {advice}"):
            build_engine(saved(graph.model({"x": ["rows", 64]}, {"y": ["rows", 128]})), tmp_path / "x.engine")


def test_float16_scales_per_channel_are_refused(saved, tmp_path):
    with pytest.raises(ModelError, match="float16 scales per channel, with which TensorRT-RTX overflows"):
        build_engine(saved(tiny.half_scales()), tmp_path / "x.engine")


def test_softmax_output_alone_is_dequantised_and_both_inputs_are_not(saved, tmp_path):
    shapes = dict.fromkeys(("x", "v"), ("1x4x64x64", "2x4x64x64", "4x4x64x64"))
    config = Build(targets="sm86", shapes=shapes)
    with pytest.raises(PlanMismatch, match="pv: its second input is not quantised"):
        build_engine(saved(tiny.attention(softmax=True, values=False)), tmp_path / "x.engine", config)
    (built,) = build_engine(saved(tiny.attention(softmax=True, values=True)), tmp_path / "x.engine", config)
    assert (built.plan.expected, built.plan.covered) == (1, 1)


def test_fp32_gemm_is_refused_for_turing_with_node_and_remedy(saved, tmp_path):
    model = saved(tiny.fp32_gemm())
    with pytest.raises(
        BuildError, match=r"sm75 \(Turing.*FP32 GEMM is not supported.*ONNX node: plain\. Remedy: .*FP16 remainder"
    ):
        build_engine(model, tmp_path / "x.engine", Build(targets="sm75", shapes=SHAPES, allow_float=True))
    (built,) = build_engine(model, tmp_path / "x.engine", Build(targets="sm86", shapes=SHAPES, allow_float=True))
    assert built.plan.expected == 0


def test_turing_has_no_int8_convolution(saved, tmp_path):
    with pytest.raises(
        PlanMismatch,
        match=r"Not in INT8: conv0, conv1: TensorRT-RTX has no INT8 convolution for Turing\. Leave this target out",
    ):
        build_engine(saved(tiny.conv_net()), tmp_path / "x.engine", Build(targets="sm75"))


def test_gather_from_int8_before_dequantising_is_refused_with_remedy(saved, tmp_path):
    graph = tiny.Graph()
    rows = graph.node("Gather", [graph.constant("table", np.ones((100, 64), np.int8)), "ids"], "rows")
    grid = [graph.constant("scale", np.float32(0.1)), graph.constant("zp", np.int8(0))]
    graph.cast(graph.node("DequantizeLinear", [rows, *grid], "y"), 10)
    model = graph.model({"ids": ["batch", "sequence"]}, {"y_cast10": ["batch", "sequence", 64]})
    model.graph.input[0].type.tensor_type.elem_type = 7
    with pytest.raises(BuildError, match="Remedy: put DequantizeLinear right behind every int8 constant"):
        build_engine(saved(model), tmp_path / "x.engine", Build(targets="sm86", allow_float=True))


@pytest.mark.parametrize("name", ["a\nb", "a][ONNX Layer: b]", "a]\x1eb", "a]\x1fb"])
def test_names_that_would_confuse_the_plan_are_refused(name):
    with pytest.raises(ModelError, match="unique, plain names"):
        quantized_ops(ir.from_proto(tiny.one_gemm(name=name)))


def test_repeated_names_are_refused():
    model = tiny.mlp(2)
    for node in model.graph.node:
        node.name = "same" if node.op_type == "MatMul" else node.name
    with pytest.raises(ModelError, match=r"unique, plain names, .* got 'same'"):
        quantized_ops(ir.from_proto(model))
