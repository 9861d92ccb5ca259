"""The same encoder in PyTorch on a GPU, in FP16 and by torchao in INT8 and FP8: time on the GPU, and accuracy.

    python bench/pytorch_gpu.py models/all-mpnet-base-v2 examples/mpnet/held_out.txt -o build/pytorch.json

The folder has ``model.onnx``, ``config.json`` and the tokenizer; transformers' MPNet gets the weights of the ONNX file.
Time is what ``calib8 bench`` tells of engines: that of the GPU by its own clock, arrays on the GPU, one CUDA graph
launched again and again, medians of rounds by turns. ``eager`` is transformers as it comes, without a graph. The others
have fused attention, its bias added up once for all layers; a layer is compiled with max_autotune (one for all twelve,
or compiling took minutes), and all layers are one CUDA graph. ``whole`` is compiled as one, as a check.
Accuracy is of the vectors of the texts, without compiling, against FP32. A row that fails says why. ``--seconds``
bounds each row, ``--all`` the whole; what is measured is written at once.
"""

import argparse
import functools
import signal
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import numpy_helper
from torch import nn
from torch._dynamo.utils import counters
from torch._inductor import config as inductor
from transformers import MPNetConfig, MPNetModel
from transformers.models.mpnet.modeling_mpnet import MPNetEncoder

from calib8.files import read_json, write_json
from calib8.numerics import cosine_rows
from calib8.report.report import this_machine
from calib8.text.sentence import token_arrays
from calib8.text.tokenizer import TextTokenizer, read_sentences
from quantisers import versions

SHAPES = ("1x32", "8x128", "32x128", "64x384")
#: Added where the mask is 0, as in the ONNX model: FP16 holds it.
MASKED = -10000.0
#: Seconds of the GPU for one number, runs of it at least, and rounds.
LEAST, RUNS, ROUNDS = 0.02, 3, 7
#: Texts that are embedded together, and distances that the model tells apart.
ROWS_AT_ONCE, DISTANCES = 32, 32
#: Mode max-autotune less its graphs, of which there is one for all, and less the search for each elementwise kernel's
#: blocks, which takes most of the time.
TUNED: dict[str, Any] = {"max_autotune": True}
Row = dict[str, Any]
Run = Callable[[], Any]
Make = Callable[[MPNetModel], nn.Module]
Batch = tuple[list[int], torch.Tensor, torch.Tensor]


