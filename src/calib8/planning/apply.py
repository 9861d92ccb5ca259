"""Turn a plan into a Q/DQ model: the passes in their order, and a record of them inside the model."""

import json
from importlib.metadata import version

import onnx_ir as ir

from calib8.calibration.ranges import Ranges
from calib8.errors import ConfigError
from calib8.graph.weighted import weighted_ops
from calib8.passes.half import to_half
from calib8.passes.insert_qdq import insert_qdq
from calib8.passes.quantize_embedding import quantize_embeddings
from calib8.planning.config import Int8
from calib8.planning.quant_plan import QuantPlan

#: metadata_props keys of a quantised model, each holding JSON.
PLAN, CALIBRATION, MADE_BY = "calib8.plan", "calib8.calibration", "calib8.made_by"


def apply_plan(model: ir.Model, ranges: Ranges, plan: QuantPlan, config: Int8) -> ir.Model:
    """Return a quantised clone of the prepared ``model``.

    Order: Q/DQ first, since scales are found on FP32 tensors by name; then tables; FP16 last, since it must see every
    Q/DQ node to keep its scales in FP32. Raises ``ConfigError`` if the plan leaves nothing in INT8.
    """
    quantised = model.clone()
    chosen = set(plan.nodes("int8"))
    ops = [op for op in weighted_ops(quantised) if op.name in chosen]
    if not ops:
        raise ConfigError(
            "the plan leaves every op in float: there is nothing to quantise. Lower --min-sqnr or change "
            "--include/--exclude; calib8 inspect plan.json shows the reason for every op."
        )
    insert_qdq(quantised, ops, ranges.amax())
    if config.embedding:
        quantize_embeddings(quantised)
    if config.remainder == "fp16":
        to_half(quantised)
    quantised.metadata_props[PLAN] = plan.model_dump_json()
    quantised.metadata_props[CALIBRATION] = ranges.origin.model_dump_json()
    quantised.metadata_props[MADE_BY] = json.dumps(
        {"calib8": version("calib8"), "int8": config.model_dump(mode="json")}
    )
    return quantised
