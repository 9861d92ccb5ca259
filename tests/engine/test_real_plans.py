"""Real plans of TensorRT 10.6 on an H200. What each must give was counted by hand; each has one that fails."""

import re

import pytest
from plan_text import DATA, TENSORRT, mpnet, mpnet_ops, read, resnet50_ops, text_of

from calib8.engine.arithmetic import multiplies
from calib8.engine.host_loops import driven_by_host
from calib8.engine.layers import Layer, Tensor
from calib8.engine.layers_log import layers_from_log
from calib8.engine.plan_check import check_plan, count_calibrated
from calib8.engine.quantized import QuantizedOp
from calib8.graph.host_driven import HostDriven

CONV = QuantizedOp("/layer/Conv", "Conv", "w", 64 * 32 * 9, None)
MATMUL = QuantizedOp("/layer/MatMul", "MatMul", "w", 256 * 512, None)
FFN1 = "/encoder/layer.5/intermediate/dense/MatMul"


def jumping(name, *inside):
    return HostDriven(name, "a loop", jumps=True, inside=inside)


def judged(text, ops=None, **options):
    return check_plan(mpnet_ops() if ops is None else ops, read(text), "sm90", rtx=False, **options)


@pytest.mark.parametrize(
    ("name", "covered", "kernels"),
    [
        ("int8", 72, 48),  # 12 merged QKV, 12 outputs of attention, 12 FFN1 (fusions all), 12 FFN2
        ("r7", 72, 48),
        ("plain", 57, 33),  # 36 in 12 merged QKV, 12, 5 of 12 FFN1, 4 of 12 FFN2
        ("fp16", 0, 0),
    ],
)
def test_mpnet(name, covered, kernels):
    check = judged(mpnet(name))
    assert (check.expected, check.covered, check.planned_kernels) == (72, covered, kernels)
    assert check.passed is (covered == 72)
    assert len(check.missing) == 72 - covered


def test_resnet50_and_one_convolution_of_it_that_computes_in_float():
    text = text_of(TENSORRT / "resnet50-int8.layers.txt.gz")
    check = judged(text, resnet50_ops())
    assert (check.expected, check.covered, check.planned_kernels, check.missing) == (54, 54, 54, ())
    (line,) = (line for line in text.split("\n") if re.match(r"Name: \S+ \+ /Conv_7, LayerType: CaskConvolution", line))
    in_float = line.replace("Int8", "Half").replace("_i8i32_", "_f16f16_")
    assert judged(text.replace(line, in_float), resnet50_ops()).missing == ("/Conv_7",)


def test_sums_in_the_kernels_of_convolutions():
    """Of 16 residuals 11 are added from codes that were there; 4 are sums of two convolutions, 1 becomes no codes."""
    text = text_of(TENSORRT / "resnet50-sums.layers.txt.gz")
    ops = [QuantizedOp(name, "Conv", "", 4096, None) for name in sorted(set(re.findall(r"/Conv_\d+", text)))]
    check = judged(text, [*ops, QuantizedOp("/fc", "Gemm", "", 2048, None)])
    assert (check.expected, check.covered, check.missing) == (54, 54, ())
    sums = [layer for layer in read(text) if any(node.startswith("Add_") for node in layer.nodes)]
    kernels = [layer for layer in sums if layer.kind in ("CaskConvolution", "kgen")]
    fused = [layer for layer in kernels if layer.kind == "CaskConvolution"]
    assert (len(kernels), len(fused)) == (16, 11)
    assert {(layer.outputs[0].dtype, "_i8i8_" in layer.tactic) for layer in fused} == {("Int8", True)}
    in_float = text.replace("_i8i8_i8i32_", "_f16f16_f16f16_")
    assert judged(in_float, ops).covered < len(ops)


