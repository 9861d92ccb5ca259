"""Parse an ONNX file without reading its weights: they stay in the file and are mapped into memory.

Protobuf holds every weight twice while it parses a file. A mapped one takes memory only once it is used, and then
memory that the system may take back. So the way to the weights, ``ModelProto.graph.initializer.raw_data``, is walked
here, as protobuf lays messages out (https://protobuf.dev/programming-guides/encoding); all else is left to onnx.
"""

import mmap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np
import onnx
import onnx_ir as ir
from google.protobuf.message import DecodeError
from numpy.typing import NDArray

from calib8.files import special
from calib8.graph.zip_map import without_maps

#: Field numbers in onnx.proto: of ModelProto, GraphProto and TensorProto.
GRAPH, INITIALIZER, RAW_DATA = 7, 5, 9
#: Bytes. What is smaller may be the shape that a Reshape wants, and is not worth a page of its own.
SMALLEST = 4096
BYTE = 8
#: Where a model that was loaded holds the names of its files of external data.
DATA_FILES = "calib8.data_files"
#: Protobuf's wire types; the other two, groups, are not in onnx.proto.
VARINT, FIXED64, DELIMITED, FIXED32 = 0, 1, 2, 5


class _Field(NamedTuple):
    """Where a field of a message lies: from its tag at ``begin``, its content from ``content``, to ``end``."""

    number: int
    wire_type: int
    begin: int
    content: int
    end: int


