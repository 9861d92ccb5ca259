"""Write a ResNet-50 of random weights as ONNX, and random images to calibrate it with: speed needs no trained weights.

    python bench/resnet50.py build/resnet50 [--samples 24]

    calib8 convert build/resnet50/model.onnx --data build/resnet50/calib.npz --optimize latency \
        --treatment plain --min-sqnr 0 -o build/resnet50/out

He et al., 2015 (arXiv:1512.03385), stride in the 3x3 as PyTorch has it, norms folded as its exporter does. What
accuracy a report tells of such a model means nothing.
"""

import argparse
from pathlib import Path

import numpy as np
import onnx_ir as ir

from calib8.graph.builder import GraphBuilder
from calib8.graph.io import save

#: Blocks and width of each stage; a block gives four times its width.
STAGES = ((3, 64), (4, 128), (6, 256), (3, 512))
EXPANSION, CLASSES, SIZE = 4, 1000, 224
#: The last convolution of a block is scaled down, or what residuals add up to would grow with every block.
LAST = 0.3


class ResNet(GraphBuilder):
    """The graph, part by part."""

    def conv(self, x: ir.Value, inputs: int, outputs: int, kernel: int, stride: int = 1, gain: float = 1.0) -> ir.Value:
        """He's weights, and a bias."""
        name = f"/Conv_{len(self.nodes)}"
        drawn = self.random.standard_normal((outputs, inputs, kernel, kernel), np.float32)
        weight = self.constant(f"{name}.weight", drawn * gain * np.sqrt(2 / (inputs * kernel**2)))
        bias = self.constant(f"{name}.bias", self.random.normal(0, 0.1, outputs))
        around = {"kernel_shape": [kernel] * 2, "strides": [stride] * 2, "pads": [kernel // 2] * 4}
        return self.op("Conv", x, weight, bias, name=name, **around)

    def block(self, x: ir.Value, inputs: int, width: int, stride: int) -> ir.Value:
        """1x1, 3x3, 1x1, and what went in."""
        y = self.op("Relu", self.conv(x, inputs, width, 1))
        y = self.op("Relu", self.conv(y, width, width, 3, stride))
        y = self.conv(y, width, width * EXPANSION, 1, gain=LAST)
        skipped = x if inputs == width * EXPANSION else self.conv(x, inputs, width * EXPANSION, 1, stride)
        return self.op("Relu", self.op("Add", y, skipped))


def resnet50() -> ir.Model:
    """``image`` float32 [batch, 3, 224, 224] to ``probabilities`` [batch, 1000]."""
    g = ResNet()
    x = g.op("Relu", g.conv(g.input("image", ir.DataType.FLOAT, "batch", 3, SIZE, SIZE), 3, 64, 7, 2))
    x = g.op("MaxPool", x, kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1])
    inputs = 64
    for stage, (blocks, width) in enumerate(STAGES):
        for number in range(blocks):
            x = g.block(x, inputs, width, 2 if stage and not number else 1)
            inputs = width * EXPANSION
    x = g.op("Flatten", g.op("GlobalAveragePool", x))
    x = g.op("Gemm", x, g.weight("/fc.weight", inputs, CLASSES), g.constant("/fc.bias", np.zeros(CLASSES)), name="/fc")
    return g.model(probabilities=g.op("Softmax", x))


def main() -> None:
    """Write both."""
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--samples", type=int, default=24)
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    save(resnet50(), options.folder / "model.onnx")
    images = np.random.default_rng(0).standard_normal((options.samples, 3, SIZE, SIZE), np.float32)
    np.savez(options.folder / "calib.npz", image=images)


if __name__ == "__main__":
    main()
