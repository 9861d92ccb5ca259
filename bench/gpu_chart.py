"""Draw README's table of a GPU, how many times as fast as FP16 each row is at each shape, as ``docs/gpu.svg``.

python bench/gpu_chart.py
"""

import re
from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib import pyplot as plt

ROOT = Path(__file__).parents[1]
COLOURS = {"INT8": "#2a78d6", "INT8, --optimize accuracy": "#86b6ef", "PyTorch FP16, torch.compile": "#b0b0b0"}


def table(readme: str) -> tuple[list[str], dict[str, list[float]]]:
    """The shapes, and the row of each name in its order."""
    lines = re.search(r"<!-- gpu -->(.*?)<!-- /gpu -->", readme, re.DOTALL)
    assert lines is not None
    cells = [[cell.strip(" *") for cell in line.strip("|").split("|")] for line in lines[1].splitlines() if "|" in line]
    shapes, rows = cells[0][1:5], cells[2:]
    return shapes, {row[0]: [float(cell) for cell in row[1:5]] for row in rows}


def main() -> None:
    """Write the picture."""
    shapes, rows = table((ROOT / "README.md").read_text(encoding="utf-8"))
    fp16 = np.array(rows["FP16"])
    faster = [
        fp16 / rows["INT8"],
        np.array(rows["INT8, `--optimize accuracy`, times FP16"]),
        fp16 / rows["FP16 by PyTorch, `torch.compile`"],
    ]
    mpl.rcParams["svg.hashsalt"] = "calib8"  # the same table gives the same file
    figure, axes = plt.subplots(figsize=(7, 2.8), layout="constrained")
    for place, (name, ratios) in enumerate(zip(COLOURS, faster, strict=True)):
        bars = axes.bar(np.arange(len(shapes)) + (place - 1) * 0.27, ratios, 0.25, label=name, color=COLOURS[name])
        axes.bar_label(bars, fmt="%.2f", fontsize=8, padding=1)
    axes.axhline(1, color="#555", linewidth=1)
    axes.set_xticks(range(len(shapes)), shapes)
    axes.set(ylim=(0, 1.75), ylabel="times as fast as FP16", xlabel="batch x tokens")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, ncols=3, loc="upper left", fontsize=8)
    figure.savefig(ROOT / "docs" / "gpu.svg", metadata={"Date": None}, facecolor="white")


if __name__ == "__main__":
    main()
