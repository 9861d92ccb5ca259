"""Timings of kernels are kept for the next build, on a TensorRT that follows its bindings."""

import sys
from pathlib import Path

import pytest
from test_full_tensorrt import float_conv
from trt_builds import building, install, recorded
from trt_double import needs_bindings

import calib8
from calib8.cli.main import main
from calib8.engine import build
from calib8.engine.build import build_engine
from calib8.engine.family import TensorRT
from calib8.engine.timings import kept_timings, timings_of
from calib8.errors import InputError, SetupError
from calib8.gpu.hardware import Gpu

pytestmark = needs_bindings
A10 = Gpu("NVIDIA A10", "sm86")


@pytest.fixture
def calls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "modules"
    folder.mkdir()
    found = install(folder, "10.16.1.11")
    monkeypatch.syspath_prepend(folder)
    monkeypatch.setitem(sys.modules, "tensorrt_rtx", None)
    monkeypatch.setitem(sys.modules, "tensorrt", building("10.16.1.11"))
    monkeypatch.setattr(build, "gpus", lambda: (A10,))
    return found


def built(saved, tmp_path: Path, notes=None, **options) -> None:
    config = calib8.Build(precision="fp16", **options)
    calib8.build(saved(float_conv()), tmp_path / "x.engine", config, progress=notes)
    (tmp_path / "x.engine").unlink()


def test_they_are_kept_without_being_asked_for(calls, saved, tmp_path, own_cache, notes) -> None:
    kept = own_cache / "timings" / "NVIDIA-A10-sm86-tensorrt-10.16.1.11.cache"
    built(saved, tmp_path, notes)
    assert kept.read_bytes() == b"+timed"
    built(saved, tmp_path, notes)
    assert kept.read_bytes() == b"+timed+timed"
    kept.write_bytes(b"garbage")
    built(saved, tmp_path, notes)
    assert kept.read_bytes() == b"+timed"
    assert f"{kept} is of another GPU or another TensorRT, or damaged: began a new timing cache" in notes.messages


def test_another_version_or_gpu_has_a_file_of_its_own(own_cache) -> None:
    paths = [
        timings_of(None, version, gpu)["path"]
        for version in ("10.6.0", "10.13.0")
        for gpu in (A10, Gpu("NVIDIA H100 80GB HBM3", "sm90"), Gpu("NVIDIA H200", "sm90"))
    ]
    assert len(set(paths)) == 6
    assert all(Path(path).parent == own_cache / "timings" for path in paths)


def test_they_can_be_left(calls, saved, tmp_path, own_cache) -> None:
    built(saved, tmp_path, keep_timings=False)
    assert not [call for call in recorded(calls) if "timing_cache" in call[0]]
    assert list(own_cache.iterdir()) == []


def test_a_named_file_takes_the_place_of_the_users_cache(calls, saved, tmp_path, own_cache) -> None:
    built(saved, tmp_path, timing_cache=tmp_path / "deep" / "timings")
    assert (tmp_path / "deep" / "timings").read_bytes() == b"+timed"
    assert list(own_cache.iterdir()) == []


def test_a_cache_that_cannot_be_written_is_no_reason_to_fail_but_a_named_one_is(
    calls, saved, tmp_path, own_cache, notes
) -> None:
    (own_cache / "timings").write_text("a file, not a folder")
    built(saved, tmp_path, notes)
    assert [
        said for said in notes.messages if said.startswith("the timings of this build are not kept: could not write")
    ]
    before = recorded(calls)
    with pytest.raises(SetupError, match="could not write .*mine: .*timings is a file, expected a folder"):
        built(saved, tmp_path, timing_cache=own_cache / "timings" / "mine")
    assert recorded(calls) == before  # it was told before a build was begun


def test_a_folder_is_refused_before_the_build(calls, saved, tmp_path, monkeypatch, capsys) -> None:
    folder = tmp_path / "timings"
    folder.mkdir()
    model, output = saved(float_conv()), tmp_path / "x.engine"
    options = ["--precision", "fp16", "--timing-cache", str(folder), "-q"]
    monkeypatch.setattr("sys.argv", ["calib8", "build", str(model), "-o", str(output), *options])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    expected = f"{folder} is a folder, expected the name of a file to write. Name one in it."
    assert expected in " ".join(capsys.readouterr().err.split())
    with pytest.raises(InputError, match="timings is a folder, expected the name of a file to write"):
        build_engine(model, output, calib8.Build(precision="fp16", timing_cache=folder))  # as ``convert`` does
    assert recorded(calls) == []
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model.onnx", "modules", "timings"]


class Cache:
    """Of TensorRT: entries that can be added to."""

    def __init__(self, content: bytes) -> None:
        self.content = content

    def combine(self, other: "Cache", ignore_mismatch: bool) -> bool:
        self.content += other.content
        return not ignore_mismatch

    def serialize(self) -> bytes:
        return self.content


class BuilderConfig:
    def create_timing_cache(self, content: bytes) -> Cache | None:
        return None if content == b"garbage" else Cache(content)

    def set_timing_cache(self, cache: Cache, ignore_mismatch: bool) -> bool:
        self.cache = cache
        return True

    def get_timing_cache(self) -> Cache:
        return self.cache


@pytest.mark.parametrize(
    ("meanwhile", "left"), [(b"theirs ", b"ours theirs "), (b"garbage", b"ours "), (None, b"ours ")]
)
def test_builds_at_the_same_time_add_to_one_another(meanwhile, left, tmp_path) -> None:
    path, config = tmp_path / "timings", BuilderConfig()
    with kept_timings(config, timings_of(path, "", A10), lambda *event: pytest.fail(str(event))):
        config.cache.content += b"ours "
        if meanwhile is not None:
            path.write_bytes(meanwhile)
    assert path.read_bytes() == left
    assert [entry.name for entry in tmp_path.iterdir()] == ["timings"]


def test_a_build_that_fails_leaves_them(tmp_path) -> None:
    path = tmp_path / "timings"
    path.write_bytes(b"known")
    with pytest.raises(RuntimeError), kept_timings(BuilderConfig(), timings_of(path, "", A10), print):
        raise RuntimeError
    assert path.read_bytes() == b"known"


def test_tensorrt_rtx_times_nothing() -> None:
    rtx = pytest.importorskip("tensorrt_rtx", reason="needs pip install tensorrt-rtx")
    assert not TensorRT("rtx", rtx).times
    assert TensorRT("tensorrt", building("10.16.1.11")).times


def test_a_build_with_rtx_keeps_none(tmp_path, own_cache) -> None:
    pytest.importorskip("tensorrt_rtx", reason="needs pip install tensorrt-rtx")
    import onnx

    onnx.save(float_conv(), tmp_path / "model.onnx")
    calib8.build(tmp_path / "model.onnx", tmp_path / "x.engine", calib8.Build(precision="fp16", targets="sm86"))
    assert list(own_cache.iterdir()) == []
