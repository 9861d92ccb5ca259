"""How an input becomes another, from a seeded generator: bytes, and the structure of JSON, NumPy and protobuf files.

A byte changed at random seldom passes the outermost parser. So a target may name a mutation that knows its format; half
of the changes are of that kind, the others are of bytes.
"""

import io
import json
import random
import zipfile
from collections.abc import Callable, Sequence
from copy import deepcopy
from typing import Any

import numpy as np
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import DecodeError, Message
from onnx import ModelProto

#: Makes another input of ``data``; ``corpus`` holds more to take parts from.
Mutation = Callable[[random.Random, bytes, Sequence[bytes]], bytes]

LONGEST = 1 << 16
NUMBERS = (
    0,
    1,
    -1,
    2,
    7,
    127,
    128,
    255,
    256,
    2**15,
    2**16,
    2**31 - 1,
    2**31,
    -(2**31),
    2**32,
    2**63 - 1,
    -(2**63),
    2**64,
)
ODD_BYTES = tuple(number.to_bytes(size, order, signed=False)
                  for number in (0, 1, 0x7F, 0xFF) for size in (1, 2, 4, 8) for order in ("little", "big"))  # fmt: skip
ODD_TEXTS = (
    b"", b"\x00", b"\n", b"\r\n", b"\xef\xbb\xbf", b"\xff", b"\xed\xa0\x80", b"\xe2\x80\xa8", b":", b"../",
    b"/dev/zero", b"nan", b"-inf", b"1e999", b"9" * 5000, b"[" * 3000, b'"', b"\\ud800", b"None", b"%s{0}", b"a" * 300,
)  # fmt: skip
ODD_VALUES: tuple[Any, ...] = (
    None, True, False, "", "x", "\ud800", "../../x", [], {}, [[]], [None], {"": None}, 1.5, -0.0, float("nan"),
    float("inf"), 10**400, *NUMBERS,
)  # fmt: skip


def of_bytes(chance: random.Random, data: bytes, corpus: Sequence[bytes]) -> bytes:
    """Overwrite, insert, remove, repeat, or take over a piece."""
    changed = bytearray(data)
    for _ in range(chance.choice((1, 1, 1, 2, 4, 8))):
        at = chance.randrange(len(changed) + 1)
        length = chance.choice((1, 1, 2, 4, 8, 32, 256))
        match chance.randrange(8):
            case 0 if changed:
                changed[at % len(changed)] = chance.randrange(256)
            case 1 if changed:
                changed[at % len(changed)] ^= 1 << chance.randrange(8)
            case 2:
                piece = chance.choice(ODD_BYTES)
                changed[at : at + len(piece)] = piece
            case 3:
                changed[at:at] = chance.choice(ODD_TEXTS)
            case 4:
                del changed[at : at + length]
            case 5:
                changed[at:at] = changed[at : at + length] * chance.choice((1, 2, 16))
            case 6:
                del changed[at:]
            case _:
                other = chance.choice(corpus)
                begin = chance.randrange(len(other) + 1)
                changed[at : at + chance.choice((0, length))] = other[begin : begin + length]
    return bytes(changed[:LONGEST])


def of_json(chance: random.Random, data: bytes, corpus: Sequence[bytes]) -> bytes:
    """Replace, remove, rename or wrap a value somewhere in the document."""
    try:
        document = [json.loads(data)]
    except (ValueError, RecursionError):
        return of_bytes(chance, data, corpus)
    for _ in range(chance.choice((1, 1, 2, 4))):
        places = list(_places(document, 0))
        holder, key = chance.choice(places)
        match chance.randrange(6):
            case 0 if holder is not document:
                del holder[key]
            case 1 if isinstance(holder, dict):
                holder[str(chance.choice(ODD_VALUES))] = holder[key]
            case 2:
                other, its = chance.choice(places)
                holder[key] = json.loads(json.dumps(other[its]))
            case 3:
                holder[key] = [holder[key]]
            case _:
                holder[key] = deepcopy(chance.choice(ODD_VALUES))
    return json.dumps(document[0]).encode()[:LONGEST] if document else b"null"


def _places(holder: Any, depth: int) -> Any:
    for key in list(holder) if isinstance(holder, dict) else range(len(holder)):
        yield holder, key
        if isinstance(holder[key], (dict, list)) and depth < 50:
            yield from _places(holder[key], depth + 1)


def of_lines(chance: random.Random, data: bytes, corpus: Sequence[bytes]) -> bytes:
    """Change one line, by ``of_json`` if it is JSON; or leave out, repeat or exchange lines."""
    lines = data.split(b"\n")
    at, other = chance.randrange(len(lines)), chance.randrange(len(lines))
    match chance.randrange(5):
        case 0:
            del lines[at]
        case 1:
            lines[at], lines[other] = lines[other], lines[at]
        case 2:
            lines.insert(at, lines[other])
        case 3:
            lines[at] = of_bytes(chance, lines[at], corpus)
        case _:
            lines[at] = of_json(chance, lines[at], corpus)
    return b"\n".join(lines)[:LONGEST]


