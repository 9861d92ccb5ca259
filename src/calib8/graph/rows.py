"""Whether what a model puts out has a row for each sample, as far as the graph tells."""

import onnx_ir as ir

from calib8.graph.inputs import declared_inputs
from calib8.graph.shapes import Inference, Shape

#: A batch that is no other size by chance, and the size of any other dimension that is free.
BATCH, OTHER = 7, 16


def has_rows(model: ir.Model) -> bool | None:
    """True if every output of ``model``, whose inputs all have a batch, has a row for each sample.

    False if one has the batch elsewhere, or not at all: [time, batch, classes], say. None if the graph takes no batch
    but that with which it was exported. What is not known is taken for rows, and a free dimension in front is believed
    that does not have the name of another one of an input.
    """
    specs = declared_inputs(model)
    others = {str(dim) for spec in specs for dim in spec.shape[1:]} - {str(spec.shape[0]) for spec in specs}
    leading = [value.shape[0] if value.shape else 0 for value in model.graph.outputs]
    if all(not isinstance(dim, int) and str(dim) not in others for dim in leading):
        return True
    fed = {spec.name: _size(spec.shape) for spec in specs}
    found = Inference(model).of(fed)
    if not found and any(value.shape and isinstance(value.shape[0], int) for value in model.graph.outputs):
        return None
    shapes = [found.get(value.name or "", (BATCH,)) for value in model.graph.outputs]
    return all(shape[:1] == (BATCH,) for shape in shapes)


def _size(shape: tuple[int | str | None, ...]) -> Shape:
    behind = (dim if isinstance(dim, int) else OTHER for dim in shape[1:])
    return (BATCH, *behind)
