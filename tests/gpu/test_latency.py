"""Optimised for latency, GELU and Q are computed by the GEMM in front of them, on this GPU's TensorRT."""

from pathlib import Path

import pytest
from engines import build, layers_in, write_encoder, write_int8

import calib8
from calib8.engine.groups import group_of

pytest.importorskip("tensorrt", reason="needs pip install tensorrt")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("latency")
    write_encoder(folder, width=512)
    build(write_int8(folder, optimize="latency"), folder / "fast.engine", log=folder / "build.log")
    return folder


def test_it_computes_what_the_model_does(folder: Path) -> None:
    calib8.verify(folder / "model.onnx", folder / "fast.engine", folder / "data.npz", calib8.Verify(min_cosine=0.999))


def test_one_kernel_from_the_gemm_to_the_codes(folder: Path, measured) -> None:
    layers = layers_in(folder / "build.log")
    fused = [layer for layer in layers if any("Gelu" in node for node in layer.nodes)]
    measured(f"kernels with GELU: {[(layer.kind, layer.tactic, layer.outputs) for layer in fused]}")
    assert [(group_of(layer), layer.outputs[0].dtype) for layer in fused] == [("INT8 GEMM", "Int8")]
