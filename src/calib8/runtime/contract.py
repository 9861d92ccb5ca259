"""What a model may be fed, checked before every run, so that all runtimes refuse the same input in the same words.

Left alone they do not: OpenVINO computes with the previous call's array where one is missing, converts float ids, and
reads beyond a table; ONNX Runtime refuses most of that with a text about a node; TensorRT reads whatever lies there.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace

import numpy as np
import onnx_ir as ir
from numpy.typing import ArrayLike, NDArray

from calib8.data.inputs import Arrays, InputSpec, as_array, checked, named_dimensions
from calib8.data.rooms import LARGEST, Room
from calib8.engine.sidecar import Sidecar
from calib8.errors import DataError, ModelError
from calib8.graph.inputs import declared_inputs
from calib8.graph.limits import dimension_limits
from calib8.progress import Quiet


@dataclass(frozen=True)
class Contract:
    """The inputs of one model, what is known of each, and the largest size of named dimensions.

    ``specs`` holds the inputs of known type and rank, 1 or more; of any other only the name is checked.
    """

    names: tuple[str, ...]
    specs: tuple[InputSpec, ...]
    limits: Mapping[str, int]

    def fitted(self, arrays: Mapping[str, ArrayLike], *, unseen: Collection[str] = ()) -> Arrays:
        """``arrays`` in the model's dtypes, in the order of its inputs. Raises ``DataError`` for whatever is not fit.

        Checked: names, and for each input all that ``data.inputs.checked`` knows; dimensions of one name are of one
        size, and within the position table. Of ``unseen`` inputs only dtype and shape are looked at, and the dtype must
        be the model's.
        """
        if set(arrays) != set(self.names):
            got = ", ".join(sorted(arrays)) or "nothing"
            raise DataError(f"got arrays for {got}, expected {', '.join(self.names) or 'nothing'}.")
        given = {name: as_array(name, arrays[name]) for name in self.names}
        sizes: dict[str, tuple[str, int]] = {}
        for spec in self.specs:
            if spec.name in unseen:
                _check_shape(given[spec.name], spec)
            else:
                array = given[spec.name] if hasattr(arrays[spec.name], "dtype") else _typed(given[spec.name], spec)
                given |= checked({spec.name: array}, (spec,), Quiet())
            for dimension, size in zip(spec.shape, given[spec.name].shape, strict=True):
                if isinstance(dimension, str):
                    self._check_size(spec.name, dimension, size, sizes)
        return given

    def largest(self, name: str, axis: int) -> int | None:
        """How large the input may be along ``axis``; None if nothing is known to bound it."""
        shape = next((spec.shape for spec in self.specs if spec.name == name), ())
        dimension = shape[axis] if axis < len(shape) else None
        return self.limits.get(dimension) if isinstance(dimension, str) else dimension

    def room(self, name: str) -> Room:
        """The rows and lengths (axes 0 and 1) that the input may have, as far as is known."""
        shape = next((spec.shape for spec in self.specs if spec.name == name), ())
        return Room(*(self._ends(size) for size in shape[:2]))

    def _ends(self, dimension: int | str | None) -> tuple[int, int]:
        if isinstance(dimension, int):
            return dimension, dimension
        return 1, self.limits.get(dimension or "", LARGEST)

    def _check_size(self, name: str, dimension: str, size: int, sizes: dict[str, tuple[str, int]]) -> None:
        if size > self.limits.get(dimension, size):
            raise DataError(
                f"{name} has {size} positions along {dimension!r}, but the model's position table ends at "
                f"{self.limits[dimension]}. Cut the sequences."
            )
        other, expected = sizes.setdefault(dimension, (name, size))
        if size != expected:
            raise DataError(
                f"{name} has size {size} along {dimension!r}, {other} has {expected}: the model takes one size there."
            )


def _typed(array: NDArray[np.generic], spec: InputSpec) -> NDArray[np.generic]:
    """Numbers from Python lists, which have no dtype of their own, in the model's where that is a float."""
    if spec.dtype.kind != "f" or array.dtype.kind not in "fiu":
        return array
    with np.errstate(over="ignore"):
        typed = array.astype(spec.dtype)
    if not np.array_equal(np.isfinite(typed), np.isfinite(array)):
        raise DataError(f"{spec.name} holds numbers that are too large for the model's {spec.dtype}. Check the data.")
    return typed


def _check_shape(array: NDArray[np.generic], spec: InputSpec) -> None:
    """``checked`` without the values: as if it were bytes, of which all are fine and none has to be looked at."""
    if array.dtype != spec.dtype:
        raise DataError(f"{spec.name} on the GPU has dtype {array.dtype}, expected {spec.dtype}. Convert it there.")
    byte = np.uint8(0)
    checked({spec.name: np.broadcast_to(byte, array.shape)}, (replace(spec, dtype=byte.dtype, limit=None),), Quiet())


def contract_of(model: ir.Model) -> Contract:
    """What an ONNX model takes. Found by looking at the whole graph: once for a model, not for each run."""
    names = tuple(value.name or "" for value in model.graph.inputs if not value.is_initializer())
    try:
        return Contract(names, _of_some_rank(declared_inputs(model)), dimension_limits(model))
    except ModelError:  # an input without a type: calib8 could not make batches for it, but it may run
        return Contract(names, (), {})


def contract_of_engine(sidecar: Sidecar) -> Contract:
    """What an engine takes, as its sidecar tells; its profiles are TensorRtRuntime's to check."""
    inputs = [tensor for tensor in sidecar.tensors if tensor.mode == "input"]
    specs = (
        InputSpec(
            tensor.name,
            np.dtype(tensor.dtype),
            tuple(size if size >= 0 else None for size in tensor.shape),
            tensor.rows,
        )
        for tensor in inputs
    )
    return Contract(tuple(tensor.name for tensor in inputs), _of_some_rank(named_dimensions(tuple(specs))), {})


def _of_some_rank(specs: tuple[InputSpec, ...]) -> tuple[InputSpec, ...]:
    """``data.inputs.checked`` knows arrays of samples, not single numbers."""
    return tuple(spec for spec in specs if spec.shape)
