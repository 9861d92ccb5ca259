"""Where the rows of an observed tensor lie: what has to be known before the model is run on a batch."""

from typing import Literal, TypeAlias

import numpy as np
import onnx_ir as ir

from calib8.data.inputs import Arrays
from calib8.runtime.ort import OrtRuntime

#: What a row of a tensor is: its last axis at a position that a mask counts or at any, its channels (axis 1) at a
#: position of an image, or a whole sample.
Layout: TypeAlias = Literal["tokens", "rows", "channels first", "samples"]
Shape: TypeAlias = tuple[int, ...]


class Shapes:
    """The shapes of the tensors ``names`` of ``model``, for any batch.

    Found by running the first sample alone and twice: dimensions are linear in the batch size. Inputs that differ in
    nothing else are not run again.
    """

    def __init__(self, model: ir.Model, names: list[str]) -> None:
        clone = model.clone()
        values = {value.name: value for node in clone.graph for value in node.outputs}
        values |= {value.name: value for value in clone.graph.inputs}
        nodes = [ir.node("Shape", [values[name]], outputs=[ir.Value(name=_output(name))]) for name in names]
        clone.graph.extend(nodes)
        clone.graph.outputs.clear()
        clone.graph.outputs.extend(node.outputs[0] for node in nodes)
        self._names = names
        self._runtime = OrtRuntime(clone, optimised=False)
        self._known: dict[tuple[Shape, ...], tuple[list[Shape], list[Shape]]] = {}

    def of(self, arrays: Arrays) -> dict[str, Shape]:
        """Tensor name -> shape, for the checked model inputs ``arrays``."""
        key = tuple(array.shape[1:] for array in arrays.values())
        if key not in self._known:
            self._known[key] = self._run(first(arrays, 1)), self._run(first(arrays, 2))
        batch = len(next(iter(arrays.values())))
        return {
            name: tuple(a + (b - a) * (batch - 1) for a, b in zip(one, two, strict=True))
            for name, one, two in zip(self._names, *self._known[key], strict=True)
        }

    def _run(self, arrays: Arrays) -> list[Shape]:
        outputs = self._runtime.compute(arrays)
        return [tuple(map(int, outputs[_output(name)])) for name in self._names]

    def __enter__(self) -> "Shapes":
        return self

    def __exit__(self, *_: object) -> None:
        """Free the session; what is known stays known."""
        self._runtime.close()


def first(arrays: Arrays, times: int) -> Arrays:
    """A batch of the first sample, ``times`` times."""
    return {name: np.repeat(array[:1], times, axis=0) for name, array in arrays.items()}


def layout_of(seen: list[tuple[Shape, Shape | None]], *, read_by_conv: bool, at_a_site: bool) -> Layout:
    """The layout of a tensor that had these shapes in batches whose masks had those, None where there is no mask.

    at_a_site: whether its rows are multiplied with a matrix, see ``graph.site``.

    Its rows are tokens if they follow the mask in every batch. Where a model takes one length only, any tensor with as
    many rows as that counts as tokens, since nearly all are: rows at padding are then left out.
    """
    shape, mask = seen[0]
    if read_by_conv:
        return "channels first"
    if not at_a_site and len(shape) not in (2, 3):
        return "samples"
    if mask is None:
        return "rows"
    follows = all(_follows(*one) and one[0][2:-1] == shape[2:-1] for one in seen)
    return "tokens" if follows else "rows"


def _follows(shape: Shape, mask: Shape | None) -> bool:
    assert mask is not None
    return shape[:2] == mask if len(shape) > 2 else shape[0] == mask[0] * mask[1]


def _output(name: str) -> str:
    return f"calib8.shape.{name}"
