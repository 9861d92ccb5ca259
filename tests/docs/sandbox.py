"""Folders in which the documentation's snippets run: small models where a reader has large ones.

A page finds in its folder what its commands name: ``model.onnx``, ``calib_data``, ``held_out.npz``, ``held_out.txt``,
``models/all-mpnet-base-v2``, ``build/mpnet``, ``examples``, and so on. The encoder has MPNet's inputs and positions.
"""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import onnx_ir as ir
from snippets import ROOT
from tokenizers import Tokenizer, models, pre_tokenizers, processors

import calib8
from calib8.graph.builder import GraphBuilder
from calib8.testing import tiny_encoder
from tensorrt_cache import tensorrt_cache

#: Words that the tokenizer knows; others are ``<unk>``.
WORDS = 500
TEXTS = {"calibration": 64, "held_out": 24}


def encoder(folder: Path) -> None:
    """A sentence encoder of one layer, its tokenizer beside it, converted once, and texts."""
    texts = _examples(folder / "examples")
    model = folder / "models" / "all-mpnet-base-v2"
    fetched(model.name, model)
    shutil.copytree(model, folder, dirs_exist_ok=True)
    for name, lines in texts.items():
        (folder / f"{name}.txt").write_text("\n".join(lines), encoding="utf-8")
    (folder / "sentences.txt").write_text("\n".join(texts["calibration"]), encoding="utf-8")
    calib8.prepare([folder / "calibration.txt"], folder, folder / "calib_data")
    calib8.prepare([folder / "held_out.txt"], folder, folder / "held_out")
    arrays = {path.stem: np.load(path) for path in (folder / "held_out").glob("*.npy")}
    np.savez(folder / "held_out.npz", **arrays)
    chosen = calib8.Convert(held_out=folder / "held_out.txt", build=calib8.Build(targets="sm86"))
    built = folder / "build" / "mpnet"
    calib8.convert(model / "model.onnx", folder / "calib_data", built, chosen)
    shutil.copy(built / "model.int8.onnx", folder)
    for path in built.glob("*.engine*"):
        shutil.copy(path, folder / ("model-int8.engine" + path.suffix.removeprefix(".engine")))
    _corpus(folder, texts["held_out"])


def steps(folder: Path) -> None:
    """What the examples in docstrings name: the encoder and its texts, and what each step but the engine made of it."""
    fetched("all-mpnet-base-v2", folder / "models")
    shutil.copytree(folder / "models", folder, dirs_exist_ok=True)
    for name, lines in _examples(folder / "examples").items():
        (folder / f"{name}.txt").write_text("\n".join(lines), encoding="utf-8")
    calib8.prepare([folder / "calibration.txt"], folder, folder / "calib_data")
    calib8.prepare([folder / "held_out.txt"], folder, folder / "held_out")
    data, ranges = folder / "calib_data", folder / "ranges.json"
    calib8.calibrate(folder / "model.onnx", data, output=ranges, cache=folder / "calibration.cache")
    calib8.quantize_file(folder / "model.onnx", ranges, folder / "model.int8.onnx", data=data)


def cnn(folder: Path) -> None:
    """A CNN of three layers, images, and the cache that TensorRT's calibrator would have left."""
    images = np.random.default_rng(0).normal(size=(48, 3, 64, 64)).astype(np.float32)
    ir.save(_convnet(), folder / "model.onnx")
    (folder / "calib_data").mkdir()
    np.save(folder / "calib_data" / "images.npy", images[:32])
    np.savez(folder / "held_out.npz", images=images[32:])
    cache = tensorrt_cache(folder / "model.onnx", {"images": images[:32]})
    cache = re.sub("flat_out: .*\n", "", cache)  # as TensorRT often does
    (folder / "calibration.cache").write_text(cache)


