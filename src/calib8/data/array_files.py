"""``.npy`` and ``.npz`` files: written whole or not at all, and read as what they are, data of strangers.

A header is compared with the bytes that follow before NumPy acts on it: NumPy divides by an item size of 0, which ends
the process, and allocates whatever a shape says. No pickle is ever loaded. Of an archive no more is read than this
machine has memory for.
"""

import os
import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import IO

import numpy as np
from numpy.typing import NDArray

from calib8.errors import DataError
from calib8.files import atomic, require_file

SUFFIX = ".npy"


def read_npy(path: Path) -> NDArray[np.generic]:
    """The array in a ``.npy`` file, memory-mapped. Raises ``DataError`` if it is none, or holds Python objects."""
    require_file(path, ".npy array")
    try:
        with path.open("rb") as stream:
            _require_whole(stream, path.stat().st_size)
        return np.lib.format.open_memmap(path, mode="r")
    except Exception as error:  # NumPy reads a header as Python source, and raises whatever that leads to
        raise DataError(f"{path} is not a readable .npy array ({error}). Save it again with np.save.") from error


def read_npz(path: Path) -> dict[str, NDArray[np.generic]]:
    """The arrays in a ``.npz`` file by name. Raises ``DataError`` if it is none, or is larger than memory."""
    require_file(path, ".npz file")
    try:
        with zipfile.ZipFile(path) as archive:
            _require_room(sum(member.file_size for member in archive.infolist()))
            return dict(_member(archive, member) for member in archive.infolist())
    except Exception as error:  # of zipfile, zlib and NumPy
        raise DataError(f"{path} is not a readable .npz file ({error}). Save it again with np.savez.") from error


def _member(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> tuple[str, NDArray[np.generic]]:
    if not member.filename.endswith(SUFFIX):
        raise ValueError(f"{member.filename!r} in it is no array")
    with archive.open(member) as stream:
        _require_whole(stream, member.file_size)
    with archive.open(member) as stream:
        return member.filename.removesuffix(SUFFIX), np.lib.format.read_array(stream, allow_pickle=False)


def _require_whole(stream: IO[bytes], size: int) -> None:
    """Raise ``ValueError`` unless the header of an array file of ``size`` bytes fits what follows it."""
    version = np.lib.format.read_magic(stream)
    read_header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, _, dtype = read_header(stream)
    if dtype.hasobject:
        raise ValueError(f"it holds Python objects, dtype {dtype}, and no pickle is loaded")
    if dtype.itemsize == 0 or any(length < 0 for length in shape):
        raise ValueError(f"no array has the shape {list(shape)} of dtype {dtype}")
    stated = dtype.itemsize
    for length in shape:
        stated *= length
    if stated > size - stream.tell():
        raise ValueError(f"its header states {stated:,} bytes, and {size - stream.tell():,} follow")


def _require_room(size: int) -> None:
    """Raise ``MemoryError`` for more bytes than this machine has memory, as far as it tells."""
    if hasattr(os, "sysconf") and size > (memory := os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")):
        raise MemoryError(f"it holds {size:,} bytes, and this machine has {memory:,} bytes of memory")


def save_array(path: Path, array: NDArray[np.generic]) -> None:
    """Write ``array`` as ``.npy``, atomically."""
    with atomic(path) as temporary, temporary.open("wb") as stream:
        np.save(stream, array, allow_pickle=False)


def save_rows(path: Path, blocks: Iterable[NDArray[np.generic]]) -> tuple[int, ...]:
    """Write ``blocks`` [n, ...], one below the other, as one ``.npy``, atomically and as they come. Returns its shape.

    Memory is that of a block. There must be one, and all of one type and width.
    """
    with atomic(path) as temporary, temporary.open("wb") as stream:
        rows = 0
        block: NDArray[np.generic] = np.zeros(0, np.float32)
        for block in blocks:
            if not rows:
                _write_header(stream, (0, *block.shape[1:]), block.dtype)
            stream.write(np.ascontiguousarray(block).data)
            rows += len(block)
        shape = (rows, *block.shape[1:])
        stream.seek(0)  # NumPy leaves room in a header for its first number to grow to any
        _write_header(stream, shape, block.dtype)
    return shape


def _write_header(stream: IO[bytes], shape: tuple[int, ...], dtype: np.dtype[np.generic]) -> None:
    described = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(stream, described)
