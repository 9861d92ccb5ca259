"""Which TensorRT is used, and everything in which the families differ.

``rtx``        module ``tensorrt_rtx``: builds without a GPU, for several compute capabilities; strongly typed always.
``tensorrt``   module ``tensorrt``, 10.x and 11.x: builds on its GPU, for that GPU. 10.x is strongly typed on request
               (``NetworkDefinitionCreationFlag.STRONGLY_TYPED``), 11.x always: it ignores the flag. Calibrators exist
               in 10.x only.

The common part of their modules is typed (``trt_api``). What only one has is asked for by name, here and nowhere else.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, cast

from calib8.engine.options import Options
from calib8.engine.targets import members
from calib8.engine.trt_api import TensorRtModule
from calib8.errors import ConfigError, SetupError, install

if TYPE_CHECKING:
    from tensorrt import IBuilderConfig

FamilyName = Literal["rtx", "tensorrt"]
FamilyChoice = Literal["auto", "rtx", "tensorrt"]
#: What is installed of TensorRT: all of it, or only what runs version-compatible engines. The lean runtime runs them,
#: the dispatch runtime loads the lean one that an engine brings ("Version Compatibility").
Part = Literal["full", "lean", "dispatch"]

MODULES: dict[FamilyName, str] = {"rtx": "tensorrt_rtx", "tensorrt": "tensorrt"}
TITLES: dict[FamilyName, str] = {"rtx": "TensorRT-RTX", "tensorrt": "TensorRT"}
PARTS: dict[Part, str] = {"full": "", "lean": " lean runtime", "dispatch": " dispatch runtime"}

#: The builder flags that an option sets.
FLAGS = {
    "version_compatible": ("VERSION_COMPATIBLE",),
    "exclude_lean_runtime": ("EXCLUDE_LEAN_RUNTIME",),
    "weight_streaming": ("WEIGHT_STREAMING",),
    "calibrator": ("INT8", "FP16"),
}
LEVELS = {"same-capability": "SAME_COMPUTE_CAPABILITY", "ampere+": "AMPERE_PLUS"}
#: What TensorRT-RTX takes without doing it, or fails at late, and what to do instead.
RTX_LACKS = {
    "optimization_level": "it builds the same engine at every level, and optimises where the engine is first run",
    "version_compatible": "its engines run on the version that built them only. TensorRT 10 and 11 have this option",
    "exclude_lean_runtime": "its engines bring no runtime. TensorRT 10 and 11 have this option",
    "hardware_compatibility": "one engine for several targets is asked for as sm80+sm86. TensorRT 10 and 11 have it",
    "device": "it builds without a GPU, for the --target asked for",
    "timing_cache": "it times nothing while it builds. TensorRT 10 and 11 have this option",
}
NO_CALIBRATOR = (
    "calibrators exist in TensorRT 10 only: 11 removed them, RTX never had them. Quantise explicitly instead: "
    "`calib8 convert model.onnx --data calib_data`, or `calib8 migrate calibration.cache model.onnx` with an old cache"
)


@dataclass(frozen=True)
class TensorRT:
    """An imported TensorRT."""

    family: FamilyName
    module: TensorRtModule
    part: Part = "full"

    @property
    def version(self) -> str:
        """For example ``1.7.1.116``."""
        return str(vars(self.module)["__version__"])

    @property
    def title(self) -> str:
        """For people: ``TensorRT-RTX 1.7.1.116``."""
        return f"{TITLES[self.family]}{PARTS[self.part]} {self.version}"

    @property
    def times(self) -> bool:
        """Does it time kernels while it builds, so that timings are worth keeping?"""
        return self.family != "rtx" and hasattr(self.module.IBuilderConfig, "create_timing_cache")

    def targets(self) -> tuple[str, ...] | None:
        """The compute capabilities it compiles for, or None if only for the GPU it runs on."""
        capabilities = getattr(self.module, "ComputeCapability", None)
        if capabilities is None or not hasattr(self.module.IBuilderConfig, "set_compute_capability"):
            return None
        return tuple(name.lower() for name in capabilities.__members__ if name.startswith("SM"))

    def network_flags(self, options: Options) -> int:
        """``create_network`` flags: strongly typed, so that precision is what the graph says; not for a calibrator."""
        flag = self.module.NetworkDefinitionCreationFlag.__members__.get("STRONGLY_TYPED")
        return 0 if flag is None or options.calibrator else 1 << int(flag)

    def require(self, asked: Mapping[str, object]) -> None:
        """Raise ``ConfigError`` for the first of the options asked for that it lacks, saying what to do instead."""
        flags = self.module.BuilderFlag.__members__
        levels = self.module.HardwareCompatibilityLevel.__members__
        for name, value in asked.items():
            if name == "calibrator" and not all(flag in flags for flag in FLAGS[name]):
                raise ConfigError(f"{self.title} has no calibrator: {NO_CALIBRATOR}.")
            if self.family == "rtx" and name in RTX_LACKS:
                raise ConfigError(f"{self.title} has no {_option(name)}: {RTX_LACKS[name]}.")
            if name == "hardware_compatibility" and LEVELS[str(value)] not in levels:
                raise ConfigError(f"{self.title} has no {_option(name)} {value}: TensorRT has it from 10.9 on.")
            if any(flag not in flags for flag in FLAGS.get(name, ())):
                raise ConfigError(f"{self.title} has no {_option(name)}. Build without it.")

    def aim(self, config: IBuilderConfig, target: str) -> None:
        """Make a builder config compile for ``target``. Without a choice of targets the GPU at hand is meant."""
        if self.targets() is not None:
            rtx, chosen = cast("Any", self.module), cast("Any", config)  # the bindings of TensorRT know nothing of this
            names = members(target)
            chosen.num_compute_capabilities = len(names)
            for index, name in enumerate(names):
                chosen.set_compute_capability(rtx.ComputeCapability.__members__[name.upper()], index)

    def apply(self, config: IBuilderConfig, options: Options) -> None:
        """Tell a builder config the options; ``require`` has seen to it that they exist."""
        flags = self.module.BuilderFlag.__members__
        for name, wanted in FLAGS.items():
            for flag in wanted if getattr(options, name) else ():
                config.set_flag(flags[flag])
        if not options.tf32:
            config.clear_flag(flags["TF32"])
        if options.hardware_compatibility != "none":
            levels = self.module.HardwareCompatibilityLevel.__members__
            config.hardware_compatibility_level = levels[LEVELS[options.hardware_compatibility]]
        if options.workspace_mib is not None:
            config.set_memory_pool_limit(self.module.MemoryPoolType.WORKSPACE, options.workspace_mib << 20)
        if options.optimization_level is not None:
            config.builder_optimization_level = options.optimization_level


def load(family: FamilyChoice = "auto", *, prefer: FamilyName = "rtx") -> TensorRT:
    """Import a TensorRT; of both, ``auto`` takes the preferred one. Raises ``SetupError`` if none can be imported."""
    problems: list[str] = []
    for name in sorted(MODULES, key=lambda name: name != prefer) if family == "auto" else [family]:
        if (found := imported(name, "full", problems)) is not None:
            return found
    raise none_usable(problems)


def imported(family: FamilyName, part: Part, problems: list[str]) -> TensorRT | None:
    """A part of a TensorRT, or None and the reason among ``problems``."""
    module = MODULES[family] if part == "full" else f"{MODULES[family]}_{part}"
    try:
        return TensorRT(family, cast("TensorRtModule", importlib.import_module(module)), part)
    except (ImportError, OSError, RuntimeError) as error:  # OSError, RuntimeError: its shared libraries are missing
        if (interruption := _interruption(error)) is not None:
            raise interruption from error
        problems.append(f"{module}: {error}")
        return None


def none_usable(problems: Sequence[str]) -> SetupError:
    """What to raise where none of what was tried can be imported."""
    return SetupError(
        f"no usable TensorRT on this machine ({'; '.join(problems)}). Install one: {install('rtx')} (builds anywhere), "
        "or with [tensorrt] in place of [rtx] (builds on its GPU)."
    )


def _option(name: str) -> str:
    return f"{name} (--{name.replace('_', '-')})"


def _interruption(error: BaseException | None) -> BaseException | None:
    """What asked to stop, if that was it: pybind11 turns whatever comes while a module starts into an ImportError."""
    while error is not None:
        if isinstance(error, (KeyboardInterrupt, SystemExit)):
            return error
        if "KeyboardInterrupt" in str(error):
            return KeyboardInterrupt()
        error = error.__cause__ or error.__context__
    return None
