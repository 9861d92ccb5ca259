import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from calib8 import numerics
from calib8.errors import InputError

amaxes = st.floats(0, 1e38)


def test_scale_is_amax_over_127() -> None:
    # 254 / 127 = 2; 0 gets 1 / 127 because TensorRT refuses a scale of 0.
    np.testing.assert_array_equal(numerics.scale_of(np.array([254.0, 0.0])), np.float32([2, 1 / 127]))


@given(amaxes)
def test_scale_is_always_positive_finite_and_normal(amax: float) -> None:
    scale = numerics.scale_of(amax)
    assert scale.dtype == np.float32
    assert np.finfo(np.float32).tiny <= scale < np.inf


@given(st.floats(np.finfo(np.float32).tiny, np.finfo(np.float32).max, width=32, allow_subnormal=False))
def test_scale_survives_the_way_to_amax_and_back(scale: float) -> None:
    assert numerics.scale_of(scale * 127) == np.float32(scale)


@pytest.mark.parametrize("amax", [np.nan, np.inf, -1.0, 1e300, np.array([1.0, np.nan])])
def test_scale_refuses_what_is_no_amax(amax: float) -> None:
    with pytest.raises(InputError, match="amax is .*; expected a finite number, 0 or larger"):
        numerics.scale_of(amax)


def test_quantize_rounds_half_to_even_and_clamps() -> None:
    # scale 2: 1/2=0.5->0, 3/2=1.5->2, 5/2=2.5->2, -1/2->0, -3/2->-2, 1000->127, -1000->-128
    codes = numerics.quantize(np.float32([1, 3, 5, -1, -3, 1000, -1000]), 2.0)
    assert codes.dtype == np.int8
    assert codes.tolist() == [0, 2, 2, 0, -2, 127, -128]
    assert numerics.dequantize(codes, 2.0).tolist() == [0, 4, 4, 0, -4, 254, -256]


@given(hnp.arrays(np.float32, st.integers(1, 50), elements=st.floats(-(2.0**100), 2.0**100, width=32)))
def test_error_inside_the_range_is_at_most_half_a_step(x: np.ndarray) -> None:
    scale = numerics.scale_of(np.abs(x).max())
    error = np.abs(numerics.dequantize(numerics.quantize(x, scale), scale).astype(np.float64) - x)
    assert error.max() <= float(scale) / 2 * (1 + 1e-4)  # the division and product round in float32


def test_weight_has_one_scale_per_channel() -> None:
    # column 0 reaches 127 -> scale 1; column 1 reaches 254 -> scale 2; column 2 is zero -> 1/127
    weight = np.float32([[127, -254, 0], [1, 3, 0]])
    codes, scale = numerics.quantize_weight(weight, axis=1)
    np.testing.assert_array_equal(scale, np.float32([1, 2, 1 / 127]))
    assert codes.tolist() == [[127, -127, 0], [1, 2, 0]]  # 3 / 2 = 1.5 rounds to 2
    _, by_row = numerics.quantize_weight(weight, axis=0)
    np.testing.assert_allclose(by_row, [2, 3 / 127], rtol=1e-6)
    assert numerics.quantize_weight(np.ones((4, 3, 2, 2), np.float32), axis=0)[1].shape == (4,)


def test_sqnr() -> None:
    # signal 3^2 + 4^2 = 25, noise 0.5^2 = 0.25: 10 log10(100) = 20 dB
    assert numerics.sqnr_db(25, 0.25) == pytest.approx(20)
    assert numerics.sqnr_db(9, 0) == np.inf
    assert numerics.sqnr_db(0, 1) == -np.inf


def test_cosine_rows() -> None:
    a = np.float32([[1, 0], [3, 4], [0, 0], [0, 0], [np.nan, 1], [1e-30, 0]])
    b = np.float32([[0, 1], [4, 3], [0, 0], [1, 0], [1, 1], [1e-30, 0]])
    # (3*4 + 4*3) / (5*5) = 0.96; both zero -> 1; one zero -> 0; NaN stays visible
    np.testing.assert_allclose(numerics.cosine_rows(a, b), [0, 0.96, 1, 0, np.nan, 1])
