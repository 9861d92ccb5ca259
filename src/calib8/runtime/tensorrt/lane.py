"""One stream and all that a run on it needs: one run at a time."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from calib8.engine.profiles import Shape
from calib8.errors import SetupError
from calib8.gpu.array import GpuArray, GpuView
from calib8.gpu.buffers import Buffers
from calib8.gpu.device import Device
from calib8.runtime.tensorrt.contexts import Contexts
from calib8.runtime.tensorrt.engine import Engine
from calib8.runtime.tensorrt.execution import Execution
from calib8.runtime.tensorrt.profiler import Reported
from calib8.runtime.tensorrt.profiles import Shapes

#: TensorRT wants addresses that are multiples of this, as cudaMalloc's are.
ALIGNMENT = 256

#: Inputs, checked: arrays of the host, and of others on the GPU.
Given: TypeAlias = Mapping[str, "NDArray[np.generic] | GpuView"]
#: Outputs on the host, or left on the GPU.
Results: TypeAlias = "dict[str, NDArray[np.generic] | GpuArray]"


class Lane:
    """Brings inputs to the GPU, runs, and brings outputs back: ``start`` enqueues all of it, ``finish`` waits.

    ``arrivals`` is the device whose stream waits for inputs that others wrote on the GPU.
    """

    def __init__(self, engine: Engine, arrivals: Device, contexts: Contexts, *, graphs: int) -> None:
        self._engine, self._arrivals = engine, arrivals
        with ExitStack() as undo:
            self._device = arrivals.beside()
            undo.callback(self._device.close)
            self._memory, self._staging = Buffers(self._device), Buffers(self._device, pinned=True)
            undo.callback(self._memory.close)
            undo.callback(self._staging.close)
            self._execution = Execution(engine, self._device, contexts, graphs=graphs)
            undo.callback(self._execution.close)
            self._cleanup = undo.pop_all()
        self._given: Given = {}
        self._results: Results = {}

    def start(self, profile: int, given: Given, *, on_gpu: bool) -> None:
        """Enqueue a run. After an error nothing of it is under way.

        Raises ``DataError``, ``ModelError`` or ``SetupError`` as TensorRT and CUDA have it; too little memory is one.
        """
        with self._device.active():
            try:
                shapes, outputs, addresses = self._placed(profile, given, on_gpu=on_gpu)
                self._execution.enqueue(profile, shapes, addresses)
                if not on_gpu:
                    self._fetch(outputs, addresses)
                self._given = given
            except BaseException:
                with suppress(SetupError):  # copies under way hold on to the arrays
                    self._device.synchronise()
                self._results = {}
                raise

    def timed(self, profile: int, given: Given, runs: int) -> list[Reported]:
        """Run so many times, and what TensorRT told of each; the outputs are dropped. Raises as ``start`` does."""
        with self._placed_only(profile, given) as (shapes, addresses):
            return self._execution.timed(profile, shapes, addresses, runs)

    def clocked(self, profile: int, given: Given, least: float) -> float:
        """Seconds of the GPU for one run, see ``Execution.clocked``; the outputs are dropped.

        Raises as ``start`` does.
        """
        with self._placed_only(profile, given) as (shapes, addresses):
            return self._execution.clocked(profile, shapes, addresses, least)

    @contextmanager
    def _placed_only(self, profile: int, given: Given) -> Iterator[tuple[Shapes, Mapping[str, int]]]:
        """Shapes of the inputs and addresses of all tensors, for runs whose outputs nobody wants."""
        with self._device.active():
            try:
                shapes, _, addresses = self._placed(profile, given, on_gpu=False)
                yield shapes, addresses
            finally:
                with suppress(SetupError):  # copies under way hold on to the arrays
                    self._device.synchronise()
                self._results = {}

    def idle(self) -> bool:
        """Is everything done that was enqueued?"""
        return self._device.idle()

    def finish(self) -> Results:
        """Wait for the run, and take its outputs. Raises ``SetupError`` if it failed on the GPU."""
        with self._device.active():
            try:
                self._device.synchronise()
            finally:
                self._given, results, self._results = {}, self._results, {}
        return {name: array.copy() if isinstance(array, np.ndarray) else array for name, array in results.items()}

    def close(self) -> None:
        """Free all of it. Calling it twice is fine."""
        self._cleanup.close()

    def _placed(
        self, profile: int, given: Given, *, on_gpu: bool
    ) -> tuple[Shapes, Mapping[str, Shape], Mapping[str, int]]:
        """Enqueue copies of the inputs to where they are read; shapes of inputs and outputs, addresses of all."""
        shapes = {name: tuple(array.shape) for name, array in given.items()}
        outputs = self._execution.outputs(profile, shapes)
        addresses = self._room(given, outputs, on_gpu=on_gpu)
        self._bring(given, addresses)
        return shapes, outputs, addresses

    def _room(self, given: Given, outputs: Mapping[str, Shape], *, on_gpu: bool) -> dict[str, int]:
        """The address of every tensor, in the order of their names."""
        moves = self._memory.moves
        addresses = {
            name: array.address
            if isinstance(array, GpuView) and array.address % ALIGNMENT == 0
            else self._memory.room(name, array.nbytes)
            for name, array in given.items()
        }
        dtypes = {tensor.name: np.dtype(tensor.dtype) for tensor in self._engine.outputs}
        if on_gpu:
            left = {name: GpuArray(self._arrivals, shape, dtypes[name]) for name, shape in outputs.items()}
            self._results = {**left}
            addresses |= {name: array.address for name, array in left.items()}
        else:
            staged = {name: self._staging.array(name, shape, dtypes[name]) for name, shape in outputs.items()}
            self._results = {**staged}
            addresses |= {name: self._memory.room(name, array.nbytes) for name, array in staged.items()}
        if self._memory.moves != moves:
            self._execution.forget()
        return addresses

    def _bring(self, given: Given, addresses: Mapping[str, int]) -> None:
        if any(isinstance(array, GpuView) for array in given.values()):
            self._device.wait_for(self._arrivals.stream)
        for name, array in given.items():
            if not isinstance(array, GpuView):
                staged = self._staging.array(name, array.shape, array.dtype)
                np.copyto(staged, array)
                self._device.copy_in(addresses[name], staged)
            elif addresses[name] != array.address:
                self._device.copy_across(addresses[name], array.address, array.nbytes)

    def _fetch(self, outputs: Mapping[str, Shape], addresses: Mapping[str, int]) -> None:
        for name in outputs:
            staged = self._results[name]
            assert isinstance(staged, np.ndarray)
            self._device.copy_out(staged, addresses[name])
