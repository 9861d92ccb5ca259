"""What a builder can be told besides model, shapes and target. It is the same in a config and in a sidecar."""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

HardwareCompatibility = Literal["none", "same-capability", "ampere+"]
#: What an engine computes in. ``int8``: what the Q/DQ of its model, or a calibrator, says.
Precision = Literal["int8", "fp16", "bf16", "fp32"]
CalibratorName = Literal["minmax", "entropy2"]


class Options(BaseModel):
    """Names and defaults follow TensorRT's ``IBuilderConfig``; ``family`` knows who lacks what."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    #: ``int8`` builds a quantised model; the others a float model, in that precision: what INT8 is set against.
    precision: Precision = "int8"
    #: Upper bound for scratch memory in MiB; None leaves TensorRT's own, all of the GPU's memory.
    workspace_mib: int | None = Field(default=None, ge=1)
    #: 0 builds fast, 5 runs fast; None leaves TensorRT's own, 3.
    optimization_level: int | None = Field(default=None, ge=0, le=5)
    #: Round FP32 operands of matrix products to 10 bits of mantissa, as TensorRT does by itself.
    tf32: bool = True
    #: Let later versions of the same major version run the engine, too.
    version_compatible: bool = False
    #: Leave the lean runtime out of a version-compatible engine: smaller, no code for the CPU in it, and for machines
    #: that have ``tensorrt-lean``.
    exclude_lean_runtime: bool = False
    #: On which other GPUs the engine runs: none, those of the same compute capability, or all from Ampere on.
    hardware_compatibility: HardwareCompatibility = "none"
    #: Let the runtime keep weights in host memory and stream them to the GPU.
    weight_streaming: bool = False
    #: Find INT8 scales by running calibration data on the GPU (TensorRT 10's implicit quantisation), by this algorithm.
    calibrator: CalibratorName | None = None

    def options(self) -> dict[str, Any]:
        """These fields alone, by name."""
        return {name: getattr(self, name) for name in Options.model_fields}
