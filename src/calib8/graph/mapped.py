"""Parse an ONNX file without reading its weights: they stay in the file and are mapped into memory.

Protobuf holds every weight twice while it parses a file. A mapped one takes memory only once it is used, and then
memory that the system may take back. So the way to the weights, ``ModelProto.graph.initializer.raw_data``, is walked
here, as protobuf lays messages out (https://protobuf.dev/programming-guides/encoding); all else is left to onnx.
"""

import mmap
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np
import onnx
import onnx_ir as ir
from google.protobuf.message import DecodeError

#: Field numbers in onnx.proto: of ModelProto, GraphProto and TensorProto.
GRAPH, INITIALIZER, RAW_DATA = 7, 5, 9
#: Bytes. What is smaller may be the shape that a Reshape wants, and is not worth a page of its own.
SMALLEST = 4096
#: Protobuf's wire types; the other two, groups, are not in onnx.proto.
VARINT, FIXED64, DELIMITED, FIXED32 = 0, 1, 2, 5


class _Field(NamedTuple):
    """Where a field of a message lies: from its tag at ``begin``, its content from ``content``, to ``end``."""

    number: int
    wire_type: int
    begin: int
    content: int
    end: int


def load_mapped(path: Path) -> ir.Model:
    """The model in ``path``. Its weights stay valid when the file is replaced or removed, not when it is written into.

    Raises ``DecodeError`` if it is damaged.
    """
    if not path.stat().st_size:
        raise DecodeError("the file is empty")
    with path.open("rb") as file:
        walk = _Walk(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
    proto = onnx.ModelProto.FromString(walk.model())
    mapped = {}
    for tensor, weight in zip(proto.graph.initializer, walk.weights, strict=True):
        if weight is not None and ir.DataType(tensor.data_type).bitwidth >= 8:
            mapped[tensor.name] = _mapped(tensor, weight)
        elif weight is not None:  # packed
            tensor.raw_data = bytes(weight)
    model = ir.from_proto(proto)
    ir.external_data.set_base_dir(model.graph, path.parent)
    for name, tensor in mapped.items():
        model.graph.initializers[name].const_value = tensor
    return model


def _mapped(tensor: onnx.TensorProto, weight: memoryview) -> ir.Tensor:
    dtype = ir.DataType(tensor.data_type)
    if len(weight) != np.prod(tensor.dims, dtype=np.int64) * dtype.itemsize:
        raise DecodeError(f"tensor {tensor.name!r} has {len(weight)} bytes for the shape {list(tensor.dims)}")
    values = np.frombuffer(weight, dtype.numpy()).reshape(tensor.dims)
    return ir.Tensor(values, dtype, shape=ir.Shape(tensor.dims), name=tensor.name)


@dataclass
class _Walk:
    """One walk through a file; ``weights`` holds the ``raw_data`` of each initializer that was left out, or None."""

    data: mmap.mmap
    weights: list[memoryview | None] = field(default_factory=list)

    def model(self) -> bytes:
        """The ModelProto without weights."""
        whole = _Field(0, DELIMITED, 0, 0, len(self.data))
        return b"".join(
            _message(GRAPH, self._graph(part)) if part.number == GRAPH else self.data[part.begin : part.end]
            for part in self._fields(whole)
        )

    def _graph(self, graph: _Field) -> bytes:
        return b"".join(
            _message(INITIALIZER, self._tensor(part)) if part.number == INITIALIZER else self.data[part.begin : part.end]
            for part in self._fields(graph)
        )

    def _tensor(self, tensor: _Field) -> bytes:
        kept, weight = b"", None
        for part in self._fields(tensor):
            if part.number == RAW_DATA and part.end - part.content >= SMALLEST:
                weight = memoryview(self.data)[part.content : part.end]
            else:
                kept += self.data[part.begin : part.end]
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
            if byte < 0x80:  # noqa: PLR2004  # the highest bit says that more follow
                return number, at
        raise DecodeError("the file ends within a number")


def _message(number: int, content: bytes) -> bytes:
    """A field that holds a message."""
    return _encoded(number << 3 | DELIMITED) + _encoded(len(content)) + content


def _encoded(number: int) -> bytes:
    """As a varint."""
    encoded = bytearray()
    while number > 0x7F:  # noqa: PLR2004
        encoded.append(number & 0x7F | 0x80)
        number >>= 7
    encoded.append(number)
    return bytes(encoded)
