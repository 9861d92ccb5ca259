"""A model of text to speech in small: how long its output becomes is computed from values, and it draws at random."""

import onnx_ir as ir

from calib8.graph.builder import GraphBuilder


def speech_model(frames: float = 3.0) -> ir.Model:
    """``text`` [1, letters, 8] becomes ``sound`` [frames, 16]: each letter has as many frames as "durations" gives.

    frames: about how many a letter has.
    """
    g = GraphBuilder()
    text = g.input("text", ir.DataType.FLOAT, 1, "letters", 8)
    said = _gelu(g, g.op("MatMul", text, g.weight("we", 8, 8), name="encoder"))
    letters = g.op("Ceil", g.op("Mul", g.op("Sigmoid", g.op("MatMul", said, g.weight("wd", 8, 1), name="durations")),
                                g.constant("two", 2 * frames)))  # fmt: skip
    total = g.op("Cast", g.op("ReduceSum", letters, keepdims=0), to=int(ir.DataType.INT64))
    each = g.op("Range", g.constant("0", 0, "int64"), total, g.constant("1", 1, "int64"))
    wave = g.op("Sin", g.op("Cast", each, to=int(ir.DataType.FLOAT)))
    mean = g.op("ReduceMean", said, axes=[0, 1], keepdims=0)  # [8]
    spread = g.op("Mul", g.op("Unsqueeze", wave, g.constant("last", [1], "int64")), mean)
    noisy = g.op("Add", spread, g.op("RandomNormalLike", spread, name="noise"))
    sound = g.op("MatMul", noisy, g.weight("w1", 8, 16), name="flow")
    return g.model(sound=g.op("MatMul", _gelu(g, sound), g.weight("w2", 16, 16), name="decoder"))


def _gelu(g: GraphBuilder, x: ir.Value) -> ir.Value:
    name = f"gelu{len(g.nodes)}"
    plus = g.op("Add", g.op("Erf", g.op("Mul", x, g.constant(f"{name}.root", 0.5**0.5))), g.constant(f"{name}.one", 1))
    return g.op("Mul", g.op("Mul", x, plus), g.constant(f"{name}.half", 0.5), name=name)
