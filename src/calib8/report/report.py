"""The report of a conversion: everything that proves, or disproves, that the engine is worth shipping."""

import platform
from pathlib import Path
from typing import Literal, NamedTuple

from pydantic import BaseModel, ConfigDict

from calib8.calibration.ranges import Ranges
from calib8.engine.plan_check import PlanCheck
from calib8.engine.sidecar import describe_engine
from calib8.files import sha256_file, write_json
from calib8.gpu.activity import Activity
from calib8.graph.io import source_sha256, stored_bytes
from calib8.precision import Precision
from calib8.quantization.config import Optimize
from calib8.quantization.quant_plan import QuantPlan
from calib8.runtime.processor import cores, has_amx, has_vnni
from calib8.verification.compare import Comparison
from calib8.verification.config import Verify
from calib8.verification.gains import Gains
from calib8.verification.gpu_speed import GpuSpeed
from calib8.verification.speed import Speed


class FileFacts(BaseModel):
    """A file: name, the name of its folder, size in bytes, SHA-256."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    bytes: int
    sha256: str
    folder: str = ""


class EngineFacts(BaseModel):
    """An engine: what it is, and whether the compiler planned 8 bits. ``executed`` is False where none could run it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    file: FileFacts
    target: str
    builder: str
    plan: PlanCheck
    executed: bool = False


class CalibrationFacts(BaseModel):
    """How the ranges were found."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    samples: int
    positions: int
    observer: str


class Machine(BaseModel):
    """Where the numbers were measured. ``vnni`` and ``amx``: INT8 units of an x86 CPU, None if nobody knows."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    processor: str
    cores: int
    python: str
    system: str
    vnni: bool | None = None
    amx: bool | None = None


class Report(BaseModel):
    """All facts of one conversion. ``seconds`` holds the duration of each step, ``activity`` what a watched GPU did."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: Literal["calib8.report/1"] = "calib8.report/1"
    passed: bool
    failure: str | None
    created: str
    calib8: str
    machine: Machine
    model: FileFacts
    #: What the quantised model, ``int8`` here whichever it is, multiplies.
    precision: Precision = "int8"
    optimize: Optimize = "accuracy"
    int8: FileFacts
    int8_ops: int
    weighted_ops: int
    calibration: CalibrationFacts
    held_out: str
    limits: Verify = Verify()
    #: Such an accuracy is no proof: data of another day will do worse.
    measured_on_calibration_data: bool = False
    accuracy: Comparison
    accuracy_runtime: str
    #: Of an engine that this machine's GPU runs, on the same data.
    engine_accuracy: Comparison | None = None
    speed: Speed | None
    #: Of an engine that this machine's GPU runs, against one in FP16.
    gpu_speed: GpuSpeed | None = None
    #: What INT8 gains op by op, as it was timed when the model was quantised for latency.
    gains: Gains | None = None
    engines: tuple[EngineFacts, ...]
    seconds: dict[str, float]
    activity: Activity | None = None

    def save(self, path: Path) -> None:
        """Write as JSON, atomically."""
        write_json(path, self.model_dump(mode="json"))


class Conversion(NamedTuple):
    """A report with what only a page has room for."""

    report: Report
    plan: QuantPlan | None = None
    ranges: Ranges | None = None


def file_facts(path: Path) -> FileFacts:
    """Name, size and hash of an engine, or of an ONNX model with the weights it keeps in files of their own."""
    whole = path.suffix == ".onnx"
    return FileFacts(
        name=path.name,
        bytes=stored_bytes(path) if whole else path.stat().st_size,
        sha256=source_sha256(path) if whole else sha256_file(path),
        folder=path.resolve().parent.name,
    )


def engine_facts(path: Path, *, executed: bool = False) -> EngineFacts:
    """An engine by its sidecar. Raises ``InputError`` where that is missing or of another engine."""
    sidecar = describe_engine(path)
    return EngineFacts(
        file=file_facts(path), target=sidecar.target, builder=sidecar.builder, plan=sidecar.plan, executed=executed
    )


def this_machine() -> Machine:
    """The processor's name, usable cores, Python and operating system."""
    name = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        lines = cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines()
        name = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), name)
    return Machine(
        processor=name,
        cores=cores(),
        python=platform.python_version(),
        system=platform.system(),
        vnni=has_vnni(),
        amx=has_amx(),
    )
