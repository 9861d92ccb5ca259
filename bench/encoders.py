"""The rows of bench/throughput.py: one way each to turn texts into vectors, in a process of its own.

    PYTHON bench/encoders.py NAME settings.json

PYTHON is one that has the row's tool; nothing else is needed there. ``settings.json`` names the models, the texts and a
folder to work in. The process makes its model there, unless it has made that of the same inputs before, loads it,
embeds all texts once, answers with one line of JSON, and then embeds a set of texts for every line that names one,
answering with the seconds that took, text in, vectors out; then it writes those vectors.

sentence-transformers is called as its documentation says, batches of 32. What has no encoder of its own (ONNX Runtime,
OpenVINO) gets calib8's: the same tokeniser, batches sorted by length and little padding; one run at a time, as those
tools are used.
"""

import hashlib
import json
import os
import shutil
import sys
import time
from collections.abc import Callable
from contextlib import redirect_stdout
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from quantisers import versions

sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]  # as calib8.telemetry does

Vectors = NDArray[np.float32]
Encode = Callable[[list[str]], Vectors]
Settings = dict[str, Any]
#: Whose versions are kept.
TOOLS = ("calib8", "sentence-transformers", "torch", "optimum-intel", "optimum-onnx", "nncf", "openvino", "onnxruntime")


@dataclass(frozen=True)
class Encoder:
    """A row: its title, the package whose Python it needs, and what opens it."""

    title: str
    package: str
    open: Callable[[Settings], Encode]


def calib8_int8(settings: Settings, *, tuned: bool = False) -> Encode:
    """What ``calib8 embed`` does with the INT8 model; ``tuned``: after ``calib8 tune`` on a tenth of the texts."""
    work, model = Path(settings["work"]), Path(settings["int8"])
    os.environ["CALIB8_CACHE"] = str(work / ("cache" if tuned else "no-cache"))
    if tuned:
        import calib8

        texts = [text for kind in settings["texts"].values() for text in kind[::10]]
        (work / "tune.txt").write_text("\n".join(texts) + "\n", encoding="utf-8")
        calib8.tune(model, work / "tune.txt", tokenizer=settings["fp32"])
    return _own(settings, model, "auto", throughput=True)


def onnxruntime_fp32(settings: Settings) -> Encode:
    """The FP32 model in ONNX Runtime."""
    return _own(settings, Path(settings["fp32"]) / "model.onnx", "onnxruntime")


def onnxruntime_dynamic(settings: Settings) -> Encode:
    """``quantize_dynamic`` with its defaults."""
    from onnxruntime.quantization import quantize_dynamic

    model = str(Path(settings["fp32"]) / "model.onnx")
    folder = _made(settings, "dynamic", lambda folder: quantize_dynamic(model, str(folder / "model.onnx")))
    return _own(settings, folder / "model.onnx", "onnxruntime")


def openvino_fp32(settings: Settings) -> Encode:
    """The FP32 model in OpenVINO, computed in FP32."""
    return _own(settings, Path(settings["fp32"]) / "model.onnx", "openvino")


def _own(settings: Settings, model: Path, runtime: Any, *, throughput: bool = False) -> Encode:
    from calib8.runtime.open import open_artefact
    from calib8.text.sentence import SentenceEncoder

    opened = open_artefact(model, runtime, throughput=throughput)
    settings["description"] = opened.description
    return SentenceEncoder(Path(settings["fp32"]), opened).embed


def sentence_transformers(
    settings: Settings,
    *,
    backend: str = "torch",
    file: str | None = None,
    quantise: Callable[[Path], None] | None = None,
) -> Encode:
    """``SentenceTransformer.encode`` with its defaults."""
    from sentence_transformers import SentenceTransformer

    def make(folder: Path) -> None:
        shutil.copytree(settings["pytorch"], folder, dirs_exist_ok=True)
        if backend != "torch":
            SentenceTransformer(str(folder), backend=backend, device="cpu").save_pretrained(str(folder))
        if quantise is not None:
            quantise(folder)

    options: Settings = {"model_kwargs": {"file_name": file}} if file else {}
    folder = _made(settings, f"model-{backend}{'-int8' if quantise else ''}", make)
    model = SentenceTransformer(str(folder), backend=backend, device="cpu", **options)
    return partial(model.encode, show_progress_bar=False)


