"""Which part of TensorRT runs an engine, whether its code for the CPU may run, and on which GPU it is loaded."""

import hashlib
import os
import sys
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
from fake_tensorrt import CONTENT, World, ids

import calib8
from calib8.engine import sidecar as sidecar_module
from calib8.engine.sidecar import read_engine
from calib8.errors import ConfigError, InputError, SetupError
from calib8.gpu.hardware import Gpu
from calib8.runtime.tensorrt.require import HOST_CODE

FULL, LEAN, DISPATCH = "tensorrt", "tensorrt_lean", "tensorrt_dispatch"
BRINGS = {"version_compatible": True}
LACKS = {"version_compatible": True, "exclude_lean_runtime": True}


@pytest.fixture
def world(tmp_path, monkeypatch) -> World:
    monkeypatch.delenv(HOST_CODE, raising=False)
    return World(tmp_path, monkeypatch)


def install(world: World, **versions: str) -> None:
    """These modules, in these versions, and no other part of TensorRT."""
    for name in (FULL, LEAN, DISPATCH):
        module = None
        if name in versions:
            module = ModuleType(name)  # hashable, as modules are
            vars(module).update({**vars(world.trt.module), "__version__": versions[name]})
        world.monkeypatch.setitem(sys.modules, name, module)


# The engine was built by TensorRT 10.13.3.9.
@pytest.mark.parametrize(
    ("engine", "installed", "title"),
    [
        (BRINGS, {LEAN: "10.13.3.9"}, "TensorRT lean runtime 10.13.3.9"),
        (BRINGS, {DISPATCH: "10.14.0.1"}, "TensorRT dispatch runtime 10.14.0.1"),
        (BRINGS, {FULL: "10.14.0.1", LEAN: "10.13.3.9"}, "TensorRT 10.14.0.1"),
        (BRINGS, {FULL: "10.9.0.34", LEAN: "10.13.3.9"}, "TensorRT lean runtime 10.13.3.9"),
        (BRINGS, {LEAN: "10.9.0.34", DISPATCH: "10.13.3.9"}, "TensorRT dispatch runtime 10.13.3.9"),
        (LACKS, {FULL: "10.13.3.9", LEAN: "10.13.3.9"}, "TensorRT lean runtime 10.13.3.9"),
        (LACKS, {FULL: "10.13.3.9", LEAN: "10.14.0.1"}, "TensorRT 10.13.3.9"),
        (LACKS, {FULL: "10.13.3.9"}, "TensorRT 10.13.3.9"),
        ({}, {FULL: "10.13.3.9", LEAN: "10.13.3.9"}, "TensorRT 10.13.3.9"),
    ],
)
def test_the_best_part_that_fits_runs_the_engine(world, engine, installed, title):
    install(world, **installed)
    world.write(**engine)
    with world.open(host_code=True) as runtime:
        assert runtime.description == f"{title} on NVIDIA A10"
        np.testing.assert_array_equal(runtime(ids=ids(2, 3))["out"], 2 * ids(2, 3))


@pytest.mark.parametrize(
    ("engine", "installed", "told"),
    [
        ({}, {LEAN: "10.13.3.9"}, r"needs TensorRT 10\.13\.3\.9, and there is no usable TensorRT .*\(tensorrt: "),
        (BRINGS, {}, r"\(tensorrt: .*; tensorrt_lean: .*; tensorrt_dispatch: "),
        (LACKS, {DISPATCH: "10.13.3.9"}, r"\(tensorrt_lean: .*; tensorrt: "),
        (LACKS, {FULL: "10.14.0.1"}, r"runs only on that, but TensorRT 10\.14\.0\.1 is installed"),
        (LACKS, {LEAN: "10.14.0.1"}, r"runs only on that, but TensorRT lean runtime 10\.14\.0\.1 is installed"),
        (
            BRINGS,
            {FULL: "10.9.0.34", LEAN: "11.0.0.1"},
            r"later ones of its major version, but .* 10\.9\.0\.34 and .* runtime 11\.0",
        ),
    ],
)
def test_a_part_that_does_not_fit_is_told(world, engine, installed, told):
    install(world, **installed)
    world.write(**engine)
    with pytest.raises(SetupError, match=told):
        world.open(host_code=True)
    assert world.trt.named("deserialise") == []


