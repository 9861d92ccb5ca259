"""No calib8 process talks to anybody, native code included: ``sockets.c`` is loaded into it and all that it starts."""

import ast
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

import calib8
from calib8 import telemetry
from calib8.testing import tiny_encoder, token_feeds

HERE = Path(__file__).parent
SOURCE, BENCH = Path(calib8.__file__).parent, HERE.parents[1] / "bench"
#: What tells a library that it runs in a test of somebody's, where some send nothing.
CI = (
    "CI",
    "TF_BUILD",
    "GITHUB_ACTIONS",
    "GITLAB_CI",
    "CIRCLECI",
    "TRAVIS",
    "JENKINS_URL",
    "BUILDKITE",
    "CODEBUILD_BUILD_ID",
)
SECONDS = 60
TALKER = """
#include <netdb.h>
#include <sys/socket.h>
int main(void) {
  struct addrinfo *found;
  return socket(AF_INET, SOCK_STREAM, 0) < 0 && getaddrinfo("nowhere.invalid", "443", 0, &found) ? 0 : 1;
}
"""
SESSION = """
import sys
import numpy as np
ort = {get}
names = "input_ids", "attention_mask"
session = ort.InferenceSession(sys.argv[1], providers=["CPUExecutionProvider"])
session.run(None, dict.fromkeys(names, np.ones((1, 4), np.int64)))
print("ran", flush=True)
sys.stdin.read()
"""


