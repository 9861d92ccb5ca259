"""Enqueuing runs on one stream: plainly, or as a CUDA graph where the same run comes again.

Follows TensorRT's "CUDA Graphs" (Optimizing TensorRT Performance): after a change of shapes one plain enqueue comes
before a capture, the addresses are part of a graph, and a context must not be touched while a graph of it is in use.
So every graph has a context of its own; all contexts of a stream work in the same scratch memory, one after another.
"""

from __future__ import annotations

import warnings
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeVar

from calib8.engine.profiles import Shape
from calib8.errors import SetupError
from calib8.gpu.buffers import Buffers
from calib8.gpu.device import Device
from calib8.gpu.graph import Graph
from calib8.runtime.tensorrt.context import Context
from calib8.runtime.tensorrt.contexts import Contexts
from calib8.runtime.tensorrt.engine import Engine
from calib8.runtime.tensorrt.profiler import Reported, profiler_for
from calib8.runtime.tensorrt.profiles import Shapes

#: A graph that was not used for so many runs makes room for another; the shapes of more may simply take turns.
PATIENCE = 64
#: How many runs are remembered as seen, and shapes of outputs as known.
REMEMBERED = 256

Addresses = Mapping[str, int]
#: Profile, shapes of the inputs, addresses of inputs and outputs.
Key = tuple[int, tuple[Shape, ...], tuple[int, ...]]
Value = TypeVar("Value")
Known = TypeVar("Known")


@dataclass
class Captured:
    """A graph, the context that it was captured from, and the number of the last run that used it."""

    graph: Graph
    context: Context
    used: int


class Execution:
    """The contexts and graphs of one stream. ``graphs`` is how many are kept; 0 for none.

    A run is captured when it comes for the second time: same profile, shapes and addresses.
    """

    def __init__(self, engine: Engine, device: Device, contexts: Contexts, *, graphs: int) -> None:
        self._engine, self._device, self._contexts = engine, device, contexts
        self._most = graphs if contexts.capturable else 0
        self._memory = Buffers(device)
        self._runs = 0
        self._graphs: dict[Key, Captured] = {}
        self._seen: OrderedDict[Key, None] = OrderedDict()
        self._outputs: OrderedDict[tuple[int, tuple[Shape, ...]], dict[str, Shape]] = OrderedDict()
        try:
            self._plain: Context | None = self._context()
        except BaseException:
            self._memory.close()
            raise

    def outputs(self, profile: int, shapes: Shapes) -> dict[str, Shape]:
        """The shapes of the outputs. Raises as ``Context.shape`` does."""
        key = profile, tuple(shapes.values())
        if key not in self._outputs:
            _remember(self._outputs, key, self._main().shape(profile, shapes))
        return self._outputs[key]

    def enqueue(self, profile: int, shapes: Shapes, addresses: Addresses) -> None:
        """Enqueue one run. Raises ``SetupError`` if it cannot be; a graph that cannot be made is a warning only."""
        self._runs += 1
        key = profile, tuple(shapes.values()), tuple(addresses.values())
        if (captured := self._graphs.get(key)) is not None:
            captured.used = self._runs
            captured.graph.launch()
            return
        own = self._context_of_its_own() if self._worth_a_graph(key) else None
        context = own or self._main()
        context.shape(profile, shapes)
        context.enqueue(addresses)
        if own is not None:
            self._capture(key, own)

    def timed(self, profile: int, shapes: Shapes, addresses: Addresses, runs: int) -> list[Reported]:
        """Run so many times, one after the other, and what TensorRT told of each. Raises ``SetupError``.

        A context of its own has the profiler, and goes afterwards: it slows down whatever runs on it.
        """
        profiler, heard = profiler_for(self._engine.module)
        context = self._context(timed=True)
        context.tell(profiler)
        context.shape(profile, shapes)
        reported = []
        for _ in range(runs):
            context.enqueue(addresses)
            self._device.synchronise()
            context.report()
            reported.append(heard.take())
            self._engine.require(bool(reported[-1]), "tell what any of its layers took")
        return reported

    def clocked(self, profile: int, shapes: Shapes, addresses: Addresses, least: float) -> float:
        """Seconds of the GPU for one run, of as many one behind the other as take ``least`` in all.

        They are one graph launched again and again, so that the host does not hold the GPU up; without graphs, or where
        none can be captured, the context is asked each time.
        """
        context = self._context()
        context.shape(profile, shapes)
        context.enqueue(addresses)
        graph = self._graph(context) if self._most else None
        again = graph.launch if graph is not None else context.again
        try:
            once = self._device.seconds(again)
            runs = max(3, round(least / max(once, 1e-6)))

            def enqueue() -> None:
                for _ in range(runs):
                    again()

            return self._device.seconds(enqueue) / runs
        finally:
            self._device.synchronise()
            if graph is not None:
                graph.close()

    def forget(self) -> None:
        """Destroy the graphs, as after addresses changed. None of them may be running."""
        for key in list(self._graphs):
            self._graphs.pop(key).graph.close()

    def close(self) -> None:
        """Graphs before contexts, contexts before their memory. Calling it twice is fine."""
        self.forget()
        self._plain = None
        self._memory.close()

    def _main(self) -> Context:
        assert self._plain is not None, "used after close"
        return self._plain

    def _context(self, *, timed: bool = False) -> Context:
        made = self._engine.made("make room to run the engine", lambda: self._contexts.make(self._memory, timed=timed))
        return Context(self._engine, made, self._device.stream)

    def _worth_a_graph(self, key: Key) -> bool:
        """Was this run seen before, and is there room for its graph? Makes room if one is out of use."""
        if self._most == 0:
            return False
        if key not in self._seen:
            _remember(self._seen, key, None)
            return False
        if len(self._graphs) < self._most:
            return True
        oldest = min(self._graphs, key=lambda other: self._graphs[other].used)
        if self._runs - self._graphs[oldest].used < PATIENCE:
            return False
        self._graphs.pop(oldest).graph.close()
        return True

    def _context_of_its_own(self) -> Context | None:
        try:
            return self._context()
        except SetupError as error:
            self._give_up(error)
            return None

    def _capture(self, key: Key, context: Context) -> None:
        """Capture for the next time what was just enqueued on ``context``."""
        if (graph := self._graph(context)) is not None:
            self._graphs[key] = Captured(graph, context, self._runs)

    def _graph(self, context: Context) -> Graph | None:
        try:
            return Graph(self._device, context.again)
        except SetupError as error:
            self._give_up(error)
            return None

    def _give_up(self, error: SetupError) -> None:
        self._most = 0
        warnings.warn(
            f"no more CUDA graphs for this engine, which runs on without them: {error} "
            "Open it with cuda_graphs=0 to not try.",
            RuntimeWarning,
            stacklevel=2,
        )


def _remember(store: OrderedDict[Known, Value], key: Known, value: Value) -> None:
    store[key] = value
    if len(store) > REMEMBERED:
        store.popitem(last=False)
