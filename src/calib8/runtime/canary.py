"""Does a runtime multiply INT8 right on this CPU? A known answer tells, before a model's accuracy is measured in it.

x86 CPUs without VNNI multiply u8 by s8 with an instruction that adds two products in 16 bits and saturates: 255 x 127
twice is 64770, and 32767 there. A runtime that uses it answers without an error, and its fault looks like the model's.
So a few tiny ops whose sums go that far, of both signs and in several shapes, by which kernels are chosen, are run in
the very runtime and form, and every number is compared with that of integers.

What was found is kept in the user's cache, in a file named after all that it depends on, which repeats it. A cache that
cannot be read or written is no error: then the ops, which take a fraction of a second, are run once in each process.
"""

import hashlib
import json
import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Literal, TypeAlias, get_args

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, FiniteFloat, ValidationError

from calib8.data.inputs import Arrays
from calib8.errors import Calib8Error, DataError, ModelError, SetupError
from calib8.files import default_cache, write_json
from calib8.graph.builder import GraphBuilder
from calib8.graph.weighted import weighted_ops
from calib8.passes.insert_qdq import insert_qdq
from calib8.passes.qdq_nodes import Constants, quantised_activation
from calib8.runtime.amx import REFUSED, instructions
from calib8.runtime.forms import has_codes_for_cpu, in_form
from calib8.runtime.names import Form, RuntimeName
from calib8.runtime.processor import identity, version_of

#: What a model has of ops that multiply codes; scaled: with a negative factor of a channel behind a Relu.
Kind: TypeAlias = Literal["MatMul", "Gemm", "Conv", "depthwise Conv", "grouped Conv", "scaled MatMul", "scaled Conv"]
KINDS: tuple[Kind, ...] = get_args(Kind)
#: Of MatMul and Gemm: rows, K, N. Of the Conv: channels in and out, size of the kernel, groups.
PRODUCT_SHAPES = ((1, 64, 16), (3, 67, 5), (32, 256, 48))
CONV_SHAPES: dict[Kind, tuple[tuple[int, int, int, int], ...]] = {
    "Conv": ((16, 16, 3, 1), (3, 4, 3, 1), (64, 32, 1, 1)),
    "scaled Conv": ((16, 16, 3, 1),),
    "depthwise Conv": ((16, 16, 3, 16), (32, 32, 5, 32)),
    "grouped Conv": ((8, 16, 3, 2), (64, 64, 3, 4), (12, 12, 1, 3), (32, 16, 1, 8), (8, 16, 3, 8)),
}
#: Height and width of what a Conv reads.
SIDE = 6

Integers: TypeAlias = NDArray[np.int64]


class Answer(BaseModel):
    """Whether every number was that of integers; if not, one that was not: of which op, and what was right."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    exact: bool
    kind: Kind
    #: None where it is not finite, for which JSON has no number.
    got: FiniteFloat | None = None
    expected: FiniteFloat | None = None
    #: Why there was no answer at all.
    refused: str | None = None

    def __str__(self) -> str:
        if self.exact:
            return f"{self.kind} is exact"
        got = "no finite number" if self.got is None else f"{self.got:.0f}"
        return self.refused or f"{self.kind} gives {got} where {self.expected:.0f} is right"


class _Kept(BaseModel):
    """An answer with everything that it depends on."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: Literal["calib8.canary/2"] = "calib8.canary/2"
    facts: dict[str, str]
    answer: Answer


def kinds_of(model: ir.Model) -> tuple[Kind, ...]:
    """The kinds of ops that a runtime may compute from codes in ``model``; none of a float one, or one in FP8."""
    if not has_codes_for_cpu(model):
        return ()
    found = {_kind(node) for node in model.graph.all_nodes()}
    if any(map(_is_scaled, model.graph.all_nodes())):
        found |= {"scaled Conv" if kind.endswith("Conv") else "scaled MatMul" for kind in found.intersection(KINDS)}
    return tuple(kind for kind in KINDS if kind in found)


def _kind(node: ir.Node) -> str:
    groups = node.attributes.get_int("group", 1) if node.op_type == "Conv" else 1
    if groups == 1:
        return node.op_type
    weight = node.inputs[1]
    if weight is not None and weight.shape is None and (dequantised := weight.producer()) is not None:
        weight = dequantised.inputs[0]
    alone = weight is not None and weight.shape is not None and weight.shape[:2] == (groups, 1)
    return "depthwise Conv" if alone else "grouped Conv"


