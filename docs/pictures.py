"""The pictures of docs/int8.md, from the real calibration of MPNet that `make demo` leaves.

python docs/pictures.py models/all-mpnet-base-v2/model.onnx build/mpnet    write docs/pictures/*.svg; needs matplotlib
"""

import sys
from pathlib import Path

import matplotlib as mpl
import numpy as np
import onnx_ir as ir
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from calib8.calibration.ranges import Ranges
from calib8.graph.io import load
from calib8.numerics import LEVELS, quantize, scale_of
from calib8.quantization.quant_plan import QuantPlan
from calib8.testing import outputs_of
from calib8.text.tokenizer import TextTokenizer

ROOT = Path(__file__).resolve().parent.parent
PICTURES, TEXTS = ROOT / "docs" / "pictures", ROOT / "examples" / "mpnet" / "held_out.txt"
#: Node that reads a tensor -> what to call that tensor.
KINDS = {
    "attn/q/MatMul": "into attention (Q, K, V)",
    "attn/o/MatMul": "out of attention",
    "intermediate/dense/MatMul": "into feed-forward 1",
    "output/dense/MatMul": "into feed-forward 2 (GELU output)",
}
#: The op whose codes are counted: the one that reaches farthest.
HARD = "/encoder/layer.7/output/dense/MatMul"


def main(model: Path, built: Path) -> None:
    """Draw every picture."""
    mpl.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "calib8", "font.size": 10, "axes.grid": True})
    mpl.rcParams.update({"axes.axisbelow": True, "grid.color": "#dddddd"})
    PICTURES.mkdir(exist_ok=True)
    ranges, plan = Ranges.load(built / "ranges.json"), QuantPlan.load(built / "plan.json")
    save("ranges", draw_ranges, ranges, plan)
    save("kept", draw_kept, plan)
    rows, codes = activations(model, built / "model.int8.onnx")
    amax = ranges.tensors[next(op.input for op in plan.ops if op.node == HARD)].amax
    save("channels", draw_channels, rows)
    save("codes", draw_codes, quantize(rows, scale_of(amax)), codes)


def draw_ranges(axes: Axes, ranges: Ranges, plan: QuantPlan) -> None:
    """How far each tensor reaches, and how large a typical row of it is."""
    for colour, (ending, title) in zip(("C0", "C2", "C4", "C3"), KINDS.items(), strict=True):
        tensors = [ranges.tensors[op.input] for op in ops_of(plan, ending)]
        layers = np.arange(len(tensors)) + 1
        axes.plot(layers, [tensor.amax for tensor in tensors], "o-", color=colour, label=title)
        axes.plot(layers, [tensor.typical for tensor in tensors], "o:", color=colour, markersize=3)
    axes.set(yscale="log", xlabel="layer", ylabel="absolute value (log scale)", xticks=range(1, 13))
    axes.set_title("MPNet's activations: largest value (solid) and a typical token's RMS (dotted)", fontsize=10)
    axes.legend(fontsize=8, ncols=2, loc="upper center", bbox_to_anchor=(0.5, -0.16))


def draw_kept(axes: Axes, plan: QuantPlan) -> None:
    """What is left of every op's output after quantisation."""
    for colour, (ending, title) in zip(("C0", "C2", "C4", "C3"), KINDS.items(), strict=True):
        kept = [op.sqnr_db or np.nan for op in ops_of(plan, ending)]
        axes.plot(np.arange(len(kept)) + 1, kept, "o-", color=colour, label=title.replace("into ", "").split(" (")[0])
    axes.axhline(14, color="black", linestyle="--", linewidth=1, label="below this an op stays in float")
    axes.set(xlabel="layer", ylabel="signal to quantisation noise, dB", xticks=range(1, 13), ylim=(0, None))
    axes.set_title("What conditioned INT8 keeps of each GEMM's output, on rows that were not fitted", fontsize=10)
    axes.legend(fontsize=8, ncols=2, loc="upper center", bbox_to_anchor=(0.5, -0.16))


