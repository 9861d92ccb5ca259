"""Open a model on the CPU, in the runtime and the form that are fastest here."""

import onnx_ir as ir

from calib8.passes.cpu_form import to_cpu_form
from calib8.runtime.base import Runtime
from calib8.runtime.choice import CpuChoice, by_rule, cores, remembered
from calib8.runtime.names import CpuRuntime
from calib8.runtime.streams import Streams


def open_cpu(
    model: ir.Model, runtime: CpuRuntime = "auto", *, threads: int | None = None, throughput: bool = False
) -> Runtime:
    """Open ``model`` (FP32, FP16 or Q/DQ) on the CPU; the model itself is not changed.

    ``auto`` takes what was measured for it on this machine (``calib8 tune``), else OpenVINO for an INT8 model where it
    is installed, ONNX Runtime otherwise. ``throughput`` is for those who ``submit`` many runs: several go on at once.
    """
    return open_choice(model, chosen(model, runtime, threads=threads, throughput=throughput), threads)


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
    """Open ``model`` as ``choice`` says, with ``threads`` in all. ``SetupError`` where its runtime is not installed.

    OpenVINO divides its threads among the streams. The threads of an ONNX Runtime session would be common to them, so
    it gets none: of several streams each has one core, that of the thread which runs it.
    """
    form = to_cpu_form(model.clone(), unsigned=choice.unsigned)
    streams = choice.streams
    if choice.runtime == "openvino":
        from calib8.runtime.openvino import OpenVinoRuntime

        opened: Runtime = OpenVinoRuntime(form, threads=threads or cores(), streams=streams, bf16=choice.bf16)
    else:
        from calib8.runtime.ort import OrtRuntime

        opened = OrtRuntime(form, threads=threads if streams == 1 else 1)
    return opened if streams == 1 else Streams(opened, streams)
