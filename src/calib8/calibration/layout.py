"""Where the rows of an observed tensor lie: what has to be known before the model is run on a batch."""

import hashlib
import math
from typing import Literal, NamedTuple, TypeAlias

import numpy as np
import onnx_ir as ir

from calib8.data.inputs import Arrays
from calib8.graph.shapes import Inference, Shape
from calib8.graph.value_sizes import depend_on_values
from calib8.passes.fixed_draws import fix_draws
from calib8.runtime.ort import OrtRuntime

#: What a row of a tensor is: its last axis at a position that a mask counts or at any, its channels (axis 1) at a
#: position of an image, or a whole sample.
Layout: TypeAlias = Literal["tokens", "rows", "channels first", "samples"]


class Seen(NamedTuple):
    """Shapes in one batch: of a tensor, of the mask [batch, sequence] if there is one, and of the tensor that this one
    has the rows of, if it is flat and that is known (see ``graph.flattened``)."""

    shape: Shape
    mask: Shape | None
    unflattened: Shape | None = None


class Shapes:
    """The shapes of the tensors ``names`` of ``model``, for any batch.

    ONNX infers them from those of the inputs, at next to no cost. Where it cannot tell them all, they are found by
    running the first sample alone and twice: dimensions are linear in the batch size. Inputs that differ in nothing
    else are not run again, unless sizes depend on their values.
    """

    def __init__(self, model: ir.Model, names: list[str], *, alone: bool = False) -> None:
        """``alone``: the model takes one sample at a time, and is run on each of another shape."""
        self._model, self._names, self._alone = model, names, alone
        self._inferred: Inference | None = Inference(model)
        self._runtime: OrtRuntime | None = None
        self._by_values = depend_on_values(model)
        self._known: dict[tuple[Shape, ...] | str, tuple[list[Shape], list[Shape]]] = {}

    def of(self, arrays: Arrays) -> dict[str, Shape]:
        """Tensor name -> shape, for the checked model inputs ``arrays``."""
        if self._inferred is not None:
            found = self._inferred.of({name: array.shape for name, array in arrays.items()})
            if all(name in found for name in self._names):
                return {name: found[name] for name in self._names}
            self._inferred = None
        return self._seen(arrays)

    def _seen(self, arrays: Arrays) -> dict[str, Shape]:
        if self._alone or self._by_values:
            whole = _digest(arrays) if self._by_values else tuple(array.shape for array in arrays.values())
            if whole not in self._known:
                self._known[whole] = (found := self._run(arrays)), found
            return dict(zip(self._names, self._known[whole][0], strict=True))
        key = tuple(array.shape[1:] for array in arrays.values())
        if key not in self._known:
            self._known[key] = self._run(first(arrays, 1)), self._run(first(arrays, 2))
        batch = len(next(iter(arrays.values())))
        return {
            name: tuple(a + (b - a) * (batch - 1) for a, b in zip(one, two, strict=True))
            for name, one, two in zip(self._names, *self._known[key], strict=True)
        }

    def _run(self, arrays: Arrays) -> list[Shape]:
        if self._runtime is None:
            self._runtime = OrtRuntime(_shape_model(self._model, self._names), optimised=False)
        outputs = self._runtime.compute(arrays)
        return [tuple(map(int, outputs[_output(name)])) for name in self._names]

    def __enter__(self) -> "Shapes":
        return self

    def __exit__(self, *_: object) -> None:
        """Free the session; what is known stays known."""
        if self._runtime is not None:
            self._runtime.close()


def _shape_model(model: ir.Model, names: list[str]) -> ir.Model:
    """A clone that computes nothing but the shapes of the tensors ``names``."""
    clone = fix_draws(model.clone())
    values = {value.name: value for node in clone.graph for value in node.outputs}
    values |= {value.name: value for value in clone.graph.inputs}
    nodes = [ir.node("Shape", [values[name]], outputs=[ir.Value(name=_output(name))]) for name in names]
    clone.graph.extend(nodes)
    clone.graph.outputs.clear()
    clone.graph.outputs.extend(node.outputs[0] for node in nodes)
    return clone


def _digest(arrays: Arrays) -> str:
    digest = hashlib.sha256()
    for name, array in arrays.items():
        digest.update(f"{name}|{array.shape}|".encode() + array.tobytes())
    return digest.hexdigest()


def first(arrays: Arrays, times: int) -> Arrays:
    """A batch of the first sample, ``times`` times."""
    return {name: np.repeat(array[:1], times, axis=0) for name, array in arrays.items()}


def layout_of(seen: list[Seen], *, read_by_conv: bool, at_a_site: bool) -> Layout:
    """The layout of a tensor that had these shapes in batches.

    at_a_site: whether its rows are multiplied with a matrix, see ``graph.site``.

    Its rows are tokens if they follow the mask in every batch. Where a model takes one length only, any tensor with as
    many rows as that counts as tokens, since nearly all are: rows at padding are then left out.
    """
    shape, mask, _ = seen[0]
    if read_by_conv:
        return "channels first"
    if not at_a_site and len(shape) not in (2, 3):
        return "samples"
    if mask is None:
        return "rows"
    if any(one.shape[2:-1] != shape[2:-1] for one in seen):
        return "rows"
    if len(shape) > 2:
        follows = sequence_first(seen) is not None
    else:
        follows = all(one.shape[0] == math.prod(one.mask or ()) for one in seen)
    return "tokens" if follows else "rows"


def sequence_first(seen: list[Seen]) -> bool | None:
    """Whether rows of tokens lie position by position, not sample by sample, in a tensor that had these shapes.

    Its leading axes tell, or those of the tensor that a flat one has the rows of. None if they do not.
    """
    return next((turned for turned in (False, True) if _leads(seen, turned)), None)


def _leads(seen: list[Seen], turned: bool) -> bool:
    """Whether the axes of the mask, or ``turned`` those in reverse, come first in every batch.

    Of what was flattened the first axis is enough: behind it the batch may be one axis with the heads of attention.
    """
    for shape, mask, unflattened in seen:
        axes = (mask or ())[:: -1 if turned else 1]
        found, wanted = (shape[:2], axes) if len(shape) > 2 else ((unflattened or ())[:1], axes[:1])
        if found != wanted:
            return False
    return True


def _output(name: str) -> str:
    return f"calib8.shape.{name}"
