"""The last node of classifiers as skl2onnx writes them: a ZipMap, which makes of each row of numbers a map by class.

Neither TensorRT nor ``onnx_ir`` knows maps. The numbers are what it reads, under the output's own name.
"""

import onnx


def without_maps(model: onnx.ModelProto) -> None:
    """Let each ZipMap of ``model`` hand on the matrix that it reads, in place."""
    handed_on = {}
    for node in model.graph.node:
        if (node.domain, node.op_type) == ("ai.onnx.ml", "ZipMap") and len(node.input) == len(node.output) == 1:
            handed_on[node.output[0]] = node.input[0]
            node.CopyFrom(onnx.helper.make_node("Identity", node.input, node.output, name=node.name))
    for output in model.graph.output:
        if output.name in handed_on:
            output.type.CopyFrom(onnx.helper.make_tensor_type_proto(onnx.TensorProto.FLOAT, None))
