"""A folder of images to the familiar calibration folder: decoded, resized and normalised as for inference."""

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, field_validator, model_validator

from calib8.config import Config, Option
from calib8.data.array_files import save_rows
from calib8.errors import DataError, SetupError
from calib8.files import atomic, require_folder, require_reachable
from calib8.progress import Progress, Quiet

SUFFIXES = (".bmp", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp")
PREVIEW = "preview.png"
#: Images in the preview, and the longest side of one.
SHOWN, SIDE = 8, 160
MODES = {"rgb": "RGB", "bgr": "RGB", "gray": "L"}


class Images(Config):
    """How images become a model's input: (pixel / ``divide`` - ``mean``) / ``std``, as in inference."""

    name: Annotated[str, Option("--input")] = Field(default="image", min_length=1)
    """Name of the model's input."""
    size: Annotated[tuple[int, int] | None, Option(metavar="224x224", text=True)] = None
    """Height and width; default: as the images are, which must be alike."""
    fit: Literal["stretch", "crop", "pad"] = "stretch"
    """Where the proportions differ: stretched, the middle cut out, or black beside it."""
    divide: float = Field(default=255, gt=0)
    """What pixels, 0 to 255, are divided by first."""
    mean: Annotated[tuple[float, ...], Option(metavar="0.485,0.456,0.406", text=True)] = (0.0,)
    """Subtracted then, one number or one for each channel."""
    std: Annotated[tuple[float, ...], Option(metavar="0.229,0.224,0.225", text=True)] = (1.0,)
    """What that is divided by."""
    color: Literal["rgb", "bgr", "gray"] = "rgb"
    """Channels, and their order."""
    layout: Literal["nchw", "nhwc"] = "nchw"
    """Channels before height and width, or last."""

    @field_validator("size", mode="before")
    @classmethod
    def _size(cls, value: Any) -> Any:
        sides = value.split("x") if isinstance(value, str) else value
        try:
            sizes = None if sides is None else tuple(int(side) for side in sides)
        except (TypeError, ValueError):
            sizes = ()
        if sizes is not None and (len(sizes) != 2 or not all(0 < side <= 1 << 16 for side in sizes)):
            raise ValueError("expected height and width, such as 224x224")
        return sizes

    @field_validator("mean", "std", mode="before")
    @classmethod
    def _numbers(cls, value: Any) -> Any:
        try:
            return tuple(float(part) for part in (value.split(",") if isinstance(value, str) else value))
        except (TypeError, ValueError):
            raise ValueError("expected numbers, such as 0.5 or 0.485,0.456,0.406") from None

    @model_validator(mode="after")
    def _channels(self) -> "Images":
        channels = 1 if self.color == "gray" else 3
        if any(len(numbers) not in (1, channels) for numbers in (self.mean, self.std)):
            raise ValueError(f"mean and std need one number, or {channels}, one for each channel of {self.color}")
        if not all(np.isfinite((*self.mean, *self.std))) or not all(self.std):
            raise ValueError("mean and std need finite numbers, and std none that is 0")
        return self


def prepare_images(
    folder: Path | str, output: Path | str, config: Images | None = None, *, progress: Progress | None = None
) -> Path:
    """Write all images below ``folder``, in the order of their names, as one float32 array to the folder ``output``.

    ``<name>.npy`` is [N, channels, height, width], or as ``layout`` says; ``preview.png`` shows the first eight as the
    model will see them, and a note tells mean and deviation of each channel: about 0 and 1 where mean and std are
    those of the images. Memory is that of one image. Raises ``SetupError`` without Pillow, ``DataError`` for what is no
    image, or of another size.

    Example:

        >>> from PIL import Image
        >>> Path("photos").mkdir()
        >>> for number in range(3):
        ...     Image.new("RGB", (40, 30), (9 * number, 0, 0)).save(f"photos/{number}.png")
        >>> folder = calib8.prepare_images("photos", "images", calib8.Images(size=(16, 16)))
        >>> np.load(folder / "image.npy").shape
        (3, 3, 16, 16)
    """
    config, progress, output = Images.of(config), progress or Quiet(), Path(output)
    pillow = _pillow()
    paths = _found(Path(folder))
    require_folder(output)
    output.mkdir(parents=True, exist_ok=True)
    made = _Made(config)
    save_rows(output / f"{config.name}.npy", made.rows(pillow, paths, progress))
    _save_preview(pillow, made.shown, output / PREVIEW)
    progress.note(made.described())
    return output


class _Made:
    """Arrays as they are made, and what is to be told of them."""

    def __init__(self, config: Images) -> None:
        self.config, self.shown = config, list[Any]()
        self.size: tuple[int, int] | None = None
        self._count, self._sums, self._squares = 0, np.zeros(3), np.zeros(3)

    def rows(self, pillow: Any, paths: list[Path], progress: Progress) -> Iterator[NDArray[np.generic]]:
        for done, path in enumerate(paths, start=1):
            image = self._opened(pillow, path)
            if len(self.shown) < SHOWN:
                self.shown.append(image)
            yield self._array(image)
            progress.update("images", done, len(paths))

    def described(self) -> str:
        channels = 1 if self.config.color == "gray" else 3
        mean = self._sums / self._count
        deviation = np.sqrt(np.maximum(self._squares / self._count - mean**2, 0))
        told = "; ".join(f"{m:.3f} and {d:.3f}" for m, d in zip(mean[:channels], deviation[:channels], strict=True))
        return f"mean and deviation of the channels: {told}. {PREVIEW} shows the first images as the model sees them"

    def _opened(self, pillow: Any, path: Path) -> Any:
        """The image, resized. Raises ``DataError``."""
        try:
            with pillow.Image.open(path) as opened:
                image = pillow.ImageOps.exif_transpose(opened).convert(MODES[self.config.color])
        except Exception as error:  # of decoders, whatever they raise
            raise DataError(f"{path} is no image that Pillow reads ({error}). Mend it or take it away.") from error
        if self.config.size is not None:
            return _fitted(pillow, image, self.config.size[::-1], self.config.fit)
        self.size = self.size or image.size
        if image.size != self.size:
            raise DataError(
                f"{path} has {_told(image.size)} pixels, and the first image {_told(self.size)}: give the size of the "
                "model's input (--size)."
            )
        return image

    def _array(self, image: Any) -> NDArray[np.float32]:
        """[1, ...]."""
        pixels = np.asarray(image, np.float32)
        pixels = pixels[..., np.newaxis] if pixels.ndim == 2 else pixels
        pixels = pixels[..., ::-1] if self.config.color == "bgr" else pixels
        mean, std = (np.array(numbers, np.float32) for numbers in (self.config.mean, self.config.std))
        array = np.asarray((pixels / np.float32(self.config.divide) - mean) / std, np.float32)
        channels = array.shape[-1]
        self._count += array[..., 0].size
        self._sums[:channels] += array.sum(axis=(0, 1), dtype=np.float64)
        self._squares[:channels] += np.square(array, dtype=np.float64).sum(axis=(0, 1))
        return array[np.newaxis] if self.config.layout == "nhwc" else array.transpose(2, 0, 1)[np.newaxis]


def _told(size: tuple[int, int]) -> str:
    width, height = size
    return f"{height}x{width}"


def _fitted(pillow: Any, image: Any, size: tuple[int, int], fit: str) -> Any:
    if fit == "crop":
        return pillow.ImageOps.fit(image, size, pillow.Image.Resampling.BILINEAR)
    if fit == "pad":
        return pillow.ImageOps.pad(image, size, pillow.Image.Resampling.BILINEAR)
    return image.resize(size, pillow.Image.Resampling.BILINEAR)


def _found(folder: Path) -> list[Path]:
    require_reachable(folder)
    paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file())
    if not paths:
        raise DataError(f"no image below {folder}: expected files named {', '.join(f'*{one}' for one in SUFFIXES)}.")
    return paths


def _save_preview(pillow: Any, images: list[Any], path: Path) -> None:
    for image in images:
        image.thumbnail((SIDE, SIDE))
    sheet = pillow.Image.new("RGB", (sum(image.width for image in images), max(image.height for image in images)))
    left = 0
    for image in images:
        sheet.paste(image.convert("RGB"), (left, 0))
        left += image.width
    with atomic(path) as temporary, temporary.open("wb") as stream:
        sheet.save(stream, "PNG")


def _pillow() -> Any:
    try:
        import PIL
        import PIL.Image
        import PIL.ImageOps
    except ImportError as error:
        raise SetupError("images are decoded by Pillow, which is not installed: pip install pillow.") from error
    return PIL
