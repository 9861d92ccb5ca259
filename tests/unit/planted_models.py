"""A tiny model with one op that plain INT8 ruins, and what a search needs to know of it."""

from functools import cache

import numpy as np
import onnx_ir as ir

from calib8.calibration import one_pass
from calib8.calibration.config import Calibrate
from calib8.calibration.origin import origin_of
from calib8.data.inputs import Arrays
from calib8.data.sources import Batches
from calib8.graph.builder import GraphBuilder
from calib8.graph.dataset import dataset_for
from calib8.passes.prepare import prepare
from calib8.progress import Quiet
from calib8.quantization.case import Case
from calib8.quantization.config import Int8
from calib8.quantization.probe import Probe
from calib8.quantization.solve import ROWS

OPS = ["first", "second", "ruined", "last"]


def planted(outlier: float = 1000.0, *, name: str = "ruined") -> ir.Model:
    """``x`` [batch, 8] -> four MatMuls -> ``y`` [batch, 6]. One channel of what the third reads is huge, and unused."""
    g = GraphBuilder()
    x = g.input("x", ir.DataType.FLOAT, "batch", 8)
    loud = g.op("Mul", x, g.constant("loudness", [outlier, *[1.0] * 7]), name="loud")
    unused = g.random.normal(size=(8, 6)) / np.sqrt(8)
    unused[0] = 0
    own = [
        g.op("MatMul", x, g.weight("first.weight", 8, 6), name="first"),
        g.op("MatMul", g.op("Relu", x), g.weight("second.weight", 8, 6), name="second"),
        g.op("MatMul", loud, g.constant("ruined.weight", unused), name=name),
    ]
    hidden = g.op("Add", g.op("Add", own[0], own[1]), own[2])
    return g.model(y=g.op("MatMul", hidden, g.weight("last.weight", 6, 6), name="last"))


def feeds(count: int = 160) -> Arrays:
    return {"x": np.random.default_rng(2).normal(size=(count, 8)).astype(np.float32)}


@cache
def case(config: Int8, outlier: float = 1000.0, count: int = 160) -> Case:
    """The planted model, calibrated."""
    model, quiet = prepare(planted(outlier)), Quiet()
    data = dataset_for(model, Batches([feeds(count)]), quiet)
    found = one_pass.calibrate(model, data, Calibrate(), origin_of("m", "d", Calibrate()), quiet, sample=ROWS)
    return Case(model, found.ranges, found.statistics, config)


def attention() -> tuple[Case, Probe]:
    """Attention whose V has channels of very different sizes, calibrated for latency in FP16."""
    random, g = np.random.default_rng(4), GraphBuilder(19)
    x = g.input("x", ir.DataType.FLOAT, "batch", 6, 32)
    loud = random.normal(size=(32, 32)) * np.exp(random.normal(size=32) * 2)

    def heads(name: str, weight: ir.Value) -> ir.Value:
        own = g.op("Add", g.op("MatMul", x, weight, name=name), g.weight(f"{name}.bias", 32))
        parted = g.op("Reshape", own, g.constant(f"{name}.parted", [0, 0, 4, 8], np.int64))
        return g.op("Transpose", parted, perm=[0, 2, 1, 3])

    q, k, v = heads("q", g.weight("wq", 32, 32)), heads("k", g.weight("wk", 32, 32)), heads("v", g.constant("wv", loud))
    scores = g.op("Softmax", g.op("MatMul", q, g.op("Transpose", k, perm=[0, 1, 3, 2])), axis=-1)
    context = g.op("Transpose", g.op("MatMul", scores, v), perm=[0, 2, 1, 3])
    joined = g.op("Reshape", context, g.constant("joined", [0, 0, 32], np.int64))
    model = prepare(g.model(y=g.op("MatMul", joined, g.weight("wo", 32, 8), name="o")))
    config, quiet = Int8(optimize="latency", min_sqnr_db=0), Quiet()
    data = dataset_for(model, Batches([{"x": random.normal(size=(64, 6, 32)).astype(np.float32)}]), quiet)
    found = one_pass.calibrate(model, data, Calibrate(), origin_of("m", "d", Calibrate()), quiet, sample=ROWS)
    return Case(model, found.ranges, found.statistics, config), Probe(model, data)


def probe_of(model: ir.Model, count: int = 24) -> Probe:
    x = np.random.default_rng(3).normal(size=(count, 8)).astype(np.float32)
    return Probe(model, dataset_for(model, Batches([{"x": x}]), Quiet()))
