"""calib8 against NVIDIA's own Python bindings of TensorRT 10.6, 10.16 and 11.4: names, signatures, base classes.

The bindings are imported without TensorRT (``trt_bindings``). 10.6 is the oldest that is checked, and 11.4 the newest.
"""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from stub_library import library
from trt_bindings import FUNCTIONS, ROOT, stubs_of

VERSIONS = ("10.6", "10.16", "11.4")
#: The names that calib8 uses of some TensorRT and that this one lacks: what ``family`` must have refused before. All
#: other names, and how calib8 calls them, must suit every version.
MISSING: dict[str, set[str]] = {
    "10.6": set(),
    "10.16": set(),
    "11.4": {
        "IInt8Calibrator",
        "IInt8MinMaxCalibrator",
        "IBuilderConfig.int8_calibrator",
        "IBuilderConfig.set_calibration_profile",
    },
}
USES_TENSORRT = r"^\s*(import|from) tensorrt\b|\bTensorRtModule\b"
LACKS = (
    r'error: "(\w+)" has no attribute "(\w+)"',
    r'error: Module "tensorrt" has no attribute "(\w+)"',
    r'error: Name "trt\.(\w+)" is not defined',
)
#: calib8's own modules are Any but for those that are checked, which is 10 times as fast; the rest is `make check`'s.
MYPY = """[mypy]
strict = True
follow_imports = skip
disallow_subclassing_any = False
warn_return_any = False
warn_unused_ignores = False
[mypy-tensorrt]
follow_imports = normal
ignore_errors = True
"""


@pytest.fixture(params=VERSIONS)
def version(request):
    if not stubs_of(request.param).is_file():
        pytest.skip(f"no bindings of TensorRT {request.param} for this Python: make .venv/bindings/ready")
    return request.param


def over(version, what):
    """What ``over_bindings`` finds."""
    command = [sys.executable, str(Path(__file__).with_name("over_bindings.py")), version, what]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def complaints(version, folder, sources):
    """What mypy says of these files, held against this version."""
    (folder / "mypy.ini").write_text(MYPY)
    command = [sys.executable, "-m", "mypy", "--config-file", folder / "mypy.ini", "--cache-dir", folder / "cache"]
    path = os.pathsep.join(map(str, (ROOT / "src", stubs_of(version).parents[1])))
    environment = {**os.environ, "MYPYPATH": path}
    done = subprocess.run([*command, *sources], capture_output=True, text=True, check=False, env=environment)
    assert done.returncode in (0, 1), done.stdout + done.stderr
    return [line for line in done.stdout.splitlines() if ": error: " in line]


def missing(errors):
    """The names that these complaints say are not there; there must be no other complaint."""
    found = [next(filter(None, (re.search(lack, line) for lack in LACKS)), None) for line in errors]
    assert None not in found, "\n".join(errors)
    return {".".join(match.groups()) for match in found}


def test_every_name_and_call_suits_every_version(version, tmp_path):
    sources = [path for path in (ROOT / "src").rglob("*.py") if re.search(USES_TENSORRT, path.read_text(), re.M)]
    assert len(sources) >= 8
    assert missing(complaints(version, tmp_path, sources)) == MISSING[version]


@pytest.mark.parametrize("version", ["11.4"], indirect=True)
def test_a_name_or_a_call_that_does_not_suit_is_found(version, tmp_path):
    source = tmp_path / "source.py"
    source.write_text("""import tensorrt as trt
def use(config: trt.IBuilderConfig, cache: trt.ITimingCache, old: trt.IInt8Calibrator) -> None:
    config.set_timing_cache(cache, ignore_mismatch=False)
    config.set_timing_cache(cache)
    config.set_timing_cache(cache, force=False)
    config.set_timing_cache(1, False)
    config.int8_calibrator = old
""")
    errors = complaints(version, tmp_path, [source])
    assert [int(re.search(r":(\d+): error", line)[1]) for line in errors] == [2, 4, 5, 6, 7]
    assert missing([errors[0], errors[-1]]) == {"IInt8Calibrator", "IBuilderConfig.int8_calibrator"}
    with pytest.raises(AssertionError, match='Missing positional argument "ignore_mismatch"'):
        missing(errors)


def test_what_is_asked_for_by_name_is_there(version):
    """The strings in ``family`` and ``calibrator``, which mypy cannot check."""
    found = over(version, "options")
    assert re.match(rf"TensorRT {re.escape(version)}\.", found["title"])
    assert found["targets"] is None
    assert found["strongly typed"]
    assert found["told"] == [
        ["set_flag", "BuilderFlag.VERSION_COMPATIBLE"],
        ["set_flag", "BuilderFlag.WEIGHT_STREAMING"],
        ["clear_flag", "BuilderFlag.TF32"],
        ["hardware_compatibility_level", "HardwareCompatibilityLevel.AMPERE_PLUS"],
        ["set_memory_pool_limit", "MemoryPoolType.WORKSPACE", str(3 << 20)],
        ["builder_optimization_level", "4"],
    ]
    has_calibrators = version.startswith("10.")
    assert found["calibrators"] == {"minmax": has_calibrators, "entropy2": has_calibrators}
    refused = {name: [text for text in found["refused"] if name in text] for name in ("compatibility", "calibrator")}
    assert len(found["refused"]) == sum(map(len, refused.values()))
    assert len(refused["calibrator"]) == (0 if has_calibrators else 2)
    lacks = "has no hardware_compatibility (--hardware-compatibility) same-capability: TensorRT has it from 10.9 on."
    assert refused["compatibility"] == ([f"TensorRT 10.6.0 {lacks}"] if version == "10.6" else [])


def test_tensorrt_reaches_the_methods_of_loggers_monitors_and_profilers(version):
    found = over(version, "callbacks")
    assert found["events"] == [["log", "WARNING", "hot"], ["progress", "build", 0.5, 1]]
    assert found["goes on"] == [True, True]
    assert found["reasons"] == "of ERROR"
    assert found["layers"] == [["gemm", 0.5]]


@pytest.mark.parametrize("version", ["10.6", "10.16"], indirect=True)
def test_tensorrt_10_knows_calib8s_calibrators(version):
    algorithms = {"minmax": ["MINMAX_CALIBRATION", 4], "entropy2": ["ENTROPY_CALIBRATION_2", 4]}
    assert over(version, "calibrators") == algorithms


def test_without_cuda_a_build_and_an_engine_say_so(version):
    """``createInferBuilder_INTERNAL`` and ``createInferRuntime_INTERNAL`` answer null, as where CUDA is missing."""
    assert over(version, "without_cuda") == {
        "build": "TensorRT did not start",
        "run": "TensorRT could not start: pybind11::init(): factory function returned nullptr.",
    }


@pytest.mark.skipif(sys.platform != "linux", reason="ELF is Linux's")
def test_a_stub_library_has_its_name_and_its_functions_and_no_others(tmp_path):
    """In a process of its own: a library that does not load could take the tests along."""
    path = tmp_path / "libnothing.so.7"
    path.write_bytes(library(path.name, FUNCTIONS))
    code = (
        "import ctypes, sys\n"
        "held = ctypes.CDLL(sys.argv[1])\n"
        "again = ctypes.CDLL('libnothing.so.7')  # found by its SONAME, in no folder of the system\n"
        "print([getattr(again, name)() for name in sys.argv[2:]], hasattr(held, 'another'))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(path), *FUNCTIONS], capture_output=True, text=True, check=False
    )
    assert (done.stderr, done.stdout) == ("", f"{[0] * 9} False\n")
