"""How far the model is from what was measured: recorded times, held to the tolerances that docs/performance.md states.

H200: bench/results/2026-11-30-h200-engines.txt and -forms.txt, milliseconds of the GPU. The others: NVIDIA/TensorRT,
demo/BERT, "Average" of BERT-base.
"""

import re
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
from wide_encoder import encoder

from calib8.cost.gpus import gpu_named
from calib8.cost.kernels import Kernel, kernels_of
from calib8.cost.roofline import milliseconds
from calib8.cost.sizes import shapes_for
from calib8.graph.weighted import weighted_ops
from calib8.precision import Precision

SHAPES = [(1, 32), (8, 128), (32, 128), (64, 384)]
Chosen = Callable[[str], bool]
#: Which ops are in 8 bits, and milliseconds by ``SHAPES``, of engines with two profiles.
FITTED: dict[str, tuple[Chosen, tuple[float, ...]]] = {
    "FP16": (lambda name: False, (0.376, 0.797, 1.797, 12.03)),
    "INT8": (lambda name: not name.endswith(".o"), (0.338, 0.662, 1.379, 8.875)),
}
#: At 64 x 384, of engines whose one profile is for 32 x 128: there, kernels for small batches were slower.
OTHERS: dict[str, tuple[Chosen, float]] = {
    "FP16": (lambda name: False, 12.5),
    "sequence first": (lambda name: True, 10.50),
    "projection in FP16, norms that store FP16": (lambda name: not name.endswith(".o"), 9.07),
    "with stairs": (lambda name: not name.endswith(".o"), 9.46),
    "only FFN1 and FFN2": (lambda name: name.endswith((".up", ".down")), 9.87),
    "FFN2 of six layers in FP16": (
        lambda name: not name.endswith(".o") and name not in {f"layer{layer}.down" for layer in range(6)},
        10.44,
    ),
}
FP8 = 10.38
#: Batches of 1, 8, 32 and 128 by 128 and then 384 tokens: FP16, then INT8 in everything, attention and residuals too.
BERT: dict[str, tuple[tuple[float, ...], tuple[float, ...]]] = {
    "T4": (
        (1.95, 9.09, 36.63, 144.2, 4.04, 27.81, 114.9, 458.76),
        (1.69, 4.66, 18.93, 73.15, 2.52, 14.56, 58.41, 242.14),
    ),
    "A30": ((0.89, 2.5, 8.63, 33.58, 1.7, 7.53, 28, 107.15), (0.63, 1.45, 4.41, 16.5, 1.33, 4.23, 15.4, 60.2)),
    "A100": ((0.64, 1.31, 3.86, 15.2, 1.24, 3.32, 12.85, 48.57), (0.54, 0.95, 2.23, 8.03, 1.13, 2.2, 7.63, 28.7)),
    "L4": ((1, 3.63, 13.72, 69.25, 2.07, 11.32, 50.14, 206.93), (0.6, 1.9, 6.13, 27.84, 1.27, 5.42, 22.63, 103.96)),
    "L40S": ((0.48, 1.32, 3.97, 18.45, 1.1, 3.5, 14.2, 66.06), (0.33, 0.67, 1.83, 7.82, 0.73, 1.73, 6.48, 29.73)),
}
BATCHES = [(batch, length) for length in (128, 384) for batch in (1, 8, 32, 128)]
MODEL = {bias: encoder(bias=bias) for bias in (True, False)}
_shapes = cache(lambda bias, *shape: shapes_for(MODEL[bias], dict.fromkeys(("input_ids", "attention_mask"), shape)))


def planned(
    shape: tuple[int, int], chosen: Chosen, precision: Precision = "int8", *, bias: bool = True
) -> list[Kernel]:
    coded = {op.name for op in weighted_ops(MODEL[bias]) if chosen(op.name)}
    return kernels_of(MODEL[bias], _shapes(bias, *shape), coded, precision)


def estimated(gpu: str, kernels: list[Kernel]) -> float:
    found = gpu_named(gpu)
    assert found is not None
    return sum(milliseconds(kernel, found) for kernel in kernels)


@pytest.mark.parametrize("form", FITTED)
def test_mpnet_on_the_h200(form: str) -> None:
    chosen, measured = FITTED[form]
    for shape, ms in zip(SHAPES, measured, strict=True):
        assert estimated("H200", planned(shape, chosen)) == pytest.approx(ms, rel=0.11), shape


