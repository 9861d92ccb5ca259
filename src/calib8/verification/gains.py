"""What INT8 gains, op by op: kernels of a float engine and of a quantised one, by the weighted ops that they are for.

A product is not all that quantising an op changes: Q in the norm in front of it is there for it, and so is what brings
its codes into another order. So a kernel that computes no weighted op counts to the next one that does, in the order in
which they run, and those behind the last (``tail``) to none.
"""

from __future__ import annotations

import statistics
from collections import Counter, defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from calib8.data.batching import Dataset
from calib8.data.inputs import Arrays
from calib8.errors import DataError
from calib8.graph.weighted import WeightedOp
from calib8.progress import Progress
from calib8.runtime.base import Runtime
from calib8.runtime.layer_time import LayerTime
from calib8.runtime.open import open_artefact
from calib8.verification.bench import Workload, shape_of
from calib8.verification.gpu_speed import GpuSpeed, shapes_of

#: Times that each engine is timed, by turns: a GPU that was idle takes a while to be as fast as it can.
ROUNDS = 3


class KernelMs(BaseModel):
    """Milliseconds of the float engine's kernels and of the quantised one's."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    float_ms: float
    int8_ms: float

    @property
    def more_ms(self) -> float:
        """What INT8 takes more; less than nothing where it is faster."""
        return self.int8_ms - self.float_ms

    @property
    def ratio(self) -> float | None:
        """How many times faster INT8 is; None where one of them has no kernel for it."""
        return self.float_ms / self.int8_ms if self.float_ms and self.int8_ms else None


class Gain(BaseModel):
    """Groups of ops that are alike, and what all of these take together in each shape.

    The ops of a group share a kernel in one of the engines, or read the same tensor: INT8 can be had for all of them or
    for none. Groups are alike that multiply weights of the same sizes; decided together, they average noise out.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    groups: tuple[tuple[str, ...], ...]
    #: ``6 x 3 MatMul 384x384``: groups, and the ops of each.
    told: str
    #: Whether the quantised engine has any of them in INT8.
    quantised: bool
    #: Whether each of them was found in both engines.
    found: bool
    #: In the order of the shapes.
    times: tuple[KernelMs, ...]

    @property
    def ops(self) -> tuple[str, ...]:
        """All ops of all groups."""
        return tuple(name for group in self.groups for name in group)


