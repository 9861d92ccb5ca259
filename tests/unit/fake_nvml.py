"""NVML without a driver: a double of ``pynvml`` that takes only calls which the real module would take."""

import inspect
import os
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pynvml

GIB = 1 << 30


class FakeGpu(SimpleNamespace):
    """What one GPU answers; a value that is an NVML error code is raised, a function is called."""

    def __init__(self, **told: Any) -> None:
        defaults = {
            "name": "NVIDIA L4", "uuid": "GPU-aa", "capability": (8, 9), "total": 24 * GIB, "used": 2 * GIB,
            "utilisation": (40, 10), "milliwatts": 30_500, "celsius": 45, "clocks": {1: 1500, 2: 6000},
            "processes": [], "busy": [], "mig": (),
        }  # fmt: skip
        super().__init__(**{**defaults, **told})


class Code(int):
    """An NVML error instead of an answer."""


class FakeNvml:
    """Stands in for the module. Names that are not answered here are the real module's, if it has them."""

    def __init__(self, *gpus: FakeGpu, driver: str = "580.65.06", cuda: int = 13000) -> None:
        self.gpus, self.driver, self.cuda = gpus, driver, cuda
        self.called: list[str] = []
        self.open = 0

    def __getattr__(self, name: str) -> Any:
        real = getattr(pynvml, name)
        if not (name.startswith("nvml") and inspect.isfunction(real)):
            return real
        return self._checked(name, real, object.__getattribute__(self, f"_{name}"))

    def _checked(self, name: str, real: Callable[..., Any], answer: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            inspect.signature(real).bind(*arguments, **options)
            self.called.append(name)
            assert self.open > 0 or name == "nvmlInit", f"{name} before nvmlInit or after nvmlShutdown"
            found = answer(*arguments, **options)
            found = found() if callable(found) else found
            if isinstance(found, Code):
                raise pynvml.NVMLError(found)
            return found

        return call

    def _nvmlInit(self) -> Any:  # noqa: N802
        if isinstance(self.driver, Code):
            return self.driver
        self.open += 1
        return None

    def _nvmlShutdown(self) -> None:  # noqa: N802
        self.open -= 1

    def __dir__(self) -> list[str]:
        return dir(pynvml)


ANSWERS: dict[str, Callable[..., Any]] = {
    "nvmlSystemGetDriverVersion": lambda self: self.driver,
    "nvmlSystemGetCudaDriverVersion_v2": lambda self: self.cuda,
    "nvmlDeviceGetCount": lambda self: len(self.gpus),
    "nvmlDeviceGetHandleByIndex": lambda self, index: self.gpus[index],
    "nvmlDeviceGetName": lambda self, gpu: gpu.name,
    "nvmlDeviceGetUUID": lambda self, gpu: gpu.uuid,
    "nvmlDeviceGetCudaComputeCapability": lambda self, gpu: gpu.capability,
    "nvmlDeviceGetMemoryInfo": lambda self, gpu: gpu.total if isinstance(gpu.total, Code) else SimpleNamespace(
        total=gpu.total, used=gpu.used, free=gpu.total - gpu.used
    ),
    "nvmlDeviceGetUtilizationRates": lambda self, gpu: _rates(gpu.utilisation),
    "nvmlDeviceGetPowerUsage": lambda self, gpu: gpu.milliwatts,
    "nvmlDeviceGetTemperatureV": lambda self, gpu, sensor: gpu.celsius,
    "nvmlDeviceGetTemperature": lambda self, gpu, sensor: gpu.old_celsius,
    "nvmlDeviceGetClockInfo": lambda self, gpu, kind: gpu.clocks if isinstance(gpu.clocks, Code) else gpu.clocks[kind],
    "nvmlDeviceGetComputeRunningProcesses": lambda self, gpu: gpu.processes,
    "nvmlDeviceGetProcessUtilization": lambda self, gpu, since: gpu.busy or Code(pynvml.NVML_ERROR_NOT_FOUND),
    "nvmlDeviceGetMigMode": lambda self, gpu: [int(bool(gpu.mig))] * 2,
    "nvmlDeviceGetMaxMigDeviceCount": lambda self, gpu: 7,
    "nvmlDeviceGetMigDeviceHandleByIndex": lambda self, gpu, index: gpu.mig[index] if index < len(gpu.mig) else Code(
        pynvml.NVML_ERROR_NOT_FOUND
    ),
}  # fmt: skip
for _name, _answer in ANSWERS.items():
    setattr(FakeNvml, f"_{_name}", _answer)


def _rates(told: Any) -> Any:
    told = told() if callable(told) else told
    return told if isinstance(told, Code) else SimpleNamespace(gpu=told[0], memory=told[1])


def process(memory: int, pid: int | None = None) -> Any:
    """One entry of the list of running processes."""
    return SimpleNamespace(pid=pid or os.getpid(), usedGpuMemory=memory)


def busy(percent: int, time_stamp: int, pid: int | None = None) -> Any:
    """One sample of a process's utilisation."""
    return SimpleNamespace(pid=pid or os.getpid(), smUtil=percent, timeStamp=time_stamp)