def _is_scaled(node: ir.Node) -> bool:
    """Whether ``node`` multiplies by a negative constant, of a channel, what comes out of a Relu or the like.

    OpenVINO 2026.4 answers as if such a factor stood in front of the Relu, where only a positive one may be.
    """
    if node.op_type not in ("Mul", "Div"):
        return False
    inputs = [value for value in node.inputs if value is not None]
    if not any(one is not None and one.op_type.endswith("Relu") for one in (value.producer() for value in inputs)):
        return False
    constants = [value.const_value.numpy() for value in inputs if value.const_value is not None]
    return any(constant.size > 1 and bool((constant < 0).any()) for constant in constants)


def wrong(runtime: RuntimeName, form: Form, kinds: Iterable[Kind]) -> Answer | None:
    """What ``runtime`` computes wrong here of ops of these ``kinds`` in ``form``; None if it is right, as FP32 is.

    Raises ``SetupError`` where the runtime is not installed.
    """
    if form == "fp32":
        return None
    kinds = tuple(kinds)
    conv = next((kind for kind in kinds if kind in CONV_SHAPES), None)
    if runtime == "openvino" and not instructions().settle(convolves=conv is not None) and conv is not None:
        return Answer(exact=False, kind=conv, refused=REFUSED)
    return next((answer for kind in kinds if not (answer := _asked(runtime, form, kind)).exact), None)


def check(kind: Kind, run: Callable[[ir.Model, Arrays], Arrays]) -> Answer:
    """Ask ``run``, which computes a Q/DQ model, for ops of this ``kind``."""
    model, feeds, expected = question(kind)
    try:
        answers = run(model, feeds)
    except (ModelError, DataError) as error:
        return Answer(exact=False, kind=kind, refused=f"{kind} is refused: {error}")
    for name, right in expected.items():
        different = np.flatnonzero(np.asarray(answers[name], np.float64).ravel() != right.ravel())
        if different.size:
            worst = different[0]
            number = float(np.asarray(answers[name]).ravel()[worst])
            got = number if math.isfinite(number) else None
            return Answer(exact=False, kind=kind, got=got, expected=float(right.ravel()[worst]))
    return Answer(exact=True, kind=kind)


#: Found by this process, by what an answer depends on.
_found: dict[tuple[str, ...], Answer] = {}


def _asked(runtime: RuntimeName, form: Form, kind: Kind) -> Answer:
    facts = _facts(runtime, form, kind)
    key = tuple(facts.values())
    if key not in _found:
        _found[key] = _read(facts) or _measured(facts, runtime, form, kind)
    return _found[key]


def _facts(runtime: RuntimeName, form: Form, kind: Kind) -> dict[str, str]:
    """All that an answer depends on."""
    return {"runtime": runtime, "version": version_of(runtime), "form": form, "kind": kind, **identity()}


def _file(facts: dict[str, str]) -> Path:
    """Where an answer is kept. Raises ``SetupError`` for a user without a cache."""
    name = hashlib.sha256(json.dumps([_Kept.model_fields["format"].default, facts]).encode()).hexdigest()[:32]
    return default_cache() / "canary" / f"{name}.json"


def _read(facts: dict[str, str]) -> Answer | None:
    try:
        kept = _Kept.model_validate_json(_file(facts).read_bytes())
    except (OSError, SetupError, ValidationError):
        return None
    return kept.answer if kept.facts == facts and kept.answer.kind == facts["kind"] else None


def _measured(facts: dict[str, str], runtime: RuntimeName, form: Form, kind: Kind) -> Answer:
    answer = check(kind, partial(_run, runtime, form))
    if answer.refused is None:  # a refusal may be of the moment
        _keep(facts, answer)
    return answer


def _keep(facts: dict[str, str], answer: Answer) -> None:
    with suppress(Calib8Error):
        write_json(_file(facts), _Kept(facts=facts, answer=answer).model_dump(mode="json"))


def _run(runtime: RuntimeName, form: Form, model: ir.Model, feeds: Arrays) -> Arrays:
    from calib8.runtime.choice import CpuChoice
    from calib8.runtime.cpu import open_form  # which asks this module

    with open_form(in_form(model, form), CpuChoice(runtime=runtime, form=form, streams=1)) as opened:
        return opened.run(feeds)