class Gains(BaseModel):
    """All weighted ops, and the kernels behind the last. ``runtime`` names TensorRT and the GPU.

    ``left_out`` are the ops that stay in float for it, ``without`` is the race of an engine that has no ``slow`` ones
    in INT8 against the one that was timed; None where there was none.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    runtime: str
    shapes: tuple[str, ...]
    gains: tuple[Gain, ...]
    tail: tuple[KernelMs, ...]
    left_out: tuple[str, ...] = ()
    without: GpuSpeed | None = None

    @property
    def whole(self) -> tuple[KernelMs, ...]:
        """All kernels, in each shape. Their sum is not the latency."""
        times = [*(gain.times for gain in self.gains), self.tail]
        return tuple(
            KernelMs(float_ms=sum(one.float_ms for one in at), int8_ms=sum(one.int8_ms for one in at))
            for at in zip(*times, strict=True)
        )

    def costs(self, gain: Gain) -> tuple[float, ...]:
        """What INT8 takes more, in each shape, as a share of all that the float engine takes there."""
        return tuple(one.more_ms / whole.float_ms for one, whole in zip(gain.times, self.whole, strict=True))

    @property
    def slow(self) -> tuple[Gain, ...]:
        """What INT8 makes no faster: over the shapes, each of which counts as much as any other."""
        decided = (gain for gain in self.gains if gain.quantised and gain.found)
        return tuple(gain for gain in decided if sum(self.costs(gain)) >= 0)

    def why(self, gain: Gain) -> str:
        """Why ``gain``, which is slow, is to stay in float, by the shape that tells it best."""
        worst = max(range(len(self.shapes)), key=self.costs(gain).__getitem__)
        more, whole = gain.times[worst].more_ms, self.whole[worst].float_ms
        return (
            f"INT8 takes {more:.3f} ms of {whole:.3f} more than FP16 for {gain.told} at {self.shapes[worst]}: "
            f"{self.runtime}"
        )


@dataclass(frozen=True)
class Timed:
    """The layers of both engines in one shape of batch, in the order in which they run."""

    shape: str
    in_float: Sequence[LayerTime]
    quantised: Sequence[LayerTime]

    def __iter__(self) -> Iterator[Sequence[LayerTime]]:
        """The engines."""
        return iter((self.in_float, self.quantised))


def time_layers(baseline: Path, engine: Path, dataset: Dataset, progress: Progress) -> tuple[str, list[Timed]]:
    """The runtime, and the layers of both engines in the shapes in which ``race_on_gpu`` times them.

    Raises ``SetupError`` where one of the engines cannot be run.
    """
    workload, timed = Workload(dataset), list[Timed]()
    with open_artefact(baseline) as slow, open_artefact(engine) as fast:
        shapes = shapes_of(engine, dataset, workload)
        for done, (batch, length) in enumerate(shapes):
            progress.update("time kernels", done, len(shapes))
            arrays = workload.batch(batch, length)
            try:
                timed.append(Timed(shape_of(batch, length), *_by_turns((slow, fast), arrays)))
            except DataError as error:
                progress.note(f"no kernels were timed at {shape_of(batch, length)}: {error}")
        progress.update("time kernels", len(shapes), len(shapes))
        return fast.description, timed


def _by_turns(engines: tuple[Runtime, Runtime], arrays: Arrays) -> Iterator[list[LayerTime]]:
    """Layers of each engine in their order, with the median of ``ROUNDS``."""
    rounds = [[engine.layer_times(arrays) for engine in engines] for _ in range(ROUNDS)]
    for of_engine in zip(*rounds, strict=True):
        ms: dict[str, list[float]] = defaultdict(list)
        for one in (one for layers in of_engine for one in layers):
            ms[one.layer.name].append(one.ms)
        yield [replace(one, ms=statistics.median(ms[one.layer.name])) for one in of_engine[0]]


def gains_of(runtime: str, ops: Sequence[WeightedOp], quantised: Collection[str], timed: Sequence[Timed]) -> Gains:
    """``ops`` are all weighted ops of the float model, ``quantised`` the names of those in INT8."""
    names = [op.name for op in ops]
    computed = _Computed(names)
    groups = _grouped(ops, [computed(one) for engines in timed for layers in engines for one in layers])
    alike: dict[tuple[bool, str], list[tuple[str, ...]]] = defaultdict(list)
    by_name = {op.name: op for op in ops}
    for group in groups:
        told = _told([by_name[name] for name in group])
        alike[not set(group).isdisjoint(quantised), told].append(group)
    place = {name: key for key, same in alike.items() for group in same for name in group}
    sums = [[_sums(layers, computed, place) for layers in engines] for engines in timed]
    seen = [{name for one in layers for name in computed(one)} for engines in timed for layers in engines]

    def pairs(key: tuple[bool, str] | None) -> tuple[KernelMs, ...]:
        return tuple(KernelMs(float_ms=in_float[key], int8_ms=int8[key]) for in_float, int8 in sums)

    return Gains(
        runtime=runtime,
        shapes=tuple(engines.shape for engines in timed),
        gains=tuple(
            Gain(
                groups=tuple(same),
                told=key[1] if len(same) == 1 else f"{len(same)} x {key[1]}",
                quantised=key[0],
                found=all(name in found for found in seen for group in same for name in group),
                times=pairs(key),
            )
            for key, same in alike.items()
        ),
        tail=pairs(None),
    )


class _Computed:
    """Which weighted ops a layer computes, or helps to; the same layer comes up in many shapes."""

    def __init__(self, names: Sequence[str]) -> None:
        self.names = names
        self.known: dict[tuple[str, ...], tuple[str, ...]] = {}

    def __call__(self, time: LayerTime) -> tuple[str, ...]:
        layer = time.layer
        if layer.nodes not in self.known:
            self.known[layer.nodes] = tuple(name for name in self.names if layer.computes(name))
        return self.known[layer.nodes]


def _grouped(ops: Sequence[WeightedOp], kernels: Sequence[tuple[str, ...]]) -> list[tuple[str, ...]]:
    """The ops that stand or fall together, in the order of the graph: those that read one tensor, or share a kernel."""
    leader = {op.name: op.name for op in ops}

    def first(name: str) -> str:
        while leader[name] != name:
            name = leader[name]
        return name

    readers: dict[int, list[str]] = defaultdict(list)
    for op in ops:
        readers[id(op.activation)].append(op.name)
    for together in (*readers.values(), *kernels):
        for name in together[1:]:
            leader[first(name)] = first(together[0])
    groups: dict[str, list[str]] = defaultdict(list)
    for op in ops:
        groups[first(op.name)].append(op.name)
    return [tuple(group) for group in groups.values()]


def _told(ops: Sequence[WeightedOp]) -> str:
    """``3 MatMul 384x384``, without the 1 of a single op; what is alike is told alike."""
    kinds = Counter(f"{op.kind} {'x'.join(map(str, op.weight.shape or ()))}" for op in ops)
    return " + ".join(kind if count == 1 else f"{count} {kind}" for kind, count in sorted(kinds.items()))


def _sums(
    layers: Sequence[LayerTime], computed: _Computed, place: Mapping[str, tuple[bool, str]]
) -> dict[tuple[bool, str] | None, float]:
    """What the kernels take, by the place of the ops that they are for; None for the tail."""
    sums: dict[tuple[bool, str] | None, float] = defaultdict(float)
    waiting = 0.0
    for one in layers:
        waiting += one.ms
        if names := computed(one):
            sums[place[names[0]]] += waiting
            waiting = 0.0
    sums[None] = waiting
    return sums
