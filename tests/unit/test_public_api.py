"""What ``import calib8`` promises: few names, all of them listed, and nothing heavy."""

import pkgutil
import subprocess
import sys

import calib8

PROBE = """
import sys, time
HEAVY = ("onnxruntime", "torch", "tensorrt", "tensorrt_rtx", "openvino", "ray", "matplotlib", "starlette", "uvicorn")
start = time.perf_counter()
import calib8
seconds = time.perf_counter() - start
heavy = [name for name in HEAVY if name in sys.modules]
assert not heavy, heavy
assert seconds < 0.3, seconds
from calib8 import *
import calib8.cli.main
heavy = [name for name in HEAVY if name in sys.modules]
assert not heavy, heavy
"""


def test_importing_is_quick_and_loads_nothing_heavy() -> None:
    found = subprocess.run([sys.executable, "-c", PROBE], capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stderr


def test_the_command_line_begins_without_onnx() -> None:
    """ONNX IR brings SymPy: a second, before the first word of any command."""
    program = "import sys, calib8.cli.main; print({'onnx_ir', 'sympy'} & set(sys.modules))"
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "set()"


def test_every_listed_name_exists_and_is_documented() -> None:
    for name in calib8.__all__:
        assert getattr(calib8, name).__doc__, name


def test_listed_means_public() -> None:
    assert dir(calib8) == sorted(calib8.__all__)
    assert not hasattr(calib8, "no_such_name")


def test_no_public_name_is_that_of_a_module() -> None:
    """Importing such a module would put it in the place of what is public."""
    modules = {module.name for module in pkgutil.iter_modules(calib8.__path__)}
    assert modules & set(calib8.__all__) == set()