def test_the_float_ops_of_the_plain_recipe_are_named():
    missing = judged(mpnet("plain")).missing
    ffn1 = [int(name.split("layer.")[1].split("/")[0]) for name in missing if "/intermediate/" in name]
    ffn2 = [int(name.split("layer.")[1].split("/")[0]) for name in missing if "/intermediate/" not in name]
    assert (len(ffn1), len(ffn2)) == (7, 8)
    floats = [layer for layer in read(mpnet("plain")) if "f16f16_f16f16_f16" in layer.tactic]
    assert {node for layer in floats for node in layer.nodes if node in missing} == set(missing)


def test_the_reason_of_a_float_op_names_its_kernel():
    """The lines of layer 10 in ``plain``; what only quantises for an op is not shown."""
    check = judged(mpnet("plain"))
    assert check.reasons["/encoder/layer.10/output/dense/MatMul"] == (
        "its kernels are /encoder/layer_10/output/dense/MatMul_myl0_150 (gemm, sm90_xmma_gemm_f16f16_f16f16_f16_tn_n_"
        "tilesize128x128x32_cgasize2x2x1_warpgroupsize1x1x1_beta0, reads Half and Float)"
    )
    assert check.reasons["/encoder/layer.10/intermediate/dense/MatMul"] == (
        "its kernels are __myl_Fc_myl0_149 (fusion, sm90_xmma_gemm_f16f16_f16f16_f16_nn_n_tilesize64x256x64_cgasize1x2"
        "x1_warpgroupsize1x1x1_beta0_by_fusion_tactic, reads Half)"
    )
    assert set(check.reasons) == set(check.missing)
    failure = check.describe_failure()
    assert failure.count("its kernels are") == 3
    assert "; and 12 more ops for reasons that the engine's sidecar tells. Quantise them" in failure


def test_the_reason_shows_kernels_of_every_profile():
    in_float = re.sub(rf"_i8i32_(?=[^\n]*{re.escape(FFN1)})", "_f16f16_", mpnet("int8"))
    reason = judged(two_profiles(in_float), profiles=2).reasons[FFN1]
    assert reason.startswith("found for 1 of 2 profiles; its kernels are __myl_Fc")
    assert [part in reason for part in ("_i8i32_", "_f16f16_")] == [True, True]
    assert reason.count("(fusion, ") == 2
    short = judged(mpnet("int8"), profiles=2).reasons[FFN1]  # an INT8 kernel, yet too few: the check's own doubt shows
    assert short.startswith("found for 1 of 2 profiles; ")
    assert short.count("(fusion, ") == 1


def test_a_long_list_of_kernels_is_shortened_and_what_multiplies_goes_first():
    kinds = ["kgen", "CaskConvolution", "kgen", "Reformat"]
    layers = [Layer(f"k{number}", kind, weights="Half", nodes=("a",)) for number, kind in enumerate(kinds)]
    op = QuantizedOp("a", "Conv", "w", 1, None)
    assert check_plan([op], layers, "sm90").reasons["a"] == "its kernels are k1 (CaskConvolution, reads Half)"
    others = [Layer(f"k{number}", "kgen", nodes=("a",)) for number in range(5)]
    assert check_plan([op], others, "sm90").reasons["a"] == "its kernels are k0 (kgen), k1 (kgen), k2 (kgen) and 2 more"


def two_profiles(second):
    """MPNet's list for two profiles: a GEMM of the second tells so in its name, a fusion does not."""
    marked = [
        re.sub(r"^(Name: /[^,]*?)(_myl)0(_\d+, LayerType: gemm,)", r"\1 [profile 1]\g<2>1\3", line)
        for line in second.split("\n")[1:]
        if line.startswith("Name: ")
    ]
    assert sum("[profile 1]" in line for line in marked) == 37  # 36 in INT8, and one that counts the mask
    return mpnet("int8").replace("\n\nBindings:", "\n" + "\n".join(marked) + "\n\nBindings:")


