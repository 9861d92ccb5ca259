"""OpenVINO on the CPU."""

from queue import SimpleQueue
from threading import Lock
from typing import Any

import onnx_ir as ir
from numpy.typing import NDArray

from calib8.data.inputs import Arrays
from calib8.errors import DataError, ModelError, SetupError
from calib8.extras import install
from calib8.graph.io import readable
from calib8.runtime.base import Runtime
from calib8.runtime.contract import contract_of
from calib8.runtime.one_position import comes_to_one_position, keep_apart

#: Held while arrays go in or out. Two threads that are the first to use a part of OpenVINO's Python bindings lock up:
#: one initialises it and waits for Python's lock, the other holds that and waits for it to be initialised.
BINDINGS = Lock()


class OpenVinoRuntime(Runtime):
    """Runs an ``onnx_ir.Model`` in OpenVINO's CPU plugin, with the non-INT8 rest in FP32, or in bf16 if ``bf16``.

    FP32 is asked for explicitly: on CPUs with bf16 units OpenVINO's own default rounds the rest to bf16.
    ``streams`` threads may ``run`` at once; ``threads`` is what all of them have together.
    Raises ``SetupError`` where OpenVINO is not installed, ``ModelError`` if it refuses the model.
    """

    def __init__(self, model: ir.Model, *, threads: int | None = None, streams: int = 1, bf16: bool = False) -> None:
        try:
            import openvino as ov
        except ImportError as error:
            raise SetupError(f"OpenVINO is not installed. Install it: {install('openvino')}.") from error
        super().__init__(contract_of(model))
        options: dict[str, object] = {"INFERENCE_PRECISION_HINT": "bf16" if bf16 else "f32", "NUM_STREAMS": streams}
        if threads is not None:
            options["INFERENCE_NUM_THREADS"] = threads
        try:
            core = ov.Core()
            with readable(model) as source:
                read = core.read_model(source)
            may_shrink = keep_apart(read)
            self._usual = _Compiled(core, read, options)
        except RuntimeError as error:
            raise ModelError(f"OpenVINO does not accept the model: {str(error).strip()[:300]}.") from error
        self._small = _Small(core, read, options) if may_shrink else None
        # A tensor that passes through an eliminated node has several names; the order of the outputs is the model's.
        self._outputs = [value.name or "" for value in model.graph.outputs]
        remainder = ", bf16 for what is not INT8" if bf16 else ""
        self.description = f"OpenVINO {ov.__version__.split('-')[0]} on CPU{remainder}"

    def _run(self, arrays: Arrays) -> Arrays:
        try:
            compiled = (self._small and self._small.compiled_for(arrays)) or self._usual
            return dict(zip(self._outputs, compiled.infer(arrays), strict=True))
        except RuntimeError as error:
            shapes = {name: list(array.shape) for name, array in arrays.items()}
            raise DataError(f"the model failed on inputs of shapes {shapes}: {str(error).strip()[-300:]}.") from error

    def executed(self) -> list[tuple[str, str]]:
        """Kind and precision of every kernel that runs, as OpenVINO reports it, such as ("FullyConnected", "u8")."""
        kernels = (op.get_rt_info() for op in self._usual.model.get_runtime_model().get_ordered_ops())
        return [
            (str(kernel["layerType"].astype(str)), str(kernel["runtimePrecision"].astype(str))) for kernel in kernels
        ]

    def _free(self) -> None:
        del self._usual, self._small


class _Compiled:
    """A compiled model with a request for each stream."""

    def __init__(self, core: Any, model: Any, options: dict[str, object]) -> None:
        self.model = core.compile_model(model, "CPU", options)
        self._idle: SimpleQueue[Any] = SimpleQueue()
        for _ in range(int(str(options["NUM_STREAMS"]))):
            self._idle.put(self.model.create_infer_request())

    def infer(self, arrays: Arrays) -> list[NDArray[Any]]:
        """Copies of all outputs, in their order."""
        request = self._idle.get()
        try:
            with BINDINGS:
                request.start_async(arrays)
            request.wait()
            with BINDINGS:
                results = request.results
                return [results[port].copy() for port in self.model.outputs]
        finally:
            self._idle.put(request)


class _Small:
    """The model in a form for inputs so small that some Conv comes to one position, compiled once one is there."""

    def __init__(self, core: Any, model: Any, options: dict[str, object]) -> None:
        self._core, self._model, self._options = core, model, options
        self._known: dict[str, bool] = {}
        self._compiled: _Compiled | None = None
        self._lock = Lock()

    def compiled_for(self, arrays: Arrays) -> _Compiled | None:
        """None for inputs that the usual form is right for."""
        if all(len(array) != 1 for array in arrays.values() if array.ndim):
            return None
        with self._lock, BINDINGS:
            shapes = str({name: array.shape for name, array in arrays.items()})
            if shapes not in self._known:
                self._known[shapes] = comes_to_one_position(self._model, arrays)
            if self._known[shapes] and self._compiled is None:
                apart = self._model.clone()
                keep_apart(apart, every=True)
                self._compiled = _Compiled(self._core, apart, self._options)
            return self._compiled if self._known[shapes] else None