class MappedTensor(ir.Tensor[NDArray[np.generic]]):
    """Values in a file that is mapped: at ``offset`` of ``path``, as long as ``unchanged``.

    The values stay what they are when the file is replaced or removed, not when it is written into.
    """

    def __init__(self, file: "MappedFile", offset: int, length: int, dtype: ir.DataType, dims: Sequence[int]) -> None:
        values = np.frombuffer(file.data, dtype.numpy(), int(length // dtype.itemsize), offset)
        super().__init__(values.reshape(dims), dtype, shape=ir.Shape(dims))
        self.file, self.offset, self.path = file, offset, file.path

    @property
    def unchanged(self) -> bool:
        """Whether the file of that name is still the one that was mapped, for whoever reads it by its name."""
        return self.file.identity == identity_of(self.path)


class Folded(ir.LazyTensor):
    """What ``node``, a Transpose, Cast or Identity, makes of the constant ``source``.

    It is computed whenever it is asked for, and not kept: all weights of a model of several GB may be transposed.
    """

    def __init__(self, node: ir.Node, source: ir.TensorProtocol) -> None:
        self.op_type, self.attributes, self.source = node.op_type, dict(node.attributes), source
        dtype, dims = source.dtype, source.shape.numpy()
        if self.op_type == "Cast":
            dtype = ir.DataType(node.attributes.get_int("to"))
        elif self.op_type == "Transpose":
            dims = tuple(dims[axis] for axis in self._order())
        super().__init__(self._computed, dtype, ir.Shape(dims), name=node.outputs[0].name)

    def nodes(self, read: ir.Value, prefix: str) -> list[ir.Node]:
        """New nodes, with names that begin so, that compute it from ``read``: what ``mapped_weight`` finds."""
        before = self.source.nodes(read, f"{prefix}.source") if isinstance(self.source, Folded) else []
        output = ir.Value(name=f"{prefix}.{self.op_type}")
        read = before[-1].outputs[0] if before else read
        node = ir.Node("", self.op_type, [read], self.attributes.values(), outputs=[output], name=output.name)
        return [*before, node]

    def _order(self) -> list[int]:
        axes = self.attributes["perm"].as_ints() if "perm" in self.attributes else range(len(self.source.shape))[::-1]
        return [int(axis) for axis in axes]

    def _computed(self) -> ir.TensorProtocol:
        values = self.source.numpy()
        if self.op_type == "Cast":
            values = values.astype(self.dtype.numpy())
        elif self.op_type == "Transpose":
            values = values.transpose(self._order())
        return ir.tensor(np.asarray(values, order="C"))  # np.ascontiguousarray would give a single number an axis


def mapped_weight(weight: ir.TensorProtocol | None) -> MappedTensor | None:
    """The tensor in a file that ``weight`` is, or is computed from whenever it is asked for; None if it is neither."""
    while isinstance(weight, Folded):
        weight = weight.source
    return weight if isinstance(weight, MappedTensor) else None


def release(model: ir.Model) -> None:
    """Give the memory of mapped weights back until they are read again."""
    weights = (mapped_weight(value.const_value) for value in model.graph.initializers.values())
    for file in {weight.file for weight in weights if weight is not None}:
        file.release()


def load_mapped(path: Path) -> ir.Model:
    """The model in ``path``, its large weights mapped; external ones too, and those of subgraphs and attributes.

    Raises ``DecodeError`` if it is damaged, ``OSError`` if a file of external data is missing, ``ValueError`` if such a
    file is too short or not in the model's folder.
    """
    file = MappedFile(path)
    walk = _Walk(file.data)
    proto = onnx.ModelProto.FromString(walk.model())
    without_maps(proto)
    weights = {}
    for tensor, (offset, length) in zip(proto.graph.initializer, walk.weights, strict=True):
        if length and ir.DataType(tensor.data_type).bitwidth >= BYTE:
            weights[tensor.name] = _mapped(tensor, file, offset, length)
        elif length:  # several values a byte
            tensor.raw_data = file.data[offset : offset + length]
    model = ir.from_proto(proto)
    for name, weight in weights.items():
        model.graph.initializers[name].const_value = weight
    beside = _Beside(path)
    for function in model.functions.values():
        for graph in (function.graph, *function.subgraphs()):
            _take_in(graph, beside)
    for graph in model.graphs():
        _take_in(graph, beside)
    model.meta[DATA_FILES] = sorted(beside.files)
    return model


def data_files(model: ir.Model) -> list[Path]:
    """The files of external data that ``load_mapped`` found, sorted."""
    found: list[Path] = model.meta[DATA_FILES]
    return found


class _Beside:
    """The files of external data of the model in ``path``, each mapped once.

    They are in the model's folder, or, where it is a link, in that of what it links to, as in the cache of the Hugging
    Face hub.
    """

    def __init__(self, path: Path) -> None:
        self._folder = path.parent
        self._allowed = path.parent.resolve(), path.resolve().parent
        self.files: dict[Path, MappedFile] = {}

    def values(self, tensor: ir.ExternalTensor) -> ir.TensorProtocol:
        """The tensor of which the model says only where it is. Raises ``ValueError`` if that is somewhere else."""
        path = self._folder / tensor.location
        if not any(path.resolve().is_relative_to(folder) for folder in self._allowed):
            raise ValueError(f"the weight {tensor.name!r} is in {tensor.location}, which is not in the model's folder")
        file = self.files[path] = self.files.get(path) or MappedFile(path)
        offset, dims = tensor.offset or 0, tensor.shape.numpy()
        if tensor.dtype.bitwidth >= BYTE:
            weight = MappedTensor(file, offset, tensor.nbytes, tensor.dtype, dims)
            weight.name = tensor.name
            return weight
        packed = file.data[offset : offset + tensor.nbytes]
        if len(packed) < tensor.nbytes:
            raise ValueError(f"{tensor.location} ends within the weight {tensor.name!r}")
        return ir.from_proto(onnx.TensorProto(name=tensor.name, data_type=tensor.dtype, dims=dims, raw_data=packed))


def _take_in(graph: ir.Graph, beside: _Beside) -> None:
    """Give the initializers and the attributes of ``graph`` their values, wherever they are."""

    def values(tensor: ir.TensorProtocol) -> ir.TensorProtocol:
        return beside.values(tensor) if isinstance(tensor, ir.ExternalTensor) else tensor

    for value in graph.initializers.values():
        if value.const_value is not None:
            value.const_value = values(value.const_value)
    for node in graph:
        for name, attribute in list(node.attributes.items()):
            if attribute.is_ref():
                continue
            if attribute.type is ir.AttributeType.TENSOR:
                node.attributes[name] = ir.AttrTensor(name, values(attribute.as_tensor()))
            elif attribute.type is ir.AttributeType.TENSORS:
                node.attributes[name] = ir.AttrTensors(name, [values(one) for one in attribute.as_tensors()])


def _mapped(tensor: onnx.TensorProto, file: "MappedFile", offset: int, length: int) -> MappedTensor:
    dtype = ir.DataType(tensor.data_type)
    if length != np.prod(tensor.dims, dtype=np.int64) * dtype.itemsize:
        raise DecodeError(f"tensor {tensor.name!r} has {length} bytes for the shape {list(tensor.dims)}")
    weight = MappedTensor(file, offset, length, dtype, tensor.dims)
    weight.name = tensor.name
    return weight


class MappedFile:
    """A file in memory; its ``identity`` tells it from another of the same name. Links are followed once, here."""

    def __init__(self, path: Path) -> None:
        self.path, self.identity = path.resolve(), identity_of(path)
        if kind := special(path):  # which would be waited for
            raise DecodeError(f"{path.name} is {kind}, expected a file")
        with path.open("rb") as file:
            if not path.stat().st_size:
                raise DecodeError("the file is empty")
            self.data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)

    def release(self) -> None:
        """Give the memory back; what was read is read again from the file."""
        if hasattr(mmap, "MADV_DONTNEED"):  # not on Windows
            self.data.madvise(mmap.MADV_DONTNEED)


def identity_of(path: Path) -> tuple[int, ...] | None:
    """What tells a file from another one of its name, and from itself before it was written to; None without one."""
    try:
        found = path.stat()
    except (OSError, ValueError):  # of a null character in its name
        return None
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns  # the last cannot be set


@dataclass
class _Walk:
    """One walk through a file; ``weights``: offset and length of what was left out of each initializer."""

    data: mmap.mmap
    weights: list[tuple[int, int]] = field(default_factory=list)

    def model(self) -> bytes:
        """The ModelProto without weights."""
        whole = _Field(0, DELIMITED, 0, 0, len(self.data))
        return b"".join(
            _message(GRAPH, self._graph(part)) if part.number == GRAPH else self._whole(part)
            for part in self._fields(whole)
        )

    def _whole(self, part: _Field) -> bytes:
        return self.data[part.begin : part.end]

    def _graph(self, graph: _Field) -> bytes:
        return b"".join(
            _message(INITIALIZER, self._tensor(part)) if part.number == INITIALIZER else self._whole(part)
            for part in self._fields(graph)
        )

    def _tensor(self, tensor: _Field) -> bytes:
        kept, weight = b"", (0, 0)
        for part in self._fields(tensor):
            if part.number == RAW_DATA and part.end - part.content >= SMALLEST:
                weight = part.content, part.end - part.content
            else:
                kept += self._whole(part)
        self.weights.append(weight)
        return kept

    def _fields(self, message: _Field) -> Iterator[_Field]:
        if message.wire_type != DELIMITED:
            raise DecodeError(f"field {message.number} is no message")
        begin = message.content
        while begin < message.end:
            tag, content = self._varint(begin)
            number, wire_type = tag >> 3, tag & 7
            if wire_type == DELIMITED:
                size, content = self._varint(content)
            elif wire_type in (FIXED32, FIXED64):
                size = 4 if wire_type == FIXED32 else 8
            elif wire_type == VARINT:
                size = self._varint(content)[1] - content
            else:
                raise DecodeError(f"unknown wire type {wire_type} at byte {begin}")
            if content + size > message.end:
                raise DecodeError(f"the field at byte {begin} ends at {content + size}, beyond {message.end}")
            yield _Field(number, wire_type, begin, content, content + size)
            begin = content + size

    def _varint(self, at: int) -> tuple[int, int]:
        """The number that begins at ``at``, and where it ends."""
        number = 0
        for shift in range(0, 70, 7):
            if at >= len(self.data):
                break
            byte = self.data[at]
            at += 1
            number |= (byte & 0x7F) << shift
            if byte < 0x80:  # the highest bit says that more follow
                return number, at
        raise DecodeError("the file ends within a number")


def _message(number: int, content: bytes) -> bytes:
    """A field that holds a message."""
    return _encoded(number << 3 | DELIMITED) + _encoded(len(content)) + content


def _encoded(number: int) -> bytes:
    """As a varint."""
    encoded = bytearray()
    while number > 0x7F:
        encoded.append(number & 0x7F | 0x80)
        number >>= 7
    encoded.append(number)
    return bytes(encoded)
