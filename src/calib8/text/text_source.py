"""Text in the place of arrays, for models that have a tokenizer."""

from pathlib import Path

import onnx_ir as ir

from calib8.data.sources import Batches, Data, Source, open_source
from calib8.errors import ConfigError
from calib8.graph.io import load
from calib8.progress import Progress
from calib8.runtime.contract import Contract, contract_of
from calib8.text.sentence import token_arrays
from calib8.text.tokenizer import TextTokenizer, read_sentences

TEXT_SUFFIXES = (".txt", ".text")


def tokenised_source(
    data: Data, folder: Path, contract: Contract | None = None, progress: Progress | None = None
) -> Source:
    """The source behind ``data``; a text file is tokenised with the tokenizer in ``folder``.

    ``contract`` is that of the model to be fed: sentences are cut to what it takes, and it says which arrays to make.
    """
    if (texts := texts_of(data)) is not None:
        if not (folder / "tokenizer.json").is_file():
            raise ConfigError(f"{data} is text, but there is no tokenizer.json in {folder}. Name it with --tokenizer.")
        own = TextTokenizer(folder, contract.largest("input_ids", 1) if contract else None)
        tokens = own.tokens(texts, progress)
        return Batches([token_arrays(own, tokens, contract.names if contract else ())])
    return open_source(data)


def calibration_source(data: Data, model: ir.Model | Path | str, progress: Progress) -> Source:
    """The source behind calibration ``data``; a text file is tokenised with the tokenizer beside the ``model``.

    The arrays, and so their fingerprint, are those that ``calib8 prepare`` makes of the text. Raises ``ConfigError``
    where there is no tokenizer.
    """
    if not is_text(data):
        return open_source(data)
    if isinstance(model, ir.Model) or not (Path(model).parent / "tokenizer.json").is_file():
        beside = "" if isinstance(model, ir.Model) else f" beside {model}"
        raise ConfigError(
            f"{data} is text, and no tokenizer.json was found{beside}. Make arrays of it: "
            f"calib8 prepare {data} --tokenizer FOLDER -o calib_data."
        )
    return tokenised_source(Path(str(data)), Path(model).parent, contract_of(load(model)), progress)


def is_text(data: object) -> bool:
    """Whether ``data`` is the path of a text file, by its name."""
    return isinstance(data, (str, Path)) and str(data).endswith(TEXT_SUFFIXES)


def texts_of(data: object) -> list[str] | None:
    """The sentences of a text file; None for any other data."""
    return read_sentences(Path(str(data))) if is_text(data) else None
