"""What an ONNX model that was made of another has beyond it, for lines that take long to carry all its weights.

    python bench/difference.py less model.onnx model.int8.onnx difference.onnx
    python bench/difference.py whole model.onnx difference.onnx model.int8.onnx

A weight goes that is one of the first model under the same name, as it is or cast to another float type; the few
numbers in which it is not stay (a tool that casts may round as it likes). ``whole`` brings back every weight to the
bit, or ends with an error: the first model has to be the same file.
"""

import hashlib
import json
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, numpy_helper

from calib8.files import atomic, sha256_file

#: Numbers from which on a weight is worth leaving out, and the share of them that may differ.
LEAST, MOST = 256, 0.01
#: Where the difference keeps what it needs, and where a weight that was left out keeps its numbers that differ.
KEY = "difference"


def less(base: Path, model: onnx.ModelProto) -> onnx.ModelProto:
    """``model`` with the weights left out that ``base`` has."""
    known = {tensor.name: tensor for tensor in onnx.load(base).graph.initializer}
    weights = model.graph.initializer
    told = {"base": sha256_file(base), "weights": digest(weights), "left_out": {}}
    for tensor in weights:
        array = numpy_helper.to_array(tensor)
        twin = numpy_helper.to_array(known[tensor.name]) if tensor.name in known else None
        if twin is None or twin.shape != array.shape or array.size < LEAST:
            continue
        other = np.flatnonzero(_bits(_cast(twin, array.dtype)) != _bits(array))
        if other.size > MOST * array.size:
            continue
        kept = np.concatenate(
            [other.astype(np.int64).view(np.uint8), np.ascontiguousarray(array.reshape(-1)[other]).view(np.uint8)]
        )
        told["left_out"][tensor.name] = {"type": tensor.data_type, "numbers": int(other.size)}
        tensor.CopyFrom(numpy_helper.from_array(kept, tensor.name))
    entry = model.metadata_props.add()
    entry.key, entry.value = KEY, json.dumps(told)
    return model


def whole(base: Path, model: onnx.ModelProto) -> onnx.ModelProto:
    """The model that ``less`` was given. Raises ``ValueError`` where ``base`` is another, or a bit is."""
    told: dict[str, Any] = json.loads(next(entry.value for entry in model.metadata_props if entry.key == KEY))
    if (found := sha256_file(base)) != told["base"]:
        raise ValueError(f"{base} has SHA-256 {found[:16]}…, expected {told['base'][:16]}…: the model it was made of.")
    kept = [entry for entry in model.metadata_props if entry.key != KEY]
    del model.metadata_props[:]
    model.metadata_props.extend(kept)
    known = {tensor.name: tensor for tensor in onnx.load(base).graph.initializer}
    for tensor in model.graph.initializer:
        if tensor.name not in told["left_out"]:
            continue
        fact = told["left_out"][tensor.name]
        dtype = onnx.helper.tensor_dtype_to_np_dtype(fact["type"])
        array = np.array(_cast(numpy_helper.to_array(known[tensor.name]), dtype))
        stored = numpy_helper.to_array(tensor)
        places = stored[: 8 * fact["numbers"]].view(np.int64)
        array.reshape(-1)[places] = stored[8 * fact["numbers"] :].view(dtype)
        tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))
    if digest(model.graph.initializer) != told["weights"]:
        raise ValueError("the weights are not those that were left out: another version of NumPy casts otherwise?")
    return model


def digest(weights: Iterable[TensorProto]) -> str:
    """SHA-256 of all names, types, shapes and numbers."""
    found = hashlib.sha256()
    for tensor in weights:
        array = numpy_helper.to_array(tensor)
        found.update(f"{tensor.name} {tensor.data_type} {array.shape} ".encode())
        found.update(np.ascontiguousarray(array).tobytes())
    return found.hexdigest()


def _cast(array: NDArray[Any], dtype: Any) -> NDArray[Any]:
    with np.errstate(over="ignore"):
        return np.ascontiguousarray(array.astype(dtype))


def _bits(array: NDArray[Any]) -> NDArray[Any]:
    return np.ascontiguousarray(array).reshape(-1).view(f"u{array.dtype.itemsize}")


def main() -> None:
    way, base, source, target = sys.argv[1], *map(Path, sys.argv[2:5])
    made = {"less": less, "whole": whole}[way](base, onnx.load(source))
    with atomic(target) as temporary:
        onnx.save(made, temporary)
    print(f"{target}: {target.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
