"""A weight matrix in blocks, as a grouped Conv has it: block i of the channels meets block i of the outputs only.

With one block it is the matrix of a MatMul; with one channel a block, a depthwise Conv.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from calib8.precision import INT8, Grid
from calib8.quantization.rounding import Rounded, gptq, nearest

Floats32 = NDArray[np.float32]


@dataclass(frozen=True)
class Grouped:
    """``matrix`` [K, N / groups]: the blocks [K / groups, N / groups] below one another."""

    matrix: Floats32
    groups: int = 1

    def product(self, rows: Floats32) -> Floats32:
        """Rows [n, K] times the blocks, [n, N]."""
        if self.groups == 1:
            return rows @ self.matrix
        blocks = self.matrix.reshape(self.groups, len(self.matrix) // self.groups, -1)
        return (self._columns(rows) @ blocks).transpose(1, 0, 2).reshape(len(rows), -1)

    def nearest(self, grid: Grid = INT8) -> tuple[Rounded, "Grouped"]:
        """Codes [K, N / groups] with scales [N], each weight to the nearest code, and what they stand for."""
        return self._rounded(lambda block, _: nearest(block, grid))

    def gptq(self, rows: Floats32, grid: Grid = INT8) -> tuple[Rounded, "Grouped"]:
        """The same by GPTQ, for quantised rows [n, K]."""
        columns = self._columns(rows)
        return self._rounded(lambda block, i: gptq(block, columns[i].T @ columns[i], grid))

    def _columns(self, rows: Floats32) -> Floats32:
        """Rows [n, K] as [groups, n, K / groups]."""
        return rows.reshape(len(rows), self.groups, -1).transpose(1, 0, 2)

    def _rounded(self, to_codes: Callable[[Floats32, int], Rounded]) -> tuple[Rounded, "Grouped"]:
        blocks = [to_codes(block, i) for i, block in enumerate(np.split(self.matrix, self.groups))]
        codes = np.concatenate([block.codes for block in blocks])
        values = np.concatenate([block.values() for block in blocks])
        scale = np.concatenate([block.scale for block in blocks])
        return Rounded(codes, scale), Grouped(values, self.groups)