@pytest.mark.parametrize("module", [FULL, LEAN, DISPATCH])
def test_code_of_an_engine_runs_only_if_somebody_says_so(world, module):
    install(world, **{module: "10.13.3.9"})
    world.write(**BRINGS)
    with pytest.raises(
        SetupError, match=r"brings the runtime .* code that runs on the CPU .*CALIB8_HOST_CODE=1.*exclude"
    ):
        world.open()
    assert world.trt.named("runtime") == []
    world.monkeypatch.setenv(HOST_CODE, "1")
    with world.open():
        assert world.trt.loader.engine_host_code_allowed is True
    with pytest.raises(SetupError, match="brings the runtime"):
        world.open(host_code=False)


@pytest.mark.parametrize("engine", [{}, LACKS])
def test_what_lies_beside_the_engine_allows_no_code(world, engine):
    """A sidecar is a text that anybody edits: where it says that there is no code, TensorRT is told to refuse any."""
    world.write(**engine)
    with world.open():
        assert world.trt.loader.engine_host_code_allowed is False


def test_what_is_loaded_is_what_was_hashed(world):
    """The file may be another one a moment later: it is read once."""
    other = os.urandom(len(CONTENT))
    given = []
    deserialise = world.trt.deserialise
    world.monkeypatch.setattr(
        world.trt.module,
        "Runtime",
        lambda logger: _swapped(world, other) or _loader(given, deserialise),
    )
    with world.open():
        assert hashlib.sha256(given[0]).hexdigest() == hashlib.sha256(CONTENT).hexdigest()
    assert world.path.read_bytes() == other
    with pytest.raises(InputError, match="describes another engine"):
        read_engine(world.path)


def _swapped(world, content) -> None:
    world.path.write_bytes(content)


def _loader(given, deserialise):
    def load(serialized_engine):
        given.append(serialized_engine)
        return deserialise(serialized_engine)

    return SimpleNamespace(deserialize_cuda_engine=load)


def test_the_gpu_is_the_one_asked_for(world):
    cards = (Gpu("NVIDIA L4", "sm89"), Gpu("NVIDIA A10", "sm86"), Gpu("NVIDIA A10", "sm86"))
    world.cuda.cards = [("NVIDIA L4", 8, 9), ("NVIDIA A10", 8, 6), ("NVIDIA A10", 8, 6)]
    world.monkeypatch.setattr(sidecar_module, "gpus", lambda: cards)
    for device, used in ((None, 1), (1, 1), (2, 2)):
        with calib8.open(world.path, device=device) as runtime:
            assert runtime._device.index == used
            runtime(ids=ids(1, 2))
            assert world.cuda.cudaGetDevice() == (0, 0)  # the caller's, before and after
    assert world.cuda.cudaGetDevice() == (0, 0)
    with pytest.raises(SetupError, match=r"the engine runs on sm86 .*; this machine has NVIDIA L4 \(sm89\)"):
        calib8.open(world.path, device=0)
    with pytest.raises(ConfigError, match="there is no GPU 3: CUDA shows 0"):
        calib8.open(world.path, device=3)
    with pytest.raises(ConfigError, match="got device=-1, expected 0 or more"):
        calib8.open(world.path, device=-1)


def test_an_engine_of_another_model_of_gpu_gets_a_note(world):
    world.write(gpu="NVIDIA RTX A6000")
    with pytest.warns(RuntimeWarning, match=r"built on NVIDIA RTX A6000, and this is NVIDIA A10: .*not promise"):
        world.open().close()
    world.write(gpu="NVIDIA RTX A6000", hardware_compatibility="same-capability")
    world.open().close()
    world.write(gpu="NVIDIA A10")
    world.open().close()


def test_of_gpus_of_one_capability_the_model_it_was_built_on_is_taken(world):
    world.cuda.cards = [("NVIDIA RTX A6000", 8, 6), ("NVIDIA A10", 8, 6)]
    world.write(gpu="NVIDIA A10")
    with world.open() as runtime:
        assert runtime._device.index == 1
