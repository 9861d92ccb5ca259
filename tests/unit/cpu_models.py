"""A tiny INT8 encoder for CPU runtimes, and what a model of a file is opened as."""

from pathlib import Path

import onnx_ir as ir

from calib8.graph.io import load
from calib8.graph.weighted import weighted_ops
from calib8.passes.insert_qdq import insert_qdq
from calib8.passes.prepare import prepare
from calib8.runtime.cpu import open_cpu
from calib8.testing import tiny_encoder


def int8() -> ir.Model:
    model = prepare(tiny_encoder(vocabulary=32))
    ops = weighted_ops(model)
    return insert_qdq(model, ops, {op.activation.name: 4.0 for op in ops})


def description(model: Path, **options) -> str:
    with open_cpu(load(model), **options) as opened:
        return opened.description
