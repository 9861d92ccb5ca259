import struct
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from calib8.calibration.cache import ALGORITHMS, read_cache, write_cache
from calib8.calibration.config import Calibrate
from calib8.errors import CacheError, InputError

HEADER = b"TRT-101600-MinMaxCalibration\n"
#: Anything that UTF-8 and a line can hold, often with what could confuse a parser.
names = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\n\r"), max_size=20) | st.text(
    st.sampled_from(": 0aé\u2028\x85\t/"), max_size=12
)
scales = st.floats(np.finfo(np.float32).tiny, np.finfo(np.float32).max, width=32)


def test_known_bytes(tmp_path: Path) -> None:
    # 127 / 127 = 1.0 = 0x3f800000; 1 / 127 = 0x3c010204, which TensorRT's own caches show; 0 becomes 1 / 127 too
    write_cache(tmp_path / "a", {"one": 127.0, "/layer.0/x:0": 1.0, "zero": 0.0})
    assert (tmp_path / "a").read_bytes() == HEADER + b"one: 3f800000\n/layer.0/x:0: 3c010204\nzero: 3c010204\n"


def test_header(tmp_path: Path) -> None:
    write_cache(tmp_path / "a", {}, algorithm="EntropyCalibration2", version="8601")
    assert (tmp_path / "a").read_text() == "TRT-8601-EntropyCalibration2\n"
    assert read_cache(tmp_path / "a") == {}


@pytest.mark.parametrize("version", ["10.16", "", "v8", "8\n"])
def test_a_version_that_is_no_number(tmp_path: Path, version: str) -> None:
    with pytest.raises(CacheError, match=r"expected digits, e\.g\. 101600 for 10\.16\.0"):
        write_cache(tmp_path / "a", {"x": 1.0}, version=version)
    assert not (tmp_path / "a").exists()


def test_a_byte_order_mark_is_harmless(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"\xef\xbb\xbf" + HEADER + b"x: 3f800000\n")
    assert read_cache(tmp_path / "a") == {"x": 127.0}


def test_every_observer_has_an_algorithm() -> None:
    for observer in ALGORITHMS:
        assert Calibrate(observer=observer).observer == observer
    with pytest.raises(InputError, match="'minmax', 'percentile', 'mse' or 'entropy'"):
        Calibrate(observer="another")
    assert list(ALGORITHMS) == ["minmax", "percentile", "mse", "entropy"]


@given(st.dictionaries(names, scales, max_size=5))
def test_round_trip_is_identical_to_the_byte(tmp_path_factory, entries: dict[str, float]) -> None:
    folder = tmp_path_factory.mktemp("cache")
    lines = [f"{name}: {struct.pack('>f', scale).hex()}\n" for name, scale in entries.items()]
    (folder / "a").write_bytes(HEADER + "".join(lines).encode())
    amax = read_cache(folder / "a")
    assert list(amax) == list(entries)
    assert list(amax.values()) == [scale * 127 for scale in entries.values()]
    write_cache(folder / "b", amax)
    assert (folder / "b").read_bytes() == (folder / "a").read_bytes()


def test_carriage_returns_and_blank_lines_are_harmless(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"TRT-8601-LegacyCalibration\r\nx: 3F800000\r\n\r\n")
    assert read_cache(tmp_path / "a") == {"x": 127.0}


@pytest.mark.parametrize("name", ["a\nb", "a\rb"])
def test_names_that_the_format_cannot_hold(tmp_path: Path, name: str) -> None:
    with pytest.raises(CacheError, match="holds a line break, which the cache format cannot express"):
        write_cache(tmp_path / "a", {name: 1.0})
    assert not (tmp_path / "a").exists()


@pytest.mark.parametrize("amax", [float("nan"), float("inf"), -1.0])
def test_impossible_amax_is_never_written(tmp_path: Path, amax: float) -> None:
    with pytest.raises(InputError, match="amax is .*; expected a finite number"):
        write_cache(tmp_path / "a", {"x": amax})
    assert not (tmp_path / "a").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is not a TensorRT calibration cache: its first line is '', expected 'TRT-<version>-<algorithm>'"),
        (b"hello\nx: 3f800000\n", "its first line is 'hello'"),
        (b"TRT-x-MinMaxCalibration\n", "is not a TensorRT calibration cache"),
        (b"x: 3f800000\n" + HEADER, "is not a TensorRT calibration cache"),
        (bytes(range(256)), "is not a calibration cache: it is not text"),
        (b"\x00" * 50, "is not a TensorRT calibration cache"),
        (
            HEADER + b"x: 3f80000g\n",
            "line 2: 'x: 3f80000g' is no cache entry; expected '<tensor name>: <8 hex digits>'",
        ),
        (HEADER + b"x: 3f8000\n", "line 2: .* is no cache entry"),
        (HEADER + b"x: 3f800000ff\n", "line 2: .* is no cache entry"),
        (HEADER + b"\nx 3f800000\n", "line 3: .* is no cache entry"),
        (HEADER + b"y: 3f800000\nx: 3f8", "line 3: .* is no cache entry.* damaged; calibrate again"),
        (HEADER + b"x: 00000000\n", r"line 2: the scale of 'x' is 0\.0; expected a positive number"),
        (HEADER + b"x: bf800000\n", r"the scale of 'x' is -1\.0; expected a positive number"),
        (HEADER + b"x: 7fc00000\n", "the scale of 'x' is nan; expected a positive number"),
        (HEADER + b"x: 7f800000\n", "the scale of 'x' is inf; expected a positive number"),
        (HEADER + b"x: 3f800000\nx: 3f800000\n", "line 3: tensor 'x' appears twice"),
    ],
)
def test_foreign_or_corrupt_cache(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "a.cache").write_bytes(content)
    with pytest.raises(CacheError, match=rf"a\.cache.*{message}"):
        read_cache(tmp_path / "a.cache")


def test_missing_cache(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="calibration cache not found: expected a file at"):
        read_cache(tmp_path / "a.cache")
