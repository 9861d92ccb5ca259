"""Timings of kernels, kept by default and read by the next build, with the full TensorRT."""

import os
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from engines import build, write_encoder

import calib8
from calib8.gpu.hardware import gpus

trt = pytest.importorskip("tensorrt", reason="needs pip install tensorrt")


@pytest.fixture
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where timings are kept: the user's cache, here an empty one."""
    monkeypatch.setenv("CALIB8_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "timings"


def test_the_second_build_reads_what_the_first_one_kept(kept: Path, tmp_path: Path, measured) -> None:
    model, seconds, sizes = write_encoder(tmp_path), [], []
    for turn in range(2):
        begun = time.perf_counter()
        build(model, tmp_path / f"{turn}.engine", precision="fp16")
        seconds.append(round(time.perf_counter() - begun, 1))
        (cache,) = kept.glob("*.cache")
        sizes.append(cache.stat().st_size)
    assert gpus()[0].name.replace(" ", "-") in cache.name
    assert trt.__version__ in cache.name
    assert sizes[0] > 0
    assert sizes[1] == sizes[0]  # nothing was left to measure
    measured(f"build of a tiny encoder without and with a timing cache: {seconds} s, {sizes[0]} bytes")


def test_a_damaged_cache_is_replaced_with_a_note(kept: Path, tmp_path: Path, notes) -> None:
    model = write_encoder(tmp_path)
    build(model, tmp_path / "a.engine", precision="fp16")
    (cache,) = kept.glob("*.cache")
    whole = cache.stat().st_size
    for damaged in (b"", os.urandom(4096), cache.read_bytes()[: whole // 2]):
        cache.write_bytes(damaged)
        (tmp_path / "a.engine").unlink()
        config = calib8.Build(family="tensorrt", precision="fp16")
        calib8.build(model, tmp_path / "a.engine", config, progress=notes)
        assert cache.stat().st_size > 4096
        told = [said for said in notes.messages if said.startswith(f"{cache} is of another GPU")]
        assert bool(told) is bool(damaged)
        notes.messages.clear()


def test_builds_at_the_same_time_leave_a_whole_cache(kept: Path, tmp_path: Path, notes) -> None:
    model = write_encoder(tmp_path)
    with ThreadPoolExecutor(3) as threads:
        names = ("fp16", "bf16", "fp32")
        list(threads.map(lambda name: build(model, tmp_path / f"{name}.engine", precision=name), names))
    (cache,) = kept.glob("*")
    before = cache.stat().st_size
    config = calib8.Build(family="tensorrt", precision="bf16", optimization_level=2)
    calib8.build(model, tmp_path / "again.engine", config, progress=notes)
    assert not [said for said in notes.messages if "timing cache" in said]
    assert cache.stat().st_size >= before


def test_it_can_be_left(kept: Path, tmp_path: Path) -> None:
    build(write_encoder(tmp_path), tmp_path / "x.engine", precision="fp16", keep_timings=False)
    assert not kept.exists()
