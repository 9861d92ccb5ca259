"""What calib8 uses of a module ``tensorrt`` or ``tensorrt_rtx``, typed by NVIDIA's bindings of TensorRT 10.16.

Everything here has the same name and signature in TensorRT 10, TensorRT 11 and TensorRT-RTX. What only some of them
have is asked for by name in ``family``. Nothing of this is imported at run time: the bindings are no dependency. A test
holds all of it against those of 10.6 and 11.4, too.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import tensorrt as trt


class TensorRtModule(Protocol):
    """The common part of the three modules. Names are TensorRT's."""

    Builder: type[trt.Builder]
    BuilderFlag: type[trt.BuilderFlag]
    Dims: type[trt.Dims]
    ExecutionContextAllocationStrategy: type[trt.ExecutionContextAllocationStrategy]
    HardwareCompatibilityLevel: type[trt.HardwareCompatibilityLevel]
    IBuilderConfig: type[trt.IBuilderConfig]
    ILogger: type[trt.ILogger]
    IProfiler: type[trt.IProfiler]
    IProgressMonitor: type[trt.IProgressMonitor]
    LayerInformationFormat: type[trt.LayerInformationFormat]
    MemoryPoolType: type[trt.MemoryPoolType]
    NetworkDefinitionCreationFlag: type[trt.NetworkDefinitionCreationFlag]
    OnnxParser: type[trt.OnnxParser]
    ProfilingVerbosity: type[trt.ProfilingVerbosity]
    Runtime: type[trt.Runtime]
    TensorLocation: type[trt.TensorLocation]


if TYPE_CHECKING:
    #: mypy compares the module of the bindings with the protocol here.
    _stubs: TensorRtModule = trt