def sentence_transformers_openvino_int8(settings: Settings) -> Encode:
    """Its own static INT8 through OpenVINO's NNCF, calibrated with the sentences that calib8's model was."""

    def quantise(folder: Path) -> None:
        from sentence_transformers import SentenceTransformer, export_static_quantized_openvino_model

        sentences = folder / "sentences"
        sentences.mkdir()
        lines = [json.dumps({"sentence": text}) for text in settings["calibration"]]
        (sentences / "train.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
        model = SentenceTransformer(str(folder), backend="openvino", device="cpu")
        export_static_quantized_openvino_model(
            model,
            None,
            str(folder),
            dataset_name=str(sentences),
            dataset_config_name="default",
            dataset_split="train",
            column_name="sentence",
        )

    file = Path("openvino") / "openvino_model_qint8_quantized.xml"
    return sentence_transformers(settings, backend="openvino", file=str(file), quantise=quantise)


def sentence_transformers_onnx_int8(settings: Settings) -> Encode:
    """Its own dynamic INT8 through ONNX Runtime, for CPUs with VNNI."""

    def quantise(folder: Path) -> None:
        from sentence_transformers import SentenceTransformer, export_dynamic_quantized_onnx_model

        model = SentenceTransformer(str(folder), backend="onnx", device="cpu")
        export_dynamic_quantized_onnx_model(model, "avx512_vnni", str(folder))

    file = Path("onnx") / "model_qint8_avx512_vnni.onnx"
    return sentence_transformers(settings, backend="onnx", file=str(file), quantise=quantise)


def _made(settings: Settings, name: str, make: Callable[[Path], object]) -> Path:
    """A folder that ``make`` filled: now, or before, if its files are all as they were left then."""
    folder = Path(settings["made"]) / name
    record = folder.with_name(f"{name}.sha256")
    if not record.is_file() or record.read_text(encoding="ascii") != contents(folder):
        record.unlink(missing_ok=True)
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        make(folder)
        record.write_text(contents(folder), encoding="ascii")
    return folder


def contents(folder: Path) -> str:
    """SHA-256 of the names and bytes of all files in ``folder``."""
    digest = hashlib.sha256()
    for path in sorted(file for file in folder.rglob("*") if file.is_file()):
        digest.update(f"{path.relative_to(folder)}|{path.stat().st_size}|".encode())
        with path.open("rb") as stream:
            while block := stream.read(2**20):
                digest.update(block)
    return digest.hexdigest()


def made_in(settings: Settings) -> Path:
    """The folder of what tools make of these models and calibration texts, in these versions of theirs."""
    inputs = [
        settings["calibration"],
        versions(*TOOLS),
        *(contents(Path(settings[name])) for name in ("fp32", "pytorch")),
    ]
    return Path(settings["work"]) / hashlib.sha256(json.dumps(inputs).encode()).hexdigest()[:16]


ENCODERS = {
    "calib8": Encoder("calib8 INT8", "calib8", calib8_int8),
    "calib8-tuned": Encoder("calib8 INT8, tuned", "calib8", partial(calib8_int8, tuned=True)),
    "ort-fp32": Encoder("ONNX Runtime FP32", "calib8", onnxruntime_fp32),
    "ort-dynamic": Encoder("ONNX Runtime dynamic INT8", "calib8", onnxruntime_dynamic),
    "openvino-fp32": Encoder("OpenVINO FP32", "calib8", openvino_fp32),
    "st-torch": Encoder("sentence-transformers FP32 (PyTorch)", "sentence-transformers", sentence_transformers),
    "st-openvino": Encoder(
        "sentence-transformers OpenVINO", "optimum-intel", partial(sentence_transformers, backend="openvino")
    ),
    "st-openvino-int8": Encoder(
        "sentence-transformers OpenVINO INT8", "optimum-intel", sentence_transformers_openvino_int8
    ),
    "st-onnx-int8": Encoder("sentence-transformers ONNX INT8", "optimum-onnx", sentence_transformers_onnx_int8),
}


def main() -> None:
    """Serve until standard input ends; what tools print goes to standard error."""
    encoder, settings = ENCODERS[sys.argv[1]], json.loads(Path(sys.argv[2]).read_text(encoding="utf-8"))
    settings["made"] = str(made_in(settings))
    Path(settings["made"]).mkdir(exist_ok=True)
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    with redirect_stdout(sys.stderr):
        encode = encoder.open(settings)
        for texts in settings["texts"].values():
            encode(texts)
        ready = {"runtime": settings.get("description", ""), "versions": versions(*TOOLS)}
        answers.write(json.dumps(ready) + "\n")
        for line in sys.stdin:
            kind = line.strip()
            start, worked = time.perf_counter(), time.process_time()
            vectors = encode(settings["texts"][kind])
            taken = {"seconds": time.perf_counter() - start, "cpu_seconds": time.process_time() - worked}
            np.save(Path(settings["work"]) / f"{sys.argv[1]}-{kind}.npy", np.asarray(vectors, np.float32))
            answers.write(json.dumps(taken) + "\n")


if __name__ == "__main__":
    main()
