"""``calib8 doctor``: verdicts on made-up machines, libraries that crash, and this machine for real."""

import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
from rich.console import Console
from shell import Shell

from calib8.diagnosis import probe
from calib8.diagnosis.doctor import Diagnosis
from calib8.diagnosis.facts import Arithmetic, Facts, Library, Processor
from calib8.diagnosis.sections import machine_section, verdicts_section
from calib8.diagnosis.verdicts import verdicts
from calib8.errors import install
from calib8.gpu.hardware import Driver, Gpu
from calib8.progress import Quiet
from calib8.report.terminal import render

L4 = Gpu("NVIDIA L4", "sm89", 24 * 10**9, 23 * 10**9)
H100 = Gpu("NVIDIA H100 80GB HBM3", "sm90", 85 * 10**9, 84 * 10**9)
V100 = Gpu("Tesla V100-SXM2-16GB", "sm70")
TARGETS = "sm75 sm80 sm86 sm89 sm120 sm121"


def facts(
    *gpus: Gpu,
    vnni: bool | None = True,
    cuda: str = "13.0",
    runtime: str = "13.0",
    int8: tuple[Arithmetic, ...] = (
        Arithmetic(runtime="onnxruntime", form="u8"),
        Arithmetic(runtime="openvino", form="s8"),
    ),
    **versions: str | None,
) -> Facts:
    """A machine with these GPUs and all libraries; ``versions`` replaces one, None takes it away."""
    there = {
        "tensorrt_rtx": "1.7.1", "tensorrt": "11.4.0", "cuda_python": "13.0.1", "nvidia_ml_py": "13.580.1",
        "onnxruntime": "1.32.0", "openvino": "2026.4", **versions,
    }  # fmt: skip
    details = {
        "tensorrt_rtx": {"builds for": TARGETS},
        "cuda_python": {"CUDA runtime": runtime, "CUDA of the driver": cuda},
    }
    libraries = {
        key.replace("_", "-"): Library(package=key.replace("_", "-"), version=version, details=details.get(key, {}))
        if version
        else Library(package=key.replace("_", "-"), problem=f"is not installed: no module {key}")
        for key, version in there.items()
    }
    driver = Driver("580.65.06", cuda, gpus) if gpus else Driver(problem="no NVIDIA driver answers here.")
    cpu = Processor(name="CPU", cores=2, vnni=vnni, amx=None, memory_total_bytes=10**10, memory_available_bytes=None)
    return Facts(
        calib8="0.1.0", python="3.11", system="Linux", processor=cpu, driver=driver, libraries=libraries, int8=int8
    )


def said(machine: Facts) -> dict[str, tuple[bool, str]]:
    return {verdict.what: (verdict.works, verdict.remark) for verdict in verdicts(machine)}


def test_an_ada_card_with_everything() -> None:
    found = said(facts(L4))
    assert {what for what, (works, _) in found.items() if not works} == {"calibrator, TensorRT 10"}
    assert found["build, TensorRT-RTX"][1] == f"{TARGETS}; needs no GPU"
    assert found["build, TensorRT 10/11"][1].startswith("for sm89 only")
    assert "TensorRT 11.4.0 has none" in found["calibrator, TensorRT 10"][1]
    assert found["INT8 on the CPU"][1] == "OpenVINO 2026.4, s8 x s8, with VNNI: fast"


@pytest.mark.parametrize("gpu", [H100, V100, Gpu("NVIDIA B200", "sm100"), Gpu("NVIDIA Orin", "sm87")])
def test_tensorrt_rtx_builds_but_does_not_run_on(gpu: Gpu) -> None:
    found = said(facts(gpu))
    assert found["build, TensorRT-RTX"][0]
    works, remark = found[f"run on {gpu.target}, TensorRT-RTX"]
    assert not works
    assert remark == f"TensorRT-RTX does not run on {gpu.name}. Use TensorRT: {install('tensorrt')}."
    assert found[f"run on {gpu.target}, TensorRT 10/11"][0]


def test_tensorrt_10_calibrates_where_there_is_a_gpu() -> None:
    assert said(facts(L4, tensorrt="10.13.0"))["calibrator, TensorRT 10"][0]
    works, remark = said(facts(tensorrt="10.13.0"))["calibrator, TensorRT 10"]
    assert not works
    assert "It calibrates on a GPU" in remark


def test_a_machine_without_a_gpu() -> None:
    found = said(facts())
    assert {what for what, (works, _) in found.items() if works} == {"build, TensorRT-RTX", "INT8 on the CPU"}
    assert found["run engines"][1].endswith("Run the INT8 model on the CPU.")
    assert "It builds only on a GPU" in found["build, TensorRT 10/11"][1]


