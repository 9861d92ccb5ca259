"""NVML, the library behind nvidia-smi, through the package nvidia-ml-py: opened, asked and closed in one place.

Asking NVML makes no CUDA context. ``Any`` ends here: the package is untyped.
Reference: NVML API Reference Guide, "Device Queries".
"""

import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from calib8.errors import SetupError, install
from calib8.gpu.visible import VISIBLE, entries, shown

Quantities = dict[str, float]

#: Processes are asked for what they used in this long, NVML's longest sample period.
PROCESS_SECONDS = 1.0


@contextmanager
def opened() -> Iterator[Any]:
    """The module ``pynvml``, ready to be asked. Raises ``SetupError`` without it, or without a driver that answers."""
    try:
        import pynvml
    except ImportError as error:
        raise SetupError(
            f"the GPU can be watched only through nvidia-ml-py ({error}). Install it: {install('monitor')}."
        ) from None
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as error:
        raise SetupError(
            f"no NVIDIA driver answers here (NVML: {error}). Install the driver, or in a container hand the GPU in "
            "(docker run --gpus all)."
        ) from None
    try:
        yield pynvml
    finally:
        with suppress(pynvml.NVMLError):
            pynvml.nvmlShutdown()


def handles(nvml: Any) -> list[Any]:
    """Every GPU that NVML counts."""
    return [nvml.nvmlDeviceGetHandleByIndex(index) for index in range(nvml.nvmlDeviceGetCount())]


def target_of(nvml: Any, handle: Any) -> str:
    """Compute capability as a build target, ``sm86``."""
    major, minor = nvml.nvmlDeviceGetCudaComputeCapability(handle)
    return f"sm{major}{minor}"


def visible(nvml: Any, environment: Mapping[str, str] = os.environ) -> list[Any]:
    """The GPUs that ``CUDA_VISIBLE_DEVICES`` leaves."""
    every = handles(nvml)
    return [every[index] for index in shown_of(nvml, every, environment)]


def shown_of(nvml: Any, every: Sequence[Any], environment: Mapping[str, str] = os.environ) -> list[int]:
    """``visible.shown`` of all handles; for an instance (MIG) the GPU that it is part of is meant."""
    named = entries(environment)
    if named is None:
        return list(range(len(every)))
    whole = ",".join(_whole(nvml, entry) for entry in named)
    return shown([nvml.nvmlDeviceGetUUID(handle) for handle in every], {VISIBLE: whole})


def _whole(nvml: Any, entry: str) -> str:
    if not entry.startswith("MIG-"):
        return entry
    instance = nvml.nvmlDeviceGetHandleByUUID(entry)
    return str(nvml.nvmlDeviceGetUUID(nvml.nvmlDeviceGetDeviceHandleFromMigDeviceHandle(instance)))


def read(nvml: Any, handle: Any) -> Quantities:
    """Whatever the GPU tells right now; what it does not support is left out. Raises ``SetupError`` if it is silent."""
    found: Quantities = {}
    refused: Exception | None = None
    for ask in (_utilisation, _memory, _power, _temperature, _clocks, _process_memory, _process):
        try:
            found |= ask(nvml, handle)
        except nvml.NVMLError as error:
            refused = error
    if not found:
        raise SetupError(f"the GPU does not answer (NVML: {refused}).")
    return found


def _utilisation(nvml: Any, handle: Any) -> Quantities:
    rates = nvml.nvmlDeviceGetUtilizationRates(handle)
    return {"gpu_utilisation_percent": rates.gpu, "memory_utilisation_percent": rates.memory}


def _memory(nvml: Any, handle: Any) -> Quantities:
    return {"memory_used_bytes": nvml.nvmlDeviceGetMemoryInfo(handle).used}


def _power(nvml: Any, handle: Any) -> Quantities:
    return {"power_watts": nvml.nvmlDeviceGetPowerUsage(handle) / 1000}


def _temperature(nvml: Any, handle: Any) -> Quantities:
    try:
        celsius = nvml.nvmlDeviceGetTemperatureV(handle, nvml.NVML_TEMPERATURE_GPU)
    except (AttributeError, nvml.NVMLError_FunctionNotFound):  # a driver or package from before CUDA 12.8
        celsius = nvml.nvmlDeviceGetTemperature(handle, nvml.NVML_TEMPERATURE_GPU)
    return {"temperature_celsius": celsius}


def _clocks(nvml: Any, handle: Any) -> Quantities:
    sm, memory = (nvml.nvmlDeviceGetClockInfo(handle, which) for which in (nvml.NVML_CLOCK_SM, nvml.NVML_CLOCK_MEM))
    return {"sm_clock_mhz": sm, "memory_clock_mhz": memory}


def _process_memory(nvml: Any, handle: Any) -> Quantities:
    """GPU memory of this process and its children; nothing where NVML lists none of them, as in most containers."""
    listed = nvml.nvmlDeviceGetComputeRunningProcesses(handle)
    own = [one.usedGpuMemory for one in listed if one.usedGpuMemory is not None and is_own(one.pid)]
    return {"process_memory_bytes": sum(own)} if own else {}


def _process(nvml: Any, handle: Any) -> Quantities:
    since = int((time.time() - PROCESS_SECONDS) * 1e6)
    latest = {}
    for sample in sorted(nvml.nvmlDeviceGetProcessUtilization(handle, since), key=lambda one: int(one.timeStamp)):
        if is_own(sample.pid):
            latest[sample.pid] = sample.smUtil
    return {"process_utilisation_percent": sum(latest.values())} if latest else {}


def is_own(pid: int) -> bool:
    """Whether ``pid`` is this process or descends from it: engines are built in a child."""
    while pid > 1:
        if pid == os.getpid():
            return True
        pid = _parent(pid)
    return False


def _parent(pid: int) -> int:
    """0 where nobody can tell."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return 0
    return int(stat.rpartition(")")[2].split()[1])  # the name in parentheses may hold anything
