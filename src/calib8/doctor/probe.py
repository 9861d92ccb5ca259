"""Look at drivers and libraries, each in a child process: one that crashes or hangs is told, and harms nobody."""

import importlib
import json
import os
import platform
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from calib8 import telemetry
from calib8.doctor.facts import Facts, Library, Processor
from calib8.engine.family import MODULES, FamilyName, TensorRT
from calib8.engine.hardware import Driver, cuda_version, driver
from calib8.report.report import this_machine
from calib8.runtime.choice import has_vnni

#: The child imports from where this process does; -I keeps the working folder and the environment out of that.
CHILD = "import json, sys; sys.path[:] = json.loads(sys.argv[1]); from calib8.doctor.probe import main; main()"
PATIENCE_SECONDS = 90.0
DRIVER = "driver"


def look() -> Facts:
    """Everything that can be known of this machine without a CUDA context. Takes seconds, raises nothing."""
    with ThreadPoolExecutor(max_workers=4) as pool:
        asked = {name: pool.submit(ask_child, name) for name in (DRIVER, *LIBRARIES)}
    answers = {name: future.result() for name, future in asked.items()}
    told, problem = answers.pop(DRIVER)
    libraries = {
        name: Library(package=name, problem=problem) if found is None else Library(package=name, **found)
        for name, (found, problem) in answers.items()
    }
    return Facts(
        calib8=_own_version(),
        python=platform.python_version(),
        system=f"{platform.system()} {platform.machine()}",
        processor=processor(),
        driver=Driver(problem=problem) if told is None else TypeAdapter(Driver).validate_python(told),
        libraries=libraries,
    )


def ask_child(name: str) -> tuple[dict[str, Any] | None, str | None]:
    """(what the child found out about ``name``, None) or (None, why it did not)."""
    command = [sys.executable, "-I", "-c", CHILD, json.dumps([str(entry) for entry in sys.path]), name]
    try:
        answer = subprocess.run(command, capture_output=True, timeout=PATIENCE_SECONDS, check=False)
    except subprocess.TimeoutExpired:
        return None, f"does not answer within {PATIENCE_SECONDS:.0f} s"
    lines = answer.stdout.decode("utf-8", "replace").splitlines()
    if answer.returncode or not lines:
        said = answer.stderr.decode("utf-8", "replace").strip().splitlines()
        return None, f"crashes when it is loaded (code {answer.returncode}): {said[-1] if said else 'no message'}"
    found, problem = json.loads(lines[-1])  # a library may print lines of its own before
    return found, problem


def main() -> None:
    """In the child: print ``[found, problem]`` about what ``argv[2]`` names."""
    name = sys.argv[2]
    answer: tuple[dict[str, Any] | None, str | None]
    try:
        answer = (asdict(driver()) if name == DRIVER else LIBRARIES[name]()), None
    except ModuleNotFoundError as error:
        answer = None, f"is not installed: no module {error.name}"
    except Exception as error:  # whatever a broken installation raises is what we came to hear
        answer = None, f"cannot be loaded: {' '.join(str(error).split()) or type(error).__name__}"
    print(f"\n{json.dumps(answer)}")  # the parent reads it


def _tensorrt(family: FamilyName) -> dict[str, Any]:
    tensorrt = TensorRT(family, importlib.import_module(MODULES[family]))
    return {"version": tensorrt.version, "details": {"builds for": " ".join(tensorrt.targets() or ()) or None}}


def _cuda_python() -> dict[str, Any]:
    runtime = importlib.import_module("cuda.bindings.runtime")
    (_, runtime_version), (_, driver_version) = runtime.cudaRuntimeGetVersion(), runtime.cudaDriverGetVersion()
    details = {"CUDA runtime": cuda_version(runtime_version), "CUDA of the driver": cuda_version(driver_version)}
    return {"version": version("cuda-bindings"), "details": details}


def _nvidia_ml() -> dict[str, Any]:
    importlib.import_module("pynvml")
    return {"version": version("nvidia-ml-py")}


def _onnxruntime() -> dict[str, Any]:
    ort = telemetry.onnxruntime()
    return {"version": ort.__version__, "details": {"providers": ", ".join(ort.get_available_providers())}}


def _openvino() -> dict[str, Any]:
    return {"version": telemetry.openvino().__version__.partition("-")[0]}


LIBRARIES: dict[str, Callable[[], dict[str, Any]]] = {
    "tensorrt-rtx": lambda: _tensorrt("rtx"),
    "tensorrt": lambda: _tensorrt("tensorrt"),
    "cuda-python": _cuda_python,
    "nvidia-ml-py": _nvidia_ml,
    "onnxruntime": _onnxruntime,
    "openvino": _openvino,
}


def _own_version() -> str:
    try:
        return version("calib8")
    except PackageNotFoundError:
        return "not installed, run from its source"


def processor() -> Processor:
    """The CPU and the memory of this machine."""
    machine = this_machine()
    cpuinfo = Path("/proc/cpuinfo")
    flags = cpuinfo.read_text(encoding="utf-8", errors="replace") if cpuinfo.is_file() else None
    return Processor(
        name=machine.processor,
        cores=machine.cores,
        vnni=has_vnni() if flags is not None else None,
        amx="amx_int8" in flags if flags is not None else None,
        memory_total_bytes=_memory("SC_PHYS_PAGES"),
        memory_available_bytes=_memory("SC_AVPHYS_PAGES"),
    )


def _memory(pages: str) -> int | None:
    """Bytes, or None where the operating system has no such setting."""
    if pages not in getattr(os, "sysconf_names", {}):
        return None
    return os.sysconf(pages) * os.sysconf("SC_PAGE_SIZE")
