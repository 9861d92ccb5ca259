"""Options of embedding."""

from pydantic import Field

from calib8.config import Config
from calib8.runtime.names import CpuRuntime

#: Positions per batch that an embedding is fastest with: measured on two cores, see bench/results.
EMBED_POSITIONS = 512


class Corpus(Config):
    """How a corpus is embedded."""

    column: str = "text"
    """For --ray: the texts' column in Parquet and JSON lines."""
    part_rows: int = Field(default=4096, ge=1)
    """For --ray: rows of an output file.

    They are what is done again if a worker is lost.
    """
    keep_text: bool = False
    """For --ray: write the texts, too."""
    runtime: CpuRuntime = "auto"
    """CPU runtime for ONNX models."""
