"""What TensorRT runs badly or not at all, written so that it runs well: same numbers, before precision is chosen."""

from collections.abc import Callable

import onnx_ir as ir

from calib8.passes.host_loops import replace_host_loops

#: The rewrites in their order, each ``(prepared model) -> model``, in place: a new one is a file of its own and a line
#: here.
REWRITES: tuple[Callable[[ir.Model], ir.Model], ...] = (replace_host_loops,)


def fit_tensorrt(model: ir.Model) -> ir.Model:
    """Apply all of ``REWRITES`` to ``model`` (see ``prepare``) in place, and return it."""
    for rewrite in REWRITES:
        model = rewrite(model)
    return model
