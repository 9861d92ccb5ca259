"""One kernel of an engine's plan, whoever told of it: ``layers_json`` reads the inspector, ``layers_log`` the log."""

import re
from collections.abc import Iterable
from dataclasses import dataclass

#: TensorRT parts the nodes of a kernel by a control character, \x1f in Myelin's kernels and \x1e in others; where a log
#: is copied it may be lost.
_NODE = re.compile(r"\[ONNX Layer: (.*?)\](?=[\x1e\x1f]|\[ONNX Layer: |$)", re.DOTALL)


@dataclass(frozen=True)
class Tensor:
    """A tensor that a kernel reads or writes: sizes (-1 where dynamic) and type, for example ``Int8``."""

    dims: tuple[int, ...]
    dtype: str


@dataclass(frozen=True)
class Layer:
    """One kernel of the plan, or a step of the host between two."""

    name: str
    #: TensorRT's ``LayerType``: ``gemm``, ``fusion``, ``kgen``, ``CaskConvolution``, ``cjmp``, …
    kind: str
    #: The name of the kernel's code; "" or a stub where none was chosen.
    tactic: str = ""
    #: What it reads, weights included; TensorRT-RTX lists constants apart.
    inputs: tuple[Tensor, ...] = ()
    constants: tuple[Tensor, ...] = ()
    outputs: tuple[Tensor, ...] = ()
    #: Type of the weights that a convolution holds itself; "" if it lists none.
    weights: str = ""
    #: Does it read its weights from another kernel, which makes them in every run?
    dynamic_filter: bool = False
    #: The ONNX nodes that it computes, or helps to compute.
    nodes: tuple[str, ...] = ()

    def computes(self, node: str) -> bool:
        """Does it compute the ONNX node of this name, in whichever subgraph?"""
        return any(name == node or name.startswith(f"{node} | ") for name in self.nodes)

    def computes_beyond(self, nodes: Iterable[str]) -> bool:
        """Does it compute anything but these?"""
        return not set(self.nodes) <= set(nodes)


def nodes_of(metadata: str) -> tuple[str, ...]:
    """The ONNX nodes that a kernel's ``Metadata`` names: ``[ONNX Layer: a]\\x1e[ONNX Layer: b]``."""
    return tuple(_NODE.findall(metadata))
