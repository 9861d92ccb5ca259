"""Run under an emulated CPU: what the canary finds there, and how models come out that calib8 opens by its own choice.

    qemu-x86_64 -cpu Haswell python tests/unit/emulated.py

Prints one JSON document. With ``--table`` every runtime, form and kind of op as a table, for bench/results: of the
kinds that are named behind it. Products and convolutions want a process each, since OpenVINO settles once whether it
has AMX.
"""

import json
import sys

import numpy as np
import onnx_ir as ir

from calib8.graph.builder import GraphBuilder
from calib8.graph.weighted import weighted_ops
from calib8.passes.insert_qdq import insert_qdq
from calib8.passes.prepare import prepare
from calib8.runtime import processor
from calib8.runtime.canary import KINDS, kinds_of, question, wrong
from calib8.runtime.choice import by_rule
from calib8.runtime.cpu import open_cpu
from calib8.runtime.forms import PRODUCTS
from calib8.runtime.names import NAMES
from calib8.testing import outputs_of, tiny_convnet, tiny_mlp


def depthwise() -> ir.Model:
    """``image`` [batch, 3, 8, 8] -> Conv, depthwise Conv, Conv in 2 groups -> ``y``."""
    g = GraphBuilder()
    x = g.op("Conv", g.input("image", ir.DataType.FLOAT, "batch", 3, 8, 8), g.weight("a", 8, 3, 3, 3))
    x = g.op("Conv", x, g.weight("b", 8, 1, 3, 3), group=8)
    return g.model(y=g.op("Conv", x, g.weight("c", 4, 4, 3, 3), group=2))


def table(kinds: list[str]) -> None:
    print(f"{processor.identity()['units']}\n")
    for runtime, name in NAMES.items():
        print(f"{name} {processor.version_of(runtime)}")
        for form in ("s8", "u8", "u8u8"):
            for kind in (kind for kind in KINDS if kind in kinds):
                answer = wrong(runtime, form, (kind,))
                said = "exact" if answer is None else f"WRONG: {answer}"
                print(f"    {PRODUCTS[form]:8} {kind:14} {said}", flush=True)


def document() -> dict[str, object]:
    random, models = np.random.default_rng(0), {}
    for make, name, shape in (
        (tiny_mlp, "x", (2, 4)),
        (tiny_convnet, "image", (2, 3, 8, 8)),
        (depthwise, "image", (2, 3, 8, 8)),
    ):
        model, feeds = prepare(make()), {name: random.uniform(-4, 4, shape).astype(np.float32)}
        ops = weighted_ops(model)
        insert_qdq(model, ops, {op.activation.name: 4.0 for op in ops})
        with open_cpu(model) as opened:
            error = np.abs(opened.run(feeds)["y"] - outputs_of(model, feeds)["y"]).max()
            models[make.__name__] = {"error": float(error), "ran_in": opened.description, "kinds": kinds_of(model)}
    exact = {}
    for kind in KINDS:
        model, feeds, expected = question(kind)
        with open_cpu(model) as opened:
            got = opened.run(feeds)
        choice = by_rule(model, "auto", 1)
        right = all(np.array_equal(got[name], array) for name, array in expected.items())
        exact[kind] = {"runtime": choice.runtime, "form": choice.form, "right": right}
    named = wrong("openvino", "s8", KINDS)
    return {
        "vnni": processor.has_vnni(),
        "units": processor.identity()["units"].split(),
        "models": models,
        "chosen": exact,
        "openvino_s8": str(named) if named else None,
    }


if __name__ == "__main__":
    if sys.argv[1:2] == ["--table"]:
        table(sys.argv[2:] or list(KINDS))
    else:
        print(json.dumps(document()))