def test_every_missing_package_is_named_with_its_remedy() -> None:
    nothing = dict.fromkeys(["tensorrt_rtx", "tensorrt", "cuda_python", "nvidia_ml_py", "openvino", "onnxruntime"])
    found = said(facts(L4, **nothing))
    assert not any(works for works, _ in found.values())
    assert all("pip install" in remark for _, remark in found.values())
    without_cuda = said(facts(L4, cuda_python=None))
    assert "cuda-python is not installed" in without_cuda["run on sm89, TensorRT-RTX"][1]
    slow = said(facts(L4, openvino=None, vnni=False))["INT8 on the CPU"]
    assert slow == (True, f"ONNX Runtime 1.32.0, u8 x s8, without VNNI: works, slowly. Faster: {install('openvino')}")


def test_a_driver_older_than_cuda_python() -> None:
    works, remark = said(facts(L4, cuda="12.8", runtime="13.4"))["run on sm89, TensorRT-RTX"]
    assert not works
    assert remark == "cuda-python is for CUDA 13.4, the driver ends at 12.8. Update the driver."
    assert said(facts(L4, cuda="13.0", runtime="13.4"))["run on sm89, TensorRT-RTX"][0]  # minor versions are compatible


def test_two_alike_gpus_are_judged_once_and_mig_is_told() -> None:
    divided = Gpu("NVIDIA H100", "sm90", mig=("NVIDIA H100 MIG 1g.10gb",))
    assert len(verdicts(facts(L4, L4))) == len(verdicts(facts(L4)))
    assert said(facts(divided))["watch the GPU, --monitor"][1].startswith("without utilisation")
    assert "1g.10gb" in shown(facts(divided))


def shown(machine: Facts) -> str:
    import io

    console = Console(width=80, record=True, file=io.StringIO())
    console.print(render(machine_section(machine), verdicts_section(verdicts(machine))))
    return console.export_text()


def test_it_fits_80_columns() -> None:
    for machine in (facts(H100, L4), facts(tensorrt=None)):
        text = shown(machine)
        assert max(map(len, text.splitlines())) <= 80
        assert "…" not in text


@pytest.mark.parametrize(
    ("library", "problem"),
    [
        ("import os; os.abort()", "crashes when it is loaded (code -6)"),
        ("raise OSError('libx.so.13: cannot open shared object file')", "cannot be loaded: libx.so.13: cannot"),
        ("import no_such_part", "is not installed: no module no_such_part"),
        ("import time; time.sleep(60)", "does not answer within 2 s"),
    ],
)  # fmt: skip
def test_a_library_that_breaks_is_told_and_harms_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, library: str, problem: str
) -> None:
    (tmp_path / "openvino.py").write_text(library)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(probe, "PATIENCE_SECONDS", 2.0 if "sleep" in library else 60.0)
    found, told = probe.ask_child("openvino", set())
    assert found is None
    assert (told or "").startswith(problem)


def test_what_a_library_prints_does_no_harm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "openvino.py").write_text("print('hello'); print('[1'); __version__ = '1.2-abc'")
    monkeypatch.syspath_prepend(tmp_path)
    assert probe.ask_child("openvino", set()) == ({"version": "1.2"}, None)


