"""Groups of kernels: real lists of TensorRT 10.6 counted and summed by hand, RTX's names, and kinds one by one."""

import json
from collections import Counter

import pytest
from plan_text import DATA, TENSORRT, mpnet, read, text_of

from calib8.engine.arithmetic import precision_of
from calib8.engine.groups import group_of
from calib8.engine.layers import Layer, Tensor
from calib8.engine.layers_json import layers_from_json

HALF, INT8, FLOAT = Tensor((-1, 768), "Half"), Tensor((-1, 768), "Int8"), Tensor((-1, 768), "Float")


def kernel(ops: str, reads: tuple[Tensor, ...] = (HALF,), writes: Tensor = HALF) -> Layer:
    return Layer("k_myl0_1", "kgen", f"__myl_{ops}_0x1d59948b078db6025bee4a30def1c272_vec", reads, outputs=(writes,))


@pytest.mark.parametrize(
    ("form", "counts"),
    [
        # FP16: 12 x (QKV, output, FFN1 with GELU, FFN2) and one that counts the mask; 24 norms and 2 that take a second
        # kernel; 48 reshapes and casts of sizes, 2 slices, shape_call, and the copy of the output.
        (
            "fp16",
            {
                "FP16 GEMM": 49, "attention/softmax": 12, "norm": 26, "copy/reformat": 52, "embedding": 1,
                "pointwise/reduce": 2,
            },
        ),
        # INT8 without splits: of 12 FFN1 none has its GELU inside; Q in front of an attention's output shifts in 11.
        (
            "r7",
            {
                "INT8 GEMM": 48, "TF32 GEMM": 1, "attention/softmax": 12, "norm": 36, "copy/reformat": 51,
                "embedding": 1, "pointwise/reduce": 2, "pointwise before Q": 11, "GELU/activation": 12,
                "Q/DQ alone": 1,
            },
        ),
        # With splits: behind 11 GELUs and in front of 2 outputs of attention channels are gathered.
        (
            "int8",
            {
                "INT8 GEMM": 48, "TF32 GEMM": 1, "attention/softmax": 12, "norm": 47, "copy/reformat": 51,
                "embedding": 1, "pointwise/reduce": 2, "pointwise before Q": 9, "GELU/activation": 1,
                "Q/DQ alone": 1, "gather": 13,
            },
        ),
        # By min/max alone: 57 of 72 ops in 33 kernels; attention writes INT8, which 12 kernels only transpose.
        (
            "plain",
            {
                "INT8 GEMM": 33, "FP16 GEMM": 15, "TF32 GEMM": 1, "attention/softmax": 12, "norm": 36,
                "copy/reformat": 63, "embedding": 1, "pointwise/reduce": 2, "Q/DQ alone": 2,
            },
        ),
    ],
)  # fmt: skip
def test_mpnet(form, counts):
    layers = read(mpnet(form))
    assert Counter(map(group_of, layers)) == counts
    assert sum(counts.values()) == len(layers)


def test_the_names_of_nodes_decide_nothing():
    """A model whose nodes are called like anything, with the same kernels."""
    renamed = mpnet("int8").replace("/encoder", "/conv_mha_Gather").replace("LayerNormalization", "QuantizeLinear")
    assert [group_of(layer) for layer in read(renamed)] == [group_of(layer) for layer in read(mpnet("int8"))]


@pytest.mark.parametrize(
    ("form", "groups"),
    [
        ("matmul-fp16cast", ["copy/reformat", "Q/DQ alone", "INT8 GEMM"]),
        ("matmul-fp32", ["copy/reformat", "Q/DQ alone", "INT8 GEMM"]),
        ("conv-fp32", ["Q/DQ alone", "INT8 conv"]),
        ("conv-fp16scales", ["Q/DQ alone", "INT8 conv", "copy/reformat"]),
        # weights that are moved in every run
        ("conv-fp16cast", ["copy/reformat", "Q/DQ alone", *["copy/reformat"] * 4, "INT8 conv", "copy/reformat"]),
    ],
)
def test_one_op(form, groups):
    assert [group_of(layer) for layer in read(text_of(TENSORRT / f"{form}.layers.txt"))] == groups
    assert [group_of(layer) for layer in layers_from_json(text_of(TENSORRT / f"{form}.json"))] == groups


def test_rtx_writes_four_letters():
    layers = read("Layers:\n" + text_of(DATA / "conditioned_sm86_plan.txt"))
    assert Counter(map(group_of, layers)) == {"INT8 GEMM": 3, "norm": 2, "GELU/activation": 1, "gather": 1}


