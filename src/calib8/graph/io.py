"""ONNX files in and out, as ``onnx_ir.Model``, with the hash of the file kept beside the graph."""

import hashlib
from pathlib import Path

import onnx_ir as ir
from google.protobuf.message import DecodeError

from calib8.errors import ModelError
from calib8.files import atomic, require_file, sha256_file

#: metadata_props key: ``source_sha256`` of the file that the model was loaded from.
SOURCE_SHA256 = "calib8.source_sha256"
#: Protobuf refuses messages of 2 GiB; beyond this the weights go to one file beside the model.
SINGLE_FILE_LIMIT = 1_900_000_000


def load(path: Path | str) -> ir.Model:
    """Load an ONNX file and remember its hash. Raises ``ModelError``.

    External data is read into memory, so that the model can be saved elsewhere; beyond ``SINGLE_FILE_LIMIT`` it stays
    memory-mapped.
    """
    path = Path(path)
    try:
        require_file(path, "ONNX model")
    except Exception as error:
        raise ModelError(str(error)) from None
    try:
        model = ir.load(path)
        data = _data_files(model)
        if _weight_bytes(model) <= SINGLE_FILE_LIMIT:
            ir.external_data.load_to_model(model)
        elif missing := [file for file in data if not file.is_file()]:
            raise FileNotFoundError(f"its weights are in {missing[0]}, which is not there")
    except (DecodeError, RuntimeError, ValueError, TypeError, KeyError, OSError) as error:
        raise ModelError(_damaged(path, str(error))) from error
    if not model.graph.outputs:
        raise ModelError(_damaged(path, "the graph has no outputs"))
    model.metadata_props[SOURCE_SHA256] = _sha256(path, data)
    return model


def source_sha256(path: Path | str) -> str:
    """What ``load`` remembers: SHA-256 of the ONNX file, or of that and its external data files.

    An empty text if ``path`` is no ONNX file; ``load`` says why.
    """
    try:
        return _sha256(Path(path), _data_files(ir.load(path)))
    except (DecodeError, RuntimeError, ValueError, TypeError, KeyError, OSError):
        return ""


def stored_bytes(path: Path | str) -> int:
    """Size of an ONNX file together with the weight files that it names."""
    path = Path(path)
    return path.stat().st_size + sum(data.stat().st_size for data in _data_files(ir.load(path)))


def save(model: ir.Model, path: Path | str) -> Path:
    """Write ``model`` to ``path`` atomically; weights beyond the protobuf limit go to ``<name>.data`` beside it."""
    path = Path(path)
    if _weight_bytes(model) > SINGLE_FILE_LIMIT:
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


def _weight_bytes(model: ir.Model) -> int:
    return sum(v.const_value.nbytes for v in model.graph.initializers.values() if v.const_value is not None)


def _data_files(model: ir.Model) -> list[Path]:
    """The external data files of the main graph, sorted."""
    tensors = (value.const_value for value in model.graph.initializers.values())
    return sorted({Path(tensor.path) for tensor in tensors if isinstance(tensor, ir.ExternalTensor)})


def _sha256(path: Path, data: list[Path]) -> str:
    """Weights beside the model are part of it: changed weights must not pass for the model that was calibrated."""
    digests = [sha256_file(file) for file in (path, *data)]
    return digests[0] if not data else hashlib.sha256("".join(digests).encode()).hexdigest()


def _damaged(path: Path, reason: str) -> str:
    return (
        f"{path} ({path.stat().st_size:,} bytes) is not a usable ONNX model: {reason}. "
        "Expected a complete .onnx file; export or download it again."
    )
