"""TensorRT's calibration cache: a text file of scales, as ``IInt8Calibrator.write_calibration_cache`` leaves it.

    TRT-101600-MinMaxCalibration
    input_ids: 3c010204

The first line names the TensorRT version and the algorithm. Each further line is a tensor name, a colon, a space and
the big-endian bits of a float32 in hexadecimal: the scale, amax / 127 (so 1/127 is ``3c010204``). A tensor that was
never anything but zero has ``0``; a calibration that failed leaves infinities. Names may hold colons: the last one
separates. TensorRT checks the first line only; whether a cache fits a model is for us to tell: ``caches.record``.
"""

import math
import re
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from calib8.errors import CacheError
from calib8.files import read_bytes, write_text
from calib8.numerics import LEVELS, scale_of

Algorithm = Literal["MinMaxCalibration", "EntropyCalibration2", "EntropyCalibration", "LegacyCalibration"]

#: The algorithms whose names stand in headers, by TensorRT's calibrator classes.
CALIBRATORS: dict[str, Algorithm] = {
    "minmax": "MinMaxCalibration",
    "entropy2": "EntropyCalibration2",
    "entropy": "EntropyCalibration",
    "legacy": "LegacyCalibration",
}
DEFAULT_VERSION = "101600"
#: TensorRT 11 removed calibrators.
_WITHOUT_CALIBRATORS = 110000

_HEADER = re.compile(r"TRT-(?P<version>\d+)-(?P<algorithm>[A-Za-z0-9]+)")
_ENTRY = re.compile(r"(?P<name>.*):\s*(?P<bits>[0-9a-fA-F]{8}|0)\s*", re.DOTALL)
#: First lines of files that pass for calibration caches elsewhere.
_FOREIGN = (
    (re.compile(r"[{\[]"), "JSON, as NVDLA and other tools write it"),
    (_ENTRY, "a cache entry: the header is missing"),
    (re.compile(r"\S+ [-+.\deE]+"), "a table of plain numbers, as ONNX Runtime writes it"),
    (re.compile(r"PK|\x80"), "a PyTorch or pickle file"),
)
_WANTED = "Give the file that TensorRT 8 to 10 or `calib8 calibrate --cache` wrote."


@dataclass(frozen=True)
class Cache:
    """A calibration cache. ``text`` is the file as it was read, so that what is written back is the same to the byte.

    ``scales`` maps tensor names to scales in the file's order; they are not negative, but may be 0 or infinite.
    """

    text: str
    version: str
    algorithm: str
    scales: Mapping[str, float]

    @staticmethod
    def load(path: Path) -> "Cache":
        """Read a file. Raises ``CacheError`` for anything but a whole, sound cache."""
        content = read_bytes(path, "calibration cache")
        try:
            return Cache.parse(content.decode("utf-8-sig"), str(path))
        except UnicodeDecodeError as error:
            raise CacheError(
                f"{path} is not a TensorRT calibration cache: it is not text ({error}). {_WANTED}"
            ) from error

    @staticmethod
    def parse(text: str, where: str) -> "Cache":
        """Read ``text``; ``where`` names it in errors. Raises ``CacheError``."""
        first, *lines = text.split("\n")
        header = _HEADER.fullmatch(first.strip())
        if header is None:
            raise CacheError(
                f"{where} is not a TensorRT calibration cache: its first line is {first[:60]!r}{_guess(first)}, "
                f"expected 'TRT-<version>-<algorithm>', e.g. 'TRT-101600-MinMaxCalibration'. {_WANTED}"
            )
        scales: dict[str, float] = {}
        for number, line in enumerate(lines, start=2):
            if line.strip():
                name, scale = _entry(line, f"{where}, line {number}")
                if name in scales:
                    raise CacheError(f"{where}, line {number}: tensor {name!r} appears twice. Calibrate again.")
                scales[name] = scale
        return Cache(text, header["version"], header["algorithm"], scales)

    @property
    def header(self) -> str:
        """The first line."""
        return f"TRT-{self.version}-{self.algorithm}"

    def usable(self) -> dict[str, float]:
        """The scales that INT8 can have: finite, and large enough not to be flushed to 0."""
        return {name: scale for name, scale in self.scales.items() if is_usable(scale)}

    def amax(self) -> dict[str, float]:
        """Tensor name -> amax, where the scale is usable; ``scale_of`` gives back every scale to the bit."""
        return {name: scale * LEVELS for name, scale in self.usable().items()}

    def with_header(self, version: str | None = None, algorithm: str | None = None) -> "Cache":
        """The same entries for another TensorRT. ``version`` as ``version_of`` takes it. Raises ``CacheError``."""
        version = version_of(version) if version is not None else self.version
        header = f"TRT-{version}-{algorithm or self.algorithm}"
        return Cache.parse(self.text.replace(self.header, header, 1), "the cache")

    def with_scales(self, scales: Mapping[str, float]) -> "Cache":
        """Entries that have another scale are changed where they stand; new ones follow in order.

        Raises ``CacheError`` for a name with a line break.
        """
        lines = [_updated(line, scales) for line in self.text.split("\n")]
        ending = "\r" if lines[0].endswith("\r") else ""
        for name, scale in scales.items():
            if name in self.scales:
                continue
            if "\n" in name or "\r" in name:
                raise CacheError(
                    f"tensor name {name!r} holds a line break, which the cache format cannot express. Rename it."
                )
            if lines[-1]:  # the last line was not ended
                lines.append("")
            lines.insert(-1, f"{name}: {_bits(scale)}{ending}")
        return Cache.parse("\n".join(lines), "the cache")

    def inverted(self) -> "Cache":
        """The cache with 1 / scale for every scale that has one, for files that hold the inverse."""
        return self.with_scales({n: float(np.float32(1 / s)) for n, s in self.usable().items() if is_usable(1 / s)})

    def save(self, path: Path) -> None:
        """Write the file atomically."""
        write_text(path, self.text)