def question(kind: Kind) -> tuple[ir.Model, Arrays, dict[str, NDArray[np.float64]]]:
    """A Q/DQ model of ops of this ``kind`` with scales that are powers of two, what to feed it, and the right outputs.

    Each op is there three times, for which kernels are others: its sums leave in float, rounded to codes again, and
    through an activation and a constant for each channel, which OpenVINO fuses, and misreads behind a grouped Conv (as
    of 2026.4). All is exact in FP32, too: no sum reaches 2^24.
    """
    g, random = GraphBuilder(), np.random.default_rng(8)
    feeds: Arrays = {}
    sums: dict[str, Integers] = {}
    outputs: dict[str, ir.Value] = {}
    for number, (codes, weight, attributes) in enumerate(_ops(kind, random)):
        for end in ("float", "codes", "fused"):  # with an input each: of shared codes some go to float
            name = f"{number}.{end}"
            feeds[f"x{name}"] = codes.astype(np.float32)
            x = g.input(f"x{name}", ir.DataType.FLOAT, f"batch{name}", *codes.shape[1:])
            w = g.constant(f"w{name}", weight.T if attributes.get("transB") else weight)
            result = g.op(kind.split()[-1], x, w, name=f"op{name}", **attributes)
            sums[f"y{name}"] = _conv(codes, weight, attributes["group"]) if "group" in attributes else codes @ weight
            if end == "fused":
                value = g.constant(f"c{name}", _constants(kind, sums[f"y{name}"]).astype(np.float32))
                result = g.op(_fused(kind), g.op("LeakyRelu", result, alpha=0.5), value)
            outputs[f"y{name}"] = g.op("Identity", result)
    model = g.model(**outputs)
    ops = weighted_ops(model)
    insert_qdq(model, ops, {op.activation.name or "": 127.0 for op in ops})
    expected = {name: array.astype(np.float64) for name, array in sums.items()}
    for name, op in zip(sums, ops, strict=True):
        if name.endswith("codes"):
            scale = float(2.0 ** np.ceil(np.log2(np.abs(sums[name]).max() / 127)))
            _round(model, op.node.outputs[0], scale)
            expected[name] = np.clip(np.rint(sums[name] / scale), -128, 127) * scale
        if name.endswith("fused"):
            activated = np.where(expected[name] < 0, 0.5, 1.0) * expected[name]
            constants = _constants(kind, sums[name])
            expected[name] = activated * constants if _fused(kind) == "Mul" else activated - constants
    return model, feeds, expected


def _round(model: ir.Model, value: ir.Value, scale: float) -> None:
    """Give the reader of ``value`` what is left of it after Q and DQ."""
    ((reader, place),) = value.uses()
    reader.replace_input_with(place, quantised_activation(Constants(model.graph), value, 127 * scale))


def _fused(kind: Kind) -> str:
    return "Mul" if kind.startswith("scaled") else "Sub"


def _constants(kind: Kind, sums: Integers) -> Integers:
    """One for each channel of ``sums``, in a shape that goes with theirs: 0, 1000, 2000..., or factors -1 and 1."""
    numbers = np.arange(sums.shape[1])
    return (2 * (numbers % 2) - 1 if _fused(kind) == "Mul" else 1000 * numbers).reshape(-1, *[1] * (sums.ndim - 2))


def _ops(kind: Kind, random: np.random.Generator) -> Iterator[tuple[Integers, Integers, dict[str, int]]]:
    """Codes of activations, of weights, and the attributes of each op."""
    if kind in CONV_SHAPES:
        for inputs, outputs, size, groups in CONV_SHAPES[kind]:
            codes = _extreme(random, (2, inputs, SIDE, SIDE), axis=2, least=-128)
            weight = _extreme(random, (outputs, inputs // groups, size, size), axis=0, least=-127)
            yield codes, weight, {"group": groups}
        return
    for rows, inner, outer in PRODUCT_SHAPES:
        weight = _extreme(random, (inner, outer), axis=1, least=-127)
        yield _extreme(random, (rows, inner), axis=0, least=-128), weight, {"transB": 1} if kind == "Gemm" else {}


def _extreme(random: np.random.Generator, shape: tuple[int, ...], axis: int, least: int) -> Integers:
    """Along ``axis`` by turns all 127, which is 255 in uint8, all the least code, and random codes that reach 127."""
    codes = random.integers(least, 128, shape)
    along = np.moveaxis(codes, axis, 0)
    along[0::3], along[1::3] = 127, least
    along[2::3, ..., 0] = 127  # so that the scale of every channel is 1
    return codes


def _conv(codes: Integers, weight: Integers, groups: int) -> Integers:
    """The convolution of integers, without padding, by its definition."""
    windows = np.lib.stride_tricks.sliding_window_view(codes, weight.shape[2:], axis=(2, 3))  # [B, C, H, W, k, k]
    parts = zip(np.split(windows, groups, axis=1), np.split(weight, groups), strict=True)
    return np.concatenate([np.einsum("bchwij,ocij->bohw", window, part) for window, part in parts], axis=1)
