"""The NVIDIA driver and GPUs of this machine, asked through NVML or ``nvidia-smi`` so that no CUDA context is made."""

import os
import shutil
import subprocess
import warnings
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any

from calib8.errors import ConfigError, SetupError, install
from calib8.gpu import nvml as gpu
from calib8.gpu.visible import ORDER, VISIBLE, counted, cuda_uuids, only, shown

QUERY = ["--query-gpu=driver_version,compute_cap,memory.total,memory.free,uuid,name", "--format=csv,noheader,nounits"]
MIB = 1 << 20


@dataclass(frozen=True)
class Gpu:
    """One GPU: its name and its compute capability as a build target, ``sm86``; memory as it was when asked.

    ``mig`` names the instances that it is divided into (Multi-Instance GPU); nvidia-smi is not asked for them.
    ``numbered``: whether its place among others is known to be CUDA's number.
    """

    name: str
    target: str
    memory_total_bytes: int | None = field(default=None, compare=False)
    memory_free_bytes: int | None = field(default=None, compare=False)
    mig: tuple[str, ...] = ()
    uuid: str | None = field(default=None, compare=False)
    numbered: bool = field(default=True, compare=False)


@dataclass(frozen=True)
class Driver:
    """What answered: version of the driver, the newest CUDA it can run, its GPUs; or the ``problem`` if nothing did.

    ``gpus`` are all, by PCI bus; ``shown`` are the numbers of those that ``CUDA_VISIBLE_DEVICES`` leaves, in its order.
    """

    version: str | None = None
    cuda: str | None = None
    gpus: tuple[Gpu, ...] = ()
    problem: str | None = None
    shown: tuple[int, ...] | None = field(default=None, compare=False)


def gpus() -> tuple[Gpu, ...]:
    """The GPUs that CUDA shows, in its order; empty without a driver or a GPU."""
    return in_cuda_order(driver())


def absence() -> str:
    """For people: why there may be no GPU."""
    named = os.environ.get(VISIBLE)
    hidden = "" if named is None else f", or {VISIBLE}={named!r} leaves none"
    return f"nvidia-smi finds none{hidden}"


def in_cuda_order(found: Driver) -> tuple[Gpu, ...]:
    """Of those that the driver has, the GPUs that CUDA shows, in its order.

    Where they are unlike and CUDA does not tell its order, that of the PCI bus, with a ``RuntimeWarning``.
    """
    present = found.gpus if found.shown is None else tuple(found.gpus[index] for index in found.shown)
    kinds = list(dict.fromkeys(gpu.name for gpu in found.gpus))
    if len(kinds) < 2 or not counted() or os.environ.get(ORDER) == "PCI_BUS_ID":
        return present
    by_uuid, order = {gpu.uuid: gpu for gpu in found.gpus}, cuda_uuids()
    if order is not None and all(uuid in by_uuid for uuid in order):
        return tuple(by_uuid[uuid] for uuid in order)
    warnings.warn(
        f"this machine has unlike GPUs ({', '.join(kinds)}), and nothing tells in which order CUDA counts them: "
        f"cuda-python, which could, is missing or does not name them ({install('tensorrt')}). Counted by PCI bus here; "
        f"in other programs a number may mean another GPU. To have one order everywhere, set {ORDER}=PCI_BUS_ID.",
        RuntimeWarning,
        stacklevel=3,
    )
    return tuple(replace(gpu, numbered=False) for gpu in present)


def alone(gpu: Gpu | None, device: int) -> str:
    """What ``CUDA_VISIBLE_DEVICES`` is for a process that sees ``gpu`` alone, number ``device`` of those shown."""
    return gpu.uuid if gpu is not None and gpu.uuid and not gpu.numbered else only(device)


def numbered(present: Sequence[Gpu], device: int) -> Gpu:
    """Number ``device`` of the GPUs that CUDA shows. Raises ``ConfigError`` if there are fewer."""
    if device >= len(present):
        there = ", ".join(f"{number} ({gpu.name})" for number, gpu in enumerate(present)) or "none"
        raise ConfigError(f"there is no GPU {device}: CUDA shows {there}. Choose another --device.")
    return present[device]


