"""Options of ``export_triton``."""

import re
from typing import Annotated, Literal

from pydantic import Field, field_validator

from calib8.config import Config

Device = Literal["cpu", "gpu"]


class Triton(Config):
    """How Triton serves the model. Fields follow Triton's ``ModelConfig``, whose defaults they keep where there is one.

    name: of the model that clients ask for; by default the artefact's. Its steps are called ``<name>_…``.
    max_batch: largest batch, 0 for a model whose first dimension is no batch. By default what the engine takes, 64 of
        an ONNX model.
    preferred_batches: sizes that the batcher sends at once when it can. By default the usual batches of an engine's
        profiles if it has several; else none, as Triton's documentation advises: batches become as large as possible.
    queue_delay_us: how long a request waits for others, in microseconds.
    instances: how many runs the encoder can have under way, on each GPU or on the CPU.
    device: for an ONNX model, ``cpu`` if not given. Engines run on the GPU.
    vnni: whether the CPU that will serve an INT8 ONNX model has AVX512-VNNI or AVX-VNNI; that of this machine if not
        given. With it, weights are int8, which is faster; without, uint8, since int8 ones would saturate.
    pad_to: token sequences are padded to a multiple of this. Triton joins only requests of the same shape.
    """

    name: str | None = None
    max_batch: int | None = Field(default=None, ge=0)
    preferred_batches: tuple[Annotated[int, Field(ge=1)], ...] | None = None
    queue_delay_us: int = Field(default=500, ge=0)
    instances: int = Field(default=1, ge=1)
    device: Device | None = None
    vnni: bool | None = None
    pad_to: int = Field(default=16, ge=1)

    @field_validator("name")
    @classmethod
    def _is_a_folder_name(cls, name: str | None) -> str | None:
        if name is not None and not re.fullmatch(r"[A-Za-z0-9_-]+", name):
            raise ValueError("expected letters, digits, - and _ only")
        return name
