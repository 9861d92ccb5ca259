"""Write a BERT-large of random weights as ONNX, and random tokens to calibrate it with: speed needs no trained weights.

    python bench/bert_large.py build/bert-large [--layers 24] [--samples 24] [--length 32]

    calib8 convert build/bert-large/model.onnx --data build/bert-large/calib.npz --optimize latency \
        --treatment plain --min-sqnr 0 -o build/bert-large/out

24 layers, 1024 wide, 16 heads, 4096 between, GELU by Erf: names and ops as PyTorch exports it, less the pooler. What
accuracy a report tells of such a model means nothing.
"""

import argparse
from pathlib import Path

import numpy as np
import onnx_ir as ir

from calib8.graph.builder import GraphBuilder
from calib8.graph.io import save

WIDTH, HEADS, BETWEEN, WORDS, POSITIONS = 1024, 16, 4096, 30522, 512
#: What a masked position adds to its scores: FP16 holds it.
MASKED = -10000.0
#: Deviation of the weights of a BERT that is not trained.
DEVIATION = np.float32(0.02)


class Bert(GraphBuilder):
    """The graph, part by part."""

    def drawn(self, name: str, *shape: int) -> ir.Value:
        """A weight."""
        return self.constant(name, self.random.standard_normal(shape, np.float32) * DEVIATION)

    def linear(self, name: str, x: ir.Value, rows: int, columns: int) -> ir.Value:
        """x times a matrix, and a bias."""
        product = self.op("MatMul", x, self.drawn(f"{name}.weight.T", rows, columns), name=f"/{name}/MatMul")
        return self.op("Add", self.drawn(f"{name}.bias", columns), product, name=f"/{name}/Add")

    def norm(self, name: str, x: ir.Value) -> ir.Value:
        """Over the last axis."""
        scale, bias = self.constant(f"{name}.weight", np.ones(WIDTH)), self.constant(f"{name}.bias", np.zeros(WIDTH))
        return self.op("LayerNormalization", x, scale, bias, name=f"/{name}/LayerNormalization", axis=-1, epsilon=1e-12)

    def embeddings(self, ids: ir.Value) -> ir.Value:
        """Of words, positions, and the one kind of token."""
        words = self.op("Gather", self.drawn("embeddings.word_embeddings.weight", WORDS, WIDTH), ids)
        length = self.op("Slice", self.op("Shape", ids), *(self.constant(f"at{n}", [n], np.int64) for n in (1, 2)))
        table = self.drawn("embeddings.position_embeddings.weight", 1, POSITIONS, WIDTH)
        starts, axes = self.constant("start", [0], np.int64), self.constant("axis", [1], np.int64)
        positions = self.op("Slice", table, starts, length, axes)
        kind = self.drawn("embeddings.token_type_embeddings.weight", WIDTH)
        return self.norm("embeddings/LayerNorm", self.op("Add", self.op("Add", words, kind), positions))

    def attention(self, name: str, x: ir.Value, masked: ir.Value) -> ir.Value:
        """The heads' contexts, joined."""
        heads = self.constant(f"{name}.heads", [0, 0, HEADS, WIDTH // HEADS], np.int64)
        q, k, v = (
            self.op("Reshape", self.linear(f"{name}/{part}", x, WIDTH, WIDTH), heads)
            for part in ("query", "key", "value")
        )
        turned = self.op("Transpose", k, perm=[0, 2, 3, 1])
        scores = self.op("MatMul", self.op("Transpose", q, perm=[0, 2, 1, 3]), turned, name=f"/{name}/MatMul")
        scores = self.op("Div", scores, self.constant(f"{name}.root", np.sqrt(WIDTH / HEADS)))
        weights = self.op("Softmax", self.op("Add", scores, masked), axis=-1)
        context = self.op("MatMul", weights, self.op("Transpose", v, perm=[0, 2, 1, 3]), name=f"/{name}/MatMul_1")
        joined = self.constant(f"{name}.joined", [0, 0, WIDTH], np.int64)
        return self.op("Reshape", self.op("Transpose", context, perm=[0, 2, 1, 3]), joined)

    def layer(self, name: str, x: ir.Value, masked: ir.Value) -> ir.Value:
        """Attention and feed-forward, each with its residual and norm."""
        mixed = self.attention(f"{name}/attention/self", x, masked)
        mixed = self.linear(f"{name}/attention/output/dense", mixed, WIDTH, WIDTH)
        x = self.norm(f"{name}/attention/output/LayerNorm", self.op("Add", mixed, x))
        up = self.linear(f"{name}/intermediate/dense", x, WIDTH, BETWEEN)
        erf = self.op("Erf", self.op("Div", up, self.constant(f"{name}.root2", np.sqrt(2.0))))
        gelu = self.op("Mul", up, self.op("Add", erf, self.constant(f"{name}.one", 1.0)))
        gelu = self.op("Mul", gelu, self.constant(f"{name}.half", 0.5))
        down = self.linear(f"{name}/output/dense", gelu, BETWEEN, WIDTH)
        return self.norm(f"{name}/output/LayerNorm", self.op("Add", down, x))


def bert(layers: int) -> ir.Model:
    """``input_ids``, ``attention_mask``, int64 [batch, sequence], to ``last_hidden_state`` [batch, sequence, 1024]."""
    g = Bert()
    ids, mask = (g.input(name, ir.DataType.INT64, "batch", "sequence") for name in ("input_ids", "attention_mask"))
    kept = g.op("Cast", g.op("Unsqueeze", mask, g.constant("mask_axes", [1, 2], np.int64)), to=int(ir.DataType.FLOAT))
    masked = g.op("Mul", g.op("Sub", g.constant("one", 1.0), kept), g.constant("masked", MASKED))
    x = g.embeddings(ids)
    for number in range(layers):
        x = g.layer(f"encoder/layer.{number}", x, masked)
    return g.model(last_hidden_state=x)


def main() -> None:
    """Write both."""
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--layers", type=int, default=24)
    parser.add_argument("--samples", type=int, default=24)
    parser.add_argument("--length", type=int, default=32)
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    save(bert(options.layers), options.folder / "model.onnx")
    ids = np.random.default_rng(0).integers(1000, WORDS, (options.samples, options.length))
    np.savez(options.folder / "calib.npz", input_ids=ids, attention_mask=np.ones_like(ids))


if __name__ == "__main__":
    main()
