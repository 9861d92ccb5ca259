"""Options that several commands share, each defined once."""

import os
from pathlib import Path
from typing import Annotated

import typer

import calib8
from calib8.cli.fields import Of, Only
from calib8.runtime.names import CpuRuntime


def _use_device(device: int | None) -> int | None:
    """Let this process see that GPU alone, so that all of CUDA, TensorRT and NVML agree on it."""
    from calib8.gpu.hardware import alone, gpus, numbered
    from calib8.gpu.visible import VISIBLE

    if device is not None:
        present = gpus()
        os.environ[VISIBLE] = alone(numbered(present, device) if present else None, device)
    return device


#: What is quantised to, and how ops are chosen and quantised.
Quantize = Annotated[
    calib8.Quantize,
    Only(
        "precision",
        "include",
        "exclude",
        "min_sqnr_db",
        "remainder",
        "embedding",
        "treatment",
        "optimize",
        "output_kinds",
    ),
]
Pairs = Annotated[Path | None, Of(calib8.Convert, "pairs")]
Sentences = Annotated[bool, Of(calib8.Convert, "sentences")]
Device = Annotated[
    int | None,
    typer.Option(min=0, callback=_use_device, help="GPU to use, as CUDA counts those that CUDA_VISIBLE_DEVICES shows."),
]
Report = Annotated[Path | None, typer.Option("--output", "-o", help="Also write the report: JSON, and HTML beside it.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print results and errors only.")]
RayAddress = Annotated[str | None, Of(calib8.Ray, "address")]
RayCpus = Annotated[int, Of(calib8.Ray, "cpus")]
Runtime = Annotated[CpuRuntime, Of(calib8.Corpus, "runtime")]
Tokenizer = Annotated[Path | None, typer.Option(help="Folder with tokenizer.json; default: beside the model.")]
Monitor = Annotated[
    bool, typer.Option("--monitor", help="Watch the GPU through NVML, and keep the timeline beside the output.")
]
Profile = Annotated[bool, Of(calib8.Bench, "profile")]
Data = Annotated[Path, typer.Option(help="Folder with one <input name>.npy per model input, or an .npz file.")]
HeldOut = Annotated[Path, typer.Option("--data", "--text", help="Arrays, or a .txt file of sentences.")]
DataOrText = Annotated[
    Path,
    typer.Option(
        "--data",
        "--text",
        help="Folder with one <input name>.npy per model input, an .npz file, or a .txt file of sentences, for which "
        "tokenizer.json must be beside the model.",
    ),
]
