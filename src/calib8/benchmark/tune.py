"""Measure which CPU runtime and which form of a model are fastest on this machine, and remember it."""

from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from calib8.data.batching import Dataset
from calib8.data.inputs import Arrays, sample_count
from calib8.data.sources import Data
from calib8.errors import Calib8Error, ConfigError, ModelError, SetupError
from calib8.graph.dataset import dataset_for
from calib8.graph.io import load
from calib8.numerics import cosine_rows
from calib8.progress import Progress, Quiet
from calib8.runtime.base import Runtime
from calib8.runtime.choice import CpuChoice, Measured, candidates, remember
from calib8.runtime.contract import contract_of
from calib8.runtime.cpu import open_choice
from calib8.runtime.open import is_engine
from calib8.runtime.processor import cores
from calib8.text.text_source import tokenised_source
from calib8.verification.speed import by_turns

#: Batches of the data that are measured, at least, and how often.
BATCHES, ROUNDS = 12, 3
#: Batches by which bf16 is judged: short, middling and long samples.
JUDGED = 3
#: How many times as long as the fastest a candidate may take in a first round, and still take part in those that count.
HOPELESS = 1.7
#: Mean cosine that outputs with a bf16 remainder must keep to those with an FP32 one. It is 0.998 on MPNet's tokens,
#: and that of its embeddings to FP32 stays what it was (docs/performance.md): INT8's own error hides it.
LEAST_COSINE = 0.995


def tune(
    model: Path | str, data: Data, *, tokenizer: Path | str | None = None, progress: Progress | None = None
) -> Measured:
    """Measure which CPU runtime and form of an ONNX model is fastest here, over arrays or text; ``auto`` takes it then.

    Without it ``auto`` goes by a rule. Every candidate runs some batches by turns, and counts by the shortest of its
    rounds: whatever else the machine does only ever makes one longer. What was measured is kept in the user's cache for
    this model, processor, number of cores and versions. Raises ``ConfigError`` for an engine.

    Example:

        >>> measured = calib8.tune("model.int8.onnx", "held_out.txt")
        >>> str(measured.choice) in measured.samples_per_second
        True
    """
    path, progress = Path(model), progress or Quiet()
    if is_engine(path):
        raise ConfigError(f"{path} is an engine: on the GPU there is nothing to choose. Name an ONNX model.")
    loaded = load(path)
    source = tokenised_source(data, Path(tokenizer or path.parent), contract_of(loaded), progress)
    batches = some_batches(dataset_for(loaded, source, progress))
    with ExitStack() as stack:
        opened: dict[CpuChoice, Runtime] = {}
        for choice in candidates(loaded):
            try:
                opened[choice] = stack.enter_context(open_choice(loaded, choice))
            except (ModelError, SetupError) as error:
                progress.note(f"{choice}: {error}")
        _drop_failing(opened, batches[0], progress)
        _drop_inexact(opened, _spread(sorted(batches, key=_values_per_sample), JUDGED), progress)
        works = {str(choice): _work(runtime, batches) for choice, runtime in opened.items()}
        for done, work in enumerate(works.values(), start=1):  # what is new to a shape takes longer
            work()
            progress.update("warm up", done, len(works))
        first = by_turns(works, least=1)
        bound = HOPELESS * min(min(seconds) for seconds in first.values())
        close = {name: work for name, work in works.items() if first[name][0] <= bound}
        taken = first | by_turns(close, least=ROUNDS, told=lambda rounds: progress.update("tune", rounds, ROUNDS))
    samples = sum(map(sample_count, batches))
    rates = {name: round(samples / min(seconds), 2) for name, seconds in taken.items()}
    measured = Measured(choice=max(opened, key=lambda choice: rates[str(choice)]), samples_per_second=rates)
    kept = remember(loaded, measured)
    if kept is None:
        progress.note("the cache cannot be written: what was measured is not remembered. Set CALIB8_CACHE.")
    else:
        progress.note(f"remembered in {kept}; delete that file to forget it")
    return measured


def _drop_failing(opened: dict[CpuChoice, Runtime], arrays: Arrays, progress: Progress) -> None:
    """Leave out what cannot run a batch, and say why. Raises ``ModelError`` if no FP32 remainder is left."""
    for choice, runtime in list(opened.items()):
        try:
            runtime.run(arrays)
        except Calib8Error as error:
            progress.note(f"{choice}: {error}")
            opened.pop(choice)
    if all(choice.bf16 for choice in opened):
        raise ModelError("no CPU runtime here runs the model: the notes above say why.")


def _drop_inexact(opened: dict[CpuChoice, Runtime], batches: list[Arrays], progress: Progress) -> None:
    """Leave out where bf16 changes an output of any batch by more than ``LEAST_COSINE`` allows, and say so."""
    reference = next(runtime for choice, runtime in opened.items() if not choice.bf16)
    inexact = [choice for choice in opened if choice.bf16]
    exact = [reference.run(arrays) for arrays in batches] if inexact else []
    for choice in inexact:
        rounded = [opened[choice].run(arrays) for arrays in batches]
        cosine = np.min(
            [_mean_cosine(one[name], other[name]) for one, other in zip(exact, rounded, strict=True) for name in one]
        )  # of numpy, in which NaN is the least
        exact_enough = cosine >= LEAST_COSINE  # NaN is not
        verdict = "taken" if exact_enough else "left out"
        progress.note(
            f"{choice}: {verdict}, cosine to FP32 arithmetic {cosine:.5f}, at least {LEAST_COSINE} is demanded"
        )
        if not exact_enough:
            opened.pop(choice)  # closed by the stack


def _mean_cosine(one: NDArray[np.generic], other: NDArray[np.generic]) -> float:
    """Of samples, each as one vector."""
    whole = (np.atleast_1d(np.asarray(array, np.float32)) for array in (one, other))
    return float(cosine_rows(*(array.reshape(len(array), -1) for array in whole)).mean())


def some_batches(dataset: Dataset) -> list[Arrays]:
    """``BATCHES``, or four for each core, spread over all lengths and as large as ``embed`` makes them."""
    every = [arrays for _, arrays in dataset.batches()]
    return _spread(every, max(BATCHES, 4 * cores()))


def _spread(batches: list[Arrays], count: int) -> list[Arrays]:
    """``count`` of them, or all: the first, the last and some between."""
    return [batches[round(number)] for number in np.linspace(0, len(batches) - 1, min(len(batches), count))]


def _values_per_sample(arrays: Arrays) -> int:
    return sum(array[0].size for array in arrays.values())


def _work(runtime: Runtime, batches: list[Arrays]) -> Callable[[], None]:
    def work() -> None:
        for run in [runtime.submit(arrays) for arrays in batches]:
            run.result()

    return work