def draw_channels(axes: Axes, rows: NDArray[np.float32]) -> None:
    """The reach of every channel, sorted, against what a channel usually holds."""
    reach, usual = np.abs(rows).max(axis=0), np.sqrt(np.square(rows).mean(axis=0))
    position = np.unique(np.geomspace(1, rows.shape[1], 200).astype(int)) - 1  # enough for a line
    axes.plot(position + 1, np.sort(reach)[::-1][position], color="C3", label="largest value")
    axes.plot(position + 1, np.sort(usual)[::-1][position], color="C0", label="root mean square")
    axes.axhline(reach.max() / LEVELS, color="black", linestyle="--", linewidth=1, label="one INT8 step of min/max")
    axes.set(
        xscale="log",
        yscale="log",
        xlabel="channels, the largest first (log scale)",
        ylabel="absolute value (log scale)",
    )
    axes.set_title(f"The {rows.shape[1]:,} channels of layer 8's GELU output", fontsize=10)
    axes.legend(fontsize=8, loc="upper right")


def draw_codes(axes: Axes, plain: NDArray[np.int8], conditioned: NDArray[np.int8]) -> None:
    """How often each INT8 code is used, of plain min/max and of what calib8 wrote."""
    for codes, colour, title in ((plain, "C3", "plain min/max"), (conditioned, "C0", "as calib8 wrote it")):
        counts = np.bincount(codes.ravel().astype(np.int64) + 128, minlength=256) / codes.size
        used = np.exp(-np.sum(counts[counts > 0] * np.log(counts[counts > 0])))
        axes.step(np.arange(-128, 128), counts, where="mid", color=colour, label=f"{title}: worth {used:.1f} codes")
    axes.set(yscale="log", xlabel="INT8 code", ylabel="share of values (log scale)", xlim=(-129, 128))
    axes.set_title("The same activation in INT8 codes", fontsize=10)
    axes.legend(fontsize=8)


def activations(model: Path, int8: Path) -> tuple[NDArray[np.float32], NDArray[np.int8]]:
    """What ``HARD`` reads over the held-out texts: float rows of the FP32 model, codes of the INT8 model."""
    texts = TEXTS.read_text(encoding="utf-8").splitlines()[::8]
    tokenizer = TextTokenizer(model.parent, 128)
    feeds = tokenizer.padded(tokenizer.tokens(texts))
    mask = feeds["attention_mask"] == 1
    floats = tensor(load(model), feeds, "MatMul")
    codes = tensor(load(int8), feeds, "QuantizeLinear")
    return floats[mask].astype(np.float32), codes[mask]


def tensor(model: ir.Model, feeds: dict[str, NDArray[np.generic]], op_type: str) -> NDArray[np.generic]:
    """What ``HARD`` reads (``MatMul``), or the codes that are behind it (``QuantizeLinear``)."""
    (node,) = (node for node in model.graph if node.name == HARD)
    value = node.inputs[0]
    while op_type == "QuantizeLinear" and value.producer().op_type != op_type:
        value = value.producer().inputs[0]
    model.graph.outputs[:] = [value]
    return outputs_of(model, feeds)[value.name]


def ops_of(plan: QuantPlan, ending: str) -> list[object]:
    """The ops of one kind, layer by layer. Feed-forward 1's ``intermediate/dense`` and 2's ``output/dense`` differ."""
    return [op for op in plan.ops if op.node.endswith("/" + ending)]


def save(name: str, draw: object, *arguments: object) -> None:
    """One picture as SVG, the same bytes on every run."""
    figure = Figure(figsize=(7.2, 3.6), layout="constrained", facecolor="white")
    draw(figure.add_subplot(), *arguments)
    figure.savefig(PICTURES / f"{name}.svg", metadata={"Date": None})


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
