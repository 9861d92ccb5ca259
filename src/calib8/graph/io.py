"""ONNX files in and out, as ``onnx_ir.Model``, with the hash of the file kept beside the graph."""

import glob
import hashlib
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import onnx_ir as ir

from calib8.errors import InputError, ModelError
from calib8.files import atomic, reading, require_file, sha256_file, sweep, temporary_folder
from calib8.graph.mapped import SMALLEST, Folded, MappedTensor, data_files, identity_of, load_mapped, mapped_weight
from calib8.graph.soundness import require_sound
from calib8.graph.values import name_of

#: metadata_props key: ``source_sha256`` of the file that the model was loaded from.
SOURCE_SHA256 = "calib8.source_sha256"
#: Another name of the domain of ONNX's own operators.
ALIAS = "ai.onnx"
#: Protobuf refuses messages of 2 GiB; beyond this the weights go to one file beside the model.
SINGLE_FILE_LIMIT = 1_900_000_000


def load(path: Path | str) -> ir.Model:
    """Load an ONNX file and remember its hash. Weights stay where they are, see ``graph.mapped``.

    Raises ``ModelError``.
    """
    path = Path(path)
    before = identity_of(path)
    model = _parsed(path)
    if not model.graph.outputs:
        raise ModelError(_damaged(path, "the graph has no outputs"))
    model.metadata_props[SOURCE_SHA256] = _sha256(path, data_files(model))
    if identity_of(path) != before:
        raise ModelError(f"{path} was changed while it was read. Read it again.")
    return model


def source_sha256(path: Path | str) -> str:
    """What ``load`` remembers: SHA-256 of the ONNX file, or of that and its external data files.

    An empty text if ``path`` is no ONNX file; ``load`` says why.
    """
    try:
        return _sha256(Path(path), data_files(_parsed(Path(path))))
    except ModelError:
        return ""


def stored_bytes(path: Path | str) -> int:
    """Size of an ONNX file together with the weight files that it names. Raises ``ModelError``."""
    path = Path(path)
    return path.stat().st_size + sum(data.stat().st_size for data in data_files(_parsed(path)))


def save(model: ir.Model, path: Path | str) -> Path:
    """Write ``model`` to ``path`` atomically; weights beyond the protobuf limit go to a file beside it.

    That file, ``<name>.<hash>.data``, is named by what it holds, so that a model which is replaced, or whose
    replacement is interrupted, never meets the weights of another. Files of earlier models go last; what a process
    that was killed left half-written goes first, since it may be of gigabytes.

    Example:

        >>> model = calib8.load("model.onnx")
        >>> str(calib8.save(model, "prepared.onnx"))
        'prepared.onnx'
    """
    path = Path(path)
    sweep(path)
    data = None
    with atomic(path) as temporary:
        if weight_bytes(model) <= SINGLE_FILE_LIMIT:
            ir.save(model, temporary)
        else:
            data = path.with_name(f"{path.name}.{_weights_sha256(model)[:16]}.data")
            with temporary_folder(path) as folder:
                whole = folder / path.name
                ir.save(model, whole, external_data=data.name)
                whole.with_name(data.name).replace(data)
                whole.replace(temporary)
    for earlier in path.parent.glob(f"{glob.escape(path.name)}.{'[0-9a-f]' * 16}.data"):
        if earlier != data:
            earlier.unlink(missing_ok=True)
    return path


def serialized(model: ir.Model) -> bytes:
    """The ONNX file of ``model`` as bytes (under 2 GiB), as runtimes take it. Raises ``ModelError`` if it has none."""
    try:
        return bytes(ir.to_proto(model).SerializeToString())
    except (ir.serde.SerdeError, UnicodeError) as error:
        raise ModelError(
            f"the model cannot be written as ONNX: {error.__cause__ or error}. Export it again."
        ) from error


@contextmanager
def in_a_file(model: ir.Model) -> Iterator[Path]:
    """A temporary ONNX file of ``model``, its weights beside it: for more of them than protobuf allows in one."""
    with tempfile.TemporaryDirectory(prefix="calib8-", ignore_cleanup_errors=True) as folder:  # a runtime may map it
        path = Path(folder) / "model.onnx"
        ir.save(model, path, external_data="model.data")
        yield path


