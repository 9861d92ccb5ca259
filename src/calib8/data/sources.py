"""Where arrays come from: a folder of ``.npy`` files, ``.npz`` files, or a Python iterable of batches.

A source yields *chunks*: dicts of input name -> array [n, ...]. Chunks may differ in their other dimensions (ragged).
"""

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from calib8.data.array_files import read_npy, read_npz
from calib8.data.inputs import Arrays, Chunk, as_array
from calib8.data.selected import as_rows, blocks
from calib8.errors import DataError
from calib8.files import require_reachable, special


class Source(Protocol):
    """Anything that yields chunks, again from the start on every call of ``chunks``."""

    def chunks(self) -> Iterator[Arrays]:
        """Dicts of input name -> array [n, ...]."""

    def fingerprint(self) -> str:
        """SHA-256 over names, dtypes, shapes and bytes of everything that ``chunks`` yields."""


class NpyFolder:
    """A folder with one ``<input name>.npy`` [N, ...] per model input, or with ``.npz`` files of ragged chunks.

    Example:

        >>> data = calib8.npy_folder("calib_data")
        >>> calib8.calibrate("model.onnx", data).samples
        64
    """

    def __init__(self, folder: Path | str) -> None:
        self.folder = Path(folder)
        require_reachable(self.folder)
        if not self.folder.is_dir():
            raise DataError(_no_folder(self.folder))
        self.arrays = sorted(self.folder.glob("*.npy"))
        self.archives = sorted(self.folder.glob("*.npz"))
        if bool(self.arrays) == bool(self.archives):
            found = "both .npy and .npz files" if self.arrays else "neither .npy nor .npz files"
            raise DataError(f"{self.folder} holds {found}; expected one <input name>.npy per input, or .npz files.")

    def chunks(self) -> Iterator[Arrays]:
        """One chunk (memory-mapped) for ``.npy`` files, which may be larger than memory; one chunk per ``.npz`` file,
        which is read whole."""
        if self.arrays:
            yield {path.stem: read_npy(path) for path in self.arrays}
        for path in self.archives:
            yield Chunk(read_npz(path), f" of {path.name}")

    def fingerprint(self) -> str:
        """See ``Source``."""
        return fingerprint(self.chunks())


class NpzFile:
    """One ``.npz`` file whose entries are named like the model's inputs.

    Example:

        >>> np.savez("calib_data.npz", input_ids=np.ones((4, 8), np.int64), attention_mask=np.ones((4, 8), np.int64))
        >>> calib8.calibrate("model.onnx", calib8.npz_file("calib_data.npz")).samples
        4
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        require_reachable(self.path)
        if kind := special(self.path):
            raise DataError(_unnamed(self.path, kind))
        if not self.path.is_file():
            raise DataError(f"calibration data not found: expected an .npz file at {self.path}.")

    def chunks(self) -> Iterator[Arrays]:
        """The file's arrays, read whole, as one chunk."""
        yield read_npz(self.path)

    def fingerprint(self) -> str:
        """See ``Source``."""
        return fingerprint(self.chunks())


class Batches:
    """Batches from Python: one dict of arrays, or any iterable of dicts. A generator is read once and kept.

    Example:

        >>> tokens = {"input_ids": np.ones((4, 8), np.int64), "attention_mask": np.ones((4, 8), np.int64)}
        >>> calib8.calibrate("model.onnx", calib8.batches([tokens, tokens])).samples
        8
    """

    def __init__(
        self, batches: Mapping[str, NDArray[np.generic]] | Iterable[Mapping[str, NDArray[np.generic]]]
    ) -> None:
        self.batches: list[Arrays] = []
        for batch in [batches] if isinstance(batches, Mapping) else batches:
            if not isinstance(batch, Mapping):
                raise DataError(f"a batch is of type {type(batch).__name__}; expected a dict of input name -> array.")
            self.batches.append({name: as_array(name, array) for name, array in batch.items()})

    def chunks(self) -> Iterator[Arrays]:
        """The batches, in the order given."""
        yield from (dict(batch) for batch in self.batches)

    def fingerprint(self) -> str:
        """See ``Source``."""
        return fingerprint(self.chunks())


#: What stands for data: a folder or file, a source, or an iterable of dicts of input name -> array [N, ...].
Data: TypeAlias = Path | str | Source | Iterable[Mapping[str, NDArray[np.generic]]]


def open_source(data: Data) -> Source:
    """The source behind a path or an iterable of dicts. Raises ``DataError`` for anything else."""
    if isinstance(data, (NpyFolder, NpzFile, Batches)):
        return data
    if isinstance(data, (str, Path)):
        return NpzFile(data) if str(data).endswith(".npz") else NpyFolder(data)
    if isinstance(data, Iterable):
        return Batches(data)
    if hasattr(data, "chunks") and hasattr(data, "fingerprint"):
        return data
    raise DataError(
        f"calibration data of type {type(data).__name__}; expected a folder, an .npz file or dicts of arrays."
    )


def _no_folder(path: Path) -> str:
    """What to say of a path that is no folder of arrays: the way from what is there to one."""
    makes = f"calib8 prepare {path} --tokenizer FOLDER -o calib_data"
    if not path.exists():
        return (
            f"data not found: expected a folder of .npy files or an .npz file at {path}, found nothing there. Check "
            "the path; `calib8 prepare` makes such a folder of text. Or save <input name>.npy for each input there."
        )
    if kind := special(path):
        return _unnamed(path, kind)
    if path.suffix == ".npy":
        return (
            f"{path} is one array, expected the folder that holds one <input name>.npy per input: give {path.parent}."
        )
    if path.suffix in (".txt", ".text"):
        return f"{path} is text, which is not taken here; expected a folder of .npy files. Make one: {makes}."
    return (
        f"{path} is a file of another kind; expected a folder of .npy files or an .npz file. `calib8 prepare` makes "
        "such a folder of text."
    )


def _unnamed(path: Path, kind: str) -> str:
    """What to say of a pipe or the like."""
    return (
        f"{path} is {kind}, expected a folder of .npy files, an .npz file or a .txt file: data are read more than "
        "once, and told apart by their names. Save what comes out of it to a file, and name that."
    )


def fingerprint(chunks: Iterable[Arrays]) -> str:
    """SHA-256 over names, dtypes, shapes and bytes, chunk by chunk."""
    digest = hashlib.sha256()
    for chunk in chunks:
        for name in sorted(chunk):
            array = as_rows(chunk[name])
            digest.update(f"{name}|{array.dtype.str}|{array.shape}|".encode())
            for _, block in blocks(array):
                digest.update(np.ascontiguousarray(block).reshape(-1).view(np.uint8).data)
    return digest.hexdigest()


npy_folder = NpyFolder
"""``npy_folder(folder)``: data in a folder, one ``<input name>.npy`` [N, ...] per model input, or ``.npz`` files."""
npz_file = NpzFile
"""``npz_file(path)``: data in one ``.npz`` file, an array [N, ...] per model input."""
batches = Batches
"""``batches(data)``: data in memory, one dict of input name -> array [N, ...], or an iterable of such dicts."""
