"""ONNX Runtime on the CPU."""

import os
from typing import Any

import onnx_ir as ir

from calib8.data.inputs import Arrays
from calib8.errors import DataError, ModelError
from calib8.graph.io import SINGLE_FILE_LIMIT, in_a_file, referring, weight_bytes
from calib8.graph.mapped import release
from calib8.runtime.base import Runtime
from calib8.runtime.contract import contract_of
from calib8.runtime.forms import float_codes, is_quantised
from calib8.runtime.processor import cores
from calib8.telemetry import onnxruntime


class OrtRuntime(Runtime):
    """Runs an ``onnx_ir.Model`` in ONNX Runtime's CPU provider. Raises ``ModelError`` if it refuses the model.

    optimised: False opens at once and runs slowly: for a model that is run once or twice. frugal: fewer seconds of CPU
    and less memory, at the price of a little latency: for a long pass over batches of many shapes. integers: compute
    Q/DQ from the codes, with kernels that ``runtime.canary`` found to be exact; else what they stand for, in FP32.
    """

    def __init__(
        self,
        model: ir.Model,
        *,
        threads: int | None = None,
        optimised: bool = True,
        frugal: bool = False,
        integers: bool = False,
    ) -> None:
        ort = onnxruntime()
        super().__init__(contract_of(model))
        options = ort.SessionOptions()
        options.log_severity_level = 3
        # A float activation that meets INT8 weights stays float; by default (4) each block of 32 gets an INT8 scale.
        options.add_session_config_entry("session.qdq_matmulnbits_accuracy_level", "0")
        if is_quantised(model) and not integers:
            options.add_session_config_entry("session.disable_quant_qdq", "1")
        if float_codes(model):  # beyond basic, ONNX Runtime 1.32 takes a Relu away before Q, as if it clamped at 0
            options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_BASIC
        if not optimised:
            options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
            options.add_session_config_entry("session.disable_prepacking", "1")
        if frugal:
            options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # threads wait without working
            options.enable_mem_pattern = False  # it keeps memory for each shape that it has seen
            options.enable_cpu_mem_arena = False  # which asks for twice as much each time, and gives nothing back
            # In the order of the file: what is an output beside does not wait until the end and keep its inputs there.
            options.execution_order = ort.ExecutionOrder.PRIORITY_BASED
        if threads is None and cores() < (os.cpu_count() or 1):
            threads = cores()  # by default ONNX Runtime takes every core of the machine, whichever are ours
        if threads is not None:
            options.intra_op_num_threads = threads
        try:
            self._session = _open(model, options)
        except Exception as error:  # ONNX Runtime raises many unrelated types, all with the reason as text
            raise ModelError(
                f"ONNX Runtime does not accept the model: {_first_line(error)}. Check it with onnx.checker."
            ) from error
        self._outputs = [output.name for output in self._session.get_outputs()]
        self.description = f"ONNX Runtime {ort.__version__} on CPU"

    def compute(self, arrays: Arrays) -> Arrays:
        """``run`` without its checks, for arrays that were checked before."""
        try:
            results = self._session.run(self._outputs, arrays)
        except Exception as error:
            shapes = {name: list(array.shape) for name, array in arrays.items()}
            raise DataError(f"the model failed on inputs of shapes {shapes}: {_first_line(error)}.") from error
        return dict(zip(self._outputs, results, strict=True))

    def _run(self, arrays: Arrays) -> Arrays:
        return self.compute(arrays)

    def _free(self) -> None:
        self._session = None


def opened(model: ir.Model, *, threads: int | None, streams: int, bf16: bool, integers: bool) -> Runtime:
    """For ``runtime.cpu``, of ``runtime.names``'s options.

    The threads of a session would be common to all streams, so it gets none: of several streams each has one core, that
    of the thread which runs it.
    """
    assert not bf16
    return OrtRuntime(model, threads=threads if streams == 1 else 1, integers=integers)


def _open(model: ir.Model, options: Any) -> Any:
    """A session that reads mapped weights from their file; of most it then has a copy packed for the processor."""
    ort = onnxruntime()
    given: dict[str, Any] = {"providers": ["CPUExecutionProvider"]}
    if is_quantised(model):  # a Gemm with a float bias has no integer kernel: its weights would be float in every run
        given["disabled_optimizers"] = ["MatMulAddFusion"]
    if weight_bytes(model, mapped=False) > SINGLE_FILE_LIMIT:
        with in_a_file(model) as path:
            return ort.InferenceSession(str(path), options, **given)
    graph, home = referring(model)
    release(model)  # the session reads the files by itself
    if home is not None:
        options.add_session_config_entry("session.model_external_initializers_file_folder_path", str(home))
    return ort.InferenceSession(graph, options, **given)


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0][:300].rstrip(".") if str(error).strip() else type(error).__name__
