"""A model repository, written whole or not at all.

Layout: Triton's user guide, model_repository. Of a text encoder::

    <output>/calib8-triton.json           what it was made from, the Triton it needs, and a hash of each file
    <output>/<name>/config.pbtxt          the ensemble: text in, vectors out
    <output>/<name>_tokeniser/1/          model.py and tokenizer.json
    <output>/<name>_encoder/1/            model.plan or model.onnx
    <output>/<name>_pooling/1/            model.py

and of any other model, ``<name>/1/`` with the model alone.
"""

import re
import shutil
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from calib8.engine.sidecar import sidecar_path
from calib8.errors import ModelError
from calib8.files import atomic_folder, require_file, sha256_file, write_text
from calib8.graph.io import save
from calib8.progress import Progress, Quiet
from calib8.runtime.forms import in_form
from calib8.serving.triton import configs
from calib8.serving.triton.batches import Batches, batches_of
from calib8.serving.triton.config import Triton
from calib8.serving.triton.marker import Marker, hashes, require_replaceable
from calib8.serving.triton.pbtxt import Message, render
from calib8.serving.triton.served import TEXT_INPUTS, Served, served_of
from calib8.text.sentence import pooling_of, text_tokenizer
from calib8.text.tokenizer import TextTokenizer


@dataclass(frozen=True)
class TritonRepository:
    """The model repository that was written.

    ``width`` is that of the vectors that come out for text, None for a model without a tokenizer.
    ``needs`` says which Triton loads it.
    """

    folder: Path
    name: str
    models: tuple[str, ...]
    max_batch: int
    width: int | None
    needs: str


@dataclass(frozen=True)
class _Text:
    """What a text encoder adds to the model."""

    tokenizer: TextTokenizer
    pooling: str
    normalise: bool


def export_triton(
    artefact: Path | str,
    output: Path | str,
    config: Triton | None = None,
    *,
    tokenizer: Path | str | None = None,
    progress: Progress | None = None,
) -> TritonRepository:
    """Write a model repository for Triton Inference Server to the folder ``output``, whole or not at all.

    artefact: an engine of TensorRT, or an ONNX model for Triton's ONNX Runtime.
    tokenizer: a folder; beside the artefact if None. With one, a text encoder takes text (``TYPE_STRING`` [batch, 1])
        and gives what ``embed`` does (``TYPE_FP32`` [batch, width]). Any other model is exported alone.

    Raises ``InputError`` if ``output`` holds what calib8 did not write or what was edited since, or if Triton cannot
    run the artefact; ``ProfileError`` if Triton could form batches that no optimisation profile takes.

    Example:

        >>> repository = calib8.export_triton("model.int8.onnx", "repository", calib8.Triton(name="tiny"))
        >>> sorted(repository.models)
        ['tiny', 'tiny_encoder', 'tiny_pooling', 'tiny_tokeniser']
    """
    artefact, output, config, progress = Path(artefact), Path(output), Triton.of(config), progress or Quiet()
    require_file(artefact, "model or engine")
    require_replaceable(output)
    served = served_of(artefact, config.device, config.vnni)
    text = _text(artefact, served, Path(tokenizer) if tokenizer is not None else None, progress)
    batches = batches_of(served, config, text=text is not None)
    name = config.name or re.sub(r"[^A-Za-z0-9_-]", "_", artefact.stem)
    models = _models(name, served, text, batches, config)
    hidden = served.hidden if text is not None else None
    repository = TritonRepository(
        folder=output,
        name=name,
        models=tuple(models),
        max_batch=batches.largest,
        width=configs.width_of(hidden) if hidden is not None else None,
        needs=served.needs,
    )
    progress.update("export", 0, 1)
    with atomic_folder(output) as folder:
        for own, message in models.items():
            (folder / own / "1").mkdir(parents=True)
            write_text(folder / own / "config.pbtxt", render(message))
        home = folder / (f"{name}_encoder" if text is not None else name) / "1"
        _write_model(artefact, served, home)
        if text is not None:
            _write_steps(folder, name, text)
            write_text(folder / name / "1" / ".keep", "")  # a version without files, which object stores would lose
        Marker(
            name=name,
            models=repository.models,
            needs=served.needs,
            made_from=artefact.name,
            sha256=sha256_file(artefact),
            files=hashes(folder),
        ).write(folder)
    progress.update("export", 1, 1)
    return repository


def _text(artefact: Path, served: Served, tokenizer: Path | None, progress: Progress) -> _Text | None:
    """The tokenizer's part, or None for a model that is no text encoder. Raises ``ModelError`` if it should be one."""
    folder = tokenizer if tokenizer is not None else artefact.parent
    if not served.takes_tokens:
        if tokenizer is not None:
            names = ", ".join(tensor.name for tensor in served.inputs)
            raise ModelError(
                f"{artefact} is no text encoder: expected the inputs {', '.join(TEXT_INPUTS[:2])} and an output "
                f"[batch, sequence, width], got the inputs {names}. Leave out the tokenizer to export the model alone."
            )
        return None
    if tokenizer is None and not (folder / "tokenizer.json").is_file():
        progress.note(f"no tokenizer.json beside {artefact}: the model is exported alone, and takes tokens")
        return None
    pooling, normalise = pooling_of(folder)
    return _Text(text_tokenizer(folder, served.lengths[1]), pooling, normalise)


def _models(name: str, served: Served, text: _Text | None, batches: Batches, config: Triton) -> dict[str, Message]:
    """Name -> config of every model in the repository."""
    hidden = served.hidden
    if text is None or hidden is None:
        return {name: configs.model_config(name, served, batches, config)}
    steps = (f"{name}_tokeniser", f"{name}_encoder", f"{name}_pooling")
    shortest, longest = served.lengths
    tokens = {
        "max_length": text.tokenizer.max_length,
        "min_length": shortest,
        "longest": longest or text.tokenizer.max_length,
        "pad_to": config.pad_to,
        "pad_id": text.tokenizer.pad_id,
        "lower_case": int(text.tokenizer.lower),
        "prompt": text.tokenizer.prompt,
    }
    pooling = {"pooling": text.pooling, "normalise": int(text.normalise)}
    return {
        name: configs.ensemble_config(name, steps, served, hidden, batches),
        steps[0]: configs.tokeniser_config(steps[0], served, batches, tokens),
        steps[1]: configs.model_config(steps[1], served, batches, config),
        steps[2]: configs.pooling_config(steps[2], served, hidden, batches, pooling),
    }


def _write_model(artefact: Path, served: Served, home: Path) -> None:
    """The engine with its sidecar, or the model in the form that its device computes fastest."""
    target = home / served.file
    if served.model is None:
        shutil.copyfile(artefact, target)
        shutil.copyfile(sidecar_path(artefact), sidecar_path(target))
        return
    form = served.model
    if served.device == "cpu":
        # uint8 activations: of int8 ones ONNX Runtime on x86 puts a part in float
        form = in_form(form, "u8u8" if served.vnni is False else "u8")
    save(form, target)


def _write_steps(folder: Path, name: str, text: _Text) -> None:
    for step in ("tokeniser", "pooling"):
        source = files("calib8.serving.triton.steps").joinpath(f"{step}.py").read_text(encoding="utf-8")
        write_text(folder / f"{name}_{step}" / "1" / "model.py", source)
    shutil.copyfile(text.tokenizer.path, folder / f"{name}_tokeniser" / "1" / "tokenizer.json")
