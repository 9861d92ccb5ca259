import pickle
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from calib8.data.sources import Batches, NpyFolder, NpzFile, fingerprint, open_source
from calib8.errors import DataError

X, Y = np.arange(6, dtype=np.float32).reshape(3, 2), np.array([1, 2, 3])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    np.save(tmp_path / "x.npy", X)
    np.save(tmp_path / "y.npy", Y)
    return tmp_path


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    np.savez(tmp_path / "data.npz", x=X, y=Y)
    return tmp_path / "data.npz"


def test_every_source_yields_the_same_data_and_fingerprint(folder: Path, tmp_path_factory) -> None:
    ragged = tmp_path_factory.mktemp("npz")
    np.savez(ragged / "a.npz", x=X, y=Y)
    generator = ({"x": a, "y": b} for a, b in [(X, Y)])
    sources = [
        NpyFolder(folder),
        NpyFolder(ragged),
        NpzFile(ragged / "a.npz"),
        Batches(generator),
        Batches({"x": X, "y": Y}),
    ]
    for source in sources:
        for _ in range(2):  # every call starts again
            (chunk,) = source.chunks()
            np.testing.assert_array_equal(chunk["x"], X)
            np.testing.assert_array_equal(chunk["y"], Y)
    assert len({source.fingerprint() for source in sources}) == 1


def test_npz_folder_yields_one_chunk_per_file(tmp_path: Path) -> None:
    for name, length in (("b", 3), ("a", 2)):
        np.savez(tmp_path / f"{name}.npz", x=np.zeros((1, length)))
    assert [chunk["x"].shape for chunk in NpyFolder(tmp_path).chunks()] == [(1, 2), (1, 3)]


@pytest.mark.parametrize(
    "changed",
    [
        {"x": X.astype(np.float64), "y": Y},
        {"x": X.reshape(2, 3), "y": Y},
        {"x": X, "z": Y},
        {"x": X + 1, "y": Y},
        {"x": np.where(X == 0, np.float32(-0.0), X), "y": Y},
    ],
)
def test_fingerprint_sees_names_types_shapes_and_bits(changed: dict[str, np.ndarray]) -> None:
    assert fingerprint([changed]) != fingerprint([{"x": X, "y": Y}])


def test_fingerprint_ignores_memory_layout_and_key_order() -> None:
    assert fingerprint([{"y": Y, "x": np.asfortranarray(X)}]) == fingerprint([{"x": X, "y": Y}])


def test_open_source(folder: Path, archive: Path) -> None:
    own = Batches([{"x": X}])
    assert open_source(own) is own
    assert isinstance(open_source(str(archive)), NpzFile)
    assert isinstance(open_source({"x": X}), Batches)
    archive.unlink()
    assert isinstance(open_source(folder), NpyFolder)
    with pytest.raises(DataError, match="calibration data of type int; expected a folder, an .npz file or dicts"):
        open_source(3)
    with pytest.raises(DataError, match="a batch is of type ndarray; expected a dict"):
        open_source([X])


def test_missing_places(tmp_path: Path) -> None:
    with pytest.raises(
        DataError,
        match=r"data not found: expected a folder .*nowhere, found nothing there.*calib8 prepare",
    ):
        open_source(tmp_path / "nowhere")
    (tmp_path / "README").write_text("read me")
    with pytest.raises(DataError, match="README is a file of another kind; expected a folder of .npy files"):
        open_source(tmp_path / "README")
    np.save(tmp_path / "x.npy", X)
    with pytest.raises(DataError, match=f"x.npy is one array, expected the folder .*: give {tmp_path}"):
        open_source(tmp_path / "x.npy")
    (tmp_path / "x.npy").unlink()
    (tmp_path / "a.txt").write_text("read me")
    with pytest.raises(DataError, match=r"Make one: calib8 prepare .*a\.txt --tokenizer FOLDER -o calib_data"):
        open_source(tmp_path / "a.txt")
    with pytest.raises(DataError, match=r"calibration data not found: expected an \.npz file"):
        open_source(tmp_path / "nowhere.npz")
    with pytest.raises(DataError, match=r"holds neither \.npy nor \.npz files"):
        NpyFolder(tmp_path)


def test_mixed_folder_is_refused(folder: Path, archive: Path) -> None:
    with pytest.raises(DataError, match=r"holds both \.npy and \.npz files"):
        NpyFolder(folder)


class Evil:
    """Unpickling this would fail the test."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return pytest.fail, ("a pickle was loaded",)


def pickled_array() -> np.ndarray:
    return np.array([Evil()], dtype=object)


def read(path: Path) -> None:
    for _ in open_source(path if path.suffix == ".npz" else path.parent).chunks():
        pass


def test_pickles_are_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", pickled_array(), allow_pickle=True)
    with pytest.raises(DataError, match=r"x\.npy is not a readable \.npy array .*Save it again with np\.save"):
        read(tmp_path / "x.npy")
    (tmp_path / "x.npy").write_bytes(pickle.dumps(Evil()))
    with pytest.raises(DataError, match=r"is not a readable \.npy array .*magic string is not correct"):
        read(tmp_path / "x.npy")
    np.savez(tmp_path / "x.npz", x=pickled_array())
    with pytest.raises(DataError, match=r"x\.npz is not a readable \.npz file .*no pickle is loaded"):
        read(tmp_path / "x.npz")


@pytest.mark.parametrize("name", ["x.npy", "x.npz"])
@given(cut=st.floats(0, 0.999))
def test_truncated_files_are_refused(tmp_path_factory, name: str, cut: float) -> None:
    path = tmp_path_factory.mktemp("cut") / name
    np.save(path, X) if name == "x.npy" else np.savez_compressed(path, x=X)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(cut * len(whole))])
    with pytest.raises(DataError, match=rf"{name} is not a readable .* Save it again"):
        read(path)


def test_damaged_compressed_data_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.npz"
    np.savez_compressed(path, x=np.random.default_rng(0).normal(size=100))
    content = bytearray(path.read_bytes())
    with zipfile.ZipFile(path) as archive:
        start = archive.getinfo("x.npy").header_offset + 60
    content[start : start + 40] = b"\xff" * 40
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"x\.npz is not a readable"):
        read(path)


def test_an_array_named_npz_is_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", X)
    (tmp_path / "x.npy").rename(tmp_path / "x.npz")
    with pytest.raises(DataError, match="File is not a zip file"):
        read(tmp_path / "x.npz")


def test_an_archive_named_npy_is_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", x=X)
    (tmp_path / "x.npz").rename(tmp_path / "x.npy")
    with pytest.raises(DataError, match="magic string is not correct"):
        read(tmp_path / "x.npy")


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (np.array([[1], [2]], dtype=object), r"x holds Python objects \(dtype object\), expected numbers. Convert it"),
        (None, "x holds Python objects"),
        ([[1.0], [1.0, 2.0]], "x is not an array: .* Pad its rows to one length"),
    ],
    ids=["objects", "None", "ragged"],
)
def test_batches_of_no_numbers(value: object, message: str) -> None:
    with pytest.raises(DataError, match=message):
        Batches([{"x": value}])
