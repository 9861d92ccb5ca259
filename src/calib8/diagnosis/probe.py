"""Look at drivers and libraries, each in a child process: one that crashes or hangs is told, and harms nobody."""

import json
import os
import platform
import subprocess
import sys
from collections.abc import Collection
from concurrent.futures import Future, ThreadPoolExecutor, as_completed, wait
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from pydantic import TypeAdapter

from calib8.diagnosis.child import ARITHMETIC, DRIVER, LIBRARIES, Answer
from calib8.diagnosis.facts import Arithmetic, Facts, Library, Processor
from calib8.gpu.hardware import Driver
from calib8.progress import Progress
from calib8.report.report import this_machine
from calib8.runtime.forms import PRODUCTS
from calib8.runtime.processor import has_amx, has_vnni

#: The child imports from where this process does; -I keeps the working folder and the environment out of that.
CHILD = "import json, sys; sys.path[:] = json.loads(sys.argv[1]); from calib8.diagnosis.child import main; main()"
PATIENCE_SECONDS = 90.0


def look(progress: Progress) -> Facts:
    """Everything that can be known of this machine without a CUDA context. Takes seconds, raises nothing.

    ``progress`` is told of each fact as it is found. Whatever ends this early ends the children, too.
    """
    answers: dict[str, Answer] = {}
    children: set[subprocess.Popen[bytes]] = set()
    with ThreadPoolExecutor(max_workers=4) as pool:
        asked = {pool.submit(ask_child, name, children): name for name in (DRIVER, *LIBRARIES, *ARITHMETIC)}
        try:
            for future in as_completed(asked):
                name = asked[future]
                answers[name] = found, problem = future.result()
                progress.note(f"{name}: {problem or _said(found or {})}")
        except BaseException:
            _end(asked, children)
            raise
    told, problem = answers[DRIVER]
    libraries = {
        name: Library(package=name, problem=problem) if found is None else Library(package=name, **found)
        for name, (found, problem) in ((name, answers[name]) for name in LIBRARIES)
    }
    int8 = (
        Arithmetic(runtime=runtime, problem=problem) if found is None else Arithmetic(runtime=runtime, **found)
        for runtime, (found, problem) in ((runtime, answers[name]) for name, runtime in ARITHMETIC.items())
    )
    return Facts(
        calib8=_own_version(),
        python=platform.python_version(),
        system=f"{platform.system()} {platform.machine()}",
        processor=processor(),
        driver=Driver(problem=problem) if told is None else TypeAdapter(Driver).validate_python(told),
        libraries=libraries,
        int8=tuple(int8),
    )


def _end(asked: Collection[Future[Answer]], children: set[subprocess.Popen[bytes]]) -> None:
    """Ask nothing more, and kill who was asked: a library that hangs must not hold up Ctrl-C."""
    for future in asked:
        future.cancel()
    while not all(future.done() for future in asked):  # one may have begun its child just now
        for child in tuple(children):
            child.kill()
        wait(asked, timeout=0.01)


def ask_child(name: str, children: set[subprocess.Popen[bytes]]) -> Answer:
    """(what a child found out about ``name``, None) or (None, why it did not). It is in ``children`` meanwhile."""
    command = [sys.executable, "-I", "-c", CHILD, json.dumps([str(entry) for entry in sys.path]), name]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as child:
        children.add(child)
        try:
            out, err = child.communicate(timeout=PATIENCE_SECONDS)
        except subprocess.TimeoutExpired:
            return None, f"does not answer within {PATIENCE_SECONDS:.0f} s"
        finally:
            child.kill()
            children.discard(child)
    lines = out.decode("utf-8", "replace").splitlines()
    if child.returncode or not lines:
        said = err.decode("utf-8", "replace").strip().splitlines()
        return None, f"crashes when it is loaded (code {child.returncode}): {said[-1] if said else 'no message'}"
    found, problem = json.loads(lines[-1])  # a library may print lines of its own before
    return found, problem


def _said(found: dict[str, Any]) -> str:
    """What was found, in short."""
    form = found.get("form")
    return str(found.get("version") or found.get("problem") or (PRODUCTS[form] if form else "answers"))


def _own_version() -> str:
    try:
        return version("calib8")
    except PackageNotFoundError:
        return "not installed, run from its source"


def processor() -> Processor:
    """The CPU and the memory of this machine."""
    machine = this_machine()
    return Processor(
        name=machine.processor,
        cores=machine.cores,
        vnni=has_vnni(),
        amx=has_amx(),
        memory_total_bytes=_memory("SC_PHYS_PAGES"),
        memory_available_bytes=_memory("SC_AVPHYS_PAGES"),
    )


def _memory(pages: str) -> int | None:
    """Bytes, or None where the operating system has no such setting."""
    if pages not in getattr(os, "sysconf_names", {}):
        return None
    return os.sysconf(pages) * os.sysconf("SC_PAGE_SIZE")
