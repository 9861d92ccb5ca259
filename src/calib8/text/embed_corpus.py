"""Embeddings of a corpus over a Ray cluster: one Parquet file per part, whole or absent, so that a re-run goes on.

Every part says which rows it holds by their number in the corpus, and is made by one worker from text to file; what
passes through Ray is where parts are.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import onnx_ir as ir
from pydantic import ValidationError

from calib8.cluster.config import Ray
from calib8.cluster.session import connected, require_ray
from calib8.cluster.spread import Item, spread
from calib8.errors import DataError, InputError, SetupError
from calib8.files import atomic, locked, read_json, require_file, require_folder, sha256_file, write_json
from calib8.graph.io import load, source_sha256
from calib8.progress import Progress, Quiet
from calib8.runtime.canary import kinds_of, wrong
from calib8.runtime.choice import CpuChoice, by_rule
from calib8.runtime.cpu import chosen, open_choice
from calib8.runtime.open import is_engine, open_artefact
from calib8.runtime.processor import has_bf16, versions
from calib8.text.config import Corpus
from calib8.text.corpus import Part, parts, read
from calib8.text.sentence import Embeddings, SentenceEncoder, pooling_of, text_tokenizer

#: What the parts of a folder were made from. Readers of Parquet pass over names that begin so.
RECORD = "_embeddings.json"
#: The same, hashed, in the metadata of a part.
MADE_OF = "calib8.made_of"


def embed_corpus(
    artefact: Path | str,
    inputs: Sequence[Path | str],
    output: Path | str,
    config: Corpus | None = None,
    *,
    cluster: Ray | None = None,
    tokenizer: Path | str | None = None,
    progress: Progress | None = None,
) -> list[Path]:
    """Embed the rows of Parquet, JSON lines or text files into the folder ``output``; parts that it holds are kept.

    Returns its ``part-<number>.parquet`` files in the order of the rows, with the columns ``id`` (int64, the row's
    number in the corpus), ``text`` if it is kept, ``embedding`` (float32 list of fixed size). ``tokenizer`` is a
    folder; beside the artefact if None. An engine has a GPU per worker. Workers find all paths where they are here. How
    a model runs on their CPUs is chosen here and kept, so that all parts are of one arithmetic.
    Raises ``DataError`` for what is no corpus, before the first part is made; ``InputError`` if ``output`` holds parts
    made from something else, or from the same files in another order; ``SetupError`` if it cannot be written.

    Example:

        >>> cluster = calib8.Ray(address="local")
        >>> parts = calib8.embed_corpus("model.int8.onnx", ["held_out.txt"], "embeddings", cluster=cluster)
        >>> [path.name for path in parts]
        ['part-000000.parquet']
    """
    require_ray()
    # Not resolved: what belongs to a link, as in the Hugging Face cache, is beside the link.
    artefact, output = Path(artefact).absolute(), Path(output).absolute()
    folder = Path(tokenizer).absolute() if tokenizer is not None else artefact.parent
    config, cluster, progress = config or Corpus(), cluster or Ray(), progress or Quiet()
    paths = [Path(path).absolute() for path in inputs]
    if not paths:
        raise DataError("no file of texts was named; expected at least one: .parquet, .jsonl or .txt.")
    require_folder(output)
    made_by = _made_by(artefact, folder, config)
    found = (
        None if is_engine(artefact) else chosen(load(artefact), config.runtime, threads=cluster.cpus, throughput=True)
    )
    items = [
        {**asdict(part), "file": str(output / f"part-{number:06d}.parquet")}
        for number, part in enumerate(parts(paths, config.part_rows, config.column))
    ]
    output.mkdir(parents=True, exist_ok=True)
    with locked(output, progress.note):
        hashes = [[str(path), sha256_file(path)] for path in paths]  # rows are numbered in this order
        choice = _continue(output, {**made_by, "inputs": hashes}, found)
        for item in items:
            item["made_of"] = _made_of(item, {**made_by, "inputs": hashes, "cpu": str(choice)})
        if choice != found:
            progress.note(f"going on with {choice}, as in the earlier run; for {found} choose another folder")
        missing = [item for item in items if not _is_whole(item)]
        if len(missing) < len(items):
            progress.note(f"{len(items) - len(missing)} of {len(items)} parts are there already")
        total = sum(item["rows"] for item in items)
        done = total - sum(item["rows"] for item in missing)
        progress.update("embed", done, total)
        if missing:
            open_worker = partial(Embedder, artefact, folder, config, made_by, choice, cluster.cpus)
            try:
                with connected(cluster):
                    for number, _ in spread(cluster, open_worker, missing, gpu=is_engine(artefact)):
                        done += missing[number]["rows"]
                        progress.update("embed", done, total)
            finally:  # Ray kills its workers on the way out, in the middle of a file
                _remove_half_written(output)
    return [Path(item["file"]) for item in items]


class Embedder:
    """A worker: opens the model once, and makes the file of any part."""

    def __init__(
        self,
        artefact: Path,
        folder: Path,
        config: Corpus,
        made_by: dict[str, Any],
        choice: CpuChoice | None,
        threads: int,
    ) -> None:
        found = _made_by(artefact, folder, config)
        if changes := [name for name in made_by if made_by[name] != found[name]]:
            raise SetupError(
                f"a worker of the Ray cluster differs from this machine in {', '.join(changes)}, found at {artefact} "
                f"and {folder}. Give all machines the same files and packages."
            )
        if choice is None:
            runtime = open_artefact(artefact)
        else:
            model = load(artefact)
            runtime = open_choice(model, _here(model, choice), threads)
        self._encoder, self._config = SentenceEncoder(folder, runtime), config

    def __call__(self, item: Item) -> bytes:
        """Write the file of a part."""
        import pyarrow.parquet as pq

        part = Part(**{name: value for name, value in item.items() if name in Part.__dataclass_fields__})
        texts = read(part, self._config.column)
        table = _table(part, texts if self._config.keep_text else None, self._encoder.embed(texts))
        table = table.replace_schema_metadata({MADE_OF: item["made_of"]})
        with atomic(Path(item["file"])) as temporary:
            pq.write_table(table, temporary)
        return b""


def _here(model: ir.Model, choice: CpuChoice) -> CpuChoice:
    """``choice`` in a form that is exact on this worker's CPU: those of one runtime have the same numbers.

    Raises ``SetupError`` where it cannot compute the same.
    """
    if choice.bf16 and not has_bf16():
        raise SetupError(f"a worker of the Ray cluster has no bf16 units for {choice}. Name a --runtime.")
    if wrong(choice.runtime, choice.form, kinds_of(model)) is None:
        return choice
    return choice.model_copy(update={"form": by_rule(model, choice.runtime, choice.streams).form})


def _table(part: Part, texts: list[str] | None, vectors: Embeddings) -> Any:
    import pyarrow as pa

    columns: dict[str, Any] = {"id": pa.array(range(part.first, part.first + part.rows), pa.int64())}
    if texts is not None:
        columns["text"] = texts
    columns["embedding"] = pa.FixedSizeListArray.from_arrays(pa.array(vectors.reshape(-1)), vectors.shape[1])
    return pa.table(columns)


def _made_by(artefact: Path, folder: Path, config: Corpus) -> dict[str, Any]:
    """All that decides what a text's embedding is."""
    require_file(artefact, "model or engine")
    tokenizer = text_tokenizer(folder)
    pooling, normalised = pooling_of(folder)
    return {
        "format": "calib8.embeddings/1",
        "model": source_sha256(artefact) or sha256_file(artefact),
        "tokenizer": {
            "sha256": tokenizer.sha256,
            "max_length": tokenizer.max_length,
            "prompt": tokenizer.prompt,
        },
        "pooling": {"mode": pooling, "normalised": normalised},
        "settings": config.model_dump(),
        "packages": versions(),
    }


