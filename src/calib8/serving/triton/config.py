"""Options of ``export_triton``."""

import re
from typing import Annotated, Literal

from pydantic import Field, field_validator

from calib8.config import Config, Option

Device = Literal["cpu", "gpu"]


class Triton(Config):
    """How Triton serves the model; fields and defaults follow Triton's ``ModelConfig`` where it has them."""

    name: str | None = None
    """Name that clients ask for; default: the file's.

    Steps of an ensemble are called ``<name>_…``.
    """
    device: Device | None = None
    """Where an ONNX model runs; default: cpu.

    Engines run on the GPU.
    """
    vnni: bool | None = None
    """Whether the serving CPU has VNNI (INT8 ONNX model). Default: as here.

    AVX512-VNNI or AVX-VNNI. With it, weights are int8, which is faster; without, uint8, since int8 ones would saturate.
    """
    max_batch: int | None = Field(default=None, ge=0)
    """Largest batch, 0 for none. Default: the engine's; 64 of an ONNX model.

    0 is for a model whose first dimension is no batch.
    """
    preferred_batches: Annotated[
        tuple[Annotated[int, Field(ge=1)], ...] | None, Option("--preferred-batch", metavar="N")
    ] = None
    """Batch size that is sent at once when there is one; may be repeated.

    By default the usual batches of an engine's profiles if it has several; else none, as Triton's documentation
    advises: batches become as large as possible.
    """
    queue_delay_us: Annotated[int, Option("--queue-delay")] = Field(default=500, ge=0)
    """How long a request waits for others, in us."""
    instances: int = Field(default=1, ge=1)
    """Runs under way at a time, on each GPU or on the CPU."""
    pad_to: int = Field(default=16, ge=1)
    """Pad token sequences to a multiple of this.

    Triton joins only requests of the same shape.
    """

    @field_validator("name")
    @classmethod
    def _is_a_folder_name(cls, name: str | None) -> str | None:
        if name is not None and not re.fullmatch(r"[A-Za-z0-9_-]+", name):
            raise ValueError("expected letters, digits, - and _ only")
        return name
