"""How a Conv walks over its input, so that it can be seen as a matrix product of patches (im2col)."""

from dataclasses import dataclass
from math import prod

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

Sizes = tuple[int, ...]


@dataclass(frozen=True)
class Window:
    """Kernel, strides, dilations and padding (before and after) of each spatial axis."""

    kernel: Sizes
    strides: Sizes
    dilations: Sizes
    before: Sizes
    after: Sizes

    @property
    def taps(self) -> int:
        """Values that one output takes from each channel."""
        return prod(self.kernel)

    @property
    def padded(self) -> bool:
        """Whether it sees zeros that are not in the tensor: what is added to the tensor then does not reach them."""
        return any(self.before) or any(self.after)

    def outputs(self, spatial: Sizes) -> Sizes:
        """Spatial sizes of the output for an input of the spatial sizes ``spatial``; 0 where the kernel is larger."""
        axes = zip(spatial, self.kernel, self.strides, self.dilations, self.before, self.after, strict=True)
        return tuple(max(0, (n + b + a - d * (k - 1) - 1) // s + 1) for n, k, s, d, b, a in axes)

    def indices(self, shape: Sizes, chosen: NDArray[np.bool_]) -> NDArray[np.int64]:
        """Where the values that the ``chosen`` [batch, outputs...] outputs see lie in a tensor [batch, channels,
        spatial...] of this ``shape``, laid out flat; -1 for padding.

        [number chosen, channels * taps], a channel's taps side by side.
        """
        sample, *outputs = np.nonzero(chosen)
        _, channels, *spatial = shape
        place = np.zeros((len(sample), *[1] * len(spatial)), np.int64)
        inside = np.ones(place.shape, np.bool_)
        for axis, (output, size) in enumerate(zip(outputs, spatial, strict=True)):
            along = [1] * (len(spatial) + 1)
            along[axis + 1] = self.kernel[axis]
            tap = (np.arange(self.kernel[axis]) * self.dilations[axis] - self.before[axis]).reshape(along)
            position = (output * self.strides[axis]).reshape(-1, *[1] * len(spatial)) + tap
            place = place * size + position
            inside = inside & (position >= 0) & (position < size)
        first = (sample[:, None, None] * channels + np.arange(channels)[:, None]) * prod(spatial)
        taps = (len(sample), 1, self.taps)
        index = np.where(inside.reshape(taps), first + place.reshape(taps), -1)
        return index.reshape(len(sample), channels * self.taps)


def point(rank: int) -> Window:
    """The window that sees one position of ``rank`` spatial axes at a time."""
    return Window((1,) * rank, (1,) * rank, (1,) * rank, (0,) * rank, (0,) * rank)


def window_of(conv: ir.Node, kernel: Sizes) -> Window | None:
    """The window of a Conv node whose weight has the spatial sizes ``kernel``; None if its padding has no number."""
    attributes, rank = conv.attributes, len(kernel)
    padding = attributes.get_string("auto_pad", "NOTSET")
    if padding not in ("NOTSET", "VALID"):
        return None  # SAME depends on the input's size
    pads = [0] * 2 * rank if padding == "VALID" else attributes.get_ints("pads", [0] * 2 * rank)
    return Window(
        kernel=kernel,
        strides=tuple(attributes.get_ints("strides", [1] * rank)),
        dilations=tuple(attributes.get_ints("dilations", [1] * rank)),
        before=tuple(pads[:rank]),
        after=tuple(pads[rank:]),
    )
