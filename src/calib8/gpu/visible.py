"""Which GPUs CUDA shows to a process, and in which order: ``CUDA_VISIBLE_DEVICES`` and ``CUDA_DEVICE_ORDER``.

Reference: CUDA C++ Programming Guide, "CUDA Environment Variables".
"""

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence

from calib8.errors import ConfigError

VISIBLE, ORDER = "CUDA_VISIBLE_DEVICES", "CUDA_DEVICE_ORDER"
PATIENCE_SECONDS = 60.0
#: Prints the UUIDs of the GPUs, in CUDA's order. In a process of its own, as it starts CUDA.
CHILD = """import json, sys, uuid
sys.path[:] = json.loads(sys.argv[1])
from cuda.bindings import runtime as cuda
count = cuda.cudaGetDeviceCount()[1]
found = [bytes(cuda.cudaGetDeviceProperties(index)[1].uuid.bytes) for index in range(count)]
print(json.dumps([f"GPU-{uuid.UUID(bytes=each)}" for each in found]))
"""


def only(device: int, environment: Mapping[str, str] | None = None) -> str:
    """What ``CUDA_VISIBLE_DEVICES`` is for a process that sees one GPU: number ``device`` of those that this one sees.

    Raises ``ConfigError`` if the variable names fewer.
    """
    named = entries(environment)
    if named is None:
        return str(device)
    if device >= len(named):
        raise ConfigError(f"there is no GPU {device}: {VISIBLE} is {','.join(named)!r}. Count from 0 within that list.")
    return named[device]


def entries(environment: Mapping[str, str] | None = None) -> list[str] | None:
    """What ``CUDA_VISIBLE_DEVICES`` names; None if it is not set, so that all GPUs are shown."""
    named = (os.environ if environment is None else environment).get(VISIBLE)
    return None if named is None else [entry.strip() for entry in named.split(",") if entry.strip()]


def counted(environment: Mapping[str, str] | None = None) -> bool:
    """Whether which GPUs are shown, or in which order, hangs on how they are counted: no UUIDs say it."""
    named = entries(environment)
    return named is None or any(entry.isdigit() for entry in named)


def shown(uuids: Sequence[str | None], environment: Mapping[str, str] | None = None) -> list[int]:
    """Which of all GPUs, given by their UUIDs in the order of the PCI bus, ``CUDA_VISIBLE_DEVICES`` leaves.

    In its order; as in CUDA, an entry that names none ends the list. Numbers count by PCI bus; CUDA does so only where
    all GPUs are alike or ``CUDA_DEVICE_ORDER`` says so, see ``cuda_uuids``.
    """
    named = entries(environment)
    if named is None:
        return list(range(len(uuids)))
    found: list[int] = []
    for entry in named:
        if entry.isdigit():
            same = [int(entry)] if int(entry) < len(uuids) else []
        else:
            same = [index for index, uuid in enumerate(uuids) if uuid is not None and uuid.startswith(entry)]
        if not same:
            break
        found += same
    return found


def cuda_uuids() -> list[str] | None:
    """The UUIDs of the GPUs that CUDA shows, in its own order; None where CUDA or cuda-python does not answer."""
    command = [sys.executable, "-I", "-c", CHILD, json.dumps([str(entry) for entry in sys.path])]
    try:
        answer = subprocess.run(command, capture_output=True, timeout=PATIENCE_SECONDS, check=True)
        return [str(uuid) for uuid in json.loads(answer.stdout)]
    except (OSError, subprocess.SubprocessError, ValueError):
        return None
