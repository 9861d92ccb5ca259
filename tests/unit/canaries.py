"""What the canary finds, made up: for tests of what calib8 does about it, on whatever CPU they run.

    CALIB8_CACHE=FOLDER python tests/unit/canaries.py

keeps in FOLDER what the canary finds without VNNI, as if it were so here, and leaves OpenVINO no form at all: with the
same CALIB8_CACHE `pytest` then shows which tests rest on OpenVINO's INT8 kernels.
"""

import pytest

from calib8.runtime import canary
from calib8.runtime.canary import KINDS, Answer, Kind

#: An x86 CPU without VNNI, as the canary found one (bench/results).
WITHOUT_VNNI = (("openvino", "s8"), ("openvino", "u8"), ("onnxruntime", "s8"), ("onnxruntime", "u8"))


def inexact(kind: Kind) -> Answer:
    """Numbers of a kernel that saturates."""
    return Answer(exact=False, kind=kind, got=8160, expected=1032256)


def found_exact(monkeypatch: pytest.MonkeyPatch, *but: tuple[str, str]) -> None:
    """Every runtime is exact in every form, ``but`` in these: (runtime, form)."""

    def asked(runtime: str, form: str, kind: Kind) -> Answer:
        return inexact(kind) if (runtime, form) in but else Answer(exact=True, kind=kind)

    monkeypatch.setattr(canary, "_asked", asked)


if __name__ == "__main__":
    for runtime, form in (*WITHOUT_VNNI, ("openvino", "u8u8")):
        for kind in KINDS:
            canary._keep(canary._facts(runtime, form, kind), inexact(kind))  # type: ignore[arg-type]
