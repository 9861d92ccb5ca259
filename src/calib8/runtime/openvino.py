"""OpenVINO on the CPU."""

from queue import SimpleQueue
from threading import Lock
from typing import Any

import onnx_ir as ir

from calib8.data.inputs import Arrays
from calib8.errors import DataError, ModelError, SetupError, install
from calib8.graph.io import readable
from calib8.runtime.amx import REFUSED, convolves, instructions
from calib8.runtime.base import Runtime
from calib8.runtime.contract import contract_of
from calib8.runtime.forms import is_quantised
from calib8.runtime.processor import cores
from calib8.telemetry import openvino

#: Held while arrays go in or out. Two threads that are the first to use a part of OpenVINO's Python bindings lock up:
#: one initialises it and waits for Python's lock, the other holds that and waits for it to be initialised.
BINDINGS = Lock()


class OpenVinoRuntime(Runtime):
    """Runs an ``onnx_ir.Model`` in OpenVINO's CPU plugin, with the non-INT8 rest in FP32, or in bf16 if ``bf16``.

    FP32 is asked for explicitly: on CPUs with bf16 units OpenVINO's own default rounds the rest to bf16.
    ``streams`` threads may ``run`` at once; ``threads`` is what all of them have together. ``integers``: that
    ``runtime.canary`` found its INT8 kernels to be exact; OpenVINO has no other way to compute a quantised model.
    Raises ``SetupError`` where OpenVINO is not installed, or would convolve with AMX (``runtime.amx``), ``ModelError``
    if it refuses the model, or where that is quantised and ``integers`` is False.
    """

    def __init__(
        self,
        model: ir.Model,
        *,
        threads: int | None = None,
        streams: int = 1,
        bf16: bool = False,
        integers: bool = False,
    ) -> None:
        if is_quantised(model) and not integers:
            raise ModelError("OpenVINO computes a quantised model with INT8 kernels only. Open it with open_cpu.")
        if not instructions().settle(convolves=convolves(model)) and is_quantised(model):
            raise SetupError(f"{REFUSED}.")
        try:
            ov = openvino()
        except ImportError as error:
            raise SetupError(f"OpenVINO is not installed. Install it: {install('openvino')}.") from error
        super().__init__(contract_of(model))
        options: dict[str, object] = {"INFERENCE_PRECISION_HINT": "bf16" if bf16 else "f32", "NUM_STREAMS": streams}
        if threads is not None:
            options["INFERENCE_NUM_THREADS"] = threads
        try:
            core = ov.Core()
            with readable(model) as source:
                self._compiled = core.compile_model(core.read_model(source), "CPU", options)
        except RuntimeError as error:
            raise ModelError(f"OpenVINO does not accept the model: {str(error).strip()[:300]}.") from error
        # A tensor that passes through an eliminated node has several names; the order of the outputs is the model's.
        self._outputs = [value.name or "" for value in model.graph.outputs]
        self._inputs = {name for port in self._compiled.inputs for name in port.get_names()}  # without those unread
        self._idle: SimpleQueue[Any] = SimpleQueue()
        for _ in range(streams):
            self._idle.put(self._compiled.create_infer_request())
        remainder = ", bf16 for what is not INT8" if bf16 else ""
        self.description = f"OpenVINO {ov.__version__.split('-')[0]} on CPU{remainder}"

    def _run(self, arrays: Arrays) -> Arrays:
        request = self._idle.get()
        try:
            with BINDINGS:
                request.start_async({name: array for name, array in arrays.items() if name in self._inputs})
            request.wait()
            with BINDINGS:
                results, ports = request.results, self._compiled.outputs
                return {name: results[port].copy() for name, port in zip(self._outputs, ports, strict=True)}
        except RuntimeError as error:
            shapes = {name: list(array.shape) for name, array in arrays.items()}
            raise DataError(f"the model failed on inputs of shapes {shapes}: {str(error).strip()[-300:]}.") from error
        finally:
            self._idle.put(request)

    def executed(self) -> list[tuple[str, str]]:
        """Kind and precision of every kernel that runs, as OpenVINO reports it, such as ("FullyConnected", "u8")."""
        kernels = (op.get_rt_info() for op in self._compiled.get_runtime_model().get_ordered_ops())
        return [
            (str(kernel["layerType"].astype(str)), str(kernel["runtimePrecision"].astype(str))) for kernel in kernels
        ]

    def _free(self) -> None:
        self._idle, self._compiled = SimpleQueue(), None


def opened(model: ir.Model, *, threads: int | None, streams: int, bf16: bool, integers: bool) -> Runtime:
    """For ``runtime.cpu``, of ``runtime.names``'s options. OpenVINO divides its threads among the streams."""
    return OpenVinoRuntime(model, threads=threads or cores(), streams=streams, bf16=bf16, integers=integers)