def cache_of(
    amax: Mapping[str, float], *, algorithm: Algorithm = "MinMaxCalibration", version: str = DEFAULT_VERSION
) -> Cache:
    """One entry per tensor: ``scale = amax / 127`` in float32.

    ``version`` is that of the TensorRT which will read it, see ``version_of``: another one refuses the file for its
    first line. Raises ``CacheError`` for a line break in a name, or an impossible version.
    """
    empty = Cache.parse(f"TRT-{version_of(version)}-{algorithm}\n", "the cache")
    return empty.with_scales({name: float(scale_of(value)) for name, value in amax.items()})


def version_of(text: str) -> str:
    """TensorRT's version as the header has it: ``101600`` for ``10.16.0`` or ``101600``, ``8601`` for ``8.6.1``.

    Raises ``CacheError`` for anything else, and for a TensorRT without calibrators.
    """
    version = _packed(str(text))
    if int(version) >= _WITHOUT_CALIBRATORS:
        raise CacheError(
            f"got the TensorRT version {text!r}, but no calibration cache is read from TensorRT 11 on. Expected 8 to "
            "10; for 11, `calib8 migrate` puts the scales of a cache into the model."
        )
    return version


def _packed(text: str) -> str:
    if re.fullmatch("[0-9]{4,6}", text):
        return text
    dotted = re.fullmatch(r"([0-9]{1,3})\.([0-9]{1,2})\.([0-9]{1,2})(\.[0-9]+)?", text)
    if dotted is None:
        raise CacheError(f"got the TensorRT version {text!r}, expected digits, e.g. 101600 for 10.16.0, or 10.16.0.")
    major, minor, patch = (int(part) for part in dotted.groups()[:3])
    return str(major * 10000 + minor * 100 + patch if major >= 10 else major * 1000 + minor * 100 + patch)


def is_usable(scale: float) -> bool:
    """Whether INT8 can have this scale; a subnormal one may be flushed to 0, which TensorRT refuses."""
    return math.isfinite(scale) and float(np.finfo(np.float32).tiny) <= scale <= float(np.finfo(np.float32).max)


def _entry(line: str, where: str) -> tuple[str, float]:
    entry = _ENTRY.fullmatch(line)
    if entry is None:
        raise CacheError(
            f"{where}: {line[:80]!r} is no cache entry; expected '<tensor name>: <8 hex digits>'. "
            "The file is damaged; calibrate again."
        )
    scale = float(struct.unpack(">f", bytes.fromhex(entry["bits"].zfill(8)))[0])
    if math.isnan(scale) or scale < 0:
        raise CacheError(
            f"{where}: the scale of {entry['name']!r} is {scale}; expected a positive number. "
            "The file is damaged; calibrate again."
        )
    return entry["name"], scale


def _updated(line: str, scales: Mapping[str, float]) -> str:
    entry = _ENTRY.fullmatch(line)
    if entry is None or entry["name"] not in scales:
        return line
    bits = _bits(scales[entry["name"]])
    if entry["bits"].zfill(8).lower() == bits:
        return line
    return line[: entry.start("bits")] + bits + line[entry.end("bits") :]


def _bits(scale: float) -> str:
    return struct.pack(">f", scale).hex()


def _guess(first: str) -> str:
    return next((f" ({what})" for pattern, what in _FOREIGN if pattern.match(first.strip())), "")
