"""TensorRT's calibration cache: a text file of scales, as ``IInt8Calibrator.write_calibration_cache`` leaves it.

    TRT-101600-MinMaxCalibration
    input_ids: 3c010204

The first line names the TensorRT version and the algorithm. Each further line is a tensor name, a colon, a space and
the big-endian bits of a float32: the scale, amax / 127 (so 1/127 is ``3c010204``). Names may hold colons: the last one
separates. TensorRT checks nothing but the first line; whether a cache fits a model is for us to tell.
"""

import math
import re
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from calib8.errors import CacheError
from calib8.files import require_file, write_text
from calib8.numerics import LEVELS, scale_of

Algorithm = Literal["MinMaxCalibration", "EntropyCalibration2", "EntropyCalibration", "LegacyCalibration"]

#: The algorithm whose name goes into the header, by observer. TensorRT knows no percentile or MSE calibrator: what such
#: ranges are to it is what a min/max calibrator would have found.
ALGORITHMS: dict[str, Algorithm] = {
    "minmax": "MinMaxCalibration",
    "percentile": "MinMaxCalibration",
    "mse": "MinMaxCalibration",
    "entropy": "EntropyCalibration2",
}

_HEADER = re.compile(r"TRT-(\d+)-([A-Za-z0-9]+)")
_ENTRY = re.compile(r"(?P<name>.*):\s*(?P<bits>[0-9a-fA-F]{8})", re.DOTALL)
DEFAULT_VERSION = "101600"


def write_cache(
    path: Path,
    amax: Mapping[str, float],
    *,
    algorithm: Algorithm = "MinMaxCalibration",
    version: str = DEFAULT_VERSION,
) -> None:
    """One line per tensor: ``scale = amax / 127`` in float32.

    ``version`` is that of the TensorRT which will read it, without dots (``101600`` is 10.16.0): another one refuses
    the file for its first line. Raises ``CacheError`` for a line break in a name, or a version that is no number.
    """
    if not re.fullmatch("[0-9]+", version):
        raise CacheError(f"got the TensorRT version {version!r}, expected digits, e.g. 101600 for 10.16.0.")
    lines = [f"TRT-{version}-{algorithm}"]
    for name, value in amax.items():
        if "\n" in name or "\r" in name:
            raise CacheError(
                f"tensor name {name!r} holds a line break, which the cache format cannot express. Rename it."
            )
        lines.append(f"{name}: {struct.pack('>f', float(scale_of(value))).hex()}")
    write_text(path, "\n".join(lines) + "\n")


def read_cache(path: Path) -> dict[str, float]:
    """Tensor name -> amax (scale x 127), in file order. Raises ``CacheError`` for anything but a whole, sound cache."""
    try:
        lines = require_file(path, "calibration cache").read_text(encoding="utf-8-sig").split("\n")
    except UnicodeDecodeError as error:
        raise CacheError(f"{path} is not a calibration cache: it is not text ({error}). Calibrate again.") from error
    if not _HEADER.fullmatch(lines[0].strip()):
        raise CacheError(
            f"{path} is not a TensorRT calibration cache: its first line is {lines[0][:60]!r}, expected "
            "'TRT-<version>-<algorithm>', e.g. 'TRT-101600-MinMaxCalibration'."
        )
    found: dict[str, float] = {}
    for number, line in enumerate(lines[1:], start=2):
        if not line.strip():
            continue
        entry = _ENTRY.fullmatch(line.rstrip())
        if entry is None:
            raise CacheError(
                f"{path}, line {number}: {line[:80]!r} is no cache entry; expected '<tensor name>: <8 hex digits>'. "
                "The file is damaged; calibrate again."
            )
        scale = struct.unpack(">f", bytes.fromhex(entry["bits"]))[0]
        if not (math.isfinite(scale) and scale > 0):
            raise CacheError(
                f"{path}, line {number}: the scale of {entry['name']!r} is {scale}; expected a positive number. "
                "The file is damaged; calibrate again."
            )
        if entry["name"] in found:
            raise CacheError(f"{path}, line {number}: tensor {entry['name']!r} appears twice. Calibrate again.")
        found[entry["name"]] = scale * LEVELS
    return found