def test_the_command_prints_the_tables(calib8: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("calib8.doctor", lambda *, progress: Diagnosis(facts=facts(L4), verdicts=verdicts(facts(L4))))
    code, out, err = calib8("doctor", "--quiet")
    assert (code, err) == (0, "")
    assert first_column(out) == first_column(shown(facts(L4)))


def test_this_machine(calib8: Shell) -> None:
    code, out, err = calib8("doctor", "--json")
    assert code == 0
    first, *told = err.splitlines()
    assert first == "looking at the driver, the libraries and the INT8 kernels of this CPU ..."
    assert {line.partition(": ")[0] for line in told} == {probe.DRIVER, *probe.LIBRARIES, *probe.ARITHMETIC}
    found = Diagnosis.model_validate(json.loads(out))
    import onnxruntime

    assert found.facts.version("onnxruntime") == onnxruntime.__version__
    assert "CPUExecutionProvider" in (found.facts.libraries["onnxruntime"].details["providers"] or "")
    assert found.facts.processor.cores >= 1
    assert found.verdicts == verdicts(found.facts)
    assert {one.runtime for one in found.facts.int8 if one.form} >= {"onnxruntime"}


NONE = Arithmetic(runtime="openvino", inexact=("OpenVINO, s8 x s8: MatMul gives 8160 where 1032256 is right",))
CRASH = Arithmetic(runtime="openvino", problem="crashes when it is loaded (code -4): no message")


@pytest.mark.parametrize(
    ("onnxruntime", "openvino", "expected"),
    [
        (
            Arithmetic(runtime="onnxruntime", form="u8u8", inexact=("ONNX Runtime, u8 x s8: ...",)),
            NONE,
            "ONNX Runtime 1.32.0, u8 x u8, without VNNI: works, slowly. OpenVINO's kernels saturate here and are not "
            "used",
        ),
        (
            Arithmetic(runtime="onnxruntime", form="fp32", inexact=("ONNX Runtime, u8 x s8: ...",)),
            NONE,
            "ONNX Runtime 1.32.0, Q and DQ in FP32: right, slowly. OpenVINO's kernels saturate here and are not used",
        ),
        (
            Arithmetic(runtime="onnxruntime", form="u8"),
            CRASH,
            "ONNX Runtime 1.32.0, u8 x s8, without VNNI: works, slowly. OpenVINO crashes when it is loaded (code -4): "
            "no message",
        ),
    ],
)  # fmt: skip
def test_which_int8_is_taken_and_which_is_not(onnxruntime: Arithmetic, openvino: Arithmetic, expected: str) -> None:
    assert said(facts(vnni=False, int8=(onnxruntime, openvino)))["INT8 on the CPU"] == (True, expected)


def test_no_runtime_whose_int8_can_be_asked() -> None:
    broken = CRASH.model_copy(update={"runtime": "onnxruntime"})
    works, remark = said(facts(int8=(broken, NONE), openvino=None))["INT8 on the CPU"]
    assert not works
    assert remark == "ONNX Runtime crashes when it is loaded (code -4): no message."


def test_what_is_found_is_told_at_once(notes, monkeypatch: pytest.MonkeyPatch) -> None:
    """A library that takes long holds nothing back."""
    told_before_the_last: list[str] = []

    def ask(name: str, children: object) -> tuple[dict[str, str] | None, str | None]:
        if name == "openvino":
            while not any(message.startswith("onnxruntime") for message in notes.messages):
                time.sleep(0.001)
            told_before_the_last.extend(notes.messages)
        return None, "is not there"

    monkeypatch.setattr(probe, "ask_child", ask)
    probe.look(notes)
    assert "onnxruntime: is not there" in told_before_the_last
    assert len(notes.messages) == 1 + len(probe.LIBRARIES) + len(probe.ARITHMETIC)


@pytest.mark.parametrize("end", [KeyboardInterrupt, SystemExit])
def test_an_end_ends_the_children(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, end: type[BaseException]) -> None:
    """One that hangs holds nobody up, and is not left behind."""
    (tmp_path / "openvino.py").write_text(
        f"import os, time; open({str(tmp_path / 'pid')!r}, 'w').write(str(os.getpid())); time.sleep(1000)"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(probe, "PATIENCE_SECONDS", 900.0)
    monkeypatch.setattr(probe, "ARITHMETIC", {})
    monkeypatch.setattr(probe, "LIBRARIES", dict.fromkeys(("openvino", "a", "b", "c", "d", "e", "f", "g")))

    class Ends(Quiet):
        def note(self, message: str) -> None:
            if (tmp_path / "pid").is_file() and (tmp_path / "pid").read_text():
                raise end

    with pytest.raises(end):
        probe.look(Ends())
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "pid").read_text()), 0)


@pytest.mark.parametrize(
    ("found", "said"),
    [
        ({"version": "580.65", "problem": None}, "580.65"),
        ({"version": None, "problem": "no NVIDIA driver answers here."}, "no NVIDIA driver answers here."),
        ({"form": "s8"}, "s8 x s8"),
        ({}, "answers"),
    ],
)
def test_what_was_found_is_told_in_short(found: dict[str, object], said: str) -> None:
    assert probe._said(found) == said


def test_a_child_loads_nothing_that_is_slow() -> None:
    """There are nine of them; ONNX IR alone would take each a second."""
    code = "import sys; import calib8.diagnosis.child; print({'onnx_ir', 'sympy', 'onnx', 'numpy'} & set(sys.modules))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "set()"


def test_nothing_heavy_is_loaded_into_this_process() -> None:
    code = (
        "import sys; from calib8.diagnosis.probe import look; from calib8.progress import Quiet; look(Quiet());"
        "print([name for name in ('onnxruntime', 'openvino', 'tensorrt_rtx', 'cuda', 'pynvml') if name in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


def test_the_documentation_shows_what_doctor_prints() -> None:
    """Numbers and versions in the two outputs are those of a day; which lines there are is not."""
    page = (Path(__file__).parents[3] / "docs" / "doctor.md").read_text(encoding="utf-8")
    blocks = dict(re.findall(r"<!-- doctor: (\w+) -->\n```text\n(.*?)```\n<!-- /doctor -->", page, re.DOTALL))
    assert set(blocks) == {"cpu", "gpu"}
    for name, machine in (("cpu", facts()), ("gpu", facts(H100))):
        assert max(map(len, blocks[name].splitlines())) <= 80
        assert first_column(blocks[name]) == first_column(shown(machine)), name


def first_column(text: str) -> list[str]:
    """What stands first in each row of the tables."""
    rows = (line.split("│")[1].strip() for line in text.splitlines() if line.startswith("│"))
    return [row for row in rows if row]
