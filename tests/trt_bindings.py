"""NVIDIA's Python bindings of TensorRT, imported without TensorRT, and type stubs made from them.

The wheels of the bindings hold one extension module, which needs nine C functions of TensorRT's libraries to be loaded.
Here libraries stand in for those whose functions all return 0, so every class, method, property and enumeration is
there, Python can inherit from them, and a builder or runtime answers as where no CUDA was found. What TensorRT
registers in a process stays: one version a process.

``python tests/trt_bindings.py`` writes ``stubs/tensorrt/__init__.pyi`` into every folder of ``.venv/bindings`` that
holds a wheel (see the Makefile).
"""

from __future__ import annotations

import ctypes
import importlib
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from types import ModuleType

from stub_library import library

ROOT = Path(__file__).parents[1]
BINDINGS = ROOT / ".venv" / "bindings"
LIBRARIES = ("nvinfer", "nvinfer_plugin", "nvonnxparser")
FUNCTIONS = (
    *("createInferBuilder_INTERNAL", "createInferRuntime_INTERNAL", "createInferRefitter_INTERNAL"),
    *("createNvOnnxParser_INTERNAL", "createNvOnnxParserRefitter_INTERNAL", "getNvOnnxParserVersion"),
    *("getPluginRegistry", "getBuilderPluginRegistry", "initLibNvInferPlugins"),
)


def stubs_of(version: str) -> Path:
    """The file of the type stubs of a version such as ``10.16``."""
    return BINDINGS / version / "stubs" / "tensorrt" / "__init__.pyi"


def load(version: str) -> ModuleType:
    """Import the bindings of a version such as ``10.16`` as the module ``tensorrt``."""
    major = version.split(".", maxsplit=1)[0]
    with tempfile.TemporaryDirectory() as place:
        for name in LIBRARIES:
            path = Path(place, f"lib{name}.so.{major}")
            path.write_bytes(library(path.name, FUNCTIONS))
            ctypes.CDLL(str(path))  # the extension module then finds it by its SONAME
    sys.path.insert(0, str(BINDINGS / version))
    sys.modules["tensorrt"] = module = importlib.import_module("tensorrt_bindings")
    return module


#: What a docstring cannot tell or tells wrongly, and an example in one that is taken for a second signature.
REPAIRS = (
    (r"^bool: DataType\n", ""),  # it would hide Python's
    (r"\bin: ", "in_: "),
    (r"\btyping\.SupportsInt\b", "int"),
    (r"\btyping\.SupportsFloat\b", "float"),
    (r"(channel_axis: int)(\) -> IScaleLayer)", r"\1 = ...\2"),
    (r"^(class IHostMemory:\n)", r"\1    def __buffer__(self, flags: int, /) -> memoryview: ...\n"),
    (r"def get_error\(self, \*args, \*\*kwargs\): \.\.\.", "def get_error(self, index: int) -> ParserError: ..."),
    (r"(read_calibration_cache\(self\) -> )typing_extensions\.Buffer", r"\1typing_extensions.Buffer | None"),
    (r"    @overload\n(    def (\w+)\(.*\n)    @overload\n    def \2\(self(?:, \w+)*\) -> Any: \.\.\.\n", r"\1"),
    (r"(?<=^class )(\w+)(:\n    __members__: ClassVar\[dict)(?=\])", r"\1\2[str, \1]"),
)


def stubs(module: ModuleType) -> str:
    """What mypy's ``stubgen`` reads in the docstrings of pybind11, with the values of enumerations as comments."""
    from mypy.stubgenc import InspectionStubGenerator

    name = f"{module.__name__}.tensorrt"
    generator = InspectionStubGenerator(name, [name])
    generator.generate_module()
    text = generator.output()
    for wrong, right in REPAIRS:
        text = re.sub(wrong, right, text, flags=re.M)
    for kind in [module.ILogger.Severity, *(kind for kind in vars(module).values() if isinstance(kind, type))]:
        for member, value in getattr(kind, "__members__", {}).items():
            line = f" {member}: ClassVar[{kind.__qualname__}] = ..."
            text = text.replace(f"{line}\n", f"{line}  # {int(value)}\n")
    return f"{text}\n__version__: str  # {module.__version__}\n"


def main() -> None:
    """Each in a process of its own."""
    if len(sys.argv) == 1:
        for package in sorted(BINDINGS.glob("*/tensorrt_bindings")):
            subprocess.run([sys.executable, __file__, package.parent.name], check=True)
        return
    version = sys.argv[1]
    stubs_of(version).parent.mkdir(parents=True, exist_ok=True)
    stubs_of(version).write_text(stubs(load(version)), encoding="utf-8")


if __name__ == "__main__":
    main()
