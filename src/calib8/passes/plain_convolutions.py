"""Convolutions without what need not be computed around them: same numbers, before precision is chosen."""

import onnx_ir as ir

from calib8.passes.channels_first import without_transposes
from calib8.passes.fold_affine import fold_affine


def plain_convolutions(model: ir.Model) -> ir.Model:
    """A clone of the prepared ``model`` that computes the same with fewer Transposes, norms and sums.

    For what is built. Calibration sees the model as it is, whose every tensor TensorRT's calibration cache names, and
    asks it for what the ops of this one read, too: of tensors that were equal there is one left, by one of their names.
    """
    changed = without_transposes(model)
    return fold_affine(model.clone() if changed is model else changed)
