"""What can be chosen about a build."""

import re
from collections.abc import Iterable, Mapping
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field, field_validator, model_validator

from calib8.config import Config, Option
from calib8.engine.family import FamilyChoice
from calib8.engine.options import Options
from calib8.engine.profiles import Profile, parse_profile, resolve_profiles
from calib8.engine.targets import parse_targets, proposals

if TYPE_CHECKING:
    import onnx_ir as ir

    from calib8.data.inputs import Sizes

#: One engine each for Turing, Ampere, Ada and Blackwell cards: what is built for if nobody chooses.
DEFAULT_TARGETS = ("sm75", "sm86", "sm89", "sm120")


class Build(Config, Options):
    """How to build engines. Raises ``ConfigError`` for an impossible value; which TensorRT has what, ``build`` says."""

    targets: Annotated[
        tuple[str, ...] | None,
        Option("--target", metavar=",".join(DEFAULT_TARGETS), text=True, proposals=proposals),
    ] = None
    """GPU architectures, one engine each; sm75+sm86 is one engine for both. Default: these, without sm75 where the
    model has convolutions.

    Text such as ``"sm75,sm86"``, or names. Full TensorRT builds for the GPU at hand only.
    """
    shapes: Annotated[tuple[Profile, ...], Option(metavar="input_ids:1x1:8x64:64x384")] = ()
    """Input, then its smallest, usual and largest shape. The same input again: a further profile.

    ``"input_ids:1x1:8x64:64x384"`` strings, or ``{"input_ids": ("1x1", "8x64", "64x384")}``; several such mappings make
    several optimisation profiles, too.
    """
    family: FamilyChoice = "auto"
    """Which TensorRT builds, if both are installed.

    ``auto`` takes TensorRT-RTX, or TensorRT if there is to be a calibrator.
    """
    device: int | None = Field(default=None, ge=0)
    """Full TensorRT: CUDA's number of the GPU to build on and for.

    None takes the first, or the first that is of ``targets``.
    """
    log: Annotated[Path | None, Option("--tensorrt-log")] = None
    """Keep TensorRT's verbose log here.

    With several targets ``x.log`` becomes ``x.sm86.log``.
    """
    timing_cache: Path | None = None
    """Kernel timings to reuse and to extend. TensorRT 10 and 11. Default: in the user's cache.

    Read if the file is there, and written with what this build adds.
    """
    keep_timings: Annotated[bool, Option("--keep-timings/--no-timing-cache")] = True
    """Keep kernel timings for the next build.

    False measures all kernels anew, and keeps nothing.
    """
    calibration_cache: Annotated[Path | None, Option("--cache")] = None
    """For ``calibrator``: its cache, read if it fits, else written.

    It fits a TensorRT and an algorithm.
    """
    calibration_batch: Annotated[int | None, Option("--batch")] = Field(default=None, ge=1)
    """For ``calibrator``: samples in a batch.

    None takes that of the shapes to optimise for.
    """
    check_plan: bool = True
    """Fail where the plan of an engine does not run every quantised op in INT8; the engine is kept all the same."""
    allow_float_ops: Annotated[int | str, Option(metavar="N|N%")] = 0
    """Accept an engine that computes this many quantised ops in float, or this share of them. It is built and kept in
    any case; without this the exit code is 1.

    Without ``check_plan`` nothing is counted.
    """
    ranges: Path | None = None
    """For precision fp16: the model's ranges file. What FP16 does not hold, by that, stays FP32.

    None: nobody looks what goes beyond FP16 in use.
    """
    allow_float: bool = False
    """Build a model without any quantised op.

    Such an engine computes in float.
    """

    @model_validator(mode="after")
    def _combination(self) -> "Build":
        if self.calibrator is None and (self.calibration_cache or self.calibration_batch):
            raise ValueError("calibration_cache and calibration_batch say how a calibrator works: choose a calibrator")
        if self.exclude_lean_runtime and not self.version_compatible:
            raise ValueError("only a version-compatible engine has a lean runtime to exclude: choose both, or neither")
        if self.timing_cache and not self.keep_timings:
            raise ValueError("got a timing cache, and that no timings are to be kept: leave one of them out")
        if self.calibrator and self.precision not in (None, "int8"):
            raise ValueError(f"a calibrator makes INT8 engines, got precision {self.precision}: leave one of them out")
        if self.ranges and self.precision != "fp16":
            got = self.precision or "none"
            raise ValueError(f"ranges say what FP16 does not hold, for precision fp16: got {got}. Leave them out")
        if self.calibrator and self.weight_streaming:
            raise ValueError("weight streaming needs a strongly typed network, and a calibrator one that is not")
        return self

    def profiles(self, model: "ir.Model", seen: "Sizes | None" = None) -> tuple[Profile, ...]:
        """The shapes that engines of ``model`` are optimised for; to know before long work whether ``shapes`` will do.

        ``seen``: the sizes of its dimensions in calibration data.

        Raises ``ProfileError`` where they do not fit the model, or sizes are missing that nothing tells.
        """
        from calib8.graph.inputs import declared_inputs  # the command line reads this config, and needs no ONNX
        from calib8.graph.limits import dimension_limits

        return resolve_profiles(declared_inputs(model), self.shapes, dimension_limits(model), seen)

    def allowed_float_ops(self, expected: int) -> int:
        """How many of ``expected`` quantised ops may be computed in float."""
        if not self.check_plan:
            return expected
        if isinstance(self.allow_float_ops, int):
            return self.allow_float_ops
        return int(Decimal(self.allow_float_ops.removesuffix("%")) * expected / 100)

    @field_validator("allow_float_ops", mode="before")
    @classmethod
    def _float_ops(cls, value: Any) -> int | str:
        text = str(value).strip()
        if re.fullmatch(r"[0-9]{1,9}", text):
            return int(text)
        if re.fullmatch(r"[0-9]{1,3}(\.[0-9]{1,9})?%", text) and Decimal(text.removesuffix("%")) <= 100:
            return text
        raise ValueError("expected a number of ops such as 3, or a share of them such as 10%")

    @field_validator("targets", mode="before")
    @classmethod
    def _targets(cls, value: Any) -> tuple[str, ...] | None:
        try:
            return None if value is None else parse_targets(value)
        except (TypeError, AttributeError):  # no iterable, or not of texts
            raise ValueError("expected text such as 'sm75,sm86', or a list of such names") from None

    @field_validator("shapes", mode="before")
    @classmethod
    def _shapes(cls, value: Any) -> tuple[Any, ...]:
        return read_shapes(value)


def read_shapes(value: Any) -> tuple[Any, ...]:
    """The profiles that a config's ``shapes`` mean, for its validator."""
    try:
        items = (value,) if isinstance(value, (str, Mapping)) else tuple(value)
        texts = [text for item in items for text in (_texts(item) if isinstance(item, Mapping) else [item])]
    except TypeError:
        raise ValueError("expected 'name:min:opt:max' texts, or {name: (min, opt, max)}") from None
    return tuple(parse_profile(text) if isinstance(text, str) else text for text in texts)


def _texts(shapes: Mapping[str, Iterable[str | Iterable[int]]]) -> list[str]:
    return [f"{name}:{':'.join(map(_text, three))}" for name, three in shapes.items()]


def _text(shape: str | Iterable[int]) -> str:
    return shape if isinstance(shape, str) else "x".join(map(str, shape))
