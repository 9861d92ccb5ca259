"""Which TensorRT is used, and everything in which the families differ.

``rtx``        module ``tensorrt_rtx``: builds without a GPU, for several compute capabilities; strongly typed always.
``tensorrt``   module ``tensorrt``, 10.x and 11.x: builds on its GPU, for that GPU. 10.x is strongly typed on request
               (``NetworkDefinitionCreationFlag.STRONGLY_TYPED``), 11.x always and may lack the flag.

The common part of their modules is typed (``trt_api``). What only one has is asked for by name, here and nowhere else.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, cast

from calib8.engine.trt_api import TensorRtModule
from calib8.errors import SetupError

if TYPE_CHECKING:
    from tensorrt import IBuilderConfig

FamilyName = Literal["rtx", "tensorrt"]

MODULES: dict[FamilyName, str] = {"rtx": "tensorrt_rtx", "tensorrt": "tensorrt"}
TITLES: dict[FamilyName, str] = {"rtx": "TensorRT-RTX", "tensorrt": "TensorRT"}
INSTALL = "Install one: pip install 'calib8[rtx]' (builds anywhere) or 'calib8[tensorrt]' (builds on its GPU)."


@dataclass(frozen=True)
class TensorRT:
    """An imported TensorRT."""

    family: FamilyName
    module: TensorRtModule

    @property
    def version(self) -> str:
        """For example ``1.7.1.116``."""
        return str(vars(self.module)["__version__"])

    @property
    def title(self) -> str:
        """For people: ``TensorRT-RTX 1.7.1.116``."""
        return f"{TITLES[self.family]} {self.version}"

    def targets(self) -> tuple[str, ...] | None:
        """The compute capabilities it compiles for, or None if only for the GPU it runs on."""
        capabilities = getattr(self.module, "ComputeCapability", None)
        if capabilities is None or not hasattr(self.module.IBuilderConfig, "set_compute_capability"):
            return None
        return tuple(name.lower() for name in capabilities.__members__ if name.startswith("SM"))

    def network_flags(self) -> int:
        """``create_network`` flags: strongly typed, so that precision is what the graph says."""
        flag = self.module.NetworkDefinitionCreationFlag.__members__.get("STRONGLY_TYPED")
        return 0 if flag is None else 1 << int(flag)

    def aim(self, config: IBuilderConfig, target: str) -> None:
        """Make a builder config compile for ``target``. Without a choice of targets the GPU at hand is meant."""
        if self.targets() is not None:
            rtx, chosen = cast("Any", self.module), cast("Any", config)  # the stubs know nothing of this
            chosen.num_compute_capabilities = 1
            chosen.set_compute_capability(rtx.ComputeCapability.__members__[target.upper()], 0)


def load(family: Literal["auto", "rtx", "tensorrt"] = "auto") -> TensorRT:
    """Import a TensorRT; ``auto`` takes TensorRT-RTX if it is there. Raises ``SetupError`` if it cannot be imported."""
    tried: list[str] = []
    names: tuple[FamilyName, ...] = ("rtx", "tensorrt") if family == "auto" else (family,)
    for name in names:
        try:
            return TensorRT(name, cast("TensorRtModule", importlib.import_module(MODULES[name])))
        except (ImportError, OSError, RuntimeError) as error:  # OSError, RuntimeError: its shared libraries are missing
            if (interruption := _interruption(error)) is not None:
                raise interruption from error
            tried.append(f"{MODULES[name]}: {error}")
    raise SetupError(f"no usable TensorRT on this machine ({'; '.join(tried)}). {INSTALL}")


def _interruption(error: BaseException | None) -> BaseException | None:
    """What asked to stop, if that was it: pybind11 turns whatever comes while a module starts into an ImportError."""
    while error is not None:
        if isinstance(error, (KeyboardInterrupt, SystemExit)):
            return error
        if "KeyboardInterrupt" in str(error):
            return KeyboardInterrupt()
        error = error.__cause__ or error.__context__
    return None
