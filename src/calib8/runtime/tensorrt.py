"""TensorRT and TensorRT-RTX engines on the GPU.

One context, one stream, pageable memory: simple and right. An engine is opened only where its sidecar says that it
runs, and data reaches the GPU only after it was checked against the optimisation profiles that the engine has.
"""

from __future__ import annotations

import functools
import math
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from calib8.cuda.buffers import Buffers
from calib8.cuda.device import Device
from calib8.data.inputs import Arrays
from calib8.engine.family import MODULES, TITLES, TensorRT, load
from calib8.engine.profiles import ProfileSet, Shape, profile_sets
from calib8.engine.sidecar import (
    Sidecar,
    TensorInfo,
    describe_engine,
    fitting_target,
    sidecar_path,
    why_not_here,
)
from calib8.errors import DataError, InputError, ModelError, SetupError
from calib8.runtime.base import Runtime
from calib8.runtime.contract import contract_of_engine

ON_CPU = "On the CPU use the ONNX model that it was built from."


class TensorRtRuntime(Runtime):
    """Runs the engine at ``path``, which needs its sidecar beside it. For one thread at a time.

    Raises ``InputError`` if engine or sidecar is missing, damaged or of something else, ``SetupError`` with the reason
    and what to do if it cannot run on this machine (no such GPU, no cuda-python, not the TensorRT that built it, too
    little GPU memory), ``ModelError`` if TensorRT wants to read or write one of its tensors on the CPU.
    """

    computes_fp16 = True

    def __init__(self, path: Path) -> None:
        path = Path(path)
        sidecar = describe_engine(path)
        super().__init__(contract_of_engine(sidecar))
        self._outputs = tuple(tensor for tensor in sidecar.tensors if tensor.mode == "output")
        self._profiles = profile_sets(sidecar.profiles)
        self._profile: int | None = None  # the one that the context is set to
        self._runtime: Any = None
        self._engine: Any = None
        self._context: Any = None
        with ExitStack() as undo:
            with _explained(path):
                tensorrt = _require_runnable(sidecar)
                self._log = _log(tensorrt.module)  # type: ignore[arg-type]  # a module is hashable
                self._device = Device(fitting_target(sidecar))
                undo.callback(self._device.close)
                self._buffers = Buffers(self._device)
                undo.callback(self._buffers.close)
                undo.callback(self._drop)
                self._load(tensorrt.module, path)
            self._check_engine(tensorrt.module, path)
            self.description = f"{tensorrt.title} on {self._device.name}"
            self._cleanup = undo.pop_all()

    def largest(self, name: str, axis: int) -> int | None:
        """See ``Runtime``; the optimisation profiles bound what the engine takes."""
        ends = [known[name].max[axis] for known in self._profiles if name in known]
        return max(ends) if ends else super().largest(name, axis)

    def _run(self, arrays: Arrays) -> Arrays:
        """Raises ``DataError`` before anything reaches the GPU if no profile allows the shapes.

        ``SetupError`` if CUDA or TensorRT fails (too little GPU memory, for example), ``ModelError`` if an output's
        shape depends on values.
        """
        index = profile_for(arrays, self._profiles)
        given = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
        self._device.use()
        outputs = self._shaped(index, given)
        addresses = {name: self._buffers.room(name, array.nbytes) for name, array in {**given, **outputs}.items()}
        for name, address in addresses.items():
            self._require(self._context.set_tensor_address(name, address), f"take the memory of {name!r}")
        try:
            for name, array in given.items():
                self._device.copy_in(addresses[name], array)
            self._require(self._context.execute_async_v3(self._device.stream), f"run on {_shapes(given)}")
            for name, array in outputs.items():
                self._device.copy_out(array, addresses[name])
        finally:
            self._device.synchronise()  # also after an error: copies under way hold on to the arrays
        return outputs

    def _free(self) -> None:
        """The engine, its memory and the stream."""
        self._cleanup.close()

    def _drop(self) -> None:
        """The context before its engine, the engine before its runtime, and all before memory and stream."""
        self._context = None
        self._engine = None
        self._runtime = None

    def _load(self, trt: Any, path: Path) -> None:
        self._log.take()
        self._runtime = self._made("start", lambda: trt.Runtime(self._log))
        self._engine = self._made("load the engine", lambda: self._runtime.deserialize_cuda_engine(path.read_bytes()))
        self._context = self._made("make room to run the engine", self._engine.create_execution_context)

    def _made(self, what: str, make: Callable[[], Any]) -> Any:
        """What ``make`` makes; TensorRT answers None and logs the reason if it cannot."""
        try:
            made = make()
        except (RuntimeError, TypeError) as error:  # pybind11's for a constructor that gave null
            raise SetupError(self._refusal(what, str(error))) from error
        self._require(made is not None, what)
        return made

    def _check_engine(self, trt: Any, path: Path) -> None:
        """Does the engine have what the sidecar tells, all of it in GPU memory?"""
        names = {self._engine.get_tensor_name(index) for index in range(self._engine.num_io_tensors)}
        told = {*self.contract.names, *(tensor.name for tensor in self._outputs)}
        count = self._engine.num_optimization_profiles
        if names != told or count != len(self._profiles):
            raise InputError(
                f"{path} has the tensors {', '.join(sorted(names))} and {count} optimisation profiles, "
                f"{sidecar_path(path).name} tells of {', '.join(sorted(told))} and {len(self._profiles)}. "
                "Build the engine again."
            )
        on_gpu = trt.TensorLocation.DEVICE
        on_host = [name for name in sorted(names) if self._engine.get_tensor_location(name) != on_gpu]
        if on_host:
            raise ModelError(
                f"{path} keeps {', '.join(on_host)} on the CPU, because it holds the shape of other tensors; calib8 "
                "runs only models whose inputs and outputs are on the GPU. Give that shape a fixed value in the model."
            )

    def _shaped(self, index: int, given: Arrays) -> Arrays:
        """Tell the context the profile and the inputs' shapes; return empty arrays for its outputs."""
        if index != self._profile:
            self._profile = None
            done = self._context.set_optimization_profile_async(index, self._device.stream)
            self._require(done, f"take optimisation profile {index}")
            self._profile = index
        for name, array in given.items():
            if not self._context.set_input_shape(name, array.shape):
                raise DataError(self._refusal(f"take {_shapes({name: array})}"))
        try:
            unknown = self._context.infer_shapes()
        except RuntimeError as error:
            raise DataError(
                f"{self._refusal(f'combine the shapes {_shapes(given)}', str(error))} "
                "Inputs usually share their batch and their sequence length."
            ) from error
        self._require(not unknown, f"find the shapes of {', '.join(unknown)}")
        return {tensor.name: self._empty(tensor) for tensor in self._outputs}

    def _empty(self, tensor: TensorInfo) -> NDArray[np.generic]:
        shape = tuple(self._context.get_tensor_shape(tensor.name))
        if min(shape, default=0) < 0:
            raise ModelError(
                f"the shape of output {tensor.name!r} depends on the values of the inputs, which calib8 does not "
                "support on the GPU. Remove that output (NonZero, Unique, … compute such) from the model."
            )
        return np.empty(shape, np.dtype(tensor.dtype))

    def _require(self, done: bool, what: str) -> None:
        if not done:
            raise SetupError(self._refusal(what))

    def _refusal(self, what: str, reason: str = "") -> str:
        reasons = self._log.take() or reason or "no reason given; too little free GPU memory is a common one"
        return f"TensorRT could not {what}: {reasons.rstrip('.')}."


