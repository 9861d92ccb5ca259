"""Which runtime and which form of a model to use on this CPU: by rule, or as it was measured here before.

Only what the canary found to be exact is ever chosen (see ``runtime.canary``). What was measured is kept in the user's
cache, in a file named after everything that it depends on: the model, the processor and how many of its cores are ours,
and the versions. A cache that cannot be read or written is no error: then the rule holds.
"""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

import onnx_ir as ir
from pydantic import BaseModel, ConfigDict, FiniteFloat, PositiveInt

from calib8.errors import Calib8Error, SetupError
from calib8.files import default_cache, parse_json, write_json
from calib8.graph.codes import precision_of
from calib8.graph.io import SOURCE_SHA256
from calib8.runtime.amx import convolves, instructions
from calib8.runtime.canary import Kind, kinds_of, wrong
from calib8.runtime.forms import WORDS, float_codes, has_codes_for_cpu, is_quantised, words
from calib8.runtime.names import NAMES, RUNTIMES, CpuRuntime, Form, RuntimeName, require_known
from calib8.runtime.processor import cores, has_bf16, identity, is_x86, versions


class CpuChoice(BaseModel):
    """A runtime, the form in which it gets the model (see ``runtime.forms``), and how many runs go on at once.

    ``bf16``: what is not INT8 computes in bf16; only OpenVINO, and only after ``calib8 tune`` saw what it costs.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    runtime: RuntimeName
    form: Form
    streams: PositiveInt
    bf16: bool = False

    def __str__(self) -> str:
        many = f"{self.streams} streams" if self.streams > 1 else "1 stream"
        return f"{NAMES[self.runtime]}, {WORDS[self.form]}{', bf16' if self.bf16 else ''}, {many}"


class Measured(BaseModel):
    """What ``calib8 tune`` found: the fastest choice, and the samples per second of all."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: Literal["calib8.cpu-choice/1"] = "calib8.cpu-choice/1"
    choice: CpuChoice
    samples_per_second: dict[str, FiniteFloat]


class _Kept(Measured):
    """What is in a file of the user's cache: a measurement, and everything that it depends on."""

    facts: tuple[str, ...]


def by_rule(model: ir.Model, runtime: CpuRuntime, streams: int) -> CpuChoice:
    """What was fastest where calib8 was measured (bench/results), for a runtime that may be named, of what is exact.

    Raises ``SetupError`` where the named runtime is not installed, or has no form that is exact here.
    """
    require_known(runtime)
    if not has_codes_for_cpu(model):
        told = float_codes(model)
        if runtime != "auto" and told and not RUNTIMES[runtime].float_codes:
            raise SetupError(
                f"{NAMES[runtime]} is not used for {told}: nothing shows that its Q and DQ round as ONNX says, as "
                f"{' and '.join(kind.title for kind in RUNTIMES.values() if kind.float_codes)}'s do. Name no --runtime."
            )
        return CpuChoice(runtime="onnxruntime" if runtime == "auto" else runtime, form="fp32", streams=streams)
    kinds = kinds_of(model)
    for name, form in preferences(runtime):
        if wrong(name, form, kinds) is None:
            return CpuChoice(runtime=name, form=form, streams=streams)
    assert runtime != "auto"  # ends with what is always exact
    refused, other = "; ".join(refusals(kinds, runtime).values()), by_rule(model, "auto", streams)
    raise SetupError(
        f"{NAMES[runtime]} has no form of INT8 that is exact on this CPU ({refused}). Name no --runtime, which takes "
        f"{words(other.runtime, other.form)}."
    )


def preferences(runtime: CpuRuntime) -> list[tuple[RuntimeName, Form]]:
    """Runtimes with the forms that they can have, the fastest first where all are exact; of ``auto`` what is here."""
    names = _here() if runtime == "auto" else [runtime]
    ranked = [(rank, name, form) for name in names for form, rank in _ranks(name).items()]
    return [(name, form) for _, name, form in sorted(ranked)]


def _here() -> list[RuntimeName]:
    return [name for name, kind in RUNTIMES.items() if kind.required or find_spec(name) is not None]


def _ranks(name: RuntimeName) -> Mapping[Form, int]:
    return RUNTIMES[name].x86 if is_x86() else RUNTIMES[name].elsewhere


def refusals(kinds: Sequence[Kind], runtime: CpuRuntime) -> dict[tuple[RuntimeName, Form], str]:
    """What would be preferred to the rule's choice for these ops and is not exact on this CPU, each with a sentence."""
    refused = {}
    for name, form in preferences(runtime):
        if (answer := wrong(name, form, kinds)) is None:
            break
        refused[name, form] = f"{words(name, form)}: {answer}"
    return refused


def candidates(model: ir.Model) -> list[CpuChoice]:
    """Everything worth measuring for ``model`` here, what the rule says first."""
    first = by_rule(model, "auto", cores())
    found = list(dict.fromkeys((first, *_others(model))))
    if has_codes_for_cpu(model) and has_bf16():
        found += [
            one.model_copy(update={"bf16": True})
            for one in found
            if RUNTIMES[one.runtime].bf16 and one.streams == cores()
        ]
    return found


def _others(model: ir.Model) -> Iterator[CpuChoice]:
    for runtime in (name for name in _here() if RUNTIMES[name].float_codes or not float_codes(model)):
        for form in _forms(model, runtime):
            for streams in dict.fromkeys((cores(), 1)):
                yield CpuChoice(runtime=runtime, form=form, streams=streams)


def _forms(model: ir.Model, runtime: RuntimeName) -> list[Form]:
    """The forms that may be the fastest; where none of them is exact, the first that is, if any."""
    if not has_codes_for_cpu(model):
        return ["fp32"]
    kinds, fast = kinds_of(model), ("s8", "u8") if is_x86() else ("s8",)
    exact = [form for _, form in preferences(runtime) if wrong(runtime, form, kinds) is None]
    return [form for form in exact if form in fast] or exact[:1]


def remember(model: ir.Model, measured: Measured) -> Path | None:
    """Keep what was measured. Returns the file, or None where the cache cannot be written."""
    try:
        path = _file(model)
        write_json(path, measured.model_dump(mode="json") | {"facts": _facts(model)})
    except Calib8Error:
        return None
    return path


def remembered(model: ir.Model) -> CpuChoice | None:
    """What was measured for ``model`` on this machine; None if nothing was, or nothing that can be read or is exact."""
    if SOURCE_SHA256 not in model.metadata_props:
        return None
    try:
        kept = _Kept.model_validate(parse_json(_file(model).read_bytes()))
    except (OSError, ValueError, SetupError):
        return None
    if list(kept.facts) != _facts(model):
        return None
    return kept.choice if wrong(kept.choice.runtime, kept.choice.form, kinds_of(model)) is None else None


def _file(model: ir.Model) -> Path:
    return default_cache() / "cpu" / f"{hashlib.sha256('|'.join(_facts(model)).encode()).hexdigest()[:32]}.json"


def _facts(model: ir.Model) -> list[str]:
    if convolves(model):
        instructions().settle(convolves=True)  # changes a setting, which is among the facts
    return [
        model.metadata_props.get(SOURCE_SHA256, ""),
        precision_of(model) if is_quantised(model) else "float",  # a model keeps the hash of what it was made of
        *identity().values(),
        str(cores()),
        *versions().values(),
    ]
