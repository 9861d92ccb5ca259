from pathlib import Path

import pytest

from calib8.engine.arithmetic import multiplies
from calib8.engine.layers import Layer, Tensor
from calib8.engine.layers_log import layers_from_log
from calib8.engine.plan_check import PlanCheck, check_plan
from calib8.engine.quantized import Chain, QuantizedOp
from calib8.errors import PlanMismatch

MPNET = (Path(__file__).parent / "data" / "mpnet_sm86_plan.txt").read_text()
CONDITIONED = (Path(__file__).parent / "data" / "conditioned_sm86_plan.txt").read_text()
ATTENTION = "/m/encoder/layer.0/attention/attn"
FEED_FORWARD = "/m/encoder/layer.0"


def op(name: str, elements: int = 768 * 768, kind: str = "MatMul", hint: str | None = None) -> QuantizedOp:
    return QuantizedOp(name, kind, f"{name}.weight", elements, hint)


def kernel(kind: str, inputs: list[str], constants: list[str], nodes: str, extra: str = "") -> str:
    def tensors(types: list[str]) -> str:
        return ", ".join(
            f"{{ Name: t, Dimensions: [8,8], {kind}: {name} }}" for kind, name in (t.split("=") for t in types)
        )

    return (
        f"Layers:\nName: k, LayerType: {kind}, Inputs: [ {tensors(inputs)}], Constants: [ {tensors(constants)}], "
        f"Outputs: [], {extra}StreamId: 0, Metadata: {nodes}"
    )


def test_a_real_plan_is_read():
    layers = layers_from_log(["something else", MPNET])
    assert [layer.kind for layer in layers] == ["gemm", "kgen", "kgen", "gemm", "gemm", "gemm"]
    merged = layers[0]
    assert merged.name == f"{ATTENTION}/v/MatMul+{ATTENTION}/k/MatMul+{ATTENTION}/q/MatMul_myl1_4"
    assert merged.inputs == (Tensor((-1, 768), "Int8"),)
    assert merged.constants[0] == Tensor((768, 2304), "Int8")
    assert merged.tactic == "__myelin_CASK_STUB"
    assert [multiplies(layer, "int8") for layer in layers] == [True, False, False, True, True, True]


def test_merged_gemms_count_once_as_kernels_and_each_as_ops():
    ops = [op(f"{ATTENTION}/{part}/MatMul") for part in "qkvo"]
    ops += [op(f"{FEED_FORWARD}/{part}/dense/MatMul", 768 * 3072) for part in ("intermediate", "output")]
    check = check_plan(ops, layers_from_log([MPNET]), "sm86")
    assert check == PlanCheck(target="sm86", expected=6, covered=6, planned_kernels=4)
    check.raise_for_failure()


def test_an_op_that_only_a_float_kernel_computes_is_missing_and_named():
    scores = f"{ATTENTION}/MatMul"
    assert f"[ONNX Layer: {scores}]" in MPNET
    check = check_plan([op(scores, hint="a reason"), op(f"{ATTENTION}/o/MatMul")], layers_from_log([MPNET]), "sm86")
    assert (check.expected, check.covered, check.missing) == (2, 1, (scores,))
    with pytest.raises(PlanMismatch, match=rf"1 of 2 quantised ops in INT8\. Not in INT8: {scores}: a reason\."):
        check.raise_for_failure()


def test_a_kernel_without_room_for_all_weights_covers_none_of_its_ops():
    """Two of the three merged weights: one must be elsewhere, and the plan does not tell which."""
    small = MPNET.replace("Dimensions: [768,2304]", "Dimensions: [768,1536]")
    ops = [op(f"{ATTENTION}/{part}/MatMul") for part in "qkv"]
    assert check_plan(ops, layers_from_log([small]), "sm86").missing == tuple(entry.name for entry in ops)


def test_a_name_inside_another_name_is_no_match():
    assert not check_plan([op("MatMul")], layers_from_log([MPNET]), "sm86").covered


def test_no_plan_covers_nothing():
    check = check_plan([op("a"), op("b", hint="not this")], layers_from_log(["no layers here"]), "sm86")
    assert check.missing == ("a", "b")
    assert set(check.reasons.values()) == {"TensorRT told of no kernels, so nothing shows what runs in INT8"}


@pytest.mark.parametrize(
    ("text", "int8"),
    [
        (kernel("gemm", ["Datatype=Int8"], ["Datatype=Int8"], "[ONNX Layer: a]"), True),
        (kernel("gemm", ["Datatype=Int8", "Datatype=Int8"], [], "[ONNX Layer: a]"), True),
        (kernel("gemm", ["Datatype=Half"], ["Datatype=Int8"], "[ONNX Layer: a]"), False),
        (kernel("gemm", ["Datatype=UInt8"], ["Datatype=Int8"], "[ONNX Layer: a]"), False),
        (kernel("runtime_fusion", ["Datatype=Int8"], ["Datatype=Int8"], "[ONNX Layer: a]"), False),
        (kernel("correlation", ["Datatype=Int8"], ["Datatype=Int8"], "[ONNX Layer: a]"), True),
        (kernel("correlation", ["Datatype=Half"], ["Datatype=Half"], "[ONNX Layer: a]"), False),
        (kernel("gemm", ["Format/Datatype=Int8", "Format/Datatype=Int8"], [], "[ONNX Layer: a]"), True),
        (
            kernel(
                "CaskConvolution",
                ["Format/Datatype=Channel major INT8 Int8"],
                [],
                "[ONNX Layer: a]",
                'Weights: {"Type": "Int8", "Count": 64}, ',
            ),
            True,
        ),
        (kernel("fusion", [], [], "[ONNX Layer: a]", "TacticName: sm80_xmma_gemm_i8i8_i8i32_f32_tn, "), True),
        (kernel("fusion", [], [], "[ONNX Layer: a]", "TacticName: sm80_xmma_gemm_f16f16_f16f32, "), False),
        (kernel("fusion", [], [], "[ONNX Layer: a]", "Origin: i8i8, TacticName: sm80_xmma_gemm_f16f16, "), False),
    ],
)
def test_which_kernels_are_int8_in_any_family(text, int8):
    (layer,) = layers_from_log([text])
    assert multiplies(layer, "int8") is int8
    assert check_plan([op("a", 1)], [layer], "sm86").covered == int8


