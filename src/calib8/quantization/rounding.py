"""From float weights to INT8 codes: to the nearest, or so that the errors of a row cancel (GPTQ)."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from calib8.numerics import Codes, dequantize, dtype_of, quantize, quantize_weight
from calib8.precision import INT8, Grid

#: Columns whose error is passed on at once; the rest of a row is updated block by block.
BLOCK = 128
#: Share of the mean diagonal added to the Hessian, as the authors do, so that it can be inverted.
DAMPING = 0.01


@dataclass(frozen=True)
class Rounded:
    """``codes`` [K, N] and one ``scale`` per column [N]."""

    codes: Codes
    scale: NDArray[np.float32]

    def values(self) -> NDArray[np.float32]:
        """What the codes stand for, [K, N]."""
        return dequantize(self.codes, self.scale)


def nearest(weight: NDArray[np.float32], grid: Grid = INT8) -> Rounded:
    """Each weight [K, N] to the nearest code."""
    return Rounded(*quantize_weight(weight, 1, grid))


def gptq(weight: NDArray[np.float32], hessian: NDArray[np.float32], grid: Grid = INT8) -> Rounded:
    """Rows of the weight [K, N] rounded one by one, the error of each made up for in the rows to come.

    ``hessian`` [K, K] is ``x.T @ x`` of the inputs that the codes will meet, hence of *quantised* rows x [n, K].
    Frantar et al., 2022, arXiv:2210.17323; rows in order of falling diagonal, so that what matters most is rounded
    while most other rows can still make up for it.
    """
    scale = quantize_weight(weight, 1, grid)[1]
    diagonal = np.diag(hessian).astype(np.float64)
    order = np.argsort(-diagonal, kind="stable")
    damped = hessian[np.ix_(order, order)].astype(np.float64)
    damped[np.diag_indices_from(damped)] += DAMPING * max(float(diagonal.mean()), 1e-30)
    upper = factor_of_inverse(damped).astype(np.float32)
    left = weight[order]
    codes = np.zeros(weight.shape, dtype_of(grid))
    for start in range(0, len(left), BLOCK):
        stop = min(start + BLOCK, len(left))
        errors = np.zeros((stop - start, weight.shape[1]), np.float32)
        for row in range(start, stop):
            code = quantize(np.clip(left[row] / scale, -grid.largest, grid.largest), 1.0, grid)
            codes[order[row]] = code
            error = (left[row] - dequantize(code, scale)) / upper[row, row]
            left[row + 1 : stop] -= np.outer(upper[row, row + 1 : stop], error)
            errors[row - start] = error
        left[stop:] -= upper[start:stop, stop:].T @ errors
    return Rounded(codes, scale)


def factor_of_inverse(matrix: NDArray[np.float64]) -> NDArray[np.float64]:
    """The upper triangular ``u`` with ``u.T @ u`` the inverse of the positive definite ``matrix`` [K, K].

    It is the inverse of the ``r``, upper triangular as well, with ``r @ r.T`` the matrix: Cholesky's factor from the
    other end. That takes half the time of an inverse and its factor.
    """
    lower = np.asarray(np.linalg.cholesky(matrix[::-1, ::-1]), np.float64)
    return _inverse_of_upper(lower[::-1, ::-1])


def _inverse_of_upper(r: NDArray[np.float64]) -> NDArray[np.float64]:
    """By halves, so that nearly all of it is products of matrices."""
    if len(r) <= BLOCK:
        return np.asarray(np.linalg.inv(r), np.float64)
    half = len(r) // 2
    found = np.zeros_like(r)
    found[:half, :half], found[half:, half:] = _inverse_of_upper(r[:half, :half]), _inverse_of_upper(r[half:, half:])
    found[:half, half:] = -(found[:half, :half] @ r[:half, half:]) @ found[half:, half:]
    return found
