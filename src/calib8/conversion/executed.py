"""The engine that this machine's GPU runs, judged by what it computes: a plan may be right and its kernels wrong.

Of a text detector TensorRT 10.6 built an engine whose plan was in order, and whose maps had nothing to do with the
model's (-1.7 dB where the INT8 model had 16.5 on the CPU): no limit of accuracy on the CPU sees that.
"""

from dataclasses import replace
from pathlib import Path

import onnx_ir as ir

from calib8.errors import AccuracyMissed, Calib8Error
from calib8.graph.values import op_of
from calib8.passes.fixed_draws import NORMAL, UNIFORM
from calib8.runtime.open import open_artefact
from calib8.verification.compare import Comparison
from calib8.verification.config import Verify
from calib8.verification.outputs import NotFinite, OutputsDiffer
from calib8.verification.run import HeldOut

#: What draws anew in every run of an engine, so that nothing can be compared.
DRAW = ("Bernoulli", "Multinomial", *NORMAL, *UNIFORM)
#: What one rounding may turn into something else altogether: limits count, decibels say nothing.
UNEVEN = ("ArgMax", "ArgMin", "NonMaxSuppression", "NonZero", "Round", "Sign", "TopK")
UNEVEN_KINDS = ("boxes", "ids")
#: Decibels that kernels may lose of what the model has on the CPU, and how many are enough whatever it has there: sums
#: in another order and FP16 in other places leave them.
LOST, ENOUGH = 10.0, 20.0


def judged(
    engine: Path | None, held: HeldOut, accuracy: Comparison, limits: Verify, model: ir.Model
) -> tuple[Comparison | None, AccuracyMissed | None]:
    """How close the ``engine`` that runs here is, and what is not good enough of it or of the quantised ``model``.

    The first is None where there is no such engine or, with a note, where it cannot be judged. ``accuracy`` is of the
    model on the CPU, by the same ``held`` out data; ``limits`` are for both.
    """
    on_gpu, kinds = None, {op_of(node) for node in model.graph.all_nodes()}
    if engine is not None and not kinds.isdisjoint(DRAW):
        held.progress.note(f"{engine.name} was not judged on the GPU: the model draws at random, anew in every run")
        engine = None
    try:
        if engine is not None:
            on_gpu = _on_gpu(engine, held, accuracy)
        accuracy.raise_for_failure(limits)
        if engine is not None and on_gpu is not None:
            _require_limits(engine, on_gpu, limits)
            if kinds.isdisjoint(UNEVEN):
                _require_like(engine, on_gpu, accuracy)
    except AccuracyMissed as error:
        return on_gpu, error
    return on_gpu, None


def _on_gpu(engine: Path, held: HeldOut, accuracy: Comparison) -> Comparison | None:
    """By what outputs were taken for on the CPU: an engine may take them in other batches, and be guessed otherwise."""
    same = replace(held, kinds={name: one.kind for name, one in accuracy.outputs.items()})
    try:
        with open_artefact(engine) as got:
            return same.judge(got)
    except (NotFinite, OutputsDiffer) as error:
        raise AccuracyMissed(f"{engine.name} on the GPU: {error}") from error
    except Calib8Error as error:  # no memory, or a size that no profile has: it says nothing of the engine's numbers
        held.progress.note(f"{engine.name} was not judged on the GPU: {error}")
        return None


def _require_limits(engine: Path, on_gpu: Comparison, limits: Verify) -> None:
    try:
        on_gpu.raise_for_failure(limits)
    except AccuracyMissed as error:
        raise AccuracyMissed(f"{engine.name} on the GPU: {error}") from error


def _require_like(engine: Path, on_gpu: Comparison, on_cpu: Comparison) -> None:
    for name, one in on_gpu.outputs.items():
        if one.kind in UNEVEN_KINDS:
            continue
        found, expected = one.sqnr_db, on_cpu.outputs[name].sqnr_db
        wanted = ENOUGH if expected is None else min(expected - LOST, ENOUGH)
        if found is not None and found < wanted:
            there = "no error at all" if expected is None else f"{expected:.1f} dB"
            raise AccuracyMissed(
                f"{engine.name} does not compute what its model does: its output {name!r} has {found:.1f} dB of signal "
                f"to noise on the GPU, expected at least {wanted:.1f} dB, since the model has {there} on the CPU. Some "
                f"kernel of {on_gpu.runtime} is wrong: build one in FP16 (--precision fp16), leave ops in float "
                "(--exclude), or build with another version of TensorRT."
            )
