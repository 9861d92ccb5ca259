import sys

import pytest
from trt_double import double, needs_bindings

from calib8.engine import build
from calib8.engine.build import build_engine
from calib8.engine.config import Build
from calib8.engine.family import TensorRT, load
from calib8.engine.options import Options
from calib8.errors import ConfigError, ProfileError, SetupError
from calib8.gpu.hardware import Gpu


def full(version="10.16.1.11"):
    """A full TensorRT: the real one needs a GPU."""
    return TensorRT("tensorrt", double(version))


def test_rtx_is_found_first_and_knows_its_targets():
    trt = pytest.importorskip("tensorrt_rtx", reason="needs pip install tensorrt-rtx")
    found = load()
    assert (found.family, found.version) == ("rtx", trt.__version__)
    assert set(found.targets()) >= {"sm75", "sm80", "sm86", "sm89", "sm120"}
    assert not {"none", "current"} & set(found.targets())
    assert found.network_flags(Options()) == 1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED)


def test_without_any_tensorrt_the_error_tells_what_to_install(monkeypatch):
    for module in ("tensorrt", "tensorrt_rtx"):
        monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(SetupError, match=r"no usable TensorRT .*pip install '\.\[rtx\]'"):
        load()


@pytest.mark.parametrize("chained", [True, False])
def test_ctrl_c_while_tensorrt_starts_is_no_missing_tensorrt(chained, monkeypatch):
    def start(module):
        if not chained:
            raise ImportError("KeyboardInterrupt: <EMPTY MESSAGE>")
        raise ImportError("initialization failed") from KeyboardInterrupt()

    monkeypatch.setattr("calib8.engine.family.importlib.import_module", start)
    with pytest.raises(KeyboardInterrupt):
        load()


@needs_bindings
def test_the_other_family_is_taken_where_rtx_is_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorrt_rtx", None)
    monkeypatch.setitem(sys.modules, "tensorrt", full().module)
    assert load().title == "TensorRT 10.16.1.11"
    with pytest.raises(SetupError, match="tensorrt_rtx: import of tensorrt_rtx halted"):
        load("rtx")


@needs_bindings
def test_strong_typing_is_asked_for_even_where_it_goes_without_saying():
    assert full().network_flags(Options()) == 2
    assert full("11.4.0.106").network_flags(Options()) == 1  # EXPLICIT_BATCH, in TensorRT 10


@needs_bindings
def test_a_full_tensorrt_builds_for_its_gpu_only(monkeypatch, tmp_path):
    monkeypatch.setattr(build, "load", lambda *_, **__: full())
    monkeypatch.setattr(build, "gpus", lambda: ())
    with pytest.raises(SetupError, match=r"TensorRT 10\.16\.1\.11 builds on a GPU, and nvidia-smi finds none"):
        build_engine(tmp_path / "m.onnx", tmp_path / "x.engine")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "7")
    with pytest.raises(
        SetupError, match=r"nvidia-smi finds none, or CUDA_VISIBLE_DEVICES='7' leaves none\. Build else"
    ):
        build_engine(tmp_path / "m.onnx", tmp_path / "x.engine")
    monkeypatch.setattr(build, "gpus", lambda: (Gpu("NVIDIA L4", "sm89"),))
    with pytest.raises(ProfileError, match=r"only for this machine's NVIDIA L4, got the targets sm86\. Ask for sm89"):
        build_engine(tmp_path / "m.onnx", tmp_path / "x.engine", Build(targets="sm86"))
    assert build.builder_of(Build())[1:] == (("sm89",), "7", Gpu("NVIDIA L4", "sm89"))
    assert build.builder_of(Build(targets="sm89")).targets == ("sm89",)


@needs_bindings
def test_of_several_gpus_the_one_asked_for_builds(monkeypatch):
    cards = Gpu("NVIDIA H200", "sm90"), Gpu("NVIDIA L4", "sm89"), Gpu("NVIDIA L4", "sm89")
    monkeypatch.setattr(build, "load", lambda *_, **__: full())
    monkeypatch.setattr(build, "gpus", lambda: cards)
    assert build.builder_of(Build())[1:] == (("sm90",), "0", cards[0])
    assert build.builder_of(Build(targets="sm89"))[1:] == (("sm89",), "1", cards[1])
    assert build.builder_of(Build(device=2))[1:] == (("sm89",), "2", cards[2])
    with pytest.raises(ProfileError, match=r"this machine's NVIDIA L4, got the targets sm90\. Ask for sm89"):
        build.builder_of(Build(device=1, targets="sm90"))
    with pytest.raises(ConfigError, match=r"no GPU 3: CUDA shows 0 \(NVIDIA H200\), 1 \(NVIDIA L4\), 2 .*--device"):
        build.builder_of(Build(device=3))


@needs_bindings
@pytest.mark.parametrize(("card", "taken"), [("sm90", "tensorrt"), ("sm70", "tensorrt"), ("sm89", "rtx")])
def test_auto_takes_rtx_only_where_it_runs(card, taken, monkeypatch):
    pytest.importorskip("tensorrt_rtx", reason="needs pip install tensorrt-rtx")
    monkeypatch.setitem(sys.modules, "tensorrt", full().module)
    monkeypatch.setattr(build, "gpus", lambda: (Gpu("a card", card),))
    assert build.builder_of(Build()).tensorrt.family == taken
    assert build.builder_of(Build(targets="sm86")).tensorrt.family == "rtx"  # for another machine
    assert build.builder_of(Build(targets=card)).tensorrt.family == taken
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    if taken == "tensorrt":
        with pytest.raises(SetupError, match=r"TensorRT-RTX, the only .*not run on this machine's a card.*tensorrt"):
            build.builder_of(Build())


@needs_bindings
def test_a_calibrator_prefers_the_tensorrt_that_may_have_one(monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorrt", full().module)
    pytest.importorskip("tensorrt_rtx", reason="needs pip install tensorrt-rtx")
    assert (load().family, load(prefer="tensorrt").family) == ("rtx", "tensorrt")
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    assert load(prefer="tensorrt").family == "rtx"
