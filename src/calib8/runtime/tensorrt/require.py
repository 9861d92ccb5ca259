"""Whether an engine can run here, said before it is deserialised."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from calib8.engine.family import MODULES, TITLES, TensorRT, load
from calib8.engine.sidecar import Sidecar, why_not_here
from calib8.errors import SetupError

ON_CPU = "On the CPU use the ONNX model that it was built from."


def require_runnable(sidecar: Sidecar) -> TensorRT:
    """The TensorRT to run the engine with. Raises ``SetupError`` with the reason if this machine cannot."""
    if reason := why_not_here(sidecar):
        raise SetupError(f"{reason}.")
    package = MODULES[sidecar.family].replace("_", "-")
    install = f"Install that version: pip install {package}=={sidecar.tensorrt_version}."
    try:
        tensorrt = load(sidecar.family)
    except SetupError as error:
        raise SetupError(f"the engine needs {sidecar.builder}, and there is {error} {install}") from error
    # TensorRT makes engines for later versions only on request, TensorRT-RTX never (their "Engine Compatibility").
    later = sidecar.version_compatible and _is_later(tensorrt.version, sidecar.tensorrt_version)
    if tensorrt.version != sidecar.tensorrt_version and not later:
        only = "that and later ones of its major version" if sidecar.version_compatible else "that"
        raise SetupError(
            f"the engine was built with {sidecar.builder} and runs only on {only}, but {TITLES[sidecar.family]} "
            f"{tensorrt.version} is installed. {install} Or build the engine again."
        )
    return tensorrt


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
