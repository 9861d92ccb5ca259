"""How a server listens and what it takes."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, SecretStr, model_validator

from calib8.config import Config, Option
from calib8.text.config import EMBED_POSITIONS


class Serve(Config):
    """Where a server listens, who may ask, and how much."""

    host: str = "127.0.0.1"
    """Address to listen on; 0.0.0.0 for all."""
    port: int = Field(default=8000, ge=0, le=65535)
    """0 takes a free one."""
    name: str | None = Field(default=None, min_length=1)
    """The model's name in requests; default: its file name without the suffix."""
    api_key: Annotated[SecretStr | None, Option("--api-key-file")] = Field(default=None, min_length=1)
    """What ``Authorization: Bearer`` must hold; None asks for nothing."""
    truncate: bool = False
    """Cut texts that are too long for the model; default: refuse them."""
    max_inputs: int = Field(default=2048, ge=1)
    """Inputs of one request."""
    max_tokens: int = Field(default=65_536, ge=1)
    """Tokens of one request."""
    max_body_bytes: int = Field(default=4 * 2**20, ge=1)
    """Bytes of one request."""
    max_requests: int = Field(default=1024, ge=1)
    """Requests under way; more are answered with 429."""
    queue_tokens: int = Field(default=131_072, ge=1)
    """Tokens waiting; more are answered with 429."""
    batch_tokens: int = Field(default=EMBED_POSITIONS, ge=1)
    """Positions of one run, padding included."""
    grace_seconds: int = Field(default=30, ge=0)
    """What is under way at shutdown may still take so many seconds."""

    @model_validator(mode="after")
    def _every_request_fits_the_queue(self) -> Serve:
        if self.max_tokens > self.queue_tokens:
            raise ValueError(
                f"max_tokens={self.max_tokens} of a request is more than queue_tokens={self.queue_tokens}, so that it "
                "could never be taken. Raise queue_tokens or lower max_tokens"
            )
        return self
