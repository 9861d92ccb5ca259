"""Text to the familiar calibration folder."""

import hashlib
from collections.abc import Sequence
from pathlib import Path

from pydantic import Field

from calib8.config import Config
from calib8.data.array_files import save_array
from calib8.data.reading import read_whole
from calib8.files import require_folder, write_json
from calib8.progress import Progress, Quiet
from calib8.text.tokenizer import SHORTEST, TextTokenizer, sentences_of

PREPARED_BY = "calib_data.json"


class Prepare(Config):
    """How text becomes tokens."""

    max_length: int | None = Field(default=None, ge=SHORTEST)
    """Cut sentences to this many tokens.

    None takes the model's own limit.
    """


def prepare(
    texts: Sequence[Path | str],
    tokenizer: Path | str,
    output: Path | str,
    config: Prepare | None = None,
    *,
    progress: Progress | None = None,
) -> Path:
    """Tokenise text files (one sentence a line) into a calibration folder of int64 arrays [N, S].

    Example:

        >>> folder = calib8.prepare(["calibration.txt"], "models", "texts", calib8.Prepare(max_length=128))
        >>> sorted(path.name for path in folder.glob("*.npy"))
        ['attention_mask.npy', 'input_ids.npy']
    """
    require_folder(output)
    own = TextTokenizer(Path(tokenizer), Prepare.of(config).max_length)
    return write_arrays([Path(text) for text in texts], own, Path(output), progress or Quiet())


def write_arrays(texts: Sequence[Path], tokenizer: TextTokenizer, output: Path, progress: Progress) -> Path:
    """Write ``input_ids.npy`` and ``attention_mask.npy`` ([N, S], int64) and what they were made from to ``output``."""
    contents = {str(path): read_whole(path, "text file", progress.note) for path in texts}  # once: it may be a pipe
    sentences = [sentence for name in map(str, texts) for sentence in sentences_of(contents[name], name)]
    progress.update("tokenise", 0, len(sentences))
    if tokenizer.asked is not None and tokenizer.asked > tokenizer.limit:
        progress.note(f"the model takes {tokenizer.limit} tokens: that, not {tokenizer.asked}, is the maximum length")
    arrays = tokenizer.padded(tokenizer.tokens(sentences, progress))
    for name, array in arrays.items():
        save_array(Path(output) / f"{name}.npy", array)
    made_of = {
        "format": "calib8.data/1",
        "texts": {name: hashlib.sha256(content).hexdigest() for name, content in contents.items()},
        "tokenizer_sha256": tokenizer.sha256,
        "max_length": tokenizer.max_length,
        "prompt": tokenizer.prompt,
        "sentences": len(sentences),
        "tokens": int(arrays["attention_mask"].sum()),
    }
    write_json(Path(output) / PREPARED_BY, made_of)
    progress.update("tokenise", len(sentences), len(sentences))
    return Path(output)
