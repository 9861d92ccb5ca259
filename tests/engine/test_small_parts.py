"""Targets, phases and failure messages."""

from pathlib import Path

import onnx_ir as ir
import pytest
from engine_models import Trap, conv_net, gemm_transposed, one_gemm, qkv

from calib8.engine.failures import build_error
from calib8.engine.phases import Phases, Stages
from calib8.engine.process import BuildLog, Outcome
from calib8.engine.quantized import conditioning_chains, quantized_ops
from calib8.engine.targets import describe, parse_targets, path_for, require_known
from calib8.errors import ProfileError


def test_targets_are_parsed():
    assert parse_targets("sm75, SM86,sm86") == ("sm75", "sm86")
    assert parse_targets(["sm120"]) == ("sm120",)
    with pytest.raises(ProfileError, match="no build target given"):
        parse_targets(" ,")
    with pytest.raises(
        ProfileError, match=r"unknown build target 'sm90'\. RTX builds for: sm86 \(Ampere: .*\); sm200\."
    ):
        require_known(("sm86", "sm90"), ("sm86", "sm200"), "RTX")
    assert describe("sm75").startswith("sm75 (Turing")


def test_one_target_keeps_the_file_name_and_several_get_their_own():
    assert path_for(Path("a/mpnet-int8.engine"), "sm75", ("sm75",)) == Path("a/mpnet-int8.engine")
    assert path_for(Path("a/mpnet-int8.engine"), "sm75", ("sm75", "sm86")) == Path("a/mpnet-int8.sm75.engine")
    assert path_for(Path("plain"), "sm86", ("sm75", "sm86")) == Path("plain.sm86")


def test_phases_make_one_fraction():
    phases = Phases()
    phases.start("build", None, 4)
    assert phases.step("build", 0) == 0.25
    phases.start("inner", "build", 2)
    assert phases.step("inner", 0) == 0.375
    phases.finish("inner")
    assert phases.step("build", 1) == 0.5
    assert phases.step("unknown", 3) == 0.5
    phases.start("empty", "build", 0)
    assert phases.step("empty", 0) == 0.75
    assert phases.step("build", 0) == 0.75  # never falls


def test_phases_begin_anew_with_what_is_left():
    phases = Phases()
    phases.start("build", None, 4)
    assert phases.step("build", 1) == 0.5
    phases.begin_anew()
    phases.start("inner", "build", 2)
    assert phases.step("inner", 0) == 0.25  # 5/8 of all, and so an eighth of the half that was left
    assert phases.step("build", 3) == 1
    phases.begin_anew()
    assert phases.step("build", 3) == 1  # nothing is left
    for phase in ("inner", "build"):
        phases.finish(phase)
    phases.begin_anew()
    phases.start("build", None, 2)
    assert phases.step("build", 0) == 0.5


def test_calibration_and_build_may_be_phases_of_one_tree():
    told = []
    stages = Stages("build", lambda *step: told.append(step))
    stages.phases.start("all", None, 4)
    stages.step("all", 0)
    stages.calibrates(2)
    stages.step("all", 1)
    for done in (1, 2):
        stages.batch(done, 2)
    stages.step("all", 2)
    stages.step("all", 3)  # that the build is done, its caller says
    assert told == [
        ("build", 0.25, 1),
        ("calibrate", 0, 2),
        ("engine to calibrate with", 0.33, 1),
        ("engine to calibrate with", 1, 1),
        ("calibrate", 1, 2),
        ("calibrate", 2, 2),
        ("build", 0.5, 1),
    ]


def test_ops_are_read_from_the_graph():
    (op,) = quantized_ops(ir.from_proto(one_gemm()))
    assert (op.name, op.kind, op.weight, op.weight_elements, op.hint) == ("mm", "MatMul", "w_codes", 64 * 128, None)
    assert [op.name for op in quantized_ops(ir.from_proto(qkv()))] == ["to_q", "to_k", "to_v", "to_out"]
    for model in (conv_net(), gemm_transposed()):
        assert [op.hint for op in quantized_ops(ir.from_proto(model))] in ([None, None], [None])
    assert quantized_ops(ir.from_proto(one_gemm(Trap(quantised_weight=False, quantised_activation=False)))) == []


@pytest.mark.parametrize("op_type", ["DequantizeLinear", "Reshape", "QuantizeLinear"])
def test_operators_of_other_domains_are_not_taken_for_onnx_s(op_type: str):
    model = ir.from_proto(one_gemm())
    foreign = ir.node(op_type, inputs=[], domain="foreign")  # whoever reads the input of ONNX's finds none
    model.graph.insert_before(model.graph[0], foreign)
    (gemm,) = (node for node in model.graph if node.op_type == "MatMul")
    if op_type == "QuantizeLinear":
        gemm.inputs[1].producer().replace_input_with(0, foreign.outputs[0])
    else:
        gemm.replace_input_with(1, foreign.outputs[0])
    assert [(op.name, op.weight_elements) for op in quantized_ops(model)] == [("mm", 0)]
    assert conditioning_chains(model) == []


def refused(*reasons: str, log: tuple[tuple[str, str], ...] = ()) -> str:
    outcome = Outcome(BuildLog(list(log)), 0, refused=list(reasons))
    return str(build_error(outcome, Path("m.onnx"), "sm86", "TensorRT-RTX 1.7"))


def test_a_failure_names_node_and_remedy_once_and_hides_cuda_noise():
    noise = "[checkMacros.cpp::catchCudaError::250] Error Code 1: Cuda Runtime (cudaError 35: CUDA driver version)"
    text = refused(
        f"In node 4 with name: mmb and operator: Add: must have same input types\n{noise}",
        log=(("ERROR", noise), ("ERROR", "something\nbroke"), ("ERROR", "something\nbroke"), ("INFO", "fine")),
    )
    assert text == (
        "TensorRT-RTX 1.7 did not build m.onnx for sm86 (Ampere: A10, A40, RTX 30): In node 4 with name: mmb and "
        "operator: Add: must have same input types | something broke. ONNX node: mmb. Remedy: the network is strongly "
        "typed: put a Cast where float16 and float32 meet."
    )


def test_a_failure_without_a_reason_says_so():
    assert refused().endswith("it gave no reason. Build again with a log file and look there for the first error.")
