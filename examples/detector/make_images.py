"""Images of text for a text detector: calibration data and held-out data, the same on every run.

    python examples/detector/make_images.py --to build/detector

writes ``calib_data/x.npy`` and ``held_out.npz``, both float32 [images, 3, size, size], as PP-OCR's detectors want them:
BGR, ImageNet's mean and deviation, sides a multiple of 32. The words are those of the sentences in examples/mpnet, so
the two parts share no line of text; fonts are Pillow's own.
"""

import argparse
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter, ImageFont

#: In the order of the channels as PP-OCR decodes images: the numbers go with blue, green, red, as in its training.
MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
TEXTS = Path(__file__).resolve().parent.parent / "mpnet"
Random = np.random.Generator


def main() -> None:
    """Write both parts."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--to", type=Path, required=True, help="folder to write")
    parser.add_argument("--calibration", type=int, default=64, help="images to calibrate on")
    parser.add_argument("--held-out", type=int, default=24, help="images to measure on")
    parser.add_argument("--size", type=int, default=480, help="sides in pixels, a multiple of 32")
    options = parser.parse_args()
    if options.size % 32:
        parser.error(f"--size {options.size}: the detector needs a multiple of 32")
    (options.to / "calib_data").mkdir(parents=True, exist_ok=True)
    np.save(options.to / "calib_data" / "x.npy", images("calibration", options.calibration, options.size))
    np.savez(options.to / "held_out.npz", x=images("held_out", options.held_out, options.size))
    print(f"{options.to}: {options.calibration} images to calibrate on, {options.held_out} held out")


def images(part: str, count: int, size: int) -> NDArray[np.float32]:
    """``count`` normalised images of the words of ``part``: ``calibration`` or ``held_out``."""
    words = [line.split() for line in (TEXTS / f"{part}.txt").read_text("utf-8").splitlines() if line.isascii()]
    seed = {"calibration": 1, "held_out": 2}[part]
    drawn = [draw(np.random.default_rng((seed, number)), words, size) for number in range(count)]
    return np.stack([normalised(image) for image in drawn])


def normalised(image: Image.Image) -> NDArray[np.float32]:
    """[3, height, width], blue first."""
    pixels = np.asarray(image, np.float32)[:, :, ::-1] / 255
    scaled = (pixels - np.array(MEAN, np.float32)) / np.array(DEVIATION, np.float32)
    return np.ascontiguousarray(scaled.transpose(2, 0, 1), np.float32)


def draw(random: Random, words: list[list[str]], size: int) -> Image.Image:
    """One RGB image: lines of text from top to bottom on some background, then blur and noise."""
    image, light = background(random, size)
    slant = random.normal(0, 4)  # of the whole page; single lines lean further
    top = int(random.integers(0, size // 8))
    while top < size - 12:
        sentence = words[random.integers(len(words))]
        start = int(random.integers(len(sentence)))
        text = " ".join(sentence[start : start + int(random.integers(1, 9))])
        angle = slant + random.normal(0, 12 if random.random() < 0.15 else 0.5)
        label = line(random, text, light, angle)
        left = int(random.integers(-size // 10, max(size - label.width, 1)))
        image.paste(label, (left, top), label)
        top += label.height + int(random.integers(0, size // 8))
    if random.random() < 0.3:
        image = image.filter(ImageFilter.GaussianBlur(random.uniform(0.3, 1.2)))
    noisy = np.asarray(image, np.float32) + random.normal(0, random.choice([0, 2, 6, 14]), (size, size, 3))
    return Image.fromarray(np.clip(noisy, 0, 255).astype(np.uint8))


def background(random: Random, size: int) -> tuple[Image.Image, bool]:
    """Plain, a gradient, or blotches as in a photograph; and whether it is light."""
    light = bool(random.random() < 0.6)
    colour = random.uniform(170, 255, 3) if light else random.uniform(0, 90, 3)
    kind = random.choice(["plain", "gradient", "blotches"])
    cells = {"plain": 1, "gradient": 2, "blotches": int(random.integers(4, 24))}[str(kind)]
    coarse = np.clip(colour + random.normal(0, 22, (cells, cells, 3)), 0, 255).astype(np.uint8)
    return Image.fromarray(coarse).resize((size, size), Image.Resampling.BICUBIC), light


def line(random: Random, text: str, light: bool, angle: float) -> Image.Image:
    """``text`` in a random size and a colour that can be read, on a transparent ground, turned by ``angle`` degrees."""
    font = ImageFont.load_default(float(np.exp(random.uniform(np.log(10), np.log(64)))))
    colour = random.integers(0, 110, 3) if light else random.integers(150, 256, 3)
    stroke = int(random.random() < 0.25)  # bold
    left, top, right, bottom = font.getbbox(text, stroke_width=stroke)
    label = Image.new("RGBA", (int(right - left) + 4, int(bottom - top) + 4))
    fill = tuple(int(channel) for channel in colour)
    ImageDraw.Draw(label).text((2 - left, 2 - top), text, fill=fill, font=font, stroke_width=stroke)
    return label.rotate(angle, Image.Resampling.BICUBIC, expand=True)


if __name__ == "__main__":
    main()
