"""Keep OpenVINO from fusing what follows a Conv of a single position: there its kernels give wrong numbers.

Where batch and all spatial axes of a Conv's output are 1, as behind a global pooling, a constant with one number per
channel has the very shape of the output. oneDNN's brgemm convolutions (as of OpenVINO 2026.4: INT8 on CPUs with AMX, bf16
on those with AVX512-BF16, too) then misread the constant of an op per channel that was fused behind an activation, or
crash. Two positions are enough for right numbers, and so is a node that neither fuses nor moves: a Roll by nothing,
which costs next to nothing at one position. (A Gather of all channels would be moved into the weights of the next Conv.)
"""

from typing import Any

import numpy as np

from calib8.data.inputs import Arrays

KINDS = ("Convolution", "GroupConvolution")


def keep_apart(model: Any, *, every: bool = False) -> bool:
    """Put a Roll behind each Conv of an ``openvino.Model`` whose spatial axes all are 1, or behind ``every`` one.

    Returns whether a Conv is left whose spatial axes may all be 1 for some input: ask ``comes_to_one_position``.
    """
    from openvino import opset13

    left = False
    for conv in _convolutions(model):
        if not every and not _known_single(conv):
            left = left or all(axis.is_dynamic or axis.get_length() == 1 for axis in _spatial(conv))
            continue
        output = conv.output(0)
        readers = output.get_target_inputs()
        same = opset13.roll(output, np.int64([0]), np.int64([0]))
        for reader in readers:
            reader.replace_source_output(same.output(0))
    return left


def comes_to_one_position(model: Any, arrays: Arrays) -> bool:
    """Whether a Conv that ``keep_apart`` left has an output of one position for inputs of these shapes."""
    known = model.clone()
    known.reshape({name: list(array.shape) for name, array in arrays.items()})
    pairs = zip(_convolutions(model), _convolutions(known), strict=True)
    return any(_known_single(now) and now.get_output_shape(0)[0] == 1 for conv, now in pairs if not _known_single(conv))


def _known_single(conv: Any) -> bool:
    return all(axis.is_static and axis.get_length() == 1 for axis in _spatial(conv))


def _spatial(conv: Any) -> list[Any]:
    return list(conv.get_output_partial_shape(0))[2:]


def _convolutions(model: Any) -> list[Any]:
    return [node for node in model.get_ordered_ops() if node.get_type_name() in KINDS]
