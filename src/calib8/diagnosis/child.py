"""What a child of ``calib8 doctor`` does: look at one library, at the driver, or at the INT8 kernels of a runtime.

There is a child for each, so this module imports little: ONNX IR alone takes a second, and only the kernels need it.
"""

import importlib
import json
import sys
from collections.abc import Callable
from dataclasses import asdict
from importlib.metadata import version
from typing import Any, TypeAlias

from calib8.engine.family import MODULES, FamilyName, TensorRT
from calib8.gpu.hardware import cuda_version, driver
from calib8.runtime.names import RUNTIMES, RuntimeName

DRIVER = "driver"

#: What the child found out, or why it did not.
Answer: TypeAlias = "tuple[dict[str, Any] | None, str | None]"


def main() -> None:
    """In the child: print ``[found, problem]`` about what ``argv[2]`` names."""
    name = sys.argv[2]
    answer: Answer
    try:
        answer = _asked(name), None
    except ModuleNotFoundError as error:
        answer = None, f"is not installed: no module {error.name}"
    except Exception as error:  # whatever a broken installation raises is what we came to hear
        answer = None, f"cannot be loaded: {' '.join(str(error).split()) or type(error).__name__}"
    print(f"\n{json.dumps(answer)}")  # the parent reads it


def _asked(name: str) -> dict[str, Any]:
    if name in ARITHMETIC:
        return _arithmetic(ARITHMETIC[name])
    return asdict(driver()) if name == DRIVER else LIBRARIES[name]()


def _arithmetic(runtime: RuntimeName) -> dict[str, Any]:
    from calib8.runtime.canary import KINDS
    from calib8.runtime.choice import preferences, refusals

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


LIBRARIES: dict[str, Callable[[], dict[str, Any]]] = {
    "tensorrt-rtx": lambda: _tensorrt("rtx"),
    "tensorrt": lambda: _tensorrt("tensorrt"),
    "cuda-python": _cuda_python,
    "nvidia-ml-py": _nvidia_ml,
    **{name: kind.library for name, kind in RUNTIMES.items()},
}

#: What is asked of the INT8 kernels of a runtime, and of which.
ARITHMETIC: dict[str, RuntimeName] = {f"INT8 in {kind.title}": name for name, kind in RUNTIMES.items()}
