"""``x.engine.json`` beside ``x.engine``: what the engine is, what it was made from, and where it runs.

An engine tells nothing of this without the GPU it was built for.
"""

import glob
import hashlib
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from calib8.config import first_problem
from calib8.engine.calibration_data import CalibrationOrigin
from calib8.engine.family import TITLES, FamilyName
from calib8.engine.options import EnginePrecision, Options
from calib8.engine.plan_check import CHECK, PlanCheck
from calib8.engine.profiles import Profile
from calib8.engine.targets import describe, members, path_among, rtx_runs_on
from calib8.errors import InputError
from calib8.files import read_bytes, read_json, require_file, sha256_file
from calib8.gpu.hardware import Gpu, absence, gpus, numbered

AMPERE = 80
#: For people: what makes another engine, by field.
CHANGES = {
    "model_sha256": "the model",
    "builder": "TensorRT",
    "target": "the target",
    "profiles": "the shapes",
    "gpu": "the GPU",
    "calibration": "the calibration",
    "unheld": "what FP16 does not hold",
    "calib8_version": "the version of calib8",
}


class TensorInfo(BaseModel):
    """One input or output: NumPy's name of its type, and its shape with -1 where it is dynamic.

    ``rows`` is the size of the table that an input's integers index, where there is one: TensorRT does not look.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    mode: Literal["input", "output"]
    dtype: str
    shape: tuple[int, ...]
    rows: int | None = None


class Sidecar(Options):
    """Everything that is known about one engine. Options that an older sidecar lacks had their defaults."""

    precision: EnginePrecision = "int8"
    format: Literal[1] = 1
    engine_sha256: str
    engine_bytes: int
    family: FamilyName
    tensorrt_version: str
    #: ``sm86``, or ``sm75+sm86`` of an engine for both.
    target: str
    #: Full name of the GPU that it was built on; None if it was compiled without one.
    gpu: str | None = None
    model_sha256: str
    #: What calib8 wrote into the ONNX model: source model, data, recipe, versions.
    model_metadata: dict[str, str]
    profiles: tuple[Profile, ...]
    tensors: tuple[TensorInfo, ...]
    plan: PlanCheck
    #: Which ``plan_check.CHECK`` found that; 0 before they were counted.
    plan_check: int = 0
    #: What a calibrator found the INT8 scales from.
    calibration: CalibrationOrigin | None = None
    #: Of a float model in FP16: the tensors that FP16 does not hold, which are FP32 in it; None if nobody looked.
    unheld: tuple[str, ...] | None = None
    build_seconds: float
    #: UTC, ISO 8601.
    built_at: str
    calib8_version: str

    @property
    def builder(self) -> str:
        """For people: ``TensorRT-RTX 1.7.1.116``."""
        return f"{TITLES[self.family]} {self.tensorrt_version}"

    @property
    def brings_code(self) -> bool:
        """Does it hold code for the CPU, the lean runtime of its version?"""
        return self.version_compatible and not self.exclude_lean_runtime

    def changes(self, options: Options, conditioning: int, **now: object) -> list[str]:
        """What such an engine would be built from or for ``now``, by field, that is otherwise here; in words.

        What an older check of the plan missed is among it: the engine alone does not tell what a newer one would say.
        """
        changed = [CHANGES[name] for name, value in now.items() if getattr(self, name) != value]
        if self.options() != options.options():
            changed.append("the options")
        if self.plan.conditioning != conditioning or (self.plan.missing and self.plan_check != CHECK):
            changed.append("the check of its plan")
        return changed

    def fits(self, target: str) -> bool:
        """Does the engine run on GPUs of this compute capability?"""
        if self.hardware_compatibility == "ampere+" and int(target.removeprefix("sm")) >= AMPERE:
            return True
        return target in members(self.target)


def sidecar_path(engine: Path) -> Path:
    """``x.engine`` -> ``x.engine.json``."""
    return engine.with_name(f"{engine.name}.json")


def describe_engine(engine: Path) -> Sidecar:
    """Read and check the sidecar of an engine.

    Raises ``InputError`` if engine or sidecar is missing, if the sidecar is damaged, or if it describes another file.
    """
    engine = require_file(Path(engine), "TensorRT engine")
    sidecar = _sidecar_of(engine)
    if engine.stat().st_size != sidecar.engine_bytes or sha256_file(engine) != sidecar.engine_sha256:
        raise _of_another(engine)
    return sidecar


def read_engine(engine: Path) -> tuple[Sidecar, bytes]:
    """``describe_engine``, and the bytes that were hashed: read once, so that nothing else can be loaded."""
    engine = require_file(Path(engine), "TensorRT engine")
    sidecar = _sidecar_of(engine)
    content = read_bytes(engine, "TensorRT engine")
    if hashlib.sha256(content).hexdigest() != sidecar.engine_sha256:
        raise _of_another(engine)
    return sidecar, content


def _sidecar_of(engine: Path) -> Sidecar:
    path = sidecar_path(engine)
    if not path.is_file():
        raise InputError(
            f"{engine} has no {path.name} beside it, and an engine alone does not tell what it is. "
            "Keep the two together, or build the engine again."
        )
    return read_sidecar(path)


def _of_another(engine: Path) -> InputError:
    name = sidecar_path(engine).name
    return InputError(f"{name} describes another engine than {engine}: the SHA-256 differs. Build it again.")


def read_sidecar(path: Path) -> Sidecar:
    """A sidecar alone, with or without its engine. Raises ``InputError`` if it is missing or damaged."""
    content: Any = read_json(path, "engine description")
    try:
        return Sidecar.model_validate(content)
    except ValidationError as error:
        raise InputError(f"{path} is no engine description of this calib8: {first_problem(error)}.") from error


def engines_of_another_model(output: Path, model_sha256: str) -> list[Path]:
    """Engines that a build into ``output``, for one target or several, left there from another model.

    Only files whose sidecar fits them and tells so; anything else may be anybody's.
    """
    found = []
    for engine in sorted({output, *output.parent.glob(f"{glob.escape(output.stem)}.*{output.suffix}")}):
        try:
            sidecar = describe_engine(engine)
        except InputError:
            continue
        if sidecar.model_sha256 != model_sha256 and engine in (output, path_among(output, sidecar.target)):
            found.append(engine)
    return found


def chosen_gpus(device: int | None) -> tuple[Gpu, ...]:
    """The GPU number ``device``, or all that CUDA shows. Raises ``ConfigError`` if there are fewer."""
    present = gpus()
    return present if device is None or not present else (numbered(present, device),)


def fitting_target(sidecar: Sidecar, present: tuple[Gpu, ...] | None = None) -> str | None:
    """The compute capability of the first GPU that the engine runs on. ``present`` as for ``why_not_here``."""
    present = gpus() if present is None else present
    return next((gpu.target for gpu in present if sidecar.fits(gpu.target)), None)


def runs_on(sidecar: Sidecar) -> str:
    """For people: the GPUs that the engine runs on."""
    more = " and everything from Ampere on" if sidecar.hardware_compatibility == "ampere+" else ""
    return describe(sidecar.target) + more


def why_not_here(sidecar: Sidecar, present: tuple[Gpu, ...] | None = None) -> str | None:
    """Why the engine cannot run on this machine, or None if it can. ``present`` are the GPUs, asked if not given."""
    reason = lacking_here(sidecar, present)
    return None if reason is None else f"the engine runs on {runs_on(sidecar)}; {reason}"


def lacking_here(sidecar: Sidecar, present: tuple[Gpu, ...] | None = None) -> str | None:
    """``why_not_here`` without what the engine needs."""
    present = gpus() if present is None else present
    if not present:
        return f"this machine has no NVIDIA GPU, or no driver ({absence()})"
    if fitting_target(sidecar, present) is not None:
        return None
    found = ", ".join(f"{gpu.name} ({gpu.target})" for gpu in present)
    if sidecar.family == "rtx" and not any(rtx_runs_on(gpu.target) for gpu in present):
        return f"TensorRT-RTX does not run on {found}: it is for Turing, Ampere, Ada and Blackwell RTX cards"
    return f"this machine has {found}. Build it for {present[0].target}"
