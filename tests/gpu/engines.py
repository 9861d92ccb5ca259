"""Engines that the installed TensorRT builds here, of a small encoder: FP16 and INT8."""

from pathlib import Path

import numpy as np
import onnx_ir as ir

import calib8
from calib8.engine.layers import Layer
from calib8.engine.layers_log import HEADER, layers_from_log
from calib8.testing import tiny_encoder, token_feeds

SHAPES = ("input_ids:1x1:8x16:8x32",)


def write_encoder(folder: Path, width: int = 64) -> Path:
    """``model.onnx``, and ``data.npz`` of 32 samples."""
    ir.save(tiny_encoder(vocabulary=64, width=width, positions=32), folder / "model.onnx")
    np.savez(folder / "data.npz", **token_feeds(*([3, 9, 17, 30] * 8), vocabulary=64))
    return folder / "model.onnx"


def write_int8(folder: Path, **options) -> Path:
    """``int8.onnx`` of what ``write_encoder`` wrote; by ranges alone, or with the data as ``options`` say."""
    model = calib8.load(folder / "model.onnx")
    ranges = calib8.calibrate(model, folder / "data.npz")
    data = folder / "data.npz" if options else None
    int8 = calib8.quantize(model, ranges, calib8.Int8(min_sqnr_db=0, **options), data=data)
    return calib8.save(int8, folder / "int8.onnx")


def build(model: Path, engine: Path, **options) -> Path:
    """With the full TensorRT, for the GPU here."""
    (built,) = calib8.build(model, engine, calib8.Build(**{"family": "tensorrt", "shapes": SHAPES, **options}))
    return built.path


def layers_in(log: Path) -> list[Layer]:
    """Of the last list in a builder's log, a file in which control characters are escaped."""
    text = log.read_text(errors="replace").replace("\\x1e", "\x1e").replace("\\x1f", "\x1f")
    return layers_from_log([text[text.rindex(HEADER) :]])