def of_npy(chance: random.Random, data: bytes, corpus: Sequence[bytes]) -> bytes:
    """Another header, of the length that the file states, or in the other versions of the format."""
    version = data[6:7]
    size = 2 if version == b"\x01" else 4
    end = 8 + size + int.from_bytes(data[8 : 8 + size], "little")
    header, content = data[8 + size : end], data[end:]
    match chance.randrange(4):
        case 0:
            dtype = chance.choice(("|O", "<U0", "|V0", "<f16", "<M8[ns]", ">i4", "|S3", "<c8", "|b1", "<U1000000000"))
            header = b"{'descr': '%s', 'fortran_order': False, 'shape': (%d,), }\n" % (
                dtype.encode(), chance.choice(NUMBERS),
            )  # fmt: skip
        case 1:
            shape = tuple(chance.choice(NUMBERS) for _ in range(chance.randrange(5)))
            header = b"{'descr': '<f4', 'fortran_order': True, 'shape': %s, }\n" % str(shape).encode()
        case 2:
            header = of_bytes(chance, header, corpus)
        case _:
            content = of_bytes(chance, content, corpus)
    version = chance.choice((version, b"\x01", b"\x02", b"\x03", b"\x04"))
    stated = min(len(header), 0xFFFF).to_bytes(2 if version == b"\x01" else 4, "little")
    return (b"\x93NUMPY" + version + b"\x00" + stated + header + content)[:LONGEST]


def of_npz(chance: random.Random, data: bytes, corpus: Sequence[bytes]) -> bytes:
    """A whole archive around changed members; sometimes one that is a thousand times larger than the file."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            members = [(info.filename, archive.read(info)) for info in archive.infolist() if info.file_size < LONGEST]
    except Exception:  # damaged already
        return of_bytes(chance, data, corpus)
    if members:
        at = chance.randrange(len(members))
        name, content = members[at]
        match chance.randrange(20):
            case 0:
                members[at] = (chance.choice(("", "x", "../x.npy", "/x.npy", "ids.npy", "a\x00b.npy")), content)
            case 1:
                members.append((name, content))
            case 2:
                members[at] = (name, _npy(np.zeros(2**22, np.uint8)))
            case 3 | 4 | 5 | 6:
                members[at] = (name, of_bytes(chance, content, corpus))
            case _:
                members[at] = (name, of_npy(chance, content, corpus))
    stream = io.BytesIO()
    method = chance.choice((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED))
    with zipfile.ZipFile(stream, "w", method) as archive:
        for name, content in members:
            archive.writestr(zipfile.ZipInfo(name), content, method)
    return stream.getvalue()


def _npy(array: np.ndarray) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array, allow_pickle=False)
    return stream.getvalue()


def of_onnx(chance: random.Random, data: bytes, corpus: Sequence[bytes]) -> bytes:
    """Change fields of the messages in an ONNX model."""
    model = ModelProto()
    try:
        model.ParseFromString(data)
    except DecodeError:
        return of_bytes(chance, data, corpus)
    for _ in range(chance.choice((1, 1, 2, 4))):
        messages = list(_messages(model, 0))
        message = chance.choice(messages)
        present = message.ListFields()
        if not present or chance.random() < 0.2:
            present = [(field, None) for field in message.DESCRIPTOR.fields]
        _change(chance, message, chance.choice(present)[0])
    return model.SerializeToString()[:LONGEST]


def _messages(message: Message, depth: int) -> Any:
    yield message
    for field, value in message.ListFields():
        if field.type == FieldDescriptor.TYPE_MESSAGE and depth < 20:
            for part in value if field.is_repeated else (value,):
                yield from _messages(part, depth + 1)


def _change(chance: random.Random, message: Any, field: FieldDescriptor) -> None:
    """Clear the field, or give it, or one of its elements, another value."""
    name = field.name
    if chance.random() < 0.2:
        message.ClearField(name)
        return
    value = getattr(message, name)
    if field.type == FieldDescriptor.TYPE_MESSAGE:
        part = value if not field.is_repeated else (chance.choice(value) if value else value.add())
        if field.is_repeated and chance.random() < 0.5:
            value.add().CopyFrom(part)
        return
    new = _scalar(chance, field)
    if not field.is_repeated:
        setattr(message, name, new)
    elif value and chance.random() < 0.6:
        value[chance.randrange(len(value))] = new
    elif value and chance.random() < 0.5:
        del value[chance.randrange(len(value))]
    else:
        value.append(new)


def _scalar(chance: random.Random, field: FieldDescriptor) -> Any:
    if field.cpp_type == FieldDescriptor.CPPTYPE_STRING:
        odd = chance.choice((b"", b"x", b"w0", b"y0", b"../secret.data", b"/etc/hostname", b"If", b"MatMul",
                             b"Constant", b"Gather", b"Identity", b"weights.data", b"offset", b"length", b"location",
                             b"-1", b"99999999999999999999", b"\x00"))  # fmt: skip
        return odd if field.type == FieldDescriptor.TYPE_BYTES else odd.decode()
    if field.cpp_type in (FieldDescriptor.CPPTYPE_FLOAT, FieldDescriptor.CPPTYPE_DOUBLE):
        return chance.choice((0.0, -1.0, float("nan"), float("inf"), 1e-45))
    if field.enum_type is not None:
        return chance.choice([value.number for value in field.enum_type.values])
    signed = field.cpp_type in (FieldDescriptor.CPPTYPE_INT64, FieldDescriptor.CPPTYPE_INT32)
    bits = 64 if field.cpp_type in (FieldDescriptor.CPPTYPE_INT64, FieldDescriptor.CPPTYPE_UINT64) else 32
    low, high = (-(2 ** (bits - 1)), 2 ** (bits - 1)) if signed else (0, 2**bits)
    fitting = [number for number in (*NUMBERS, *range(30)) if low <= number < high]
    return chance.choice(fitting)
