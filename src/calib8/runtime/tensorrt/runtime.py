"""Running an engine: checked inputs in, outputs out, from any number of threads.

An engine is opened only where its sidecar says that it runs, and data reaches the GPU only after it was checked against
the optimisation profiles that the engine has.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

from calib8.data.inputs import Arrays
from calib8.data.rooms import Rooms
from calib8.engine.profiles import profile_sets, rooms_of
from calib8.engine.sidecar import Sidecar, chosen_gpus, fitting_target, read_engine
from calib8.errors import ConfigError, DataError
from calib8.gpu.array import GpuArray, lies_on_gpu, view_of
from calib8.gpu.device import Device
from calib8.runtime.base import Runtime
from calib8.runtime.contract import contract_of_engine
from calib8.runtime.layer_time import LayerTime
from calib8.runtime.pending import Pending
from calib8.runtime.tensorrt.contexts import contexts_of
from calib8.runtime.tensorrt.engine import Engine
from calib8.runtime.tensorrt.lane import Given, Lane
from calib8.runtime.tensorrt.pool import Pool, Started
from calib8.runtime.tensorrt.profiler import layer_times, of_profile
from calib8.runtime.tensorrt.profiles import profile_for
from calib8.runtime.tensorrt.require import explained, host_code_allowed, require_runnable, warn_of_another_gpu


class TensorRtRuntime(Runtime):
    """Runs the engine at ``path``, which needs its sidecar beside it. Any thread may use it.

    contexts: how many runs may be under way at a time; each has a stream, scratch memory and buffers of its own.
    device: CUDA's number of the GPU to run on; None takes the first of the kind that the engine is for.
    host_code: let a version-compatible engine run the code for the CPU that it brings, its own runtime. That code can
        do whatever this process may: say so of engines only that you trust. None asks $CALIB8_HOST_CODE.
    cuda_graphs: how many CUDA graphs each context keeps, for runs that come again; 0 for none. TensorRT-RTX keeps its
        own number.

    Inputs may also be arrays on the same GPU, of any library that has ``__dlpack__`` or ``__cuda_array_interface__``:
    they are read where they lie. Their dtypes and shapes are checked, but not their values, which only a copy to the
    host could show: ids beyond the model's table then make TensorRT read whatever lies behind it. They must not be
    written to before the run is over.

    Raises ``InputError`` if engine or sidecar is missing, damaged or of something else, ``SetupError`` with the reason
    and what to do if it cannot run on this machine (no such GPU, no cuda-python, not the TensorRT that built it, too
    little GPU memory), ``ModelError`` if TensorRT wants to read or write one of its tensors on the CPU.
    """

    computes_fp16 = on_gpu = True

    def __init__(
        self,
        path: Path,
        *,
        contexts: int = 1,
        cuda_graphs: int = 8,
        device: int | None = None,
        host_code: bool | None = None,
    ) -> None:
        path = Path(path)
        sidecar, content = read_engine(path)
        super().__init__(contract_of_engine(sidecar))
        self._profiles = profile_sets(sidecar.profiles)
        self._single = [tensor for tensor in sidecar.tensors if tensor.mode == "input" and not tensor.shape]
        host_code, present = host_code_allowed(host_code), chosen_gpus(device)
        with ExitStack() as undo, explained(path):
            tensorrt = require_runnable(sidecar, present, host_code=host_code)
            self._device = Device(fitting_target(sidecar, present), number=device, name=sidecar.gpu)
            undo.callback(self._device.close)
            warn_of_another_gpu(path, sidecar, self._device.name)
            with self._device.active(), ExitStack() as made:
                self._engine = Engine(tensorrt, path, content, sidecar, host_code=host_code)
                made.callback(self._engine.close)
                self._pool = self._lanes(self._engine, sidecar, contexts, cuda_graphs, made)
                undo.push(made.pop_all())
            self._cleanup = undo.pop_all()
        self.description = f"{tensorrt.title} on {self._device.name}"

    def _lanes(self, engine: Engine, sidecar: Sidecar, contexts: int, cuda_graphs: int, made: ExitStack) -> Pool:
        """As many lanes as ``contexts``, which ``made`` takes down."""
        makes = contexts_of(engine, sidecar, graphs=cuda_graphs > 0)
        made.callback(makes.close)
        lanes = []
        for _ in range(contexts):
            lanes.append(Lane(engine, self._device, makes, graphs=cuda_graphs))
            made.callback(lanes[-1].close)
        pool = Pool(lanes)
        made.callback(pool.close)
        return pool

    def largest(self, name: str, axis: int) -> int | None:
        """See ``Runtime``; the optimisation profiles bound what the engine takes."""
        ends = [known[name].max[axis] for known in self._profiles if name in known]
        return max(ends) if ends else super().largest(name, axis)

    def rooms(self, name: str) -> Rooms:
        """See ``Runtime``."""
        return rooms_of(self._profiles, name) or super().rooms(name)

    def submit(self, arrays: Mapping[str, Any]) -> Pending:
        """Start a run and answer at once, or as soon as one of the contexts is free: then the oldest run is finished.

        Raises as ``run`` does, except for what only shows on the GPU: that is raised by ``result``.
        """
        return self._start(self._fitted(arrays), on_gpu=False)

    def submit_on_gpu(self, arrays: Mapping[str, Any]) -> Pending:
        """``submit``; the results are of type ``GpuArray``."""
        return self._start(self._fitted(arrays), on_gpu=True)

    def run_on_gpu(self, arrays: Mapping[str, Any]) -> dict[str, GpuArray]:
        """``run``, and leave the outputs on the GPU, for PyTorch, CuPy and others to take without a copy."""
        return self.submit_on_gpu(arrays).result()

    def layer_times(self, arrays: Mapping[str, Any], *, runs: int = 25, warm_up: int = 5) -> list[LayerTime]:
        """What each layer takes, told by TensorRT's profiler: medians of ``runs`` after ``warm_up`` that do not count.

        Their sum is not the latency: layers wait for each other while they are timed, no CUDA graph is used, and steps
        that launch nothing seem to take a microsecond. Raises as ``run`` does, and ``ConfigError`` for no runs.
        """
        if runs < 1 or warm_up < 0:
            raise ConfigError(f"got runs={runs} and warm_up={warm_up}, expected at least 1 and 0.")
        given = self._fitted(arrays)
        profile = self._profile_for(given)
        with self._kept_open(), self._pool.lent() as lane:
            reported = lane.timed(profile, given, warm_up + runs)
            layers = of_profile(self._engine.layers(), profile, len(self._profiles))
        return layer_times(reported[warm_up:], layers)

    def gpu_ms(self, arrays: Mapping[str, Any], *, least: float = 0.02) -> float:
        """Milliseconds that the GPU computes for on one run, by its own clock: no copies, no waiting for the host.

        Runs follow one another as launches of one CUDA graph until they took ``least`` seconds, three of them at least.
        Raises as ``run`` does.
        """
        given = self._fitted(arrays)
        profile = self._profile_for(given)
        with self._kept_open(), self._pool.lent() as lane:
            return 1e3 * lane.clocked(profile, given, least)

    def _fitted(self, arrays: Mapping[str, Any]) -> Given:
        """Host arrays in the engine's dtypes, GPU arrays as they lie. Raises ``DataError``, ``SetupError``."""
        self._require_open()
        there = {name for name, array in arrays.items() if lies_on_gpu(array)}
        given = self._brought(arrays, there) if there else self.contract.fitted(arrays)
        for tensor in self._single:
            got = given[tensor.name]
            if got.shape or got.dtype != np.dtype(tensor.dtype):
                raise DataError(
                    f"{tensor.name} has shape {list(got.shape)} and dtype {got.dtype}, expected a single number: "
                    f"np.{tensor.dtype}(…)."
                )
        return given

    def _brought(self, arrays: Mapping[str, Any], there: Collection[str]) -> Given:
        """Of arrays some of which are on the GPU."""
        with self._device.active():
            views = {name: view_of(name, arrays[name], self._device) for name in there}
        shapes = {name: np.broadcast_to(np.zeros((), view.dtype), view.shape) for name, view in views.items()}
        return {**self.contract.fitted({**arrays, **shapes}, unseen=there), **views}

    def _run(self, arrays: Given) -> Arrays:
        """Raises ``DataError`` before anything reaches the GPU if no profile allows the shapes.

        ``SetupError`` if CUDA or TensorRT fails (too little GPU memory, for example; smaller inputs still run),
        ``ModelError`` if an output's shape depends on values.
        """
        return self._start(arrays, on_gpu=False).result()

    def _start(self, given: Given, *, on_gpu: bool) -> Started:
        profile = self._profile_for(given)
        return self._pool.start(lambda lane: lane.start(profile, given, on_gpu=on_gpu))

    def _profile_for(self, given: Given) -> int:
        return profile_for({name: tuple(array.shape) for name, array in given.items()}, self._profiles)

    def _free(self) -> None:
        """Runs under way are finished first; then the lanes, the engine, its memory and the stream go."""
        with self._device.active(closing=True):
            self._cleanup.close()
