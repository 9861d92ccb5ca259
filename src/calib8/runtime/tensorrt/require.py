"""Whether an engine can run here, said before it is deserialised."""

import os
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from calib8.engine.family import MODULES, Part, TensorRT, imported, none_usable
from calib8.engine.sidecar import Sidecar, why_not_here
from calib8.errors import SetupError
from calib8.gpu.hardware import Gpu

#: Set to 1 by whoever lets engines bring code for the CPU.
HOST_CODE = "CALIB8_HOST_CODE"
ON_CPU = "On the CPU use the ONNX model that it was built from."


def require_runnable(sidecar: Sidecar, present: tuple[Gpu, ...], *, host_code: bool = False) -> TensorRT:
    """The TensorRT to run the engine with on a GPU of ``present``. Raises ``SetupError`` with the reason if none can.

    ``host_code``: may the engine bring code for the CPU? Modules are imported and no more: TensorRT's ``Runtime``
    crashes where there is no GPU.
    """
    if reason := why_not_here(sidecar, present):
        raise SetupError(f"{reason}.")
    problems: list[str] = []
    parts = [found for part in _parts(sidecar) if (found := imported(sidecar.family, part, problems)) is not None]
    for tensorrt in parts:
        if _fits(tensorrt, sidecar):
            _require_trust(sidecar, host_code)
            return tensorrt
    package = MODULES[sidecar.family].replace("_", "-")
    install = f"Install that version: pip install {package}=={sidecar.tensorrt_version}."
    if not parts:
        raise SetupError(f"the engine needs {sidecar.builder}, and there is {none_usable(problems)} {install}")
    only = "that and later ones of its major version" if sidecar.brings_code else "that"
    there = " and ".join(tensorrt.title for tensorrt in parts)
    raise SetupError(
        f"the engine was built with {sidecar.builder} and runs only on {only}, but {there} is installed. {install} Or "
        "build the engine again."
    )


def host_code_allowed(given: bool | None) -> bool:
    """What a caller said, or else the environment: never what lies beside the engine."""
    return os.environ.get(HOST_CODE) == "1" if given is None else given


def warn_of_another_gpu(path: Path, sidecar: Sidecar, gpu: str) -> None:
    """TensorRT promises an engine to the model of GPU that it was built on: an H200 is no H100, and both are sm90."""
    if sidecar.gpu not in (None, gpu) and sidecar.hardware_compatibility == "none":
        warnings.warn(
            f"{path} was built on {sidecar.gpu}, and this is {gpu}: it may be slower here than one built here, and "
            "TensorRT does not promise that it runs. Build it here, or with --hardware-compatibility same-capability.",
            RuntimeWarning,
            stacklevel=3,
        )


def _require_trust(sidecar: Sidecar, host_code: bool) -> None:
    if sidecar.brings_code and not host_code:
        raise SetupError(
            "the engine is version-compatible and brings the runtime that it was built for, which is code that runs on "
            f"the CPU and may do whatever this process may. If you trust it, say so: set {HOST_CODE}=1, or "
            "calib8.open(…, host_code=True). Or build it without (--exclude-lean-runtime)."
        )


def _parts(sidecar: Sidecar) -> tuple[Part, ...]:
    """What may run the engine, the best first."""
    if not sidecar.version_compatible:
        return ("full",)
    return ("full", "lean", "dispatch") if sidecar.brings_code else ("lean", "full")


def _fits(tensorrt: TensorRT, sidecar: Sidecar) -> bool:
    """TensorRT makes engines for later versions only on request, TensorRT-RTX never (their "Engine Compatibility").

    An engine runs on another version by the runtime that it brings: the lean runtime of 10.15 was given one without, of
    10.6, and refused it ("Version tag does not match").
    """
    if tensorrt.version == sidecar.tensorrt_version:
        return True
    return sidecar.brings_code and _is_later(tensorrt.version, sidecar.tensorrt_version)


def _is_later(here: str, built: str) -> bool:
    """Of the same major version, and not older."""
    numbers = [[int(part) for part in re.findall(r"\d+", version)] for version in (here, built)]
    return numbers[0][:1] == numbers[1][:1] and numbers[0] >= numbers[1]


@contextmanager
def explained(path: Path) -> Iterator[None]:
    """Say of every ``SetupError`` which engine cannot run, and what can be done without it."""
    try:
        yield
    except SetupError as error:
        raise SetupError(f"{path} cannot run here: {error} {ON_CPU}") from error
