"""What can be chosen about a build."""

import re
from collections.abc import Iterable, Mapping
from decimal import Decimal
from pathlib import Path
from typing import Any

import onnx_ir as ir
from pydantic import Field, field_validator, model_validator

from calib8.config import Config
from calib8.engine.family import FamilyChoice
from calib8.engine.options import Options
from calib8.engine.profiles import Profile, parse_profile, resolve_profiles
from calib8.engine.targets import parse_targets
from calib8.graph.inputs import declared_inputs
from calib8.graph.limits import dimension_limits

#: One engine each for Turing, Ampere, Ada and Blackwell cards: what is built for if nobody chooses.
DEFAULT_TARGETS = ("sm75", "sm86", "sm89", "sm120")


class Build(Config, Options):
    """How to build engines. Raises ``ConfigError`` for an impossible value; which TensorRT has what, ``build`` says."""

    #: Compute capabilities, one engine each; ``sm75+sm86`` is one engine for both. None takes those of
    #: ``DEFAULT_TARGETS`` that can run the model in INT8. Full TensorRT builds for the GPU at hand only.
    targets: tuple[str, ...] | None = None
    #: Shapes to optimise for: ``"input_ids:1x1:8x64:64x384"`` strings, or ``{"input_ids": ("1x1", "8x64", "64x384")}``.
    #: Several such mappings, or an input that is given again, make several optimisation profiles.
    shapes: tuple[Profile, ...] = ()
    #: ``auto`` takes TensorRT-RTX where both are installed, or TensorRT if there is to be a calibrator.
    family: FamilyChoice = "auto"
    #: Full TensorRT: CUDA's number of the GPU to build on and for; None takes the first, or the first of ``targets``.
    device: int | None = Field(default=None, ge=0)
    #: Where to keep TensorRT's verbose log; with several targets ``x.log`` becomes ``x.sm86.log``.
    log: Path | None = None
    #: Timings of kernels, read if the file is there, and written with what this build adds. None keeps them in the
    #: user's cache, see ``timings``.
    timing_cache: Path | None = None
    #: False measures all kernels anew, and keeps nothing.
    keep_timings: bool = True
    #: With a calibrator: its cache, read if it is there and fits the TensorRT and the algorithm, written otherwise.
    calibration_cache: Path | None = None
    #: With a calibrator: samples in a batch; None takes that of the shapes to optimise for.
    calibration_batch: int | None = Field(default=None, ge=1)
    #: Fail where the plan of an engine does not run every quantised op in INT8; the engine is kept all the same.
    check_plan: bool = True
    #: Quantised ops of which that is accepted: how many, or a share of all such as ``"10%"``.
    allow_float_ops: int | str = 0
    #: Build a model although none of its ops is quantised; such an engine computes in float.
    allow_float: bool = False

    @model_validator(mode="after")
    def _combination(self) -> "Build":
        if self.calibrator is None and (self.calibration_cache or self.calibration_batch):
            raise ValueError("calibration_cache and calibration_batch say how a calibrator works: choose a calibrator")
        if self.exclude_lean_runtime and not self.version_compatible:
            raise ValueError("only a version-compatible engine has a lean runtime to exclude: choose both, or neither")
        if self.timing_cache and not self.keep_timings:
            raise ValueError("got a timing cache, and that no timings are to be kept: leave one of them out")
        if self.calibrator and self.precision != "int8":
            raise ValueError(f"a calibrator makes INT8 engines, got precision {self.precision}: leave one of them out")
        if self.calibrator and self.weight_streaming:
            raise ValueError("weight streaming needs a strongly typed network, and a calibrator one that is not")
        return self

    def profiles(self, model: ir.Model) -> tuple[Profile, ...]:
        """The shapes that engines of ``model`` are optimised for; to know before long work whether ``shapes`` will do.

        Raises ``ProfileError`` where they do not fit the model, or sizes are missing that nothing tells.
        """
        return resolve_profiles(declared_inputs(model), self.shapes, dimension_limits(model))

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
