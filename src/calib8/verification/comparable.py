"""Whether anything of a model's outputs can be measured over some data: to know before hours of work, not after."""

from collections.abc import Mapping

import numpy as np
import onnx_ir as ir

from calib8.data.sources import Source
from calib8.graph.dataset import dataset_for
from calib8.progress import Quiet
from calib8.runtime.judged import open_reference
from calib8.runtime.run_all import run_filled
from calib8.verification.compare import Gathered, comparable
from calib8.verification.measured import kind_of, require_known
from calib8.verification.named import KindName
from calib8.verification.outputs import finite_numbers


def require_comparable(model: ir.Model, source: Source, memory: int | None, kinds: Mapping[str, KindName]) -> None:
    """Raise ``DataError`` where ``compare`` would because of what the float ``model`` puts out over ``source``.

    Of the data only the first batches are read, until there is something to measure of every output.
    """
    data = dataset_for(model, source, Quiet(), memory)
    gathered: dict[str, Gathered] = {}
    with open_reference(model) as reference:
        for rows, arrays in data.batches(reference.rooms(data.leading)):
            mask = np.asarray(arrays[data.mask]) if data.mask else None
            outputs = run_filled(reference, arrays, data)
            numbers = finite_numbers(reference, outputs, rows, arrays, mask)
            for name in comparable(numbers, numbers, len(rows)):
                if name not in gathered:
                    gathered[name] = Gathered(kind_of(name, outputs[name], mask, "mean", kinds))
                gathered[name].add(rows, numbers[name], numbers[name], mask)
            if all(found.anything for found in gathered.values()):
                break
    require_known(kinds, gathered)
    for name, found in gathered.items():
        found.closeness(name)
