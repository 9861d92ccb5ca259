import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from calib8.precision import FP8
from calib8.quantization.rounding import BLOCK, Rounded, factor_of_inverse, gptq, nearest

seeds = st.integers(0, 2**32 - 1)


def correlated(seed: int, rows: int, channels: int) -> np.ndarray:
    random = np.random.default_rng(seed)
    few = max(2, channels // 8)
    x = random.normal(size=(rows, few)) @ random.normal(size=(few, channels))
    return (x + 0.1 * random.normal(size=(rows, channels))).astype(np.float32)


def random_weight(seed: int, channels: int, columns: int = 6) -> np.ndarray:
    return np.random.default_rng(seed + 1).normal(size=(channels, columns)).astype(np.float32)


def lost(x: np.ndarray, weight: np.ndarray, rounded: Rounded) -> float:
    return float(np.square(x @ (weight - rounded.values())).sum())


def test_nearest_by_hand() -> None:
    # columns reach 127 and 254: scales 1 and 2. 0.4 -> 0, 1.6 -> 2; 3.1 / 2 = 1.55 -> 2, -5 / 2 = -2.5 -> -2 (even)
    rounded = nearest(np.float32([[127, 3.1], [0.4, -5], [1.6, -254]]))
    assert rounded.scale.tolist() == [1, 2]
    assert rounded.codes.tolist() == [[127, 2], [0, -2], [2, -127]]
    assert rounded.values().tolist() == [[127, 4], [0, -4], [2, -254]]


def test_the_next_row_makes_up_for_an_error_by_hand() -> None:
    # Two equal inputs that matter, after one that fixes the scale at 1. The first 0.4 becomes 0; its error 0.4 goes
    # to the other, 0.8 (less what damping keeps), which becomes 1: together 1 instead of 0, near the 0.8 of before.
    hessian = np.float32([[1e-3, 0, 0], [0, 1, 1], [0, 1, 1]])
    weight = np.float32([[127], [0.4], [0.4]])
    assert nearest(weight).codes.ravel().tolist() == [127, 0, 0]
    assert gptq(weight, hessian).codes.ravel().tolist() == [127, 0, 1]


@settings(max_examples=30)
@given(seeds, st.sampled_from([1, 5, BLOCK, BLOCK + 3]))
def test_unrelated_inputs_are_rounded_to_the_nearest(seed: int, channels: int) -> None:
    weight = random_weight(seed, channels)
    diagonal = np.random.default_rng(seed).uniform(0, 10, channels).astype(np.float32)
    expected, got = nearest(weight), gptq(weight, np.diag(diagonal))
    np.testing.assert_array_equal(got.codes, expected.codes)
    np.testing.assert_array_equal(got.scale, expected.scale)


@settings(max_examples=30)
@given(seeds, st.sampled_from([16, BLOCK - 1, BLOCK + 40]))
def test_the_output_error_is_smaller(seed: int, channels: int) -> None:
    x, weight = correlated(seed, 256, channels), random_weight(seed, channels)
    rounded = gptq(weight, x.T @ x)
    assert rounded.codes.dtype == np.int8
    assert rounded.scale.shape == (6,)
    assert rounded.codes.min() >= -127
    np.testing.assert_array_equal(rounded.scale, nearest(weight).scale)
    assert lost(x, weight, rounded) < 0.7 * lost(x, weight, nearest(weight))


@settings(max_examples=15)
@given(seeds)
def test_the_output_error_is_smaller_in_fp8_too(seed: int) -> None:
    x, weight = correlated(seed, 256, 48), random_weight(seed, 48)
    rounded = gptq(weight, x.T @ x, FP8)
    assert rounded.codes.dtype == FP8.dtype
    assert np.isfinite(rounded.values()).all()
    np.testing.assert_array_equal(rounded.scale, nearest(weight, FP8).scale)
    assert lost(x, weight, rounded) < 0.7 * lost(x, weight, nearest(weight, FP8))


def test_fp8_makes_up_for_an_error_by_hand() -> None:
    # As above on scale 1, where the step is 2 between 16 and 32: the first 16.9 becomes 16; its error 0.9 (less what
    # damping keeps) goes to the other, 17.8, which becomes 18: together 34 instead of 32, near the 33.8 of before.
    hessian = np.float32([[1e-3, 0, 0], [0, 1, 1], [0, 1, 1]])
    weight = np.float32([[448], [16.9], [16.9]])
    assert nearest(weight, FP8).codes.astype(float).ravel().tolist() == [448, 16, 16]
    assert gptq(weight, hessian, FP8).codes.astype(float).ravel().tolist() == [448, 16, 18]


def test_inputs_not_seen_profit_too() -> None:
    mixed = correlated(3, 1024, 64)
    x, unseen = mixed[:512], mixed[512:]
    weight = random_weight(3, 64)
    assert lost(unseen, weight, gptq(weight, x.T @ x)) < 0.5 * lost(unseen, weight, nearest(weight))


@given(seeds)
def test_fewer_rows_than_channels(seed: int) -> None:
    x, weight = correlated(seed, 8, 48), random_weight(seed, 48)
    assert lost(x, weight, gptq(weight, x.T @ x)) < lost(x, weight, nearest(weight))


def test_dead_inputs() -> None:
    x, weight = correlated(0, 64, 20), random_weight(0, 20)
    x[:, [0, 7, 19]] = 0
    rounded, plain = gptq(weight, x.T @ x), nearest(weight)
    np.testing.assert_array_equal(rounded.codes[[0, 7, 19]], plain.codes[[0, 7, 19]])  # they matter to nobody
    assert lost(x, weight, rounded) < lost(x, weight, plain)
    np.testing.assert_array_equal(gptq(weight, np.zeros((20, 20), np.float32)).codes, plain.codes)


def test_dead_weights() -> None:
    x, weight = correlated(0, 64, 20), random_weight(0, 20)
    weight[:, 2] = 0
    rounded = gptq(weight, x.T @ x)
    assert not rounded.codes[:, 2].any()
    assert np.isfinite(rounded.scale).all()


@pytest.mark.parametrize("factor", [1e-12, 1e12])
def test_the_size_of_the_hessian_does_not_matter(factor: float) -> None:
    x, weight = correlated(0, 64, 20), random_weight(0, 20)
    expected = gptq(weight, x.T @ x).codes
    assert np.mean(gptq(weight, np.float32(factor) * (x.T @ x)).codes == expected) > 0.98


def test_nothing_is_changed_and_the_result_repeats() -> None:
    x, weight = correlated(1, 300, BLOCK * 2), random_weight(1, BLOCK * 2)
    hessian = x.T @ x
    before = weight.copy(), hessian.copy()
    first, second = gptq(weight, hessian), gptq(weight, hessian)
    np.testing.assert_array_equal(first.codes, second.codes)
    np.testing.assert_array_equal(weight, before[0])
    np.testing.assert_array_equal(hessian, before[1])


@pytest.mark.parametrize("size", [1, 2, 3, BLOCK, BLOCK + 1, 3 * BLOCK + 5])
def test_the_factor_of_the_inverse(size: int) -> None:
    """That which NumPy's own inverse has; for 2 x 2 by hand below."""
    x = np.random.default_rng(size).normal(size=(2 * size, size))
    matrix = x.T @ x
    found = factor_of_inverse(matrix)
    assert not np.tril(found, -1).any()
    assert (np.diag(found) > 0).all()
    np.testing.assert_allclose(found.T @ found @ matrix, np.eye(size), atol=1e-9)
    np.testing.assert_allclose(found, np.linalg.cholesky(np.linalg.inv(matrix)).T, atol=1e-9 * np.abs(found).max())


def test_the_factor_of_the_inverse_by_hand() -> None:
    """[[5, 2], [2, 4]] is r r.T with r = [[2, 1], [0, 2]], whose inverse is [[1/2, -1/4], [0, 1/2]]."""
    assert factor_of_inverse(np.array([[5.0, 2.0], [2.0, 4.0]])).tolist() == [[0.5, -0.25], [0.0, 0.5]]
