"""Why a request gets no vectors, in the form that OpenAI's clients understand."""

from collections.abc import Mapping
from typing import Any, Literal

Kind = Literal["invalid_request_error", "rate_limit_error", "server_error"]


class Refused(Exception):
    """The answer to a request that is not served: HTTP status, message, and OpenAI's ``type``, ``code``, ``param``."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        kind: Kind = "invalid_request_error",
        code: str | None = None,
        param: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.headers = status, dict(headers or {})
        self._error = {"message": message, "type": kind, "param": param, "code": code}

    def body(self) -> dict[str, Any]:
        """The JSON object that is answered."""
        return {"error": self._error}


def busy(what: str, seconds: int) -> Refused:
    """Too much is waiting already: ask again after ``seconds``."""
    return Refused(
        429,
        f"{what}. Ask again in {seconds} s.",
        kind="rate_limit_error",
        code="rate_limit_exceeded",
        headers={"Retry-After": str(seconds)},
    )


def failed() -> Refused:
    """The fault is not the client's, and what it is is for the log."""
    return Refused(500, "the server failed on this request; its log says why.", kind="server_error")


def stopping() -> Refused:
    """There will be no more answers from this process."""
    return Refused(503, "the server is shutting down.", kind="server_error")
