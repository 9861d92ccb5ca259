"""Open a model on the CPU, in the runtime and the form that are fastest here of those that are exact."""

from importlib import import_module

import onnx_ir as ir

from calib8.errors import ModelError, SetupError
from calib8.runtime.base import Runtime
from calib8.runtime.canary import kinds_of, wrong
from calib8.runtime.choice import CpuChoice, by_rule, refusals, remembered
from calib8.runtime.forms import PRODUCTS, float_codes, in_form, words
from calib8.runtime.names import RUNTIMES, CpuRuntime, Form
from calib8.runtime.processor import cores
from calib8.runtime.streams import Streams


def open_cpu(
    model: ir.Model, runtime: CpuRuntime = "auto", *, threads: int | None = None, throughput: bool = False
) -> Runtime:
    """Open ``model`` (FP32, FP16 or Q/DQ) on the CPU; the model itself is not changed.

    ``auto`` takes what was measured for it on this machine (``calib8 tune``), else OpenVINO for an INT8 model where it
    is installed and takes the model, ONNX Runtime otherwise. ``throughput`` is for those who ``submit`` many runs:
    several go on at once.
    """
    choice = chosen(model, runtime, threads=threads, throughput=throughput)
    try:
        opened = open_choice(model, choice, threads)
    except ModelError:
        if runtime != "auto" or choice.runtime == "onnxruntime":
            raise
        choice = chosen(model, "onnxruntime", threads=threads, throughput=throughput)  # which knows more operators
        opened = open_choice(model, choice, threads)
    opened.description += remarks(model, runtime, choice.form)
    return opened


def remarks(model: ir.Model, runtime: CpuRuntime, form: Form) -> str:
    """What has to be told of ``model`` in that ``form``, to join a description: why it is slow, or not the fastest."""
    told = f", {codes} codes multiplied in FP32, slowly" if (codes := float_codes(model)) else ""
    if refused := "; ".join(words(name, other) for name, other in refusals(kinds_of(model), runtime)):
        taken = "Q and DQ in FP32, slowly" if form == "fp32" else PRODUCTS[form]
        told += f", {taken} (inexact on this CPU: {refused})"
    return told


def chosen(
    model: ir.Model, runtime: CpuRuntime = "auto", *, threads: int | None = None, throughput: bool = False
) -> CpuChoice:
    """How ``open_cpu`` would open ``model`` at this moment: a later ``calib8 tune`` may change it."""
    choice = remembered(model) if runtime == "auto" else None
    if choice is None:
        choice = by_rule(model, runtime, threads or cores())
    streams = min(choice.streams, threads or choice.streams) if throughput else 1
    return choice.model_copy(update={"streams": streams})


def open_choice(model: ir.Model, choice: CpuChoice, threads: int | None = None) -> Runtime:
    """Open ``model`` as ``choice`` says, with ``threads`` in all.

    Raises ``SetupError`` where its runtime is not installed, or computes wrong numbers in that form on this CPU.
    """
    if (answer := wrong(choice.runtime, choice.form, kinds_of(model))) is not None:
        other = by_rule(model, "auto", choice.streams)
        raise SetupError(
            f"{words(choice.runtime, choice.form)} is not used on this CPU: {answer}. "
            f"Take {words(other.runtime, other.form)}: name no --runtime, or run calib8 tune here."
        )
    opened = open_form(in_form(model.clone(), choice.form), choice, threads)
    return opened if choice.streams == 1 else Streams(opened, choice.streams)


def open_form(form: ir.Model, choice: CpuChoice, threads: int | None = None) -> Runtime:
    """Open a model that is in its ``form`` already, whether that is exact or not: for ``runtime.canary``."""
    home = import_module(RUNTIMES[choice.runtime].module)
    integers = choice.form != "fp32"
    opened: Runtime = home.opened(form, threads=threads, streams=choice.streams, bf16=choice.bf16, integers=integers)
    return opened
