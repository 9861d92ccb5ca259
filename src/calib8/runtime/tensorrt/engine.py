"""An engine in GPU memory, and TensorRT's refusals as our errors."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from calib8.engine.family import TensorRT
from calib8.engine.layers import Layer
from calib8.engine.layers_json import layers_from_json
from calib8.engine.profiles import profile_sets
from calib8.engine.sidecar import Sidecar, sidecar_path
from calib8.errors import InputError, ModelError, SetupError
from calib8.runtime.tensorrt.log import log_of

if TYPE_CHECKING:
    import tensorrt as trt

Made = TypeVar("Made")


class Engine:
    """The engine ``content``, the bytes of the file at ``path``, deserialised on the current GPU; ``close`` lets go.

    ``host_code``: let it bring code of its own for the CPU, as one that is version-compatible does: its runtime.
    Raises ``SetupError`` with TensorRT's reason if it does not load, ``InputError`` if it has other tensors or profiles
    than its sidecar tells, ``ModelError`` if TensorRT wants one of its tensors on the CPU.
    """

    def __init__(
        self, tensorrt: TensorRT, path: Path, content: bytes, sidecar: Sidecar, *, host_code: bool = False
    ) -> None:
        self._log, self._reasons = log_of(tensorrt.module)  # type: ignore[arg-type]  # a module is hashable
        self._reasons.take()
        self._making = (
            threading.Lock()
        )  # threads run contexts of their own; that they may make them is nowhere promised
        self.module = tensorrt.module
        #: Input and output tensors, as the sidecar tells.
        self.inputs = tuple(tensor for tensor in sidecar.tensors if tensor.mode == "input")
        self.outputs = tuple(tensor for tensor in sidecar.tensors if tensor.mode == "output")
        self._runtime: trt.Runtime | None = self.made("start", lambda: tensorrt.module.Runtime(self._log))
        self._runtime.engine_host_code_allowed = host_code
        loaded = self.made("load the engine", lambda: self._deserialised(content))
        self._check(loaded, path, len(profile_sets(sidecar.profiles)))
        self._loaded: trt.ICudaEngine | None = loaded

    @property
    def loaded(self) -> trt.ICudaEngine:
        """TensorRT's object."""
        assert self._loaded is not None, "used after close"
        return self._loaded

    def layers(self) -> list[Layer]:
        """The kernels of all optimisation profiles, as TensorRT's inspector tells; none if built without details."""
        inspector = self.loaded.create_engine_inspector()
        return layers_from_json(inspector.get_engine_information(self.module.LayerInformationFormat.JSON))

    def close(self) -> None:
        """The engine before its runtime. Calling it twice is fine."""
        self._loaded = None
        self._runtime = None

    def made(self, what: str, make: Callable[[], Made | None]) -> Made:
        """What ``make`` makes; TensorRT answers None and logs the reason if it cannot. Raises ``SetupError``."""
        try:
            with self._making:
                made = make()
        except (RuntimeError, TypeError) as error:  # pybind11's for a constructor that gave null
            raise SetupError(self.refusal(what, str(error))) from error
        if made is None:
            raise SetupError(self.refusal(what))
        return made

    def require(self, done: bool, what: str) -> None:
        """Raise ``SetupError`` with TensorRT's reason unless it was ``done``."""
        if not done:
            raise SetupError(self.refusal(what))

    def refusal(self, what: str, reason: str = "") -> str:
        """TensorRT's reason for what it could not do, in a sentence."""
        reasons = self._reasons.take() or reason or "no reason given; too little free GPU memory is a common one"
        return f"TensorRT could not {what}: {reasons.rstrip('.')}."

    def _deserialised(self, content: bytes) -> trt.ICudaEngine | None:
        assert self._runtime is not None
        return self._runtime.deserialize_cuda_engine(content)

    def _check(self, loaded: trt.ICudaEngine, path: Path, profiles: int) -> None:
        """Does the engine have what the sidecar tells, all of it in GPU memory?"""
        names = {loaded.get_tensor_name(index) for index in range(loaded.num_io_tensors)}
        told = {tensor.name for tensor in (*self.inputs, *self.outputs)}
        count = loaded.num_optimization_profiles
        if names != told or count != profiles:
            raise InputError(
                f"{path} has the tensors {', '.join(sorted(names))} and {count} optimisation profiles, "
                f"{sidecar_path(path).name} tells of {', '.join(sorted(told))} and {profiles}. Build the engine again."
            )
        on_gpu = self.module.TensorLocation.DEVICE
        on_host = [name for name in sorted(names) if loaded.get_tensor_location(name) != on_gpu]
        if on_host:
            raise ModelError(
                f"{path} keeps {', '.join(on_host)} on the CPU, because it holds the shape of other tensors; calib8 "
                "runs only models whose inputs and outputs are on the GPU. Give that shape a fixed value in the model."
            )
