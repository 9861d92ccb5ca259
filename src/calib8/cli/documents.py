"""What ``--json`` prints where the result is no report of its own; docs/json-schema.json is made from these models."""

from functools import reduce
from operator import or_
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, TypeAdapter

from calib8.engine.built import BuiltEngine
from calib8.precision import Precision


class _Document(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Fetched(_Document):
    """``fetch``: the model; its tokenizer is beside it."""

    format: Literal["calib8.fetch/1"] = "calib8.fetch/1"
    model: Path


class Prepared(_Document):
    """``prepare``: the calibration folder."""

    format: Literal["calib8.prepare/1"] = "calib8.prepare/1"
    folder: Path


class Calibrated(_Document):
    """``calibrate``: the ranges file, what is in it, and the calibration cache with its first line, if asked for."""

    format: Literal["calib8.calibrate/1"] = "calib8.calibrate/1"
    output: Path
    tensors: int
    samples: int
    cache: Path | None
    header: str | None


class Quantized(_Document):
    """``quantize``: the quantised model, what to, and how many of its ops with weights are."""

    format: Literal["calib8.quantize/1"] = "calib8.quantize/1"
    output: Path
    precision: Precision = "int8"
    int8_ops: int
    weighted_ops: int


class Built(_Document):
    """``build``: one engine for each target."""

    format: Literal["calib8.build/1"] = "calib8.build/1"
    engines: tuple[BuiltEngine, ...]


class ExportedCache(_Document):
    """``export-cache``: the cache, its first line, and the tensors that are not in it, with the reason."""

    format: Literal["calib8.export-cache/1"] = "calib8.export-cache/1"
    output: Path
    header: str
    tensors: int
    left_out: dict[str, str]


class ExportedTriton(_Document):
    """``export triton``: the model repository; ``width`` is that of the vectors, null where arrays come out."""

    format: Literal["calib8.export-triton/1"] = "calib8.export-triton/1"
    folder: Path
    name: str
    models: tuple[str, ...]
    max_batch: int
    width: int | None
    needs: str


class SavedArray(_Document):
    """An array in a ``.npy`` file."""

    path: Path
    shape: tuple[int, ...]


class Ran(_Document):
    """``run``: every output by name."""

    format: Literal["calib8.run/1"] = "calib8.run/1"
    outputs: dict[str, SavedArray]


class Embedding(_Document):
    """A text and its vector."""

    text: str
    embedding: tuple[float, ...]


class Embedded(_Document):
    """``embed``: texts in their order."""

    format: Literal["calib8.embed/1"] = "calib8.embed/1"
    embeddings: tuple[Embedding, ...]


class EmbeddedToFile(_Document):
    """``embed -o``: the file and the shape of its array, [texts, width]."""

    format: Literal["calib8.embed/1"] = "calib8.embed/1"
    output: Path
    shape: tuple[int, ...]


class EmbeddedToFolder(_Document):
    """``embed --ray``: the folder, and how many files are in it."""

    format: Literal["calib8.embed/1"] = "calib8.embed/1"
    output: Path
    parts: int


class Inspected(_Document):
    """``inspect``: what the text says; keys depend on the kind of file."""

    format: Literal["calib8.inspect/1"] = "calib8.inspect/1"
    path: Path
    facts: dict[str, Any]


class Failed(_Document):
    """Any command that has no result."""

    format: Literal["calib8.error/1"] = "calib8.error/1"
    error: str
    message: str
    exit_code: int


def schema() -> dict[str, Any]:
    """JSON Schema (2020-12) of every document of every command."""
    from calib8.cost.estimate import EstimateReport
    from calib8.diagnosis.doctor import Diagnosis
    from calib8.quantization.migrate import Migration
    from calib8.quantization.sensitivity import Sensitivity
    from calib8.report.bench import BenchReport
    from calib8.report.report import Report
    from calib8.report.verification import VerificationReport
    from calib8.runtime.choice import Measured

    reports = (Sensitivity, Report, Migration, VerificationReport, BenchReport, EstimateReport, Measured, Diagnosis)
    own = (Fetched, Prepared, Calibrated, Quantized, Built, ExportedCache, ExportedTriton, Ran, Inspected, Failed)
    kinds: tuple[Any, ...] = (*own, Embedded, EmbeddedToFile, EmbeddedToFolder, *reports)
    made = TypeAdapter(reduce(or_, kinds)).json_schema(mode="serialization")
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": "What calib8 --json prints"} | made
