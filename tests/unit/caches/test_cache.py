"""The cache file: known bytes, round trips of anything that TensorRT or people write, and what is refused."""

import struct
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from calib8.caches.cache import CALIBRATORS, Cache, cache_of, version_of
from calib8.calibration.config import Calibrate
from calib8.calibration.observers import OBSERVERS, ObserverName
from calib8.errors import CacheError, InputError
from calib8.numerics import scale_of

HEADER = b"TRT-101600-MinMaxCalibration\n"
#: Anything that UTF-8 and a line can hold, often with what could confuse a parser.
names = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\n\r"), max_size=20) | st.text(
    st.sampled_from(": 0aé\u2028\x85\t/()*[]"), max_size=12
)
scales = st.floats(np.finfo(np.float32).tiny, np.finfo(np.float32).max, width=32)


def bits(scale: float) -> str:
    return struct.pack(">f", scale).hex()


def parsed(content: bytes) -> Cache:
    return Cache.parse(content.decode(), "the test")


def test_known_bytes(tmp_path: Path) -> None:
    # 127 / 127 = 1.0 = 0x3f800000; 1 / 127 = 0x3c010204, which TensorRT's own caches show; 0 becomes 1 / 127 too
    cache_of({"one": 127.0, "/layer.0/x:0": 1.0, "zero": 0.0}).save(tmp_path / "a")
    assert (tmp_path / "a").read_bytes() == HEADER + b"one: 3f800000\n/layer.0/x:0: 3c010204\nzero: 3c010204\n"


def test_header(tmp_path: Path) -> None:
    cache_of({}, algorithm="EntropyCalibration2", version="8601").save(tmp_path / "a")
    assert (tmp_path / "a").read_text() == "TRT-8601-EntropyCalibration2\n"
    read = Cache.load(tmp_path / "a")
    assert (read.version, read.algorithm, read.scales) == ("8601", "EntropyCalibration2", {})


@pytest.mark.parametrize(
    ("text", "version"),
    [("101600", "101600"), ("10.16.0", "101600"), ("10.13.3.9", "101303"), ("8.6.1", "8601"), ("7.1.3", "7103")],
)
def test_versions_as_the_header_has_them(text: str, version: str) -> None:
    assert version_of(text) == version


@pytest.mark.parametrize("version", ["10.16", "", "v8", "8\n", "10.100.0", "10", 10])
def test_a_version_that_is_none(version: str) -> None:
    with pytest.raises(CacheError, match=r"expected digits, e\.g\. 101600 for 10\.16\.0"):
        cache_of({"x": 1.0}, version=version)


@pytest.mark.parametrize("version", ["11.0.0", "110000", "11.1.0.106"])
def test_no_cache_is_for_a_tensorrt_without_calibrators(version: str) -> None:
    with pytest.raises(CacheError, match=r"no calibration cache is read from TensorRT 11 on.*calib8 migrate"):
        version_of(version)


def test_a_byte_order_mark_is_harmless(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"\xef\xbb\xbf" + HEADER + b"x: 3f800000\n")
    assert Cache.load(tmp_path / "a").amax() == {"x": 127.0}


def test_every_observer_has_an_algorithm() -> None:
    for observer, kind in OBSERVERS.items():
        assert Calibrate(observer=observer).observer == observer
        assert kind.algorithm in CALIBRATORS.values()
    with pytest.raises(InputError, match="'minmax', 'percentile', 'mse' or 'entropy'"):
        Calibrate(observer="another")
    assert list(OBSERVERS) == list(get_args(ObserverName)) == ["minmax", "percentile", "mse", "entropy"]


@given(st.dictionaries(names, scales, max_size=5))
def test_round_trip_is_identical_to_the_byte(tmp_path_factory, entries: dict[str, float]) -> None:
    folder = tmp_path_factory.mktemp("cache")
    lines = [f"{name}: {bits(scale)}\n" for name, scale in entries.items()]
    (folder / "a").write_bytes(HEADER + "".join(lines).encode())
    read = Cache.load(folder / "a")
    assert list(read.scales.items()) == list(entries.items())
    assert {name: float(scale_of(amax)) for name, amax in read.amax().items()} == entries
    read.save(folder / "b")
    cache_of(read.amax()).save(folder / "c")
    assert (folder / "c").read_bytes() == (folder / "b").read_bytes() == (folder / "a").read_bytes()


def test_what_tensorrt_and_people_write() -> None:
    cache = parsed(
        b"TRT-8601-LegacyCalibration\r\nx: 3F800000\r\n\r\n(Unnamed Layer* 64) [Fully Connected]_output: 0\r\n"
        b"dead: 7f800000\r\nlast:3c010204"
    )
    assert list(cache.scales) == ["x", "(Unnamed Layer* 64) [Fully Connected]_output", "dead", "last"]
    assert list(cache.scales.values())[:3] == [1.0, 0.0, float("inf")]
    assert cache.amax() == {"x": 127.0, "last": pytest.approx(1.0)}


