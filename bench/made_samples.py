"""Samples for models that find nothing in random data: text, a portrait, words. Files in FOLDER, for bench/models.py.

    python bench/made_samples.py FOLDER [SLOVOREZ]

letters.npz: characters on coloured ground, as captchas have them. lines.npz: lines of text for a recognizer. pages.npz,
small_pages.npz: pages of text, each turned by a multiple of 90 degrees. portrait.npz: cuts of matplotlib's portrait.
words.npz: words of the dictionary in the folder SLOVOREZ of the package of that name.
"""

import json
import sys
from pathlib import Path

import numpy as np
from matplotlib import cbook, font_manager
from PIL import Image, ImageDraw, ImageFont

SAMPLES = 32
LETTERS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"
WORDS = Path(__file__).parents[1].joinpath("README.md").read_text(encoding="utf-8").split()
Random = np.random.Generator


def font(size: int) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(font_manager.findfont("DejaVu Sans"), size)


def array_of(image: Image.Image) -> np.ndarray:
    """[3, height, width], 0 to 255."""
    return np.asarray(image.convert("RGB"), np.float32).transpose(2, 0, 1)


def words_of(random: Random, count: int) -> str:
    start = int(random.integers(len(WORDS) - count))
    return " ".join(WORDS[start : start + count])


def letters(random: Random) -> np.ndarray:
    """[3, 416, 416], 0 to 255, BGR."""
    ground = Image.fromarray(random.integers(0, 256, (8, 8, 3)).astype(np.uint8))
    image = ground.resize((416, 416), Image.Resampling.BICUBIC)
    for _ in range(int(random.integers(3, 6))):
        place, colours = random.integers(10, 330, 2).tolist(), random.integers(0, 256, (2, 3)).tolist()
        letter, shown = LETTERS[int(random.integers(len(LETTERS)))], font(int(random.integers(50, 90)))
        fill, stroke = map(tuple, colours)
        ImageDraw.Draw(image).text(place, letter, fill, shown, stroke_width=2, stroke_fill=stroke)
    return array_of(image)[::-1]


def lines(random: Random) -> np.ndarray:
    """[3, 48, 320], -1 to 1."""
    image = Image.new("RGB", (320, 48), tuple(random.integers(200, 256, 3).tolist()))
    ImageDraw.Draw(image).text((4, 6), words_of(random, 6), "black", font(int(random.integers(22, 30))))
    return array_of(image) / 127.5 - 1


def pages(random: Random) -> np.ndarray:
    """[3, 320, 320], 0 to 1."""
    image = Image.new("RGB", (320, 320), "white")
    shown = font(int(random.integers(10, 18)))
    for top in range(8, 300, int(random.integers(18, 30))):
        ImageDraw.Draw(image).text((8, top), words_of(random, 8), "black", shown)
    return array_of(image.rotate(90 * int(random.integers(4)))) / 255


def small_pages(random: Random) -> np.ndarray:
    """[3, 224, 224], 0 to 1."""
    return pages(random)[:, 48:272, 48:272]


def portrait(random: Random) -> np.ndarray:
    """[3, 320, 320], 0 to 1."""
    with cbook.get_sample_data("grace_hopper.jpg") as file, Image.open(file) as whole:
        left, top = random.integers(0, 60, 2).tolist()
        size = int(random.integers(380, 450))
        image = whole.crop((left, top, left + size, top + size)).resize((320, 320))
    return array_of(image) / 255 * random.uniform(0.6, 1)


def words(random: Random, folder: Path) -> np.ndarray:
    """[256, 24]: characters of Russian words by their numbers, 0 behind them."""
    model = folder / "models" / "slovorez-test"
    numbers = json.loads((model / "config.json").read_text())["mapping"]["tokenizer_vocab"]
    known = [word for word in json.loads((model / "base_dict.json").read_text()) if len(word) <= 24]
    chosen = [known[int(place)] for place in random.integers(0, len(known), 256)]
    rows = [[numbers.get(letter, 1) for letter in word] for word in chosen]
    return np.array([row + [0] * (24 - len(row)) for row in rows], np.int32)


def main() -> None:
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    inputs = {letters: "images", lines: "x", pages: "x", small_pages: "x", portrait: "images"}
    for make, name in inputs.items():
        random = np.random.default_rng(0)
        samples = np.stack([make(random) for _ in range(SAMPLES)]).astype(np.float32)
        np.savez(folder / f"{make.__name__}.npz", **{name: samples})
    if len(sys.argv) > 2:
        np.savez(folder / "words.npz", input_layer=words(np.random.default_rng(0), Path(sys.argv[2])))


if __name__ == "__main__":
    main()