def test_int8_is_as_much_faster_as_it_was() -> None:
    """Within 6 % of the ratio."""
    for shape, *measured in zip(SHAPES, FITTED["FP16"][1], FITTED["INT8"][1], strict=True):
        half, int8 = (estimated("H200", planned(shape, FITTED[form][0])) for form in ("FP16", "INT8"))
        assert half / int8 == pytest.approx(measured[0] / measured[1], rel=0.06), shape


@pytest.mark.parametrize("form", OTHERS)
def test_forms_that_nothing_was_fitted_to(form: str) -> None:
    chosen, ms = OTHERS[form]
    assert estimated("H200", planned((64, 384), chosen)) == pytest.approx(ms, rel=0.14)


def test_groups_of_kernels_on_the_h200() -> None:
    """Sums at 64 x 384 of the profiler, which adds no launches."""
    gpu = gpu_named("H200")
    assert gpu is not None
    for form, measured in {
        "FP16": {"FP16 GEMM": 7.548, "attention/softmax": 3.438, "norm": 1.445},
        "INT8": {"INT8 GEMM": 3.712, "FP16 GEMM": 0.541, "attention/softmax": 3.229, "norm": 1.355},
    }.items():
        found = planned((64, 384), FITTED[form][0])
        for group, ms in measured.items():
            own = [kernel for kernel in found if kernel.group == group]
            assert sum(milliseconds(kernel, gpu) for kernel in own) == pytest.approx(ms, rel=0.21), (form, group)


def test_fp8_on_the_h200() -> None:
    assert estimated("H200", planned((64, 384), lambda name: True, "fp8")) == pytest.approx(FP8, rel=0.05)


@pytest.mark.parametrize(("gpu", "off"), {"T4": 0.1, "A30": 0.1, "A100": 0.2, "L4": 0.15, "L40S": 0.27}.items())
def test_bert_of_nvidia_in_fp16(gpu: str, off: float) -> None:
    for shape, ms in zip(BATCHES, BERT[gpu][0], strict=True):
        assert estimated(gpu, planned(shape, lambda name: False, bias=False)) == pytest.approx(ms, rel=off), shape


@pytest.mark.parametrize(("gpu", "off"), {"T4": 0.2, "A30": 0.31, "A100": 0.3, "L4": 0.25, "L40S": 0.45}.items())
def test_units_of_int8_are_as_fast_as_nvidia_has_them(gpu: str, off: float) -> None:
    """What is fitted to FP16 tells NVIDIA's INT8, of which every tensor is of bytes, and every product of INT8."""
    for shape, ms in zip(BATCHES, BERT[gpu][1], strict=True):
        kernels = planned(shape, lambda name: False, bias=False)
        coded = [replace(one, moved=one.moved / 2, constant=one.constant / 2, precision="int8") for one in kernels]
        assert estimated(gpu, coded) == pytest.approx(ms, rel=off), shape


@pytest.mark.parametrize("gpu", BERT)
def test_int8_is_faster_there_and_gains_less_than_nvidias(gpu: str) -> None:
    """calib8's INT8 keeps attention and residuals in FP16, so on large batches it cannot gain as much."""
    for shape, half, ms in zip(BATCHES, *BERT[gpu], strict=True):
        found = [
            estimated(gpu, planned(shape, chosen, bias=False)) for chosen in (FITTED["FP16"][0], FITTED["INT8"][0])
        ]
        assert 1 < found[0] / found[1] < 1.15 * half / ms, shape


@pytest.mark.parametrize("gpu", ["T4", "A10", "L4", "H200"])
def test_the_table_of_the_documentation(gpu: str) -> None:
    page = (Path(__file__).parents[3] / "docs" / "performance.md").read_text(encoding="utf-8")
    (row,) = re.findall(rf"^\| {gpu} \| (.+) \|$", page, re.M)
    for shape, cell in zip(SHAPES, row.split(" | "), strict=True):
        half, int8, ratio = map(float, re.findall(r"[0-9.]+", cell))
        found = [estimated(gpu, planned(shape, FITTED[form][0])) for form in ("FP16", "INT8")]
        assert found == pytest.approx([half, int8], rel=0.01), shape
        assert found[0] / found[1] == pytest.approx(ratio, abs=0.01), shape
