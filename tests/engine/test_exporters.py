"""One encoder, written in PyTorch, in the forms that PyTorch's exporters give it: each becomes INT8 as a whole.

What differs between the forms: LayerNormalization and Gelu as one operator or as arithmetic, attention as one operator
or as MatMul and Softmax, a Linear as MatMul and Add or as Gemm, its weight transposed already or by a node, constants
as initializers, as nodes, or in a file beside the model.
"""

import contextlib
import io
import warnings
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

import calib8
from calib8.graph.limits import dimension_limits
from calib8.graph.weighted import weighted_ops
from calib8.provenance import PLAN
from calib8.quantization.quant_plan import QuantPlan
from calib8.testing import outputs_of, token_feeds

torch: Any = pytest.importorskip("torch", reason="needs pip install '.[export]'")
functional = torch.nn.functional

LAYERS, WIDTH, HEADS, INNER, VOCABULARY, POSITIONS = 2, 64, 4, 128, 64, 48
GEMMS = 6 * LAYERS
NAMES = ["input_ids", "attention_mask"]


class Layer(torch.nn.Module):
    def __init__(self, fused: bool) -> None:
        super().__init__()
        self.fused = fused
        self.q, self.k, self.v, self.o = (torch.nn.Linear(WIDTH, WIDTH) for _ in range(4))
        self.up, self.down = torch.nn.Linear(WIDTH, INNER), torch.nn.Linear(INNER, WIDTH)
        self.norm1, self.norm2 = torch.nn.LayerNorm(WIDTH), torch.nn.LayerNorm(WIDTH)

    def forward(self, x: Any, mask: Any, rows: int, length: int) -> Any:
        def heads(y: Any) -> Any:
            return y.view(rows, length, HEADS, WIDTH // HEADS).transpose(1, 2)

        q, k, v = heads(self.q(x)), heads(self.k(x)), heads(self.v(x))
        if self.fused:
            context = functional.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        else:
            context = torch.softmax(q @ k.transpose(2, 3) / (WIDTH // HEADS) ** 0.5 + mask, -1) @ v
        x = self.norm1(x + self.o(context.transpose(1, 2).reshape(x.shape)))
        return self.norm2(x + self.down(functional.gelu(self.up(x))))


class Encoder(torch.nn.Module):
    """``flat`` hands the layers [batch * sequence, width]; ``fused`` asks for attention as one operator."""

    def __init__(self, flat: bool = False, fused: bool = False) -> None:
        super().__init__()
        self.flat, self.fused = flat, fused
        self.words, self.positions = torch.nn.Embedding(VOCABULARY, WIDTH), torch.nn.Embedding(POSITIONS, WIDTH)
        self.layers = torch.nn.ModuleList(Layer(fused) for _ in range(LAYERS))
        self.register_buffer("counted", torch.arange(POSITIONS)[None])

    def forward(self, input_ids: Any, attention_mask: Any) -> Any:
        rows, length = input_ids.shape
        x = self.words(input_ids) + self.positions(self.counted[:, :length])
        mask = (1.0 - attention_mask[:, None, None, :].to(torch.float32)) * -10_000.0
        if self.fused:
            mask = mask.expand(rows, 1, length, length)  # ONNX Runtime's Attention does not broadcast it
        if self.flat:
            x = x.reshape(-1, WIDTH)
        for layer in self.layers:
            x = layer(x, mask, rows, length)
        return x.reshape(rows, length, WIDTH)


@dataclass(frozen=True)
class Form:
    """How the encoder is exported, and the operators (``kinds``) that the file then holds."""

    dynamo: bool
    opset: int
    kinds: dict[str, int]
    linear: str = "MatMul"
    model: dict[str, bool] = field(default_factory=dict)
    options: dict[str, Any] = field(default_factory=dict)


NORMS = 2 * LAYERS
FORMS = {
    "legacy, opset 16": Form(False, 16, {"Erf": LAYERS, "Pow": NORMS}),
    "legacy, opset 16, not folded": Form(
        False, 16, {"Erf": LAYERS, "Pow": NORMS, "Softmax": LAYERS}, options={"do_constant_folding": False}
    ),
    "legacy, opset 17, flat, weights as inputs": Form(
        False,
        17,
        {"Erf": LAYERS, "LayerNormalization": NORMS},
        linear="Gemm",
        model={"flat": True},
        options={"keep_initializers_as_inputs": True},
    ),
    "legacy, opset 20": Form(False, 20, {"Gelu": LAYERS, "LayerNormalization": NORMS}),
    "dynamo, opset 18, not optimised": Form(
        True, 18, {"Erf": LAYERS, "LayerNormalization": NORMS}, options={"optimize": False}
    ),
    "dynamo, opset 20, flat": Form(
        True, 20, {"Gelu": LAYERS, "LayerNormalization": NORMS}, linear="Gemm", model={"flat": True}
    ),
    "dynamo, opset 23, fused attention": Form(
        True, 23, {"Gelu": LAYERS, "LayerNormalization": NORMS, "Attention": LAYERS}, model={"fused": True}
    ),
}


def export(form: Form, path: Path) -> Any:
    """Write the encoder to ``path``; returns it."""
    torch.manual_seed(0)
    encoder = Encoder(**form.model).eval()
    example = tuple(torch.from_numpy(token_feeds(11, 7)[name]) for name in NAMES)
    dims = {0: "batch", 1: "sequence"}
    options = {"input_names": NAMES, "output_names": ["y"], "opset_version": form.opset, **form.options}
    if form.dynamo:
        pytest.importorskip("onnxscript", reason="PyTorch's dynamo exporter needs pip install onnxscript")
        sizes = {0: torch.export.Dim("batch"), 1: torch.export.Dim("sequence", max=POSITIONS)}
        options |= {"dynamic_shapes": (sizes, sizes), "verbose": False}
    else:
        options["dynamic_axes"] = dict.fromkeys((*NAMES, "y"), dims)
    with warnings.catch_warnings(), torch.no_grad(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")  # both exporters warn of themselves
        torch.onnx.export(encoder, example, path, dynamo=form.dynamo, **options)
    return encoder


@pytest.fixture(scope="module")
def quantised(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], SimpleNamespace]:
    """Export and quantise a form, with default settings, once."""
    known: dict[str, SimpleNamespace] = {}

    def get(name: str) -> SimpleNamespace:
        if name not in known:
            path = tmp_path_factory.mktemp("form") / "model.onnx"
            encoder = export(FORMS[name], path)
            model = calib8.load(path)
            data = token_feeds(*([3, 9, 17, 30] * 12), vocabulary=VOCABULARY)
            int8 = calib8.quantize(model, calib8.calibrate(model, data), data=data)
            plan = QuantPlan.model_validate_json(int8.metadata_props[PLAN])
            known[name] = SimpleNamespace(encoder=encoder, model=model, int8=int8, plan=plan, folder=path.parent)
        return known[name]

    return get


def held_out() -> tuple[dict[str, Any], np.ndarray]:
    """Feeds, and where they are no padding."""
    feeds = token_feeds(*([4, 11, 25] * 5), vocabulary=VOCABULARY, seed=1)
    return feeds, feeds["attention_mask"] == 1


@pytest.mark.parametrize("name", FORMS)
def test_every_linear_layer_becomes_int8(name: str, quantised: Callable[[str], SimpleNamespace]) -> None:
    form, got = FORMS[name], quantised(name)
    kinds = Counter(node.op_type for node in got.model.graph)
    assert {kind: kinds[kind] for kind in form.kinds} == form.kinds, "the exporter made another form"
    assert [op.kind for op in weighted_ops(got.model)] == [form.linear] * GEMMS
    assert dimension_limits(got.model) == {"sequence": POSITIONS}
    assert len(got.plan.nodes("int8")) == len(got.plan.ops) == GEMMS

    reads = Counter(node.inputs[0] for node in got.int8.graph if node.name in got.plan.nodes("int8"))
    assert sorted(reads.values()) == [1] * (3 * LAYERS) + [3] * LAYERS, "Q, K and V read one tensor"
    assert sum(node.op_type == "QuantizeLinear" for node in got.int8.graph) == len(reads)


@pytest.mark.parametrize("name", FORMS)
def test_the_answers_stay(name: str, quantised: Callable[[str], SimpleNamespace]) -> None:
    got = quantised(name)
    feeds, real = held_out()
    with torch.no_grad():
        expected = got.encoder(*(torch.from_numpy(feeds[key]) for key in NAMES)).numpy()[real]
    np.testing.assert_allclose(outputs_of(got.model, feeds)["y"][real], expected, atol=1e-5)
    answers = outputs_of(got.int8, feeds)["y"][real].astype(np.float64)
    cosines = (answers * expected).sum(1) / np.linalg.norm(answers, axis=1) / np.linalg.norm(expected, axis=1)
    assert cosines.mean() >= 0.9999
    assert cosines.min() >= 0.999


@pytest.mark.parametrize(
    "name", ["legacy, opset 16, not folded", "dynamo, opset 20, flat", "dynamo, opset 23, fused attention"]
)
def test_tensorrt_plans_every_linear_layer_in_int8(name: str, quantised: Callable[[str], SimpleNamespace]) -> None:
    pytest.importorskip("tensorrt_rtx", reason="needs pip install tensorrt-rtx")
    got = quantised(name)
    ir.save(got.int8, got.folder / "int8.onnx")
    build = calib8.Build(targets=("sm86",), shapes=("input_ids:1x2:4x16:8x32",))
    (engine,) = calib8.build(got.folder / "int8.onnx", got.folder / "int8.engine", build)
    assert engine.plan.covered == engine.plan.expected == GEMMS
    assert engine.plan.planned_kernels == 4 * LAYERS  # Q, K and V are one GEMM
