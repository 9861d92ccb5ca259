"""What the canary finds, made up: for tests of what calib8 does about it, on whatever CPU they run."""

import pytest

from calib8.runtime import canary
from calib8.runtime.canary import Answer


def found_exact(monkeypatch: pytest.MonkeyPatch, *but: tuple[str, str]) -> None:
    """Every runtime is exact in every form, ``but`` in these: (runtime, form)."""

    def asked(runtime: str, form: str, kind: canary.Kind) -> Answer:
        if (runtime, form) in but:
            return Answer(exact=False, kind=kind, got=8160, expected=1032256)
        return Answer(exact=True, kind=kind)

    monkeypatch.setattr(canary, "_asked", asked)


#: An x86 CPU without VNNI, as the canary found one (bench/results).
WITHOUT_VNNI = (("openvino", "s8"), ("openvino", "u8"), ("onnxruntime", "s8"), ("onnxruntime", "u8"))
