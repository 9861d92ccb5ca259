"""An engine on this machine's GPU against FP32 on its CPU: what a machine without a GPU could not find out."""

from collections.abc import Iterable, Mapping
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from calib8.data.sources import Data
from calib8.engine.options import QUANTISED
from calib8.engine.sidecar import Sidecar, describe_engine, why_not_here
from calib8.errors import ConfigError, InputError
from calib8.gpu.activity import Activity
from calib8.gpu.hardware import Gpu, driver, gpus, in_cuda_order
from calib8.graph.io import source_sha256
from calib8.progress import Progress, Quiet
from calib8.runtime.base import Runtime
from calib8.runtime.open import is_engine, open_artefact
from calib8.verification.bench import Cell, measure
from calib8.verification.breakdown import Breakdown, break_down
from calib8.verification.compare import Comparison
from calib8.verification.config import Bench
from calib8.verification.named import KindName
from calib8.verification.run import HeldOut, held_out, open_candidate

#: Largest batch that is timed, if the engine takes smaller ones too.
BATCH = 8


class GpuComparison(BaseModel):
    """What ``compare_on_gpu`` found.

    ``accuracy`` is the engine against FP32 on the CPU. ``against_int8`` is the engine against ``int8_model``, the same
    quantised model, on the CPU, FP16 rounded op by op: what the GPU's own kernels add. It is None if that model is not
    beside it.
    ``breakdowns`` tell where the engine's time goes, if that was asked for, ``activity`` what the GPU did meanwhile, if
    it was watched.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    gpu: str
    target: str
    driver: str | None
    cuda: str | None
    reference_runtime: str
    engine_runtime: str
    accuracy: Comparison
    int8_model: str | None
    against_int8: Comparison | None
    speed: tuple[Cell, ...]
    breakdowns: tuple[Breakdown, ...] = ()
    activity: Activity | None = None

    def without_texts(self) -> "GpuComparison":
        """The same without the texts of the worst samples."""
        against = self.against_int8 and self.against_int8.without_texts()
        return self.model_copy(update={"accuracy": self.accuracy.without_texts(), "against_int8": against})


def compare_on_gpu(  # noqa: PLR0913
    reference: Path | str,
    engine: Path | str,
    data: Data,
    *,
    tokenizer: Path | str | None = None,
    pairs: Path | str | None = None,
    profile: bool = False,
    output_kinds: Mapping[str, KindName] | None = None,
    progress: Progress | None = None,
) -> GpuComparison:
    """Run an engine on the GPU against FP32 on the CPU: accuracy, speed, and how far INT8 on the CPU is from it.

    profile: time its kernels, too, with TensorRT's profiler. output_kinds: as for ``compare``.

    Raises ``ConfigError`` for anything but an engine, and ``SetupError`` before the long work where it cannot run.

    Example:

        >>> found = calib8.compare_on_gpu("model.onnx", "model-int8.engine", "held_out.txt")
        >>> found.accuracy.raise_for_failure(calib8.Verify(min_cosine=0.99))
    """
    reference, engine, progress = Path(reference), Path(engine), progress or Quiet()
    if not is_engine(engine):
        raise ConfigError(
            f"--gpu judges an engine, and {engine} runs on the CPU. Build one first: "
            f"calib8 build {engine} -o {engine.with_suffix('.engine')}."
        )
    with open_artefact(engine) as got:  # first: a machine that cannot run it says so before the long work
        sidecar = describe_engine(engine)
        with held_out(reference, data, tokenizer, pairs, progress, output_kinds) as judge:
            accuracy = judge.judge(got)
            int8 = quantised_model_of(engine, sidecar)
            against = _against(int8, got, judge) if int8 is not None else None
            speed = measure(
                {"FP32 on the CPU": judge.reference, "engine": got}, judge.dataset, _shapes(sidecar), progress
            )
            breakdowns = break_down({"engine": got}, speed, judge.dataset, progress) if profile else ()
            reference_runtime = judge.reference.description
        found = driver()
        gpu = gpu_for(sidecar, in_cuda_order(found))
        return GpuComparison(
            gpu=gpu.name if gpu is not None else got.description,
            target=gpu.target if gpu is not None else sidecar.target,
            driver=found.version,
            cuda=found.cuda,
            reference_runtime=reference_runtime,
            engine_runtime=got.description,
            accuracy=accuracy,
            int8_model=int8.name if int8 is not None else None,
            against_int8=against,
            speed=speed,
            breakdowns=breakdowns,
        )


def quantised_model_of(engine: Path, sidecar: Sidecar) -> Path | None:
    """The quantised ONNX model that the engine was built from, if it lies beside it under whatever name."""
    if sidecar.precision not in QUANTISED:  # it was built from the reference itself
        return None
    for path in sorted(engine.parent.glob("*.onnx")):
        try:
            if source_sha256(path) == sidecar.model_sha256:
                return path
        except InputError:  # a damaged file is not it
            continue
    return None


def gpu_for(sidecar: Sidecar, present: tuple[Gpu, ...]) -> Gpu | None:
    """The first GPU that the engine runs on, if there is one."""
    return next((gpu for gpu in present if why_not_here(sidecar, (gpu,)) is None), None)


def first_here(artefacts: Iterable[Path]) -> tuple[Path, str] | None:
    """The first of ``artefacts`` that a GPU of this machine runs, and that GPU's target."""
    return next(((path, target) for path in artefacts if (target := target_of(path)) is not None), None)


def target_of(artefact: Path) -> str | None:
    """The kind of GPU here that an engine runs on, ``sm86``; None if there is none, and for what runs on the CPU."""
    gpu = gpu_for(describe_engine(artefact), gpus()) if is_engine(artefact) else None
    return gpu.target if gpu is not None else None


def _against(int8: Path, got: Runtime, judge: HeldOut) -> Comparison:
    with open_candidate(int8) as on_cpu:
        return judge.judge(got, on_cpu)


def _shapes(sidecar: Sidecar) -> Bench:
    """The smallest batch that the engine takes, and the largest up to ``BATCH``."""
    smallest = min((profile.min[0] for profile in sidecar.profiles), default=1)
    largest = max((profile.max[0] for profile in sidecar.profiles), default=BATCH)
    return Bench(batches=tuple(sorted({smallest, max(smallest, min(BATCH, largest))})))
