"""The CPU as this process has it: cores, units, versions of what computes, and what identifies all that in a cache.

``/proc/cpuinfo`` tells of the host's CPU. A process under emulation (``qemu-x86_64 -cpu Haswell``) reads the same lines
and has other units, so what ``cpuid`` answers to this very process is asked too, and where the two contradict each
other the file is not believed.
"""

import os
import platform
from contextlib import suppress
from functools import cache
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from calib8.runtime.names import RUNTIMES

#: Where Linux tells a container its share of the CPUs: "200000 100000" is two of them.
CPU_MAX = Path("/sys/fs/cgroup/cpu.max")
CPUINFO = Path("/proc/cpuinfo")
#: Settings by which a library takes other kernels than the CPU would have.
SETTINGS = ("DNNL_", "MLAS_", "ONEDNN_", "OPENVINO_", "ORT_", "OV_")


def cores() -> int:
    """How many cores this process may use: those it may run on, or fewer where a container's quota is less."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(allowed, _quota() or allowed)


def is_x86() -> bool:
    """Whether this is an x86 CPU of 64 bits."""
    return platform.machine() in ("x86_64", "AMD64")


def has_vnni() -> bool | None:
    """Whether an x86 CPU has AVX512-VNNI or AVX-VNNI, which add products of u8 and s8 in 32 bits; None if unknown.

    For people to read, and no ground for a decision: whether a runtime uses them is what the canary measures.
    """
    return _has("avx512_vnni", "avx_vnni")


def has_amx() -> bool | None:
    """Whether an x86 CPU has INT8 matrix units; None if unknown."""
    return _has("amx_int8")


def has_bf16() -> bool | None:
    """Whether an x86 CPU multiplies bf16 numbers faster than FP32 ones (AVX512-BF16 or AMX); None if unknown."""
    if _units().get("AVX512F") is False:  # without which there is neither, whatever a file says
        return False
    return _has("avx512_bf16", "amx_bf16")


def identity() -> dict[str, str]:
    """Everything by which kernels are chosen: the CPU's names, all its flags, what cpuid answers, and settings."""
    settings = sorted(f"{name}={value}" for name, value in os.environ.items() if name.startswith(SETTINGS))
    names = ("model name", "CPU implementer", "CPU part", "Features", "flags")
    first = [line for line in _cpuinfo().partition("\n\n")[0].splitlines() if line.startswith(names)]
    return {
        "machine": platform.machine(),
        "cpu": "\n".join(first) or platform.processor(),
        "units": " ".join(sorted(unit for unit, there in _units().items() if there)),
        "settings": " ".join(settings),
    }


def versions() -> dict[str, str]:
    """Of the packages that decide how a model computes on the CPU; an empty text for one that is not installed."""
    return {package: version_of(package) for package in ("calib8", *RUNTIMES)}


def version_of(package: str) -> str:
    """The version of an installed package, or an empty text."""
    try:
        return version(package)
    except PackageNotFoundError:
        return ""


def _has(*flags: str) -> bool | None:
    told = _flags() if is_x86() else set()
    return None if told is None else not told.isdisjoint(flags)


def _flags() -> set[str] | None:
    """The flags of the first core; None where nobody tells them, or where they are not this process's."""
    line = next((line for line in _cpuinfo().splitlines() if line.startswith("flags")), None)
    if line is None:
        return None
    flags = set(line.partition(":")[2].split())
    told = {flag.replace("_", "").upper() for flag in flags}
    known = {unit.replace("FMA3", "FMA"): there for unit, there in _units().items() if _is_a_flag(unit)}
    return flags if all((unit in told) == there for unit, there in known.items()) else None


def _is_a_flag(unit: str) -> bool:
    """Whether NumPy's ``unit`` is one that Linux has a flag for, of the same name but for underscores."""
    return unit in ("AVX2", "FMA3", "GFNI", "VAES") or (unit.startswith("AVX512") and "_" not in unit)


def _units() -> dict[str, bool]:
    """What cpuid answers to this process, as NumPy asked it; nothing where NumPy does not tell."""
    for core in ("numpy._core", "numpy.core"):  # NumPy 2, NumPy 1
        with suppress(ImportError, AttributeError):
            return dict(import_module(f"{core}._multiarray_umath").__cpu_features__)
    return {}


def _quota() -> int | None:
    """The CPUs that the container's quota amounts to, at least 1; None without one (cgroup v2's ``cpu.max``)."""
    try:
        quota, period = CPU_MAX.read_text(encoding="ascii").split()
        return max(1, int(quota) // int(period))
    except (OSError, ValueError, ZeroDivisionError):  # no such file, or "max"
        return None


@cache
def _cpuinfo() -> str:
    return CPUINFO.read_text(encoding="utf-8", errors="replace") if CPUINFO.is_file() else ""