def test_a_long_list_of_missing_ops_is_shortened():
    other = layers_from_log([kernel("gemm", [], [], "[ONNX Layer: another]")])
    check = check_plan([op(f"op{index}") for index in range(9)], other, "sm120")
    expected = r"sm120 \(Blackwell.*runs 0 of 9 .*: op0, .*, op4 and 4 more: no kernel of the plan names it"
    with pytest.raises(PlanMismatch, match=expected):
        check.raise_for_failure()


def test_turing_convolutions_are_explained_for_rtx_only():
    conv, layer = op("c", kind="Conv"), Layer("k", "correlation", nodes=("c",))
    assert "no INT8 convolution for Turing" in check_plan([conv], [layer], "sm75").reasons["c"]
    assert "no INT8 convolution" not in check_plan([conv], [layer], "sm75", rtx=False).reasons["c"]


def chain(source: str, tensor: str, *, cast: bool = False, kinds: str = "Sub Gather Mul") -> Chain:
    """A chain under the names that ``condition`` gives it."""
    suffixes = {"Sub": "shift_Sub", "Gather": "index_Gather", "Mul": "multiplier_Mul"}
    return Chain(
        source=source,
        normalised=source.endswith("LayerNormalization"),
        cast=f"{tensor}_to_float_Cast" if cast else "",
        nodes=tuple(f"{tensor}_{suffixes[kind]}" for kind in kinds.split()),
        quantize=f"{tensor}_multiplier_applied_QuantizeLinear",
    )


NORM = "/embeddings/LayerNorm/LayerNormalization"
CONTEXT = "/encoder/layer.0/attention/attn/Reshape_3"
GELU = "/encoder/layer.0/intermediate/intermediate_act_fn/Mul_1"
CHAINS = [
    chain(NORM, f"{NORM}_output_0"),
    chain(CONTEXT, f"{CONTEXT}_output_0", cast=True),
    chain(GELU, f"{GELU}_output_0", cast=True),
]


def test_conditioning_is_fused_on_a_real_plan_that_names_no_mul() -> None:
    assert "multiplier_Mul]" not in CONDITIONED
    check = check_plan([], layers_from_log([CONDITIONED]), "sm86", chains=CHAINS)
    assert (check.conditioning, check.unfused, check.divided) == (9, (), (NORM,))
    assert check.describe_conditioning() == "9 of 9 nodes before Q fused; 1 norm takes a second kernel"
    check.raise_for_failure()


def test_a_kernel_of_its_own_is_said_and_is_no_failure() -> None:
    """The Gather moved out of the kernel that quantises, together with the Cast of its chain."""
    tensor = f"{CONTEXT}_output_0"
    gather, cast = f"[ONNX Layer: {tensor}_index_Gather]", f"[ONNX Layer: {tensor}_to_float_Cast]"
    alone = f"Name: g, LayerType: kgen, Inputs: [ ], Outputs: [], StreamId: 0, Metadata: {cast}{gather}"
    plan = CONDITIONED.replace(gather, "").rstrip() + f"\n{alone}\n"
    check = check_plan([], layers_from_log([plan]), "sm86", chains=CHAINS)
    # what the Mul, which nothing names, is between is no longer one kernel: it may be in either, or alone
    assert check.unfused == (f"{tensor}_index_Gather", f"{tensor}_multiplier_Mul")
    assert check.describe_conditioning().startswith(
        "7 of 9 nodes before Q fused; 1 norm takes a second kernel; not fused"
    )
    check.raise_for_failure()


def test_a_chain_that_the_plan_does_not_know_is_not_called_fused() -> None:
    check = check_plan([], layers_from_log([MPNET]), "sm86", chains=CHAINS[:1])
    assert len(check.unfused) == 3


@pytest.mark.parametrize(
    ("nodes", "unfused"),
    [("[ONNX Layer: q]", ()), ("[ONNX Layer: other]", ("mul",)), ("[ONNX Layer: mul]", ("mul",))],
)
def test_a_chain_on_an_input_of_the_model(nodes: str, unfused: tuple[str, ...]) -> None:
    on_input = Chain(source="", normalised=False, cast="", nodes=("mul",), quantize="q")
    layers = layers_from_log([kernel("kgen", ["Datatype=Float"], [], nodes)])
    assert check_plan([], layers, "sm86", chains=[on_input]).unfused == unfused


def test_plan_checks_of_before_still_load() -> None:
    old = {"target": "sm86", "expected": 1, "covered": 1, "planned_kernels": 1, "missing": [], "reasons": {}}
    loaded = PlanCheck.model_validate(old)
    assert (loaded.conditioning, loaded.passed, loaded.host_driven, loaded.precision) == (0, True, {}, "int8")


def test_what_runs_in_int8_in_words():
    assert check_plan([], [], "sm86").describe() == "nothing in INT8: the model has no quantised op"
    missed = "INT8 ops planned 0 of 1 in 0 kernels: FAILED the plan check"
    assert check_plan([op("a")], [], "sm86").describe() == missed