class Watched:
    """Runs commands with the library preloaded, in a home of their own, and reads what it told."""

    def __init__(self, folder: Path, library: Path) -> None:
        self.folder, self.library, self.runs = folder, library, 0

    def start(self, *command: object, **variables: str) -> tuple["subprocess.Popen[str]", Path, Path]:
        """The process, its home, and the file in which its sockets are told."""
        self.runs += 1
        home = self.folder / f"home{self.runs}"
        home.mkdir()
        told = self.folder / f"told{self.runs}.txt"
        kept = {name: value for name, value in os.environ.items() if name not in (*CI, *telemetry.OFF)}
        own = {"HOME": str(home), "LD_PRELOAD": str(self.library), "SOCKETS_TOLD": str(told)}
        process = subprocess.Popen(
            [*map(str, command)], env=kept | own | variables, cwd=self.folder, text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
        return process, home, told

    def run(self, *command: object, **variables: str) -> tuple[str, list[str], int]:
        """(what it printed, the sockets of all its processes, how many processes there were). It must succeed."""
        process, home, told = self.start(*command, **variables)
        printed, _ = process.communicate("a b\n", timeout=300)
        assert process.returncode == 0, printed
        self.left = sorted(str(path.relative_to(home)) for path in home.rglob("*") if path.is_file())
        return printed, talks(told), told.read_text().count("watched")


def talks(told: Path) -> list[str]:
    return [line.partition(" ")[2] for line in told.read_text().splitlines() if "watched" not in line]


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if sys.platform != "linux" or shutil.which("gcc") is None:
        pytest.skip("sockets of native code are seen through a library that gcc makes, on Linux")
    folder = tmp_path_factory.mktemp("sockets")
    subprocess.run(["gcc", "-shared", "-fPIC", "-O1", "-o", folder / "sockets.so", HERE / "sockets.c"], check=True)
    (folder / "talker.c").write_text(TALKER)
    subprocess.run(["gcc", "-o", folder / "talker", folder / "talker.c"], check=True)
    return folder / "sockets.so"


@pytest.fixture
def watched(tokenizer_folder: Path, library: Path) -> Iterator[Watched]:
    """In a folder with a model, its tokenizer, data, texts and what is made of them."""
    ir.save(tiny_encoder(), tokenizer_folder / "model.onnx")
    (data := tokenizer_folder / "data").mkdir()
    for name, array in token_feeds(*[8, 3, 5, 4] * 10).items():
        np.save(data / f"{name}.npy", array)
    (tokenizer_folder / "texts.txt").write_text("a b c\nd e\nb\nc c\n" * 10, encoding="utf-8")
    calib8.calibrate(tokenizer_folder / "model.onnx", data, output=tokenizer_folder / "ranges.json")
    made = calib8.load(tokenizer_folder / "model.onnx")
    calib8.save(calib8.quantize(made, calib8.calibrate(made, data)), tokenizer_folder / "int8.onnx")
    return Watched(tokenizer_folder, library)


def test_native_code_is_seen_in_a_child_of_a_child(watched: Watched) -> None:
    program = "import subprocess, sys; sys.exit(subprocess.call(sys.argv[1:]))"
    _, told, processes = watched.run(sys.executable, "-I", "-c", program, watched.library.with_name("talker"))
    assert told == ["socket of family 2", "lookup of nowhere.invalid"]
    assert processes == 2


@pytest.mark.parametrize(
    "command",
    [
        "calibrate model.onnx --data data -o again.json --cache calibration.cache",
        "quantize model.onnx --ranges ranges.json --data data -o again.onnx",
        "verify model.onnx int8.onnx --data texts.txt",
        "embed int8.onnx texts.txt",
        "embed int8.onnx --runtime onnxruntime",
        "bench model.onnx int8.onnx --data texts.txt --seconds 0.1",
        "tune int8.onnx --data texts.txt",
        "inspect int8.onnx",
        "doctor",
        "convert model.onnx --data texts.txt -o out --no-engine --no-sentences",
        "build int8.onnx -o engines --target sm86 --no-tf32",
    ],
)
def test_no_command_talks_to_anybody(watched: Watched, command: str) -> None:
    if command.startswith("build") and find_spec("tensorrt_rtx") is None:
        pytest.skip("TensorRT-RTX is not installed: pip install '.[rtx]'")
    against = dict.fromkeys(telemetry.OFF, "")  # whatever the user's environment says
    _, told, processes = watched.run(sys.executable, "-m", "calib8", *command.split(), **against)
    assert told == []
    assert processes >= {"doctor": 7, "build": 2}.get(command.split(maxsplit=1)[0], 1)  # its children were watched, too
    assert [name for name in watched.left if "calib8" not in name and "matplotlib" not in name] == []


def test_onnxruntime_would_send_and_does_not(watched: Watched) -> None:
    """Side by side: as anybody imports it, and as calib8 does. It begins some ten seconds after it is loaded."""
    if tuple(map(int, version("onnxruntime").split(".")[:2])) < (1, 32):
        pytest.skip("ONNX Runtime sends from 1.32 on")
    gets = "__import__('onnxruntime')", "__import__('calib8.telemetry').telemetry.onnxruntime()"
    started = [watched.start(sys.executable, "-c", SESSION.format(get=get), "model.onnx") for get in gets]
    (_, its_home, its_told), (_, our_home, our_told) = started
    deadline = time.monotonic() + SECONDS
    while time.monotonic() < deadline and not (its_told.exists() and talks(its_told)):  # there when it has begun
        time.sleep(0.5)
    time.sleep(5)  # those started a little later
    printed = [process.communicate()[0] for process, _, _ in started]
    assert printed == ["ran\n"] * 2
    assert [*our_home.rglob("*")] == []
    assert talks(our_told) == []
    assert [*its_home.rglob("deviceid")] != []
    assert talks(its_told) != [], f"ONNX Runtime sent nothing in {SECONDS} s, so that this test shows nothing"


def test_openvino_would_send_and_does_not(watched: Watched) -> None:
    try:
        version("openvino-telemetry")  # the tests' own process was told that there is none
    except PackageNotFoundError:
        pytest.skip("openvino_telemetry is not installed, without which OpenVINO sends nothing")
    _, told, _ = watched.run(sys.executable, "-c", "import openvino")
    assert any("google-analytics" in line for line in told)
    assert watched.left != []
    quiet = "import sys; assert 'openvino_telemetry' not in sys.modules"
    ours = f"from calib8.telemetry import openvino; openvino(); {quiet}"
    _, told, _ = watched.run(sys.executable, "-c", f"{ours}; import openvino_telemetry")  # which its own users find
    assert (told, watched.left) == ([], [])


def imported(path: Path) -> set[str]:
    """The libraries that a file names in an import, or in a call of ``import_module``."""
    found = set[str]()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            found.add(node.module or "")
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith("import_module"):
            found |= {argument.value for argument in node.args if isinstance(argument, ast.Constant)}
    return {name.partition(".")[0] for name in found}


def test_only_one_module_loads_libraries_that_tell() -> None:
    tellers = {"onnxruntime", "openvino", "openvino_telemetry"}
    loaders = {path.relative_to(SOURCE).as_posix() for path in SOURCE.rglob("*.py") if imported(path) & tellers}
    assert loaders == {"telemetry.py"}
    hub = {path.name for path in SOURCE.rglob("*.py") if imported(path) & {"huggingface_hub", "transformers"}}
    assert all("switch_off(telemetry.HUB" in (SOURCE / "zoo" / name).read_text(encoding="utf-8") for name in hub)
    assert hub == {"hub_source.py", "repository.py", "export.py"}


def test_what_is_set_is_overruled_and_children_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in telemetry.OFF:
        monkeypatch.setenv(name, "on")
    telemetry.switch_off(telemetry.RAY)
    assert os.environ["RAY_USAGE_STATS_ENABLED"] == "0"
    assert os.environ["ORT_DISABLE_TELEMETRY"] == os.environ["HF_HUB_DISABLE_TELEMETRY"] == "on"
    telemetry.silence()
    assert {name: os.environ[name] for name in telemetry.OFF} == telemetry.OFF


def test_what_two_threads_hide_at_once_is_hidden_until_one_is_done() -> None:
    name = "calib8_no_such_module"
    with telemetry._hidden(name):
        assert sys.modules[name] is None
        del sys.modules[name]  # as a thread does that began before this one had hidden it
    assert name not in sys.modules
