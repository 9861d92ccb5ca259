"""How long engines of a model would take on GPUs that are not at hand."""

from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict

from calib8.cost.config import Estimate
from calib8.cost.gpus import GPUS, Gpu
from calib8.cost.kernels import Kernel, kernels_of
from calib8.cost.roofline import milliseconds
from calib8.cost.sizes import shapes_for
from calib8.data.inputs import InputSpec
from calib8.engine.config import Build
from calib8.engine.profiles import Profile, profile_sets
from calib8.graph.inputs import declared_inputs
from calib8.graph.left_out import require_weighted_ops
from calib8.graph.shapes import Shape
from calib8.graph.weighted import weighted_ops
from calib8.passes.plain_convolutions import plain_convolutions
from calib8.passes.prepare import load
from calib8.precision import FP8, Precision
from calib8.quantization.worth import not_faster

Engine = Literal["fp16", "int8", "fp8"]


class _Told(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class GroupTime(_Told):
    """What the kernels of a group would take."""

    kernels: int
    ms: float


class EngineEstimate(_Told):
    """What an engine would take of the GPU for a batch, and its groups of kernels."""

    ms: float
    groups: dict[str, GroupTime]


class CellEstimate(_Told):
    """One GPU and one batch, of which ``shapes`` tells the inputs. ``fp8`` is None where there is nothing for it."""

    gpu: str
    shapes: dict[str, tuple[int, ...]]
    fp16: EngineEstimate
    int8: EngineEstimate
    fp8: EngineEstimate | None

    @property
    def shape(self) -> str:
        """That of the first input, ``8x128``."""
        return "x".join(map(str, next(iter(self.shapes.values()))))

    def speedup(self, engine: Engine) -> float | None:
        """How many times as fast as FP16."""
        other: EngineEstimate | None = getattr(self, engine)
        return None if other is None else self.fp16.ms / other.ms


class GpuFacts(_Told):
    """What is known of a GPU: dense peaks in tera operations a second, GB/s, and what the rest is fitted to."""

    target: str
    fp16: float
    int8: float
    fp8: float | None
    memory: float
    basis: str


class EstimateReport(_Told):
    """What a model of kernels says, ``measured`` never: ``int8_ops`` are those that ``int8`` engines have in INT8."""

    format: Literal["calib8.estimate/1"] = "calib8.estimate/1"
    calib8: str
    model: Path
    measured: Literal[False] = False
    weighted_ops: int
    int8_ops: int
    gpus: dict[str, GpuFacts]
    cells: tuple[CellEstimate, ...]


def estimate(model: Path | str, config: Estimate | None = None) -> EstimateReport:
    """Estimate, without a GPU, what engines of a float ONNX model take in FP16, INT8 and FP8. Nothing is measured.

    INT8 is the form of ``optimize="latency"``; FP8 has all MatMul and Gemm. docs/performance.md says how far the model
    was from what was measured. Raises ``ModelError`` for a model that is not in FP32, has no weighted ops, or does not
    tell its shapes, and ``ProfileError`` where sizes of its inputs are missing.

    Example:

        >>> report = calib8.estimate("model.onnx", calib8.Estimate(gpus="T4,L4"))
        >>> report.cells[0].fp16.ms > 0
        True
    """
    config, loaded = Estimate.of(config), plain_convolutions(load(model))
    require_weighted_ops(loaded)
    ops = weighted_ops(loaded)
    int8 = {op.name for op in ops} - set(not_faster(loaded))
    forms: dict[Engine, tuple[set[str], Precision]] = {"fp16": (set(), "int8"), "int8": (int8, "int8")}
    if fp8 := {op.name for op in ops if op.kind in FP8.kinds}:
        forms["fp8"] = (fp8, "fp8")
    plans = []
    for fed in _batches(declared_inputs(loaded), Build(shapes=config.shapes).profiles(loaded)):
        shapes = shapes_for(loaded, fed)
        plans.append((fed, {name: kernels_of(loaded, shapes, *form) for name, form in forms.items()}))
    gpus = [gpu for gpu in GPUS if gpu.name in config.gpus or not config.gpus]
    return EstimateReport(
        calib8=version("calib8"),
        model=Path(model),
        weighted_ops=len(ops),
        int8_ops=len(int8),
        gpus={gpu.name: _facts(gpu) for gpu in gpus},
        cells=tuple(_cell(gpu, fed, kernels) for gpu in gpus for fed, kernels in plans),
    )


def _batches(inputs: Sequence[InputSpec], profiles: Sequence[Profile]) -> list[dict[str, Shape]]:
    """The shapes of all inputs, for the smallest, usual and largest batch of each set of profiles, once each."""
    fixed = {entry.name: tuple(size for size in entry.shape if isinstance(size, int)) for entry in inputs}
    found = [
        {name: getattr(known[name], size) if name in known else shape for name, shape in fixed.items()}
        for known in profile_sets(profiles)
        for size in ("min", "opt", "max")
    ]
    return [batch for place, batch in enumerate(found) if batch not in found[:place]]


def _cell(gpu: Gpu, fed: Mapping[str, Shape], kernels: Mapping[Engine, Sequence[Kernel]]) -> CellEstimate:
    times = {name: _time(gpu, own) for name, own in kernels.items() if name != "fp8" or gpu.fp8 is not None}
    return CellEstimate(gpu=gpu.name, shapes=dict(fed), fp16=times["fp16"], int8=times["int8"], fp8=times.get("fp8"))


def _time(gpu: Gpu, kernels: Sequence[Kernel]) -> EngineEstimate:
    groups: dict[str, GroupTime] = {}
    for kernel in kernels:
        known = groups.get(kernel.group, GroupTime(kernels=0, ms=0))
        groups[kernel.group] = GroupTime(kernels=known.kernels + 1, ms=known.ms + milliseconds(kernel, gpu))
    return EngineEstimate(ms=sum(group.ms for group in groups.values()), groups=groups)


def _facts(gpu: Gpu) -> GpuFacts:
    known = {name: getattr(gpu, name) for name in GpuFacts.model_fields}
    return GpuFacts(**known)