def _continue(output: Path, made_by: dict[str, Any], choice: CpuChoice | None) -> CpuChoice | None:
    """Make sure that what is in ``output`` was ``made_by`` the same, and remove what a killed run left half-written.

    Returns how a model runs on the CPU: as it did for the parts that are there, else by ``choice``.
    """
    if (output / RECORD).is_file():
        before = read_json(output / RECORD, "record of embeddings")
        changed = [name for name in made_by if not isinstance(before, dict) or before.get(name) != made_by[name]]
        if not changed and choice is not None:
            try:
                choice = CpuChoice.model_validate(before.get("cpu"))
            except ValidationError:
                changed = ["cpu"]
    else:
        changed = ["its record, which is missing"] if any(output.glob("part-*.parquet")) else []
    if changed:
        raise InputError(
            f"{output} holds embeddings of another run: what differs is {', '.join(changed)}. Choose another folder, "
            "or remove this one."
        )
    write_json(output / RECORD, {**made_by, "cpu": None if choice is None else choice.model_dump()})
    _remove_half_written(output)
    return choice


def _remove_half_written(output: Path) -> None:
    for left in output.glob(".part-*.parquet.*.part"):
        left.unlink(missing_ok=True)


def _made_of(item: Item, record: dict[str, Any]) -> str:
    """What tells a part from one of the same name and size that was made from something else."""
    told = {name: value for name, value in item.items() if name != "file"}
    return hashlib.sha256(json.dumps([told, record], sort_keys=True).encode()).hexdigest()


def _is_whole(item: Item) -> bool:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        found = pq.read_metadata(item["file"])
        made_of = (found.metadata or {}).get(MADE_OF.encode(), b"").decode(errors="replace")
        return bool(found.num_rows == item["rows"] and made_of == item["made_of"])
    except (OSError, pa.ArrowInvalid):
        return False