def profile_for(given: Arrays, sets: Sequence[ProfileSet]) -> int:
    """The number of the profile to use: of several that allow the shapes, the one with the smallest largest shapes.

    Raises ``DataError`` if none does.
    """
    allowed = [index for index, known in enumerate(sets) if _allows(known, given)]
    if not allowed:
        raise DataError(
            f"the engine was not built for {_shapes(given)}: expected {' or '.join(map(_describe, sets))}. "
            "Split the batch or cut the sequences, or build with larger --shapes."
        )
    return min(allowed, key=lambda index: _size(sets[index]))


def _allows(known: ProfileSet, given: Arrays) -> bool:
    return all(
        low <= size <= high
        for name, profile in known.items()
        for size, (low, _, high) in zip(given[name].shape, profile.ranges(), strict=True)
    )


def _size(known: ProfileSet) -> int:
    return sum(math.prod(profile.max) for profile in known.values())


def _describe(known: ProfileSet) -> str:
    return ", ".join(f"{name} {_times(profile.min)} to {_times(profile.max)}" for name, profile in known.items())


def _shapes(given: Arrays) -> str:
    return ", ".join(f"{name} {_times(array.shape)}" for name, array in given.items())


def _times(shape: Shape) -> str:
    return "x".join(map(str, shape)) or "scalar"


def _require_runnable(sidecar: Sidecar) -> TensorRT:
    """The TensorRT to run the engine with. Raises ``SetupError`` with the reason if this machine cannot."""
    if reason := why_not_here(sidecar):
        raise SetupError(f"{reason}.")
    package = MODULES[sidecar.family].replace("_", "-")
    install = f"Install that version: pip install {package}=={sidecar.tensorrt_version}."
    try:
        tensorrt = load(sidecar.family)
    except SetupError as error:
        raise SetupError(f"the engine needs {sidecar.builder}, and there is {error} {install}") from error
    # TensorRT makes engines for later versions only on request, TensorRT-RTX never (their "Engine Compatibility").
    if tensorrt.version != sidecar.tensorrt_version:
        raise SetupError(
            f"the engine was built with {sidecar.builder} and runs only on that, but {TITLES[sidecar.family]} "
            f"{tensorrt.version} is installed. {install} Or build the engine again."
        )
    return tensorrt


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    """Say of every ``SetupError`` which engine cannot run, and what can be done without it."""
    try:
        yield
    except SetupError as error:
        raise SetupError(f"{path} cannot run here: {error} {ON_CPU}") from error


@functools.cache
def _log(trt: Any) -> Any:
    """The one logger for ``trt``, which keeps a single one for the process: remembers errors until they are taken."""

    class Log(trt.ILogger):  # type: ignore[misc]  # the base class is untyped
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.errors: deque[str] = deque(maxlen=5)

        def log(self, severity: Any, message: str) -> None:
            if severity.name in ("ERROR", "INTERNAL_ERROR"):
                self.errors.append(message.strip())

        def take(self) -> str:
            reasons = "; ".join(dict.fromkeys(self.errors))
            self.errors.clear()
            return reasons

    return Log()
