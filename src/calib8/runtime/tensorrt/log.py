"""TensorRT's own words: it answers None or False, and logs the reason."""

from __future__ import annotations

import functools
from collections import deque
from typing import TYPE_CHECKING, Protocol, cast

from calib8.engine.trt_api import TensorRtModule

if TYPE_CHECKING:
    from tensorrt import ILogger


class Reasons(Protocol):
    """What a logger remembers."""

    def take(self) -> str:
        """The errors since the last time as one text, empty without any."""


@functools.cache
def log_of(trt: TensorRtModule) -> tuple[ILogger, Reasons]:
    """The one logger for ``trt``, which keeps a single one for the process. Threads share its errors."""

    class Log(trt.ILogger):  # type: ignore[name-defined, misc]  # a class of a module that is known at run time only
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.errors: deque[str] = deque(maxlen=5)

        def log(self, severity: ILogger.Severity, message: str) -> None:
            if severity.name in ("ERROR", "INTERNAL_ERROR"):
                self.errors.append(message.strip())

        def take(self) -> str:
            reasons = "; ".join(dict.fromkeys(self.errors))
            self.errors.clear()
            return reasons

    log = Log()
    return cast("ILogger", log), log
