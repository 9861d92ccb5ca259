"""Libraries that would tell their makers of every run, loaded so that they tell nobody.

What each does was looked up in its own code, and is held to by ``tests/unit/test_no_connections.py``:

- ONNX Runtime from 1.32 on opens a database and writes a device id in the user's cache as it is imported, and ten
  seconds later sends to ``mobile.events.data.microsoft.com``. It reads ``ORT_DISABLE_TELEMETRY`` once, as it is loaded.
  Where a host loaded it before, ``disable_telemetry_events`` ends the recording: what it recorded until then it sends.
- ``import openvino`` sends an event to Google Analytics if the package ``openvino_telemetry`` is there, as pip sees to,
  unless the user declined. Without that package OpenVINO takes a stub of its own.
- Ray reports a cluster that it starts, unless ``RAY_USAGE_STATS_ENABLED`` is 0.
- ``huggingface_hub`` says more of the machine than it has to with each file that it is asked for.

Other settings of these variables are overruled: that nothing is sent has no exceptions. A host that calib8 is a library
of keeps all else: one variable is set as one library is loaded, and ``openvino_telemetry`` is hidden from OpenVINO
alone. A process of calib8's own calls ``silence``.
"""

import contextlib
import importlib
import os
import sys
from collections.abc import Iterator
from typing import Any, Final

ORT: Final = "ORT_DISABLE_TELEMETRY"
RAY: Final = "RAY_USAGE_STATS_ENABLED"
HUB: Final = "HF_HUB_DISABLE_TELEMETRY"
#: The value that means off.
OFF = {ORT: "1", RAY: "0", HUB: "1"}
_SENDER = "openvino_telemetry"


def switch_off(*names: str) -> None:
    """Set variables of ``OFF`` in this process and those that it starts."""
    os.environ.update({name: OFF[name] for name in names})


def silence() -> None:
    """All of them, for good: in a process that is calib8's own."""
    switch_off(*OFF)
    sys.modules.setdefault(_SENDER, None)  # type: ignore[arg-type]  # Python's way to say that there is none


def onnxruntime() -> Any:
    """The module ``onnxruntime``, whose events are off in this process from now on."""
    switch_off(ORT)
    module = importlib.import_module("onnxruntime")
    module.disable_telemetry_events()
    return module


def openvino() -> Any:
    """The module ``openvino``. Raises ``ImportError`` where it is not installed."""
    with _hidden(_SENDER):
        return importlib.import_module("openvino")


@contextlib.contextmanager
def _hidden(name: str) -> Iterator[None]:
    """Whoever imports ``name`` in the body finds none, unless it was imported before."""
    if name in sys.modules:
        yield
        return
    sys.modules[name] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        sys.modules.pop(name, None)  # another thread's turn may have ended first