def test_every_profile_is_held_to_int8_though_fusions_do_not_tell_theirs():
    check = judged(two_profiles(mpnet("int8")), profiles=2)
    assert (check.covered, check.planned_kernels, check.passed) == (72, 48, True)
    in_float = re.sub(rf"_i8i32_(?=[^\n]*{re.escape(FFN1)})", "_f16f16_", mpnet("int8"))
    assert judged(two_profiles(in_float), profiles=2).missing == (FFN1,)
    assert judged(mpnet("int8"), profiles=2).covered == 0


def test_a_fusion_that_computes_in_float_is_found_and_named():
    text = mpnet("int8")
    (line,) = (line for line in text.split("\n") if "i8i32" in line and f"[ONNX Layer: {FFN1}]" in line)
    assert "LayerType: fusion" in line
    in_float = line.replace("_gemm_i8f32_i8i32_f32_", "_gemm_f16f16_f16f16_f16_")
    assert in_float != line
    assert judged(text).missing == ()
    check = judged(text.replace(line, in_float))
    assert (check.covered, check.missing) == (71, (FFN1,))


def test_a_plan_is_judged_by_its_last_list():
    both = layers_from_log([mpnet("fp16"), mpnet("int8")])
    assert check_plan(mpnet_ops(), both, "sm90").covered == 72
    assert check_plan(mpnet_ops(), layers_from_log([mpnet("int8"), mpnet("fp16")]), "sm90").covered == 0


def test_int8_is_no_fp8():
    assert judged(mpnet("int8"), precision="fp8").covered == 0
    fp8 = mpnet("int8").replace("_i8f16_i8i32_f32_", "_e4m3f16_e4m3f32_f32_")
    assert judged(fp8, precision="fp8").covered == 60  # all but FFN1, whose names differ
    assert judged(fp8).covered == 12
    assert judged(fp8, precision="fp8").describe() == "FP8 ops planned 60 of 72 in 36 kernels: FAILED the plan check"


@pytest.mark.parametrize("form", ["fp16cast", "fp16scales", "fp32"])
def test_a_matmul_is_int8_in_every_form(form):
    text = text_of(TENSORRT / f"matmul-{form}.layers.txt")
    assert judged(text, [MATMUL]).passed
    assert not judged(text.replace("_i8i32_", "_f16f32_"), [MATMUL]).passed


@pytest.mark.parametrize(("form", "passes"), [("fp16cast", False), ("fp16scales", True), ("fp32", True)])
def test_a_convolution_whose_weights_are_converted_in_every_run_is_missed(form, passes):
    text = text_of(TENSORRT / f"conv-{form}.layers.txt")
    check = judged(text, [CONV])
    assert check.passed is passes
    reasons = ["INT8, but TensorRT converts its weights in every run (HasDynamicFilter)"] * (not passes)
    assert [reason.split(", since")[0] for reason in check.reasons.values()] == reasons
    changed = text.replace(f"HasDynamicFilter: {int(not passes)}", f"HasDynamicFilter: {int(passes)}")
    assert judged(changed, [CONV]).passed is not passes


@pytest.mark.parametrize(("form", "copied"), [("fp16cast", [(64, 32, 3, 3), (-1, 1, 32, 32, 32)]), ("fp16scales", [])])
def test_casts_before_a_convolution_cost_a_kernel_for_the_weights_and_one_for_the_activation(form, copied):
    layers = read(text_of(TENSORRT / f"conv-{form}.layers.txt"))
    assert [tensor.dims for layer in layers if layer.kind == "kgen" for tensor in layer.outputs] == copied


def test_weights_that_are_no_constant_may_come_from_a_kernel():
    two_activations = QuantizedOp("/layer/Conv", "Conv", "", 0, None)
    assert judged(text_of(TENSORRT / "conv-fp16cast.layers.txt"), [two_activations]).passed


def test_a_calibrated_plan_is_counted():
    assert count_calibrated(read(mpnet("int8")), "sm90").calibrated == (48, 186)
    assert count_calibrated(read(mpnet("fp16")), "sm90").calibrated == (0, 142)


