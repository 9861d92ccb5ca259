"""An execution context, which remembers what it is set to."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from calib8.engine.profiles import Shape
from calib8.errors import DataError, ModelError
from calib8.runtime.tensorrt.engine import Engine
from calib8.runtime.tensorrt.profiles import Shapes, in_words

if TYPE_CHECKING:
    import tensorrt as trt


class Context:
    """One of an engine's execution contexts on one stream. What it is set to already is not set again."""

    def __init__(self, engine: Engine, made: trt.IExecutionContext, stream: int) -> None:
        self._engine, self._made, self._stream = engine, made, stream
        self._profile: int | None = None
        self._shapes: dict[str, Shape] | None = None

    def shape(self, profile: int, shapes: Shapes) -> dict[str, Shape]:
        """Set profile and input shapes; the shapes of the outputs.

        Raises ``DataError`` if TensorRT does not take the shapes, ``ModelError`` if an output's depends on values,
        ``SetupError`` if it cannot use the profile.
        """
        if profile != self._profile:
            self._profile = self._shapes = None
            done = self._made.set_optimization_profile_async(profile, self._stream)
            self._engine.require(done, f"take optimisation profile {profile}")
            self._profile = profile
        if self._shapes != shapes:
            self._shapes = None
            self._set(shapes)
            self._shapes = dict(shapes)
        return {tensor.name: self._known(tensor.name) for tensor in self._engine.outputs}

    def enqueue(self, addresses: Mapping[str, int]) -> None:
        """Enqueue one inference that reads and writes at ``addresses``. Raises ``SetupError``."""
        for name, address in addresses.items():
            self._engine.require(self._made.set_tensor_address(name, address), f"take the memory of {name!r}")
        self.again()

    def again(self) -> None:
        """Enqueue the same inference again. Raises ``SetupError``."""
        self._engine.require(self._made.execute_async_v3(self._stream), f"run on {in_words(self._shapes or {})}")

    def tell(self, profiler: trt.IProfiler) -> None:
        """Time every layer of what is enqueued from now on; ``report`` tells ``profiler``."""
        self._made.profiler = profiler
        self._made.enqueue_emits_profile = False  # else it would wait for the GPU itself, inside ``enqueue``

    def report(self) -> None:
        """Tell the profiler what each layer of the last run took, which is over. Raises ``SetupError``."""
        self._engine.require(self._made.report_to_profiler(), "tell what each of its layers took")

    def _set(self, shapes: Shapes) -> None:
        for name, shape in shapes.items():
            if not self._made.set_input_shape(name, shape):
                raise DataError(self._engine.refusal(f"take {in_words({name: shape})}"))
        try:
            unknown = self._made.infer_shapes()
        except RuntimeError as error:
            raise DataError(
                f"{self._engine.refusal(f'combine the shapes {in_words(shapes)}', str(error))} "
                "Inputs usually share their batch and their sequence length."
            ) from error
        self._engine.require(not unknown, f"find the shapes of {', '.join(unknown)}")

    def _known(self, name: str) -> Shape:
        shape: Shape = tuple(self._made.get_tensor_shape(name))  # type: ignore[arg-type]  # the stubs' Dims lack __iter__
        if min(shape, default=0) < 0:
            raise ModelError(
                f"the shape of output {name!r} depends on the values of the inputs, which calib8 does not "
                "support on the GPU. Remove that output (NonZero, Unique, … compute such) from the model."
            )
        return shape
