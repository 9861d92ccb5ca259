"""How a server listens and what it takes."""

from __future__ import annotations

from pydantic import Field, SecretStr, model_validator

from calib8.config import Config
from calib8.text.sentence import EMBED_POSITIONS


class Serve(Config):
    """Where a server listens, who may ask, and how much.

    host, port: 0 takes a free port. name: of the model, in requests and answers; None takes the artefact's file name
    without its suffix. api_key: what ``Authorization: Bearer`` must hold; None asks for nothing. truncate: cut texts
    that are longer than the model takes, instead of refusing them. max_inputs, max_tokens, max_body_bytes: of one
    request. max_requests: under way at once. queue_tokens: waiting at once, of all requests. batch_tokens: positions of
    one run, padding included. grace_seconds: how long what is under way at shutdown may still take.
    """

    host: str = "127.0.0.1"
    port: int = Field(default=8000, ge=0, le=65535)
    name: str | None = Field(default=None, min_length=1)
    api_key: SecretStr | None = Field(default=None, min_length=1)
    truncate: bool = False
    max_inputs: int = Field(default=2048, ge=1)
    max_tokens: int = Field(default=65_536, ge=1)
    max_body_bytes: int = Field(default=4 * 2**20, ge=1)
    max_requests: int = Field(default=1024, ge=1)
    queue_tokens: int = Field(default=131_072, ge=1)
    batch_tokens: int = Field(default=EMBED_POSITIONS, ge=1)
    grace_seconds: int = Field(default=30, ge=0)

    @model_validator(mode="after")
    def _every_request_fits_the_queue(self) -> Serve:
        if self.max_tokens > self.queue_tokens:
            raise ValueError(
                f"max_tokens={self.max_tokens} of a request is more than queue_tokens={self.queue_tokens}, so that it "
                "could never be taken. Raise queue_tokens or lower max_tokens"
            )
        return self