def fetched(name: str, to: Path) -> None:
    """In place of ``calib8 fetch NAME --to TO``, which needs the network: a small model with the inputs of that one."""
    to.mkdir(parents=True)
    if name == "PP-OCRv4-det":
        ir.save(_detector(), to / "model.onnx")
    else:
        _sentence_model(to, (ROOT / "examples" / "mpnet" / "calibration.txt").read_text(encoding="utf-8").splitlines())


def _examples(folder: Path) -> dict[str, list[str]]:
    """A copy of examples/ with fewer texts; returns these."""
    shutil.copytree(ROOT / "examples", folder)
    kept = {}
    for name, count in TEXTS.items():
        path = folder / "mpnet" / f"{name}.txt"
        lines = path.read_text(encoding="utf-8").splitlines()
        kept[name] = lines[:: len(lines) // count][:count]
        path.write_text("\n".join(kept[name]), encoding="utf-8")
    return kept


def _sentence_model(folder: Path, texts: list[str]) -> None:
    """``model.onnx`` and the files of sentence-transformers: mean pooling, normalised."""
    seen = sorted({word for text in texts for word in re.findall(r"\w+", text)})[: WORDS - 4]
    vocabulary = {word: number for number, word in enumerate(["<pad>", "<s>", "</s>", "<unk>", *seen])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    ends = [("<s>", 1), ("</s>", 2)]
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A </s>", special_tokens=ends)
    tokenizer.save(str(folder / "tokenizer.json"))
    for name in ("modules.json", "1_Pooling/config.json"):
        (folder / name).parent.mkdir(exist_ok=True)
    kinds = {"Transformer": "", "Pooling": "1_Pooling", "Normalize": "2_Normalize"}
    modules = [
        {"idx": number, "name": str(number), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for number, (kind, path) in enumerate(kinds.items())
    ]
    (folder / "modules.json").write_text(json.dumps(modules))
    (folder / "1_Pooling" / "config.json").write_text(json.dumps({"pooling_mode_mean_tokens": True}))
    ir.save(tiny_encoder(vocabulary=WORDS, width=64, positions=384, heads=4), folder / "model.onnx")


def _corpus(folder: Path, texts: list[str]) -> None:
    """``corpus.parquet``, ``more.jsonl`` and ``notes.txt``."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.table({"text": texts}), folder / "corpus.parquet")
    (folder / "more.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    (folder / "notes.txt").write_text("\n".join(texts), encoding="utf-8")


def _convnet() -> ir.Model:
    """``images`` [batch, 3, 64, 64] -> two Convs -> mean -> Gemm -> ``y`` [batch, 16]."""
    g = GraphBuilder()
    x = g.input("images", ir.DataType.FLOAT, "batch", 3, 64, 64)
    for name, *shape in (("stem", 32, 3, 3, 3), ("body", 64, 32, 3, 3)):
        x = g.op("Relu", g.op("Conv", x, g.weight(f"{name}.weight", *shape), name=name, strides=[2, 2]))
    x = g.op("Flatten", g.op("GlobalAveragePool", x, name="pool"), name="flat")
    return g.model(y=g.op("Gemm", x, g.weight("head.weight", 64, 16), name="head"))


def _detector() -> ir.Model:
    """``x`` [batch, 3, height, width] -> two Convs -> ``y`` [batch, 1, height, width], as a text detector has them."""
    g = GraphBuilder()
    x = g.input("x", ir.DataType.FLOAT, "batch", 3, "height", "width")
    x = g.op("Relu", g.op("Conv", x, g.weight("stem.weight", 16, 3, 3, 3), name="stem", pads=[1, 1, 1, 1]))
    x = g.op("Conv", x, g.weight("head.weight", 1, 16, 1, 1), name="head")
    return g.model(y=g.op("Sigmoid", g.op("Mul", x, g.constant("sharp", 30.0))))  # few cells lie near 0.5


SANDBOXES = {"encoder": encoder, "cnn": cnn, "steps": steps}