@pytest.mark.parametrize(
    ("tactic", "int8", "fp8"),
    [
        ("sm90_xmma_gemm_i8f16_i8i32_f32_tn_n_tilesize128x128x128_bias_f16_beta0", True, False),
        ("sm90_xmma_gemm_i8f32_i8i32_f32_tn_n_tilesize256x128x64_beta0_by_fusion_tactic", True, False),
        ("sm80_xmma_fprop_implicit_gemm_interleaved_i8i8_i8i32_f32_nchw_vect_c_32kcrs_vect_c_32_nchw", True, False),
        ("sm89_xmma_gemm_e4m3bf16_e4m3f32_f32_tn_n_tilesize64x64x64", False, True),
        ("sm90_xmma_gemm_f16f16_f16f16_f16_tn_n", False, False),
        ("sm90_xmma_gemm_bf16bf16_bf16f32_f32_tn_n", False, False),
        ("sm80_xmma_gemm_f32f32_tf32f32_f32_nn_n", False, False),
        ("sm80_xmma_gemm_f16i8_f16f32_f32_tn_n", False, False),  # INT8 comes out of it only
        ("", True, False),  # what it reads tells
        ("__myelin_CASK_STUB", True, False),
    ],
)
def test_a_tactic_outweighs_what_is_read(tactic, int8, fp8):
    layer = Layer("k", "gemm", tactic, inputs=(Tensor((8, 8), "Int8"), Tensor((8, 8), "Int8")))
    assert (multiplies(layer, "int8"), multiplies(layer, "fp8")) == (int8, fp8)


@pytest.mark.parametrize(
    ("name", "node"),
    [("loop", jumping("/emb/Loop", "body/Gather")), ("lstm", jumping("/enc/LSTM")), ("if", jumping("/If", "/then/mm"))],
)
def test_loops_that_the_host_drives_are_found_and_named(name, node):
    """TensorRT-RTX 1.7.1's plans of an ONNX Loop, an LSTM and an If, each over a dynamic axis or a value."""
    layers = read(text_of(DATA / f"{name}_sm86_plan.txt.gz"))
    assert driven_by_host(layers, [node]) == {node.name: "a loop"}
    assert driven_by_host(layers, [jumping("elsewhere"), node]) == {node.name: "a loop"}
    assert driven_by_host([layer for layer in layers if layer.kind != "cjmp"], [node]) == {}
    jumps = [layer.name for layer in layers if layer.kind == "cjmp"]
    assert driven_by_host(layers, []) == dict.fromkeys(jumps, "a jump in the plan")  # no node explains them
    assert len(jumps) == {"loop": 2, "lstm": 5, "if": 1}[name]


def test_a_loop_whose_kernels_are_not_named_is_of_the_node_that_none_computes():
    layers = [Layer("a", "kgen", nodes=("cumsum",)), Layer("b", "cjmp"), Layer("c", "kgen"), Layer("d", "cjmp")]
    assert list(driven_by_host(layers, [jumping("cumsum"), jumping("lstm")])) == ["lstm"]
    assert list(driven_by_host(layers, [jumping("cumsum")])) == ["b", "d"]


def test_sizes_need_the_host_whatever_the_plan_says():
    suspects = [jumping("cumsum"), HostDriven("at", "NonZero: as many results as the data has", jumps=False)]
    assert driven_by_host([Layer("a", "kgen", nodes=("cumsum",))], suspects) == {suspects[1].name: suspects[1].why}
    assert driven_by_host([], suspects) == {  # no plan was read
        "cumsum": "a loop, as far as the graph tells",
        "at": "NonZero: as many results as the data has",
    }


@pytest.mark.parametrize("name", ["int8", "fp16", "plain", "r7"])
def test_mpnet_without_cumsum_has_no_loop(name):
    assert driven_by_host(read(mpnet(name)), [jumping("/embeddings/CumSum")]) == {}
