"""Verification from end to end: two artefacts and held-out data in, a comparison out."""

from pathlib import Path

from calib8.data.sources import Batches, Source, open_source
from calib8.data.text import TextTokenizer, read_sentences
from calib8.errors import ConfigError
from calib8.graph.dataset import dataset_for
from calib8.graph.io import load
from calib8.models.sentence import SentenceEncoder, pooling_of, token_arrays
from calib8.progress import Progress
from calib8.runtime.contract import Contract, contract_of
from calib8.runtime.cpu import open_cpu
from calib8.runtime.names import CpuRuntime
from calib8.runtime.open import open_artefact
from calib8.verification.compare import Comparison, compare
from calib8.verification.pairs import rank_correlation, read_pairs

TEXT_SUFFIXES = (".txt", ".text")


def verify_artefacts(
    reference: Path,
    candidate: Path,
    data: Path | str | Source,
    *,
    tokenizer: Path | None,
    pairs: Path | None,
    runtime: CpuRuntime,
    progress: Progress,
) -> Comparison:
    """Compare ``candidate`` with ``reference``, an FP32 ONNX model, which always runs in ONNX Runtime.

    ``data`` is anything ``open_source`` takes, or a text file. The tokenizer folder is the reference's own if None.
    """
    folder = tokenizer or reference.parent
    model = load(reference)
    dataset = dataset_for(model, held_out_source(data, folder, contract_of(model), progress), progress)
    pooling, _ = pooling_of(folder)
    with open_cpu(model, "onnxruntime") as expected, open_artefact(candidate, runtime) as got:
        comparison = compare(expected, got, dataset, pooling=pooling, progress=progress)
        if pairs is None:
            return comparison
        scored = read_pairs(pairs)
        correlation = rank_correlation(
            SentenceEncoder(folder, expected), SentenceEncoder(folder, got), scored, progress
        )
        return comparison.model_copy(update={"spearman": correlation})


def held_out_source(
    data: Path | str | Source, folder: Path, contract: Contract | None = None, progress: Progress | None = None
) -> Source:
    """The source behind ``data``; a text file is tokenised with the tokenizer in ``folder``.

    ``contract`` is that of the model to be fed: sentences are cut to what it takes, and it says which arrays to make.
    """
    if isinstance(data, (str, Path)) and str(data).endswith(TEXT_SUFFIXES):
        if not (folder / "tokenizer.json").is_file():
            raise ConfigError(f"{data} is text, but there is no tokenizer.json in {folder}. Name it with --tokenizer.")
        own = TextTokenizer(folder, contract.largest("input_ids", 1) if contract else None)
        tokens = own.tokens(read_sentences(Path(data)), progress)
        return Batches([token_arrays(own, tokens, contract.names if contract else ())])
    return open_source(data)