@pytest.mark.parametrize(
    ("layer", "group"),
    [
        (kernel("MaxrSubExpSumDivMul"), "attention/softmax"),
        (kernel("MulMeanAddSqrtDivMul"), "norm"),  # RMSNorm
        (kernel("Mean"), "pointwise/reduce"),  # a pooling
        (kernel("GathCastAdd", (Tensor((8, 64), "Int64"), HALF)), "embedding"),
        (kernel("GathCastAdd", (Tensor((-1,), "Int32"), HALF)), "embedding"),  # flat
        (kernel("GathCastAdd", (Tensor((800,), "Int32"), HALF)), "gather"),
        (kernel("SlicSiluSlicMul"), "GELU/activation"),
        (kernel("MulGeluMulMinMaxRouCas", writes=INT8), "GELU/activation"),
        (kernel("CasMulMinMaxRouCas", writes=INT8), "Q/DQ alone"),
        (kernel("CasMulMinMaxRouCas", writes=Tensor((1,), "FP8")), "Q/DQ alone"),
        (kernel("CasMul", (INT8,)), "Q/DQ alone"),
        (kernel("CastMul", (FLOAT,)), "pointwise/reduce"),
        (kernel("AddMulMinMaxRouCas", writes=INT8), "pointwise before Q"),
        (kernel("AddMul", (INT8, HALF), INT8), "pointwise/reduce"),
        (kernel("TranReshMove"), "copy/reformat"),
        (kernel("FcMulCastAdd", (INT8, HALF)), "FP16 GEMM"),
        (kernel("CorrMulAddRelu"), "FP16 conv"),
        (Layer("c", "CaskDeconvolutionV2", "sm80_xmma_dgrad_implicit_gemm_f16f16_f16f32_f32_nhwckcrs"), "FP16 conv"),
        (Layer("g", "gemm", "sm90_xmma_gemm_bf16bf16_bf16f32_f32_tn_n"), "BF16 GEMM"),
        (Layer("g", "gemm", "sm90_xmma_gemm_e4m3f16_e4m3f32_f32_tn_n"), "FP8 GEMM"),
        (Layer("g", "gemm", "__myelin_CASK_STUB", (FLOAT, FLOAT)), "FP32 GEMM"),
        (Layer("g", "gemm"), "GEMM"),
        (Layer("p", "PointWiseV2"), "pointwise/reduce"),
        (Layer("p", "CaskPooling"), "other"),
        (Layer("r", "Reformat", inputs=(HALF,), outputs=(FLOAT,)), "copy/reformat"),
        (Layer("r", "Reformat", inputs=(INT8,), outputs=(INT8,)), "copy/reformat"),
        (Layer("j", "cjmp"), "other"),
        (Layer("__myl_CastMeanSubMulMean_myl0_3", "kgen"), "norm"),  # no tactic: the name is TensorRT's own
        (Layer("unknown to the plan", ""), "other"),
    ],
)
def test_a_kernel(layer, group):
    assert group_of(layer) == group


def test_precisions_of_real_kernels():
    tactics = {
        "sm80_xmma_gemm_f32f32_tf32f32_f32_nn_n_tilesize32x32x64": "TF32",
        "sm90_xmma_gemm_i8f32_i8i32_f32_tn_n_tilesize256x128x64_by_fusion_tactic": "INT8",
        "sm90_xmma_gemm_f16f16_f16f16_f16_tn_n_tilesize64x256x32": "FP16",
    }
    assert {tactic: precision_of(Layer("g", "gemm", tactic)) for tactic in tactics} == tactics


def test_times_of_an_h200_by_group():
    """What TensorRT's profiler told of these lists at 32x128, in milliseconds; sums of INT8 by names, with grep."""
    times = json.loads(text_of(TENSORRT / "mpnet-profile-32x128.json.gz"))
    sums = {form: Counter() for form in ("fp16", "int8")}
    for form, found in sums.items():
        for layer in read(mpnet(form)):
            found[group_of(layer)] += times[form][layer.name]
    assert [round(sums["fp16"][group], 2) for group in ("FP16 GEMM", "norm", "attention/softmax")] == [1.5, 0.23, 0.25]
    # 12 FFN1 (_Fc) 0.773, 36 MatMuls 0.702; Mea, Sqr without the embedding's; 11 ResGat 0.304, 2 ResTra…Gat 0.027
    assert round(sums["int8"]["INT8 GEMM"], 3) == 1.475
    assert [round(sums["int8"][group], 2) for group in ("norm", "gather", "attention/softmax")] == [0.74, 0.33, 0.25]
    assert [round(sum(found.values()), 2) for found in sums.values()] == [2.09, 3.01]