class Fused(nn.Module):
    """MPNet with PyTorch's fused attention: ids and mask [B, S] to [B, S, 768]."""

    def __init__(self, model: MPNetModel, longest: int = 384) -> None:
        super().__init__()
        self.embeddings, self.layers = model.embeddings, model.encoder.layer
        like = next(model.parameters())
        table = model.encoder.compute_position_bias(torch.zeros(1, longest, 1, device=like.device))
        self.register_buffer("table", table.to(like.dtype).contiguous())
        for layer in self.layers:
            layer.attention.attn.forward = attention.__get__(layer.attention.attn)

    def start(self, ids: torch.Tensor, mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Embeddings, and what attention adds to its scores."""
        length = ids.shape[1]
        masked = (1.0 - mask[:, None, None, :].to(self.table.dtype)) * MASKED
        return self.embeddings(ids), self.table[:, :, :length, :length] + masked

    def forward(self, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """The hidden states of the last layer."""
        hidden, bias = self.start(ids, mask)
        for layer in self.layers:
            (hidden,) = layer(hidden, None, bias)
        return hidden


def attention(self: Any, hidden: torch.Tensor, mask: None, bias: torch.Tensor, **_: Any) -> tuple[torch.Tensor]:
    """In place of that of ``MPNetSelfAttention``."""
    del mask
    heads = (*hidden.shape[:-1], -1, self.attention_head_size)
    q, k, v = (part(hidden).view(heads).transpose(1, 2) for part in (self.q, self.k, self.v))
    mixed = nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=bias)
    return (self.o(mixed.transpose(1, 2).flatten(2)),)


class AsItComes(nn.Module):
    """Transformers' own forward."""

    def __init__(self, model: MPNetModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """The hidden states of the last layer."""
        return self.model(input_ids=ids, attention_mask=mask).last_hidden_state


def quantised(name: str) -> Make:
    """By torchao, every Linear: a scale for each output of a weight, and for each token as it comes."""

    def make(model: MPNetModel) -> nn.Module:
        from torchao import quantization as ao  # type: ignore[import-not-found]

        options = {
            "int8": ao.Int8DynamicActivationInt8WeightConfig,
            "fp8": lambda: ao.Float8DynamicActivationFloat8WeightConfig(granularity=ao.PerRow()),
        }
        ao.quantize_(model, options[name]())
        inductor.coordinate_descent_tuning = False  # torchao turns it on: on an H200 one shape was not ready after 45 s
        return Fused(model)

    return make


#: Title, dtype of what stays in float, what makes the model of it, how it is compiled. torchao's FP8 with a scale for
#: each row wants BF16.
ROWS: dict[str, tuple[str, torch.dtype, Make, str]] = {
    "fp16": ("FP16, torch.compile", torch.float16, Fused, "layers"),
    "eager": ("FP16, eager, as transformers has it", torch.float16, AsItComes, ""),
    "int8": ("INT8, torchao, torch.compile", torch.float16, quantised("int8"), "layers"),
    "fp8": ("FP8, torchao, torch.compile", torch.bfloat16, quantised("fp8"), "layers"),
    "whole": ("FP16, torch.compile of all layers as one", torch.float16, Fused, "whole"),
}


def main() -> None:
    """Measure, print and keep, row by row."""
    options = _options()
    began, device = time.monotonic(), torch.device(options.device)
    inductor.max_autotune_gemm_backends = options.backends
    torch._dynamo.config.recompile_limit = 64
    batches = tokenised(options.folder, options.texts, device)
    exact = vectors(Fused(mpnet(options.folder, torch.float32, device)), batches)
    result: Row = {
        "command": " ".join(["python", *sys.argv]),
        "date": date.today().isoformat(),
        "machine": this_machine().model_dump(),
        "gpu": torch.cuda.get_device_name() if device.type == "cuda" else None,
        "versions": versions("torch", "triton", "transformers", "torchao"),
        "backends": options.backends,
        "texts": len(exact),
        "rows": {},
    }
    print(f"{time.monotonic() - began:.0f} s: {result['versions']}, {len(exact)} texts", flush=True)
    runs: dict[str, dict[str, Run]] = {shape: {} for shape in options.shapes}
    for name in options.only or ROWS:
        row: Row = {"title": ROWS[name][0], "ms": {}}
        result["rows"][name] = row
        left = min(options.seconds, options.all - (time.monotonic() - began))
        try:
            with within(left), torch.inference_mode():
                measure(name, row, runs, options.folder, batches, exact, device)
        except Exception as error:  # whatever a compiler raises is the row's own result
            row["failed"] = f"{type(error).__name__}: {str(error).strip()[:300]}"
        write_json(options.output, result)
        print(f"{time.monotonic() - began:.0f} s: {told(row)}", flush=True)
    with torch.inference_mode():
        for shape, works in runs.items():
            rounds = [{name: milliseconds(run, device) for name, run in works.items()} for _ in range(ROUNDS)]
            for name in works:
                result["rows"][name]["ms"][shape] = round(statistics.median(taken[name] for taken in rounds), 4)
    write_json(options.output, result)
    print(f"{time.monotonic() - began:.0f} s, by turns:", *map(told, result["rows"].values()), sep="\n", flush=True)


def measure(
    name: str, row: Row, runs: dict[str, dict[str, Run]], folder: Path, batches: Any, exact: Any, device: torch.device
) -> None:
    """Fill ``row``, and put what can be timed again into ``runs``."""
    _, dtype, make, compiled = ROWS[name]
    with torch.inference_mode(mode=False), torch.no_grad():  # torchao's tensors want to be ordinary ones
        model = make(mpnet(folder, dtype, device))
    cosines = cosine_rows(vectors(model, batches), exact)
    row |= {"cosine_mean": round(float(cosines.mean()), 5), "cosine_p1": round(float(np.percentile(cosines, 1)), 5)}
    torch._dynamo.reset()
    counters.clear()
    if compiled == "layers":
        model.start = torch.compile(model.start, options=TUNED, dynamic=False)
        for layer in model.layers:
            layer.compile(options=TUNED, dynamic=False)
    for shape, works in runs.items():
        if compiled == "whole":
            if shape != "32x128":
                continue
            model.compile(options=TUNED, dynamic=False)
        began = time.monotonic()
        size = [int(part) for part in shape.split("x")]
        ids = torch.randint(2, 30000, size, device=device)
        run = repeatable(model, ids, torch.ones_like(ids), graph=bool(compiled))
        row["ms"][shape] = round(milliseconds(run, device), 4)
        row.setdefault("ready_s", {})[shape] = round(time.monotonic() - began, 1)
        row["graphs_compiled"] = counters["stats"]["unique_graphs"]
        print(f"  {name} {shape}: {row['ms'][shape]} ms, ready in {row['ready_s'][shape]} s", flush=True)
        works[name] = run


def repeatable(model: nn.Module, ids: torch.Tensor, mask: torch.Tensor, *, graph: bool) -> Run:
    """One run of ``model`` over arrays that lie where it reads them; ``graph``: as launches of one CUDA graph."""
    if not graph or ids.device.type != "cuda":
        for _ in range(2):
            model(ids, mask)
        return lambda: model(ids, mask)
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        for _ in range(3):
            model(ids, mask)
    torch.cuda.synchronize()
    captured = torch.cuda.CUDAGraph()
    with torch.cuda.graph(captured):
        kept = model(ids, mask)

    def run(*_alive: object) -> torch.Tensor:
        captured.replay()
        return kept

    return functools.partial(run, model, ids, mask)  # a graph reads them where they lay, and keeps none of them there


def milliseconds(run: Run, device: torch.device) -> float:
    """Of one of runs that follow one another, by the GPU's clock."""
    if device.type != "cuda":
        start = time.perf_counter()
        run()
        return 1e3 * (time.perf_counter() - start)
    begun, done = (torch.cuda.Event(enable_timing=True) for _ in range(2))

    def clocked(runs: int) -> float:
        begun.record()
        for _ in range(runs):
            run()
        done.record()
        done.synchronize()
        return begun.elapsed_time(done) / runs

    return clocked(max(RUNS, round(LEAST * 1e3 / clocked(RUNS))))


@functools.cache
def weights(path: Path) -> dict[str, torch.Tensor]:
    """The weights of the ONNX model under PyTorch's names."""
    arrays = {tensor.name: numpy_helper.to_array(tensor) for tensor in onnx.load(path).graph.initializer}
    bias = arrays.pop("encoder.position_bias")[0]  # [heads, longest, longest], from a table of 32 distances
    places = torch.arange(bias.shape[1])
    distances = MPNetEncoder.relative_position_bucket(places[None, :] - places[:, None], num_buckets=DISTANCES)
    table = np.zeros((DISTANCES, len(bias)), np.float32)
    table[distances.reshape(-1).numpy()] = bias.reshape(len(bias), -1).T
    arrays["encoder.relative_attention_bias.weight"] = table
    turned = {name.removesuffix(".T"): array.T if name.endswith(".T") else array for name, array in arrays.items()}
    return {name: torch.from_numpy(np.array(array)) for name, array in turned.items()}


def mpnet(folder: Path, dtype: torch.dtype, device: torch.device) -> MPNetModel:
    """Transformers' model with the weights of ``model.onnx``."""
    config = MPNetConfig(**read_json(folder / "config.json", "config"))
    with torch.device("meta"):
        model = MPNetModel(config, add_pooling_layer=False)
    known = weights(folder / "model.onnx")
    model = model.to_empty(device="cpu")
    model.embeddings.position_ids.copy_(torch.arange(config.max_position_embeddings)[None])
    model.load_state_dict({name: known[name] for name in model.state_dict()})
    return model.to(device, dtype).eval()


def tokenised(folder: Path, texts: Path, device: torch.device) -> list[Batch]:
    """The texts' places, ids and masks, texts of about one length together."""
    tokenizer, sentences = TextTokenizer(folder, 384), read_sentences(texts)
    order = sorted(range(len(sentences)), key=lambda place: len(sentences[place]))
    batches = []
    for start in range(0, len(order), ROWS_AT_ONCE):
        places = order[start : start + ROWS_AT_ONCE]
        arrays = token_arrays(tokenizer, tokenizer.tokens([sentences[place] for place in places]), ())
        ids, mask = (torch.from_numpy(arrays[name]).to(device) for name in ("input_ids", "attention_mask"))
        batches.append((places, ids, mask))
    return batches


def vectors(model: nn.Module, batches: Sequence[Batch]) -> NDArray[np.float64]:
    """The mean over each text's tokens, in the texts' order."""
    found: dict[int, NDArray[np.float64]] = {}
    with torch.inference_mode():
        for places, ids, mask in batches:
            hidden, kept = model(ids, mask).double(), mask[:, :, None].double()
            means = ((hidden * kept).sum(dim=1) / kept.sum(dim=1)).cpu().numpy()
            found |= dict(zip(places, means, strict=True))
    return np.stack([found[place] for place in sorted(found)])


@contextmanager
def within(seconds: float) -> Iterator[None]:
    """Raise ``TimeoutError`` in here when they are over."""

    def over(*_: Any) -> None:
        raise TimeoutError(f"not ready after {seconds:.0f} s")

    if seconds <= 0:
        raise TimeoutError("no time was left")
    before = signal.signal(signal.SIGALRM, over)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def told(row: Row) -> str:
    """A line."""
    accuracy = f"cosine {row['cosine_mean']:.4f}, p1 {row['cosine_p1']:.4f}" if "cosine_mean" in row else "no vectors"
    times = ", ".join(f"{shape} {ms:.3f} ms" for shape, ms in row["ms"].items())
    return f"{row['title']}: {accuracy}; {times}{' FAILED: ' + row['failed'] if 'failed' in row else ''}"


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("folder", type=Path, help="model.onnx, config.json and the tokenizer")
    parser.add_argument("texts", type=Path, help="held-out texts, one a line")
    parser.add_argument("--only", action="append", choices=list(ROWS), help="rows to measure; default: all")
    parser.add_argument("--shapes", nargs="+", default=SHAPES, help="batch x length")
    parser.add_argument("--backends", default="ATEN", help="of GEMMs: ATEN, or ATEN,TRITON, which takes minutes")
    parser.add_argument("--seconds", type=float, default=45, help="for one row")
    parser.add_argument("--all", type=float, default=115, help="for all rows")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("-o", "--output", type=Path, required=True, help="a .json")
    return parser.parse_args()


if __name__ == "__main__":
    main()
