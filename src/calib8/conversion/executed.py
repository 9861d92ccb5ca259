"""The engine that this machine's GPU runs, judged by what it computes: a plan may be right and its kernels wrong.

Of a text detector TensorRT 10.6 built an engine whose plan was in order, and whose maps had nothing to do with the
model's (-1.7 dB where the CPU had 15.8): no limit of accuracy on the CPU sees that.
"""

from collections.abc import Callable
from pathlib import Path

from calib8.errors import AccuracyMissed, Calib8Error
from calib8.progress import Progress
from calib8.runtime.base import Runtime
from calib8.runtime.open import open_artefact
from calib8.verification.compare import Comparison
from calib8.verification.config import Verify
from calib8.verification.outputs import NotFinite

#: What one rounding may turn into something else altogether: limits count, decibels say nothing.
UNEVEN = ("boxes", "ids")
#: Decibels that kernels may lose of what the model has on the CPU, and how many are enough whatever it has there: sums
#: in another order and FP16 in other places leave them.
LOST, ENOUGH = 10.0, 20.0


def judged(
    engine: Path | None,
    judge: Callable[[Runtime], Comparison],
    accuracy: Comparison,
    limits: Verify,
    progress: Progress,
) -> tuple[Comparison | None, AccuracyMissed | None]:
    """What ``judge`` finds of the ``engine`` that runs here, and what is not good enough of it or of the model.

    The first is None where there is no such engine or, with a note, where it does not start. ``accuracy`` is what
    ``judge`` found of the quantised model on the CPU, ``limits`` are for both.
    """
    on_gpu = None
    try:
        if engine is not None:
            on_gpu = _on_gpu(engine, judge, progress)
        accuracy.raise_for_failure(limits)
        if engine is not None and on_gpu is not None:
            _require_like(engine, on_gpu, accuracy, limits)
    except AccuracyMissed as error:
        return on_gpu, error
    return on_gpu, None


def _on_gpu(engine: Path, judge: Callable[[Runtime], Comparison], progress: Progress) -> Comparison | None:
    try:
        with open_artefact(engine) as got:
            return judge(got)
    except NotFinite as error:
        raise AccuracyMissed(f"{engine.name} on the GPU: {error}") from error
    except (
        Calib8Error
    ) as error:  # no memory, or a sample of a size that no profile has: nothing of the engine's numbers
        progress.note(f"{engine.name} was not judged on the GPU: {error}")
        return None


def _require_like(engine: Path, on_gpu: Comparison, on_cpu: Comparison, limits: Verify) -> None:
    try:
        on_gpu.raise_for_failure(limits)
    except AccuracyMissed as error:
        raise AccuracyMissed(f"{engine.name} on the GPU: {error}") from error
    for name, one in on_gpu.outputs.items():
        if one.kind in UNEVEN:
            continue
        found, expected = one.sqnr_db, on_cpu.outputs[name].sqnr_db
        wanted = ENOUGH if expected is None else min(expected - LOST, ENOUGH)
        if found is not None and found < wanted:
            there = "no error at all" if expected is None else f"{expected:.1f} dB"
            raise AccuracyMissed(
                f"{engine.name} does not compute what its model does: its output {name!r} has {found:.1f} dB of signal "
                f"to noise on the GPU, expected at least {wanted:.1f} dB, since the model has {there} on the CPU. Some "
                f"kernel of {on_gpu.runtime} is wrong: take the engine in FP16, leave ops in float (--exclude), or "
                "build with another version of TensorRT."
            )