def test_only_scales_that_differ_are_rewritten() -> None:
    cache = parsed(b"TRT-8601-LegacyCalibration\r\na: 3F800000\r\nb:  3f000000 \r\nzero: 0\r\n")
    assert cache.with_scales({"b": 0.5, "a": 1.0, "zero": 0.0}).text == cache.text
    changed = cache.with_scales({"new": 2.0, "b": 1.0})
    assert changed.text == (
        "TRT-8601-LegacyCalibration\r\na: 3F800000\r\nb:  3f800000 \r\nzero: 0\r\nnew: 40000000\r\n"
    )
    assert parsed(HEADER + b"x: 3f800000").with_scales({"y": 1.0}).text == (
        "TRT-101600-MinMaxCalibration\nx: 3f800000\ny: 3f800000\n"
    )


def test_another_header_changes_the_first_line_only() -> None:
    cache = parsed(b"TRT-8601-LegacyCalibration\r\nTRT-8601-LegacyCalibration: 3F800000")
    moved = cache.with_header("10.16.0", "EntropyCalibration2")
    assert moved.text == "TRT-101600-EntropyCalibration2\r\nTRT-8601-LegacyCalibration: 3F800000"
    assert cache.with_header().text == cache.text


def test_inverted_scales() -> None:
    cache = parsed(HEADER + b"a: 42fe0000\nb: 3f000000\ndead: 0\n")  # 127, 0.5, 0
    assert cache.inverted().text == HEADER.decode() + "a: 3c010204\nb: 40000000\ndead: 0\n"  # 1 / 127, 2, 0


@pytest.mark.parametrize("name", ["a\nb", "a\rb"])
def test_names_that_the_format_cannot_hold(name: str) -> None:
    with pytest.raises(CacheError, match="holds a line break, which the cache format cannot express"):
        cache_of({name: 1.0})


@pytest.mark.parametrize("amax", [float("nan"), float("inf"), -1.0])
def test_impossible_amax_is_never_written(amax: float) -> None:
    with pytest.raises(InputError, match="amax is .*; expected a finite number"):
        cache_of({"x": amax})


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is not a TensorRT calibration cache: its first line is '', expected 'TRT-<version>-<algorithm>'"),
        (b"hello\nx: 3f800000\n", "its first line is 'hello'"),
        (b"TRT-x-MinMaxCalibration\n", "is not a TensorRT calibration cache"),
        (b"x: 3f800000\n" + HEADER, "is not a TensorRT calibration cache"),
        (bytes(range(256)), "is not a TensorRT calibration cache: it is not text .*Give the file that"),
        (b"\x00" * 50, "is not a TensorRT calibration cache"),
        (
            HEADER + b"x: 3f80000g\n",
            "line 2: 'x: 3f80000g' is no cache entry; expected '<tensor name>: <8 hex digits>'",
        ),
        (HEADER + b"x: 3f8000\n", "line 2: .* is no cache entry"),
        (HEADER + b"x: 00\n", "line 2: .* is no cache entry"),
        (HEADER + b"x: 3f800000ff\n", "line 2: .* is no cache entry"),
        (HEADER + b"\nx 3f800000\n", "line 3: .* is no cache entry"),
        (HEADER + b"y: 3f800000\nx: 3f8", "line 3: .* is no cache entry.* damaged; calibrate again"),
        (HEADER + b"x: bf800000\n", r"the scale of 'x' is -1\.0; expected a positive number"),
        (HEADER + b"x: 7fc00000\n", "the scale of 'x' is nan; expected a positive number"),
        (b'{"x": {"scale": 0.1}}', "its first line is .* \\(JSON, as NVDLA and other tools write it\\)"),
        (b"x:1: 3f800000\n", "\\(a cache entry: the header is missing\\)"),
        (b"data_0 2.008338\n", "\\(a table of plain numbers, as ONNX Runtime writes it\\)"),
        (b"PK\x03\x04", "\\(a PyTorch or pickle file\\)"),
        (HEADER + b"x: 3f800000\nx: 3f800000\n", "line 3: tensor 'x' appears twice"),
    ],
)
def test_foreign_or_corrupt_cache(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "a.cache").write_bytes(content)
    with pytest.raises(CacheError, match=rf"a\.cache.*{message}"):
        Cache.load(tmp_path / "a.cache")


def test_missing_cache(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="calibration cache not found: expected a file at"):
        Cache.load(tmp_path / "a.cache")
