"""What a builder can be told besides model, shapes and target. It is the same in a config and in a sidecar."""

from typing import Annotated, Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field

from calib8.config import Option
from calib8.precision import Precision

HardwareCompatibility = Literal["none", "same-capability", "ampere+"]
#: What an engine computes in: of those that are quantised what the Q/DQ of its model, or a calibrator, says.
EnginePrecision = Literal[Precision, "fp16", "bf16", "fp32"]
QUANTISED: tuple[EnginePrecision, ...] = get_args(Precision)
CalibratorName = Literal["minmax", "entropy2"]


class Options(BaseModel):
    """Names and defaults follow TensorRT's ``IBuilderConfig``; ``family`` knows who lacks what."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    precision: EnginePrecision | None = None
    """Of a float model: what to compute in, to set INT8 against. Default: what the model is quantised to."""
    workspace_mib: Annotated[int | None, Option("--workspace")] = Field(default=None, ge=1)
    """Scratch memory limit in MiB.

    None leaves TensorRT's own, all of the GPU's memory.
    """
    optimization_level: Annotated[int | None, Option(metavar="0…5")] = Field(default=None, ge=0, le=5)
    """0 builds fast, 5 runs fast. TensorRT 10 and 11.

    None leaves TensorRT's own, 3.
    """
    tf32: bool = True
    """Let FP32 matrix products round to TF32.

    Operands are rounded to 10 bits of mantissa, as TensorRT does by itself.
    """
    version_compatible: bool = False
    """Let later versions of the same major version run it. TensorRT 10 and 11."""
    exclude_lean_runtime: bool = False
    """With ``version_compatible``: bring no runtime, for machines with tensorrt-lean of the same version.

    Such an engine is smaller, and there is no code for the CPU in it.
    """
    hardware_compatibility: HardwareCompatibility = "none"
    """Other GPUs that run the engine. TensorRT 10 and 11.

    None, those of the same compute capability, or all from Ampere on.
    """
    weight_streaming: bool = False
    """Let the runtime keep weights in host memory.

    They are streamed to the GPU.
    """
    calibrator: CalibratorName | None = None
    """Find INT8 scales of an FP32 model on the GPU. TensorRT 10 only.

    By running calibration data through the model (TensorRT's implicit quantisation), with this algorithm.
    """

    def options(self) -> dict[str, Any]:
        """These fields alone, by name."""
        return {name: getattr(self, name) for name in Options.model_fields}