def driver() -> Driver:
    """The driver and its GPUs: by NVML where nvidia-ml-py is installed and works, else by ``nvidia-smi``."""
    try:
        with gpu.opened() as nvml:
            return by_nvml(nvml)
    except SetupError as error:
        return _by_nvidia_smi(str(error))


def by_nvml(nvml: Any) -> Driver:
    """What NVML tells. Raises ``SetupError`` if it fails half-way."""
    cuda = None
    with suppress(nvml.NVMLError):  # the driver's CUDA library may be missing, as in a container for graphics
        cuda = cuda_version(nvml.nvmlSystemGetCudaDriverVersion_v2())
    try:
        every = gpu.handles(nvml)
        found = tuple(_gpu(nvml, handle) for handle in every)
        return Driver(nvml.nvmlSystemGetDriverVersion(), cuda, found, shown=tuple(gpu.shown_of(nvml, every)))
    except nvml.NVMLError as error:
        raise SetupError(f"the NVIDIA driver does not answer (NVML: {error}).") from None


def cuda_version(number: int) -> str | None:
    """``13000`` -> ``13.0``; 0 is CUDA's word for none."""
    return f"{number // 1000}.{number % 1000 // 10}" if number else None


def _gpu(nvml: Any, handle: Any) -> Gpu:
    total = free = None
    with suppress(nvml.NVMLError):  # of a divided GPU only who has the right to is told
        memory = nvml.nvmlDeviceGetMemoryInfo(handle)
        total, free = memory.total, memory.free
    name, target, uuid = nvml.nvmlDeviceGetName(handle), gpu.target_of(nvml, handle), nvml.nvmlDeviceGetUUID(handle)
    return Gpu(name, target, total, free, tuple(_mig(nvml, handle)), uuid)


def _mig(nvml: Any, handle: Any) -> Iterator[str]:
    try:
        places = nvml.nvmlDeviceGetMaxMigDeviceCount(handle) if nvml.nvmlDeviceGetMigMode(handle)[0] else 0
    except nvml.NVMLError:  # a GPU that cannot be divided
        return
    for place in range(places):
        with suppress(nvml.NVMLError):  # an empty place
            yield nvml.nvmlDeviceGetName(nvml.nvmlDeviceGetMigDeviceHandleByIndex(handle, place))


def _by_nvidia_smi(why_not_nvml: str) -> Driver:
    program = shutil.which("nvidia-smi")
    if program is None:
        return Driver(problem=why_not_nvml)
    try:
        answer = subprocess.run([program, *QUERY], capture_output=True, text=True, timeout=20, check=False)
    except (OSError, subprocess.SubprocessError) as error:
        return Driver(problem=f"nvidia-smi cannot be run: {error}")
    if answer.returncode:  # installed, but there is no driver that it could ask
        said = " ".join((answer.stdout + answer.stderr).split())
        return Driver(problem=f"nvidia-smi fails (code {answer.returncode}): {said}")
    return parse(answer.stdout)


def parse(answer: str) -> Driver:
    """Lines ``580.65.06, 8.9, 23034, 22563, GPU-5a2c…, NVIDIA L4``, memory in MiB; anything else is skipped."""
    rows = [[part.strip() for part in line.split(",", 5)] for line in answer.splitlines()]
    rows = [row for row in rows if len(row) == 6 and row[1].replace(".", "").isdigit()]
    found = tuple(
        Gpu(name, "sm" + capability.replace(".", ""), _bytes(total), _bytes(free), uuid=uuid)
        for _, capability, total, free, uuid, name in rows
    )
    if not found:
        return Driver(problem=f"nvidia-smi names no GPU: {answer.strip()!r}")
    return Driver(rows[0][0], None, found, shown=tuple(shown([gpu.uuid for gpu in found])))


def _bytes(mib: str) -> int | None:
    return int(mib) * MIB if mib.isdigit() else None
