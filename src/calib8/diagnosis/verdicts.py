"""What of calib8 works on a machine, and what to do where it does not. Pure: facts in, verdicts out."""

from collections.abc import Iterator

from pydantic import BaseModel, ConfigDict

from calib8.diagnosis.facts import Facts
from calib8.engine.targets import rtx_runs_on
from calib8.errors import install
from calib8.gpu.hardware import Gpu
from calib8.runtime.forms import PRODUCTS
from calib8.runtime.names import NAMES, RUNTIMES


class Verdict(BaseModel):
    """Whether one thing works here, and why, or what to do."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    what: str
    works: bool
    remark: str


def verdicts(facts: Facts) -> tuple[Verdict, ...]:
    """One for everything that depends on the machine, in the order in which people come to need it."""
    return (
        _build_rtx(facts),
        _build_tensorrt(facts),
        _calibrator(facts),
        *_runs(facts),
        _int8_on_cpu(facts),
        _monitor(facts),
    )


def _build_rtx(facts: Facts) -> Verdict:
    what, library = "build, TensorRT-RTX", facts.libraries["tensorrt-rtx"]
    if library.usable:
        return _yes(what, f"{library.details['builds for']}; needs no GPU")
    return _no(what, f"{_lacks(facts, 'tensorrt-rtx')} {install('rtx')}.")


def _build_tensorrt(facts: Facts) -> Verdict:
    what = "build, TensorRT 10/11"
    if problem := _lacks(facts, "tensorrt"):
        return _no(what, f"{problem} {install('tensorrt')}, where there is a GPU.")
    if not facts.driver.gpus:
        return _no(what, f"It builds only on a GPU: {_no_gpu(facts)} Use TensorRT-RTX.")
    return _yes(what, f"for {facts.driver.gpus[0].target} only, the GPU of this machine")


def _calibrator(facts: Facts) -> Verdict:
    what, found = "calibrator, TensorRT 10", facts.version("tensorrt")
    if found is not None and found.startswith("10."):
        if facts.driver.gpus:
            return _yes(what, "deprecated since 10.1; without effect on transformers")
        return _no(what, f"It calibrates on a GPU: {_no_gpu(facts)}")
    why = f"TensorRT {found} has none." if found else _lacks(facts, "tensorrt")
    remark = f"{why} Not needed: calib8 calibrates by itself. For that path: pip install 'tensorrt<11'."
    return _no(what, remark)


def _runs(facts: Facts) -> Iterator[Verdict]:
    """For each GPU whether engines of each family run on it."""
    if not facts.driver.gpus:
        yield _no("run engines", f"{_no_gpu(facts)} Run the INT8 model on the CPU.")
    for gpu in dict.fromkeys(facts.driver.gpus):
        for package, title in (("tensorrt-rtx", "TensorRT-RTX"), ("tensorrt", "TensorRT 10/11")):
            problem = (_not_rtx(facts, gpu) if package == "tensorrt-rtx" else "") or _cannot_run(facts, package)
            remark = problem or f"engines built for {gpu.target} by this very version"
            yield Verdict(what=f"run on {gpu.target}, {title}", works=not problem, remark=remark)


def _not_rtx(facts: Facts, gpu: Gpu) -> str:
    targets = facts.libraries["tensorrt-rtx"].details.get("builds for") or gpu.target  # not installed: nobody can tell
    if not rtx_runs_on(gpu.target) or gpu.target not in targets.split():
        return f"TensorRT-RTX does not run on {gpu.name}. Use TensorRT: {install('tensorrt')}."
    return ""


def _cannot_run(facts: Facts, package: str) -> str:
    """What keeps an engine of ``package`` from running on a GPU that suits it."""
    extra = {"tensorrt-rtx": "rtx", "tensorrt": "tensorrt"}[package]
    for needed in (package, "cuda-python"):
        if problem := _lacks(facts, needed):
            return f"{problem} {install(extra)}."
    details = facts.libraries["cuda-python"].details
    runtime, newest = details["CUDA runtime"], facts.driver.cuda or details["CUDA of the driver"]
    if runtime and newest and int(runtime.partition(".")[0]) > int(newest.partition(".")[0]):
        return f"cuda-python is for CUDA {runtime}, the driver ends at {newest}. Update the driver."
    return ""


def _int8_on_cpu(facts: Facts) -> Verdict:
    what, versions = "INT8 on the CPU", {name: facts.version(name) for name in NAMES}
    exact = {one.runtime: one.form for one in facts.int8 if versions[one.runtime] and one.form}
    if not exact:
        problems = [f"{NAMES[one.runtime]} {one.problem}." for one in facts.int8 if versions[one.runtime]]
        return _no(what, " ".join(problems) or f"{_lacks(facts, 'onnxruntime')} {install()}.")
    best = min(exact, key=lambda name: RUNTIMES[name].x86[exact[name]])  # as `runtime.choice` prefers
    speed = {True: "with VNNI: fast", False: "without VNNI: works, slowly", None: "VNNI unknown"}[facts.processor.vnni]
    taken = f"{PRODUCTS[exact[best]]}, {speed}" if exact[best] != "fp32" else "Q and DQ in FP32: right, slowly"
    others = [
        f". {NAMES[one.runtime]} {one.problem}"
        if one.problem
        else f". {NAMES[one.runtime]}'s kernels saturate here and are not used"
        for one in facts.int8
        if one.runtime != best and versions[one.runtime] and (one.inexact or one.problem)
    ]
    hint = "" if versions["openvino"] else f". Faster: {install('openvino')}"
    return _yes(what, f"{NAMES[best]} {versions[best]}, {taken}{''.join(others)}{hint}")


def _monitor(facts: Facts) -> Verdict:
    what = "watch the GPU, --monitor"
    if problem := _lacks(facts, "nvidia-ml-py"):
        return _no(what, f"{problem} {install('monitor')}.")
    if not facts.driver.gpus:
        return _no(what, _no_gpu(facts))
    divided = any(gpu.mig for gpu in facts.driver.gpus)
    return _yes(what, "without utilisation: NVML has none for MIG" if divided else "NVML")


def _yes(what: str, remark: str) -> Verdict:
    return Verdict(what=what, works=True, remark=remark)


def _no(what: str, remark: str) -> Verdict:
    return Verdict(what=what, works=False, remark=remark)


def _lacks(facts: Facts, package: str) -> str:
    """``tensorrt is not installed.``, or nothing; the table of facts has the details."""
    problem = facts.libraries[package].problem
    return f"{package} {problem.partition(': ')[0]}." if problem else ""


def _no_gpu(facts: Facts) -> str:
    return "no NVIDIA GPU or no driver answers." if facts.driver.problem else "the driver finds no GPU."
