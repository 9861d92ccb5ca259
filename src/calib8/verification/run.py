"""Verification from end to end: two artefacts and held-out data in, a comparison out."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from calib8.data.batching import Dataset
from calib8.data.sources import Data
from calib8.errors import DataError, ModelError
from calib8.files import require_file
from calib8.graph.dataset import dataset_for
from calib8.graph.io import load
from calib8.progress import Progress, Quiet
from calib8.runtime.base import Runtime
from calib8.runtime.contract import contract_of
from calib8.runtime.judged import open_as_built, open_reference
from calib8.runtime.names import CpuRuntime
from calib8.runtime.open import is_engine, open_artefact
from calib8.text.sentence import SentenceEncoder, pooling_of
from calib8.text.text_source import texts_of, tokenised_source
from calib8.verification.compare import Comparison
from calib8.verification.compare import compare as compare_runtimes
from calib8.verification.config import Verify
from calib8.verification.named import KindName
from calib8.verification.pairs import Pair, rank_correlation, read_pairs


@dataclass(frozen=True)
class HeldOut:
    """What candidates are judged by: the data, and the reference, an FP32 ONNX model in ONNX Runtime."""

    reference: Runtime
    dataset: Dataset
    #: Where tokenizer and pooling config of the reference lie, if it is a sentence encoder.
    folder: Path
    pairs: list[Pair] | None
    progress: Progress
    #: The sentences behind the data, in its order, if it is text.
    texts: list[str] | None = None
    #: What outputs are, as far as somebody said so.
    kinds: Mapping[str, KindName] = field(default_factory=dict)

    def judge(self, candidate: Runtime, reference: Runtime | None = None) -> Comparison:
        """Compare ``candidate`` with the reference, or with another."""
        pooling, _ = pooling_of(self.folder)
        expected = reference or self.reference
        comparison = compare_runtimes(
            expected, candidate, self.dataset, pooling=pooling, kinds=self.kinds, progress=self.progress
        )
        comparison = comparison.with_texts(self.texts)
        if self.pairs is None:
            return comparison
        encoders = SentenceEncoder(self.folder, expected), SentenceEncoder(self.folder, candidate)
        correlation = rank_correlation(*encoders, self.pairs, self.progress)
        return comparison.model_copy(update={"spearman": correlation})


@contextmanager
def held_out(
    reference: Path,
    data: Data,
    tokenizer: Path | str | None,
    pairs: Path | str | None,
    progress: Progress,
    kinds: Mapping[str, KindName] | None = None,
) -> Iterator[HeldOut]:
    """Open the reference and its data; see ``compare``."""
    scored = read_pairs(Path(pairs)) if pairs is not None else None
    folder = Path(tokenizer) if tokenizer is not None else reference.parent
    model = load(reference)
    source = tokenised_source(data, folder, contract_of(model), progress)
    try:
        dataset = dataset_for(model, source, progress)
    except DataError as error:
        raise DataError(f"{data} is no data for the reference {reference}: {error}") from None
    with open_reference(model) as expected:
        yield HeldOut(expected, dataset, folder, scored, progress, texts_of(data), kinds or {})


def open_candidate(path: Path, runtime: CpuRuntime = "auto") -> Runtime:
    """Open what is to be judged: an engine as it is, an ONNX model with an engine's arithmetic.

    In a ``runtime`` that is named it computes as it would in use on a CPU, FP16 in FP32.
    """
    if is_engine(path) or runtime != "auto":
        return open_artefact(path, runtime)
    return open_as_built(load(require_file(path, "model or engine")))


def compare(  # noqa: PLR0913
    reference: Path | str,
    candidate: Path | str,
    data: Data,
    *,
    tokenizer: Path | str | None = None,
    pairs: Path | str | None = None,
    runtime: CpuRuntime = "auto",
    output_kinds: Mapping[str, KindName] | None = None,
    progress: Progress | None = None,
) -> Comparison:
    """Compare ``candidate`` with ``reference``, an FP32 ONNX model, which always runs in ONNX Runtime.

    A candidate that is an ONNX model computes as its engine would, FP16 rounded to FP16; in a ``runtime`` that is named
    as it would there.

    data: held out from calibration: arrays, or text where there is a tokenizer, by default the one beside the
        reference. pairs: CSV file of scored sentence pairs, to compare rank correlations too. output_kinds: what
        outputs are, by name, where that is not to be guessed: ``"vectors"``, ``"classes"``, ``"number"``, ``"boxes"``,
        ``"maps"``, ``"ids"`` or ``"sequences"``, see ``verification.kinds``.

    Example:

        >>> found = calib8.compare("model.onnx", "model.int8.onnx", "held_out.txt")
        >>> found.samples, found.cosine_mean > 0.99
        (24, True)
    """
    reference, candidate = Path(reference), Path(candidate)
    with (
        open_candidate(candidate, runtime) as got,
        held_out(reference, data, tokenizer, pairs, progress or Quiet(), output_kinds) as judge,
    ):
        if set(got.contract.names) != set(judge.reference.contract.names):
            raise ModelError(
                f"{candidate} takes {', '.join(got.contract.names)}, but its reference {reference} takes "
                f"{', '.join(judge.reference.contract.names)}. Expected two forms of one model: check both paths."
            )
        return judge.judge(got)


def verify(
    reference: Path | str, candidate: Path | str, data: Data, config: Verify | None = None, **options: Any
) -> Comparison:
    """``compare``, then raise ``AccuracyMissed`` if a limit of ``config`` is missed. ``options`` go to ``compare``.

    Example:

        >>> limits = calib8.Verify(min_cosine=0.99)
        >>> calib8.verify("model.onnx", "model.int8.onnx", "held_out.txt", limits).cosine_mean >= 0.99
        True
    """
    limits = Verify.of(config)
    comparison = compare(reference, candidate, data, output_kinds=limits.kinds, **options)
    comparison.raise_for_failure(limits)
    return comparison
