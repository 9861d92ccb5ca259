"""``x.engine.json`` beside ``x.engine``: what the engine is, what it was made from, and where it runs.

An engine tells nothing of this without the GPU it was built for.
"""

import glob
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from calib8.engine.family import TITLES, FamilyName
from calib8.engine.hardware import Gpu, gpus
from calib8.engine.plan_check import PlanCheck
from calib8.engine.profiles import Profile
from calib8.engine.targets import describe, path_among
from calib8.errors import InputError
from calib8.files import read_json, require_file, sha256_file

#: Compute capabilities on which TensorRT-RTX runs no engine at all.
NOT_RTX = ("sm90", "sm100", "sm103")


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


class Sidecar(BaseModel):
    """Everything that is known about one engine."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: Literal[1] = 1
    engine_sha256: str
    engine_bytes: int
    family: FamilyName
    tensorrt_version: str
    target: str
    model_sha256: str
    #: What calib8 wrote into the ONNX model: source model, data, recipe, versions.
    model_metadata: dict[str, str]
    profiles: tuple[Profile, ...]
    tensors: tuple[TensorInfo, ...]
    plan: PlanCheck
    workspace_mib: int | None
    optimization_level: int | None
    build_seconds: float
    #: UTC, ISO 8601.
    built_at: str
    calib8_version: str

    @property
    def builder(self) -> str:
        """For people: ``TensorRT-RTX 1.7.1.116``."""
        return f"{TITLES[self.family]} {self.tensorrt_version}"


def sidecar_path(engine: Path) -> Path:
    """``x.engine`` -> ``x.engine.json``."""
    return engine.with_name(f"{engine.name}.json")


def describe_engine(engine: Path) -> Sidecar:
    """Read and check the sidecar of an engine.

    Raises ``InputError`` if engine or sidecar is missing, if the sidecar is damaged, or if it describes another file.
    """
    engine = require_file(Path(engine), "TensorRT engine")
    path = sidecar_path(engine)
    if not path.is_file():
        raise InputError(
            f"{engine} has no {path.name} beside it, and an engine alone does not tell what it is. "
            "Keep the two together, or build the engine again."
        )
    sidecar = read_sidecar(path)
    if engine.stat().st_size != sidecar.engine_bytes or sha256_file(engine) != sidecar.engine_sha256:
        raise InputError(f"{path.name} describes another engine than {engine}: the SHA-256 differs. Build it again.")
    return sidecar


def read_sidecar(path: Path) -> Sidecar:
    """A sidecar alone, with or without its engine. Raises ``InputError`` if it is missing or damaged."""
    content: Any = read_json(path, "engine description")
    try:
        return Sidecar.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "its root"
        raise InputError(f"{path} is no engine description of this calib8: {where}: {first['msg']}.") from error


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


def why_not_here(sidecar: Sidecar, present: tuple[Gpu, ...] | None = None) -> str | None:
    """Why the engine cannot run on this machine, or None if it can. ``present`` are the GPUs, asked if not given."""
    present = gpus() if present is None else present
    wanted = describe(sidecar.target)
    if not present:
        return f"the engine runs on {wanted}; this machine has no NVIDIA GPU, or no driver (nvidia-smi finds none)"
    if sidecar.target in (gpu.target for gpu in present):
        return None
    found = ", ".join(f"{gpu.name} ({gpu.target})" for gpu in present)
    if sidecar.family == "rtx" and all(gpu.target in NOT_RTX for gpu in present):
        return f"TensorRT-RTX does not run on {found}: it is for Turing, Ampere, Ada and Blackwell RTX cards"
    return f"the engine runs on {wanted}; this machine has {found}. Build it for {present[0].target}"
