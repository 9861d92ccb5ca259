"""ONNX files in and out, as ``onnx_ir.Model``, with the hash of the file kept beside the graph."""

from pathlib import Path

import onnx_ir as ir
from google.protobuf.message import DecodeError

from calib8.errors import ModelError
from calib8.files import atomic, require_file, sha256_file

#: metadata_props key: SHA-256 of the file that the model was loaded from.
SOURCE_SHA256 = "calib8.source_sha256"
#: Protobuf refuses messages of 2 GiB; beyond this the weights go to one file beside the model.
SINGLE_FILE_LIMIT = 1_900_000_000


def load(path: Path | str) -> ir.Model:
    """Load an ONNX file (external data stays memory-mapped) and remember its SHA-256. Raises ``ModelError``."""
    path = Path(path)
    try:
        require_file(path, "ONNX model")
    except Exception as error:
        raise ModelError(str(error)) from None
    try:
        model = ir.load(path)
    except (DecodeError, ValueError, TypeError, KeyError, OSError) as error:
        raise ModelError(_damaged(path, str(error))) from error
    if not model.graph.outputs:
        raise ModelError(_damaged(path, "the graph has no outputs"))
    model.metadata_props[SOURCE_SHA256] = sha256_file(path)
    return model


def save(model: ir.Model, path: Path | str) -> Path:
    """Write ``model`` to ``path`` atomically; weights beyond the protobuf limit go to ``<name>.data`` beside it."""
    path = Path(path)
    size = sum(value.const_value.nbytes for value in model.graph.initializers.values() if value.const_value is not None)
    if size > SINGLE_FILE_LIMIT:
        # The graph names its data file, so the data is written under its final name; the model appears last.
        with atomic(path) as temporary:
            ir.save(model, temporary, external_data=f"{path.name}.data")
    else:
        with atomic(path) as temporary:
            ir.save(model, temporary)
    return path


def serialized(model: ir.Model) -> bytes:
    """The ONNX file of ``model`` as bytes (under 2 GiB), as runtimes take it."""
    return bytes(ir.to_proto(model).SerializeToString())


def _damaged(path: Path, reason: str) -> str:
    return (
        f"{path} ({path.stat().st_size:,} bytes) is not a usable ONNX model: {reason}. "
        "Expected a complete .onnx file; export or download it again."
    )