@contextmanager
def readable(model: ir.Model) -> Iterator[bytes | Path]:
    """The ONNX file of ``model``: its bytes, or the path of a temporary one where they would be too many."""
    if weight_bytes(model) <= SINGLE_FILE_LIMIT:
        yield serialized(model)
    else:
        with in_a_file(model) as path:
            yield path


def referring(model: ir.Model) -> tuple[bytes, Path | None]:
    """The ONNX file of ``model`` as bytes, and the folder of the files in which it says that mapped weights lie.

    A runtime can read them there: nothing is copied. What is computed from one is left for it to compute. Weights that
    were made since, or whose file was replaced, are in the bytes.
    """
    clone = model.clone()
    folder = None
    for value in list(clone.graph.initializers.values()):
        weight = mapped_weight(value.const_value)
        if weight is None or weight.nbytes < SMALLEST:  # a runtime folds small ones
            continue
        if weight.unchanged and folder in (None, weight.path.parent):
            folder = weight.path.parent
            _refer(clone.graph, value, weight)
    return serialized(clone), folder


def _refer(graph: ir.Graph, value: ir.Value, weight: MappedTensor) -> None:
    """Let the initializer ``value`` say where its ``weight`` lies, or where that which it is computed from does."""
    folded = value.const_value
    value.const_value = ir.ExternalTensor(
        weight.path.name, weight.offset, weight.nbytes, weight.dtype, shape=weight.shape, name=name_of(value)
    )
    if isinstance(folded, Folded):
        value.shape, value.type = ir.Shape(weight.shape), ir.TensorType(weight.dtype)  # a clone shares the type itself
        readers = list(value.uses())
        nodes = folded.nodes(value, f"{value.name}.unfolded")
        graph.insert_before(graph[0], nodes)
        for reader, index in readers:
            reader.replace_input_with(index, nodes[-1].outputs[0])


def weight_bytes(model: ir.Model, *, mapped: bool = True) -> int:
    """Bytes of the main graph's initializers, of those in files that ``load`` mapped too or not."""
    weights = [v.const_value for v in model.graph.initializers.values() if v.const_value is not None]
    return sum(weight.nbytes for weight in weights if mapped or not isinstance(weight, (MappedTensor, Folded)))


def _parsed(path: Path) -> ir.Model:
    try:
        with reading(require_file(path, "ONNX model")):
            path.open("rb").close()
    except InputError as error:
        raise ModelError(str(error)) from None
    try:
        model = load_mapped(path)
        _one_domain(model)
        _sort(model)
        require_sound(model)
    except Exception as error:  # onnx and onnx_ir raise whatever a damaged file leads to
        raise ModelError(_damaged(path, str(error))) from error
    return model


def _one_domain(model: ir.Model) -> None:
    """ONNX's own operators are of the domain "", which may be written ``ai.onnx``."""
    for imports in (model.opset_imports, *(function.opset_imports for function in model.functions.values())):
        if ALIAS in imports:
            imports.setdefault("", imports.pop(ALIAS))
    graphs = (model.graph, *(function.graph for function in model.functions.values()))
    for node in (node for graph in graphs for node in graph.all_nodes()):
        if node.domain == ALIAS:
            node.domain = ""


def _sort(model: ir.Model) -> None:
    """Put nodes behind what they read, where a tool left them in another order; a loop is for ``require_sound``."""
    known: set[ir.Node] = set()
    for node in model.graph:
        if any(
            value is not None and (made := value.producer()) is not None and made not in known for value in node.inputs
        ):
            with suppress(ValueError):
                model.graph.sort()
            return
        known.add(node)


def _weights_sha256(model: ir.Model) -> str:
    digest = hashlib.sha256()
    for graph in model.graphs():
        for name, value in graph.initializers.items():
            if value.const_value is not None:
                digest.update(f"{name}|{value.const_value.dtype}|{value.const_value.shape}|".encode())
                digest.update(value.const_value.tobytes())
    return digest.hexdigest()


def _sha256(path: Path, data: list[Path]) -> str:
    """Weights beside the model are part of it: changed weights must not pass for the model that was calibrated."""
    digests = [sha256_file(file) for file in (path, *data)]
    return digests[0] if not data else hashlib.sha256("".join(digests).encode()).hexdigest()


def _damaged(path: Path, reason: str) -> str:
    return (
        f"{path} ({path.stat().st_size:,} bytes) is not a usable ONNX model: {reason}. "
        "Expected a complete .onnx file; export or download it again."
    )
