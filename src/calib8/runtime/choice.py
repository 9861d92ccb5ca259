"""Which runtime and which form of a model to use on this CPU: by rule, or as it was measured here before.

What was measured is kept in the user's cache, in a file named after everything that it depends on: the model, the
processor and how many of its cores are ours, and the versions. A cache that cannot be read or written is no error: then
the rule holds.
"""

import hashlib
import os
import platform
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

import onnx_ir as ir
from pydantic import BaseModel, ConfigDict, PositiveInt, ValidationError

from calib8.errors import Calib8Error
from calib8.files import default_cache, write_json
from calib8.graph.io import SOURCE_SHA256
from calib8.runtime.amx import Instructions
from calib8.runtime.names import CpuRuntime

#: Where Linux tells a container its share of the CPUs: "200000 100000" is two of them.
CPU_MAX = Path("/sys/fs/cgroup/cpu.max")


class CpuChoice(BaseModel):
    """A runtime, whether activations become uint8 (see ``cpu_form``), and how many runs go on at once.

    ``bf16``: what is not INT8 computes in bf16; only OpenVINO, and only after ``calib8 tune`` saw what it costs.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    runtime: Literal["openvino", "onnxruntime"]
    unsigned: bool
    streams: PositiveInt
    bf16: bool = False

    def __str__(self) -> str:
        name = "OpenVINO" if self.runtime == "openvino" else "ONNX Runtime"
        many = f"{self.streams} streams" if self.streams > 1 else "1 stream"
        return f"{name}, {'u8' if self.unsigned else 's8'}{', bf16' if self.bf16 else ''}, {many}"


class Measured(BaseModel):
    """What ``calib8 tune`` found: the fastest choice, and the samples per second of all."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: Literal["calib8.cpu-choice/1"] = "calib8.cpu-choice/1"
    choice: CpuChoice
    samples_per_second: dict[str, float]


def is_quantised(model: ir.Model) -> bool:
    """Whether activations go through Q."""
    return any(node.op_type == "QuantizeLinear" for node in model.graph)


def by_rule(model: ir.Model, runtime: CpuRuntime, streams: int) -> CpuChoice:
    """What was fastest where calib8 was measured (bench/results), for a runtime that may be named.

    OpenVINO for INT8, where it is installed, with int8 activations; uint8 is for ONNX Runtime, which on x86 computes
    only a third of the int8 form's GEMMs in integers.
    """
    quantised = is_quantised(model)
    if runtime == "auto":
        usable = quantised and find_spec("openvino") and instructions().allow(model)
        runtime = "openvino" if usable else "onnxruntime"
    unsigned = quantised and runtime == "onnxruntime" and takes_unsigned(runtime)
    return CpuChoice(runtime=runtime, unsigned=unsigned, streams=streams)


def candidates(model: ir.Model) -> list[CpuChoice]:
    """Everything worth measuring for ``model`` here, what the rule says first."""
    first = by_rule(model, "auto", cores())
    runtimes: list[Literal["openvino", "onnxruntime"]] = ["onnxruntime"]
    if find_spec("openvino") and instructions().allow(model):
        runtimes.append("openvino")
    every = (
        CpuChoice(runtime=runtime, unsigned=unsigned, streams=streams)
        for runtime in runtimes
        for unsigned in ((False, True) if is_quantised(model) and takes_unsigned(runtime) else (False,))
        for streams in dict.fromkeys((cores(), 1))
    )
    found = list(dict.fromkeys((first, *every)))
    if is_quantised(model) and has_bf16():
        found += [
            one.model_copy(update={"bf16": True})
            for one in found
            if one.runtime == "openvino" and one.streams == cores()
        ]
    return found


def remember(model: ir.Model, measured: Measured) -> Path | None:
    """Keep what was measured. Returns the file, or None where the cache cannot be written."""
    path = _file(model)
    try:
        write_json(path, measured.model_dump(mode="json"))
    except Calib8Error:
        return None
    return path


def remembered(model: ir.Model) -> CpuChoice | None:
    """What was measured for ``model`` on this machine; None if nothing was, or nothing that can be read."""
    if SOURCE_SHA256 not in model.metadata_props:
        return None
    try:
        choice = Measured.model_validate_json(_file(model).read_bytes()).choice
    except (OSError, ValidationError):
        return None
    return choice if choice.runtime == "onnxruntime" or instructions().allow(model) else None


def cores() -> int:
    """How many cores this process may use: those it may run on, or fewer where a container's quota is less."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(allowed, _quota() or allowed)


def _quota() -> int | None:
    """The CPUs that the container's quota amounts to, at least 1; None without one (cgroup v2's ``cpu.max``)."""
    try:
        quota, period = CPU_MAX.read_text(encoding="ascii").split()
        return max(1, int(quota) // int(period))
    except (OSError, ValueError, ZeroDivisionError):  # no such file, or "max"
        return None


def takes_unsigned(runtime: Literal["openvino", "onnxruntime"]) -> bool:
    """Whether ``runtime`` has kernels for uint8 activations here that do not saturate.

    ONNX Runtime has on every x86 CPU, without VNNI slower ones (see ``OrtRuntime``); OpenVINO has with VNNI.
    """
    return _is_x86() and (runtime == "onnxruntime" or has_vnni())


def has_vnni() -> bool:
    """Whether the CPU multiplies u8 by s8 without saturating (AVX512-VNNI or AVX-VNNI).

    Older x86 cores add two products in 16 bits, which are not enough.
    """
    return _is_x86() and "vnni" in _cpuinfo()


def has_bf16() -> bool:
    """Whether the CPU multiplies bf16 numbers faster than FP32 ones (AVX512-BF16 or AMX)."""
    return _is_x86() and any(unit in _cpuinfo() for unit in ("avx512_bf16", "amx_bf16"))


@cache
def instructions() -> Instructions:
    """Those that OpenVINO has in this process."""
    return Instructions(_cpuinfo())


def versions() -> dict[str, str]:
    """Of the packages that decide how a model computes on the CPU; an empty text for one that is not installed."""
    return {package: _version(package) for package in ("calib8", "onnxruntime", "openvino")}


def _is_x86() -> bool:
    return platform.machine() in ("x86_64", "AMD64")


def _file(model: ir.Model) -> Path:
    facts = [
        model.metadata_props.get(SOURCE_SHA256, ""),
        str(is_quantised(model)),  # a model keeps the hash of what it was made of
        *_processor(),
        str(cores()),
        *versions().values(),
    ]
    return default_cache() / "cpu" / f"{hashlib.sha256('|'.join(facts).encode()).hexdigest()[:32]}.json"


def _processor() -> list[str]:
    """What the first core says of itself, and the units that decide the form: hypervisors hide both in one name."""
    first = _cpuinfo().partition("\n\n")[0].splitlines()
    named = [line for line in first if line.startswith(("model name", "CPU implementer", "CPU part", "Features"))]
    return [*(named or [platform.processor()]), str(has_vnni()), str(has_bf16())]


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""


def _cpuinfo() -> str:
    path = Path("/proc/cpuinfo")
    return path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""
