"""Look at drivers and libraries, each in a child process: one that crashes or hangs is told, and harms nobody."""

import importlib
import json
import os
import platform
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from typing import Any, TypeAlias

from pydantic import TypeAdapter

from calib8 import telemetry
from calib8.doctor.facts import Arithmetic, Facts, Library, Processor
from calib8.engine.family import MODULES, FamilyName, TensorRT
from calib8.engine.hardware import Driver, cuda_version, driver
from calib8.progress import Progress
from calib8.report.report import this_machine
from calib8.runtime.canary import KINDS
from calib8.runtime.choice import preferences, refusals
from calib8.runtime.forms import PRODUCTS
from calib8.runtime.names import RuntimeName
from calib8.runtime.processor import has_amx, has_vnni

#: The child imports from where this process does; -I keeps the working folder and the environment out of that.
CHILD = "import json, sys; sys.path[:] = json.loads(sys.argv[1]); from calib8.doctor.probe import main; main()"
PATIENCE_SECONDS = 90.0
DRIVER = "driver"

#: What the child found out, or why it did not.
_Answer: TypeAlias = "tuple[dict[str, Any] | None, str | None]"


def look(progress: Progress) -> Facts:
    """Everything that can be known of this machine without a CUDA context. Takes seconds, raises nothing.

    ``progress`` is told of each fact as it is found.
    """
    answers: dict[str, _Answer] = {}
    with ThreadPoolExecutor(max_workers=4) as pool:
        asked = {pool.submit(ask_child, name): name for name in (DRIVER, *LIBRARIES, *ARITHMETIC)}
        for future in as_completed(asked):
            name = asked[future]
            answers[name] = found, problem = future.result()
            progress.note(f"{name}: {problem or _said(found or {})}")
    told, problem = answers[DRIVER]
    libraries = {
        name: Library(package=name, problem=problem) if found is None else Library(package=name, **found)
        for name, (found, problem) in ((name, answers[name]) for name in LIBRARIES)
    }
    int8 = (
        Arithmetic(runtime=runtime, problem=problem) if found is None else Arithmetic(runtime=runtime, **found)
        for runtime, (found, problem) in ((runtime, answers[name]) for name, runtime in ARITHMETIC.items())
    )
    return Facts(
        calib8=_own_version(),
        python=platform.python_version(),
        system=f"{platform.system()} {platform.machine()}",
        processor=processor(),
        driver=Driver(problem=problem) if told is None else TypeAdapter(Driver).validate_python(told),
        libraries=libraries,
        int8=tuple(int8),
    )


def ask_child(name: str) -> _Answer:
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
    answer: _Answer
    try:
        answer = _asked(name), None
    except ModuleNotFoundError as error:
        answer = None, f"is not installed: no module {error.name}"
    except Exception as error:  # whatever a broken installation raises is what we came to hear
        answer = None, f"cannot be loaded: {' '.join(str(error).split()) or type(error).__name__}"
    print(f"\n{json.dumps(answer)}")  # the parent reads it


def _said(found: dict[str, Any]) -> str:
    """One word of what was found."""
    form = found.get("form")
    return str(found.get("version") or (PRODUCTS[form] if form else "answers"))


def _asked(name: str) -> dict[str, Any]:
    if name in ARITHMETIC:
        return _arithmetic(ARITHMETIC[name])
    return asdict(driver()) if name == DRIVER else LIBRARIES[name]()


def _arithmetic(runtime: RuntimeName) -> dict[str, Any]:
    kinds = [kind for kind in KINDS if not kind.startswith(("grouped", "scaled"))]  # of few models, on any CPU
    inexact = tuple(refusals(kinds, runtime).values())
    forms = [form for _, form in preferences(runtime)]
    return {"form": forms[len(inexact)] if len(inexact) < len(forms) else None, "inexact": inexact}


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


#: What is asked of the INT8 kernels of a runtime, and of which.
ARITHMETIC: dict[str, RuntimeName] = {"INT8 in ONNX Runtime": "onnxruntime", "INT8 in OpenVINO": "openvino"}


def _own_version() -> str:
    try:
        return version("calib8")
    except PackageNotFoundError:
        return "not installed, run from its source"


def processor() -> Processor:
    """The CPU and the memory of this machine."""
    machine = this_machine()
    return Processor(
        name=machine.processor,
        cores=machine.cores,
        vnni=has_vnni(),
        amx=has_amx(),
        memory_total_bytes=_memory("SC_PHYS_PAGES"),
        memory_available_bytes=_memory("SC_AVPHYS_PAGES"),
    )


def _memory(pages: str) -> int | None:
    """Bytes, or None where the operating system has no such setting."""
    if pages not in getattr(os, "sysconf_names", {}):
        return None
    return os.sysconf(pages) * os.sysconf("SC_PAGE_SIZE")
