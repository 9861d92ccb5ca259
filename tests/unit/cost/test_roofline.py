"""The time of a kernel, by hand and by its bounds."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from calib8.cost.gpus import GPUS, Fit, Gpu, gpu_named
from calib8.cost.kernels import Kernel
from calib8.cost.roofline import EACH, REACHED, milliseconds, peak
from calib8.engine.groups import ATTENTION
from calib8.engine.targets import ARCHITECTURES

#: Half of 100 and 200 TOP/s, 800 GB/s of memory and as many through the multiprocessors, 10 MB of cache, 5 us a kernel.
GPU = Gpu("made up", "sm80", 100, 200, None, 1000, 10, 50, Fit(share=0.5, floor_us=5, basis=""))


def test_what_multiplications_take() -> None:
    gemm = Kernel("GEMM", moved=0, operations=1e9)
    assert milliseconds(gemm, GPU) == pytest.approx(0.005 + 0.020)
    assert milliseconds(replace(gemm, precision="int8"), GPU) == pytest.approx(0.005 + 0.010)
    assert milliseconds(replace(gemm, precision="fp8"), GPU) == pytest.approx(0.005 + 0.020)  # no units for it
    assert milliseconds(replace(gemm, group=ATTENTION), GPU) == pytest.approx(0.005 + 0.050)  # 0.4 of that rate


def test_what_bytes_take() -> None:
    norm = Kernel("norm", moved=20e6, constant=2e6)
    assert milliseconds(norm, GPU) == pytest.approx(0.005 + 0.025)  # 20 MB at 50 * 16 GB/s
    wide = replace(GPU, multiprocessors=1000)
    assert milliseconds(norm, wide) == pytest.approx(0.005 + 0.0125)  # 2 MB, and 8 of 18 that the cache does not hold
    assert milliseconds(norm, replace(wide, cache=40)) == pytest.approx(0.005 + 0.0025)
    assert milliseconds(replace(norm, operations=2e9), GPU) == pytest.approx(0.005 + 0.040)  # the longer of the two


KERNELS = st.builds(
    Kernel,
    group=st.sampled_from(["FP16 GEMM", ATTENTION, "norm"]),
    moved=st.floats(1e7, 1e10),
    constant=st.floats(0, 1e7),
    operations=st.floats(0, 1e13),
    precision=st.sampled_from([None, "int8", "fp8"]),
)


@given(KERNELS, st.sampled_from(GPUS), st.floats(1, 10))
def test_never_below_a_bound_and_more_takes_longer(kernel: Kernel, gpu: Gpu, times: float) -> None:
    taken = milliseconds(kernel, gpu)
    assert taken >= gpu.fit.floor_us / 1e3
    assert taken >= kernel.operations / (peak(gpu, kernel.precision) * 1e9)
    assert taken >= kernel.constant / (gpu.memory * REACHED * 1e6)
    assert taken >= kernel.moved / (gpu.multiprocessors * EACH * 1e6)
    assert milliseconds(replace(kernel, operations=kernel.operations * times), gpu) >= taken
    assert milliseconds(replace(kernel, moved=kernel.moved * times), gpu) >= taken
    assert milliseconds(replace(kernel, precision="int8"), gpu) <= milliseconds(replace(kernel, precision=None), gpu)


def test_the_table_of_gpus() -> None:
    """Dense numbers: a sparse one would be twice what its neighbour says."""
    assert len({gpu.name for gpu in GPUS}) == len(GPUS)
    for gpu in GPUS:
        assert gpu.target in ARCHITECTURES or gpu.target == "sm87"
        assert gpu.int8 / gpu.fp16 == pytest.approx(2, abs=0.03)
        assert (gpu.fp8 is not None) == (int(gpu.target.removeprefix("sm")) >= 89)
        sums_fp32_slowly = gpu.name.startswith("RTX")
        assert gpu.fp8 is None or gpu.fp8 == pytest.approx(gpu.fp16 if sums_fp32_slowly else gpu.int8)
        assert 0 < gpu.fit.share < 1
        if gpu.like:
            borrowed = gpu_named(gpu.like)
            assert borrowed is not None
            assert (borrowed.like, borrowed.fit) == ("", gpu.fit)
            assert gpu.basis == f"its data sheet; else like {gpu.like}"


@pytest.mark.parametrize("name", ["RTX 4090", "rtx4090", "NVIDIA RTX 4090", "nvidia-rtx-4090"])
def test_names_however_they_are_spelt(name: str) -> None:
    found = gpu_named(name)
    assert found is not None
    assert found.name == "RTX 4090"
    assert gpu_named("RTX 409") is gpu_named("") is None
