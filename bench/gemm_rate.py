"""How fast this CPU multiplies matrices in FP32 and in INT8, through OpenVINO on all cores.

    python bench/gemm_rate.py

Six GEMMs in a row, 1024 rows by 3072 by 3072, Q between them in INT8; medians of seven runs, the forms one by one.
"""

import statistics
import time

import numpy as np
import onnx_ir as ir

from calib8.graph.builder import GraphBuilder
from calib8.graph.weighted import weighted_ops
from calib8.passes.cpu_form import to_cpu_form
from calib8.passes.insert_qdq import insert_qdq
from calib8.passes.prepare import prepare
from calib8.runtime.openvino import OpenVinoRuntime

ROWS, CHANNELS, LAYERS, ROUNDS = 1024, 3072, 6, 7


def main() -> None:
    """Measure and print."""
    x = np.random.default_rng(0).standard_normal((ROWS, CHANNELS), np.float32)
    operations = 2 * LAYERS * ROWS * CHANNELS**2
    for kind in ("f32", "i8", "u8"):
        with OpenVinoRuntime(model(kind), integers=kind != "f32") as runtime:
            runtime.run({"x": x})
            seconds = []
            for _ in range(ROUNDS):
                start = time.perf_counter()
                runtime.run({"x": x})
                seconds.append(time.perf_counter() - start)
            used = {precision for layer, precision in runtime.executed() if layer == "FullyConnected"}
        print(f"{kind} (kernels: {', '.join(used)}): {operations / statistics.median(seconds) / 1e9:.0f} G/s")


def model(kind: str) -> ir.Model:
    """The chain, with activations in ``kind``."""
    random, g = np.random.default_rng(0), GraphBuilder()
    x = g.input("x", ir.DataType.FLOAT, "batch", CHANNELS)
    for layer in range(LAYERS):
        weight = random.standard_normal((CHANNELS, CHANNELS), np.float32) / np.float32(np.sqrt(CHANNELS))
        x = g.op("MatMul", x, g.constant(f"weight{layer}", weight), name=f"layer{layer}")
    chain = prepare(g.model(y=x))
    if kind == "f32":
        return chain
    ops = weighted_ops(chain)
    return to_cpu_form(insert_qdq(chain, ops, {op.activation.name: 4.0 for op in ops}), unsigned=kind == "u8")


if __name__ == "__main__":
    main()
