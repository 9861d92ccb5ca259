"""Images to arrays, by hand."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from shell import Shell

import calib8
from calib8.errors import ConfigError, DataError

RED = (255, 0, 0)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Two images of 4x2 pixels: red, and half black and half white."""
    folder = tmp_path / "photos"
    (folder / "below").mkdir(parents=True)
    Image.new("RGB", (4, 2), RED).save(folder / "a.png")
    halves = np.zeros((2, 4, 3), np.uint8)
    halves[:, 2:] = 255
    Image.fromarray(halves).save(folder / "below" / "b.png")
    (folder / "notes.txt").write_text("no image")
    return folder


def made(photos: Path, **options: object) -> np.ndarray:
    return np.load(calib8.prepare_images(photos, photos.parent / "out", calib8.Images(**options)) / "image.npy")


def test_pixels_are_normalised_channel_by_channel(photos: Path, notes) -> None:
    config = calib8.Images(name="x", mean=(0.5, 0, 0), std=(0.5, 1, 0.25))
    out = calib8.prepare_images(photos, photos.parent / "out", config, progress=notes)
    array = np.load(out / "x.npy")
    assert (array.shape, array.dtype) == ((2, 3, 2, 4), np.float32)
    assert array[0, :, 0, 0].tolist() == [1, 0, 0]
    assert array[1, :, 1].tolist() == [[-1, -1, 1, 1], [0, 0, 1, 1], [0, 0, 4, 4]]
    # Of 16 values of the first channel twelve are 1 and four are -1: mean 0.5, deviation sqrt(0.75).
    assert notes.messages[-1].startswith(
        "mean and deviation of the channels: 0.500 and 0.866; 0.250 and 0.433; 1.000 and"
    )
    with Image.open(out / "preview.png") as preview:
        assert preview.size == (8, 2)


def test_order_of_channels_and_axes(photos: Path) -> None:
    assert made(photos, color="bgr", divide=1)[0, :, 0, 0].tolist() == [0, 0, 255]
    assert made(photos, layout="nhwc").shape == (2, 2, 4, 3)
    assert made(photos, color="gray").shape == (2, 1, 2, 4)


@pytest.mark.parametrize(
    ("fit", "row"),
    [("stretch", [0, 1]), ("crop", [0, 1]), ("pad", [0, 1])],
)
def test_sizes(photos: Path, fit: str, row: list[int]) -> None:
    array = made(photos, size="2x2", fit=fit, color="gray")
    assert array.shape == (2, 1, 2, 2)
    if fit == "crop":  # the middle two columns: one black, one white
        assert array[1, 0].tolist() == [[0, 1], [0, 1]]
    if fit == "pad":  # one row of image, one of black
        assert np.count_nonzero(array[0, 0].any(axis=1)) == 1
    assert array[1, 0].max() <= 1


def test_what_is_wrong_is_said(photos: Path, tmp_path: Path) -> None:
    Image.new("RGB", (5, 5)).save(photos / "c.png")
    with pytest.raises(DataError, match=r"c.png has 5x5 pixels, and the first image 2x4: give the size .*\(--size\)"):
        made(photos)
    (photos / "d.jpg").write_bytes(b"\xff\xd8 nothing")
    with pytest.raises(DataError, match=r"d.jpg is no image that Pillow reads"):
        made(photos, size="2x2")
    assert not (tmp_path / "out" / "image.npy").exists()
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="no image below"):
        calib8.prepare_images(tmp_path / "empty", tmp_path / "out")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": "224"}, "size='224', expected height and width, such as 224x224"),
        ({"mean": (1, 2)}, "need one number, or 3, one for each channel of rgb"),
        ({"std": "0"}, "std none that is 0"),
        ({"mean": "a"}, "expected numbers, such as 0.5"),
    ],
)
def test_options_that_cannot_be(options: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        calib8.Images(**options)


def test_the_command(photos: Path, tmp_path: Path, monkeypatch, capsys) -> None:
    arguments = (
        "prepare-images",
        photos,
        "--input",
        "x",
        "--size",
        "2x2",
        "--mean",
        "0.5,0.5,0.5",
        "-o",
        tmp_path / "o",
    )
    code, out, _ = Shell(monkeypatch, capsys)(*arguments)
    assert (code, out) == (0, f"{tmp_path / 'o'}\n")
    assert np.load(tmp_path / "o" / "x.npy").shape == (2, 3, 2, 2)
