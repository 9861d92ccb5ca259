"""The NVIDIA GPUs of this machine, asked from ``nvidia-smi`` so that no CUDA context is made."""

import shutil
import subprocess
from dataclasses import dataclass

QUERY = ["--query-gpu=name,compute_cap", "--format=csv,noheader"]


@dataclass(frozen=True)
class Gpu:
    """One GPU: its name and its compute capability as a build target, ``sm86``."""

    name: str
    target: str


def gpus() -> tuple[Gpu, ...]:
    """The GPUs that the driver reports; empty without a driver or a GPU."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return ()
    try:
        answer = subprocess.run([program, *QUERY], capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return ()  # installed, but there is no driver that it could ask
    return parse(answer.stdout)


def parse(answer: str) -> tuple[Gpu, ...]:
    """``NVIDIA L4, 8.9`` a line -> ``Gpu("NVIDIA L4", "sm89")``; anything else is skipped."""
    rows = [line.rpartition(",") for line in answer.splitlines()]
    return tuple(
        Gpu(name.strip(), "sm" + capability.strip().replace(".", ""))
        for name, _, capability in rows
        if name and capability.strip().replace(".", "").isdigit()
    )
