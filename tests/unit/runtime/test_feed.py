"""Data for an engine is checked against its sidecar; no GPU is needed for that."""

import hashlib
from pathlib import Path

import numpy as np
import pytest

from calib8.data.sources import Batches
from calib8.engine.plan_check import PlanCheck
from calib8.engine.sidecar import Sidecar, TensorInfo, sidecar_path
from calib8.errors import DataError
from calib8.runtime.feed import feed_of
from calib8.testing import token_feeds


@pytest.fixture
def engine(tmp_path: Path) -> Path:
    path = tmp_path / "x.engine"
    path.write_bytes(b"an engine")
    tensors = (
        TensorInfo(name="input_ids", mode="input", dtype="int64", shape=(-1, -1), rows=32),
        TensorInfo(name="attention_mask", mode="input", dtype="int64", shape=(-1, -1)),
        TensorInfo(name="y", mode="output", dtype="float16", shape=(-1, -1, 8)),
    )
    sidecar = Sidecar(
        engine_sha256=hashlib.sha256(b"an engine").hexdigest(), engine_bytes=9, family="rtx",
        tensorrt_version="1.7.1.116", target="sm86", model_sha256="0" * 64, model_metadata={}, profiles=(),
        tensors=tensors, plan=PlanCheck(target="sm86", expected=1, covered=1, planned_kernels=1), workspace_mib=None,
        optimization_level=None, build_seconds=1.0, built_at="2026-01-01T00:00:00+00:00", calib8_version="0.1.0",
    )  # fmt: skip
    sidecar_path(path).write_text(sidecar.model_dump_json())
    return path


def test_padding_is_cut_for_an_engine_too(engine: Path, notes) -> None:
    feeds = {name: np.pad(array, ((0, 0), (0, 5))) for name, array in token_feeds(3, 7).items()}
    ((_, arrays),) = feed_of(engine, Batches(feeds), notes).batches()
    assert {name: array.shape for name, array in arrays.items()} == {"input_ids": (2, 7), "attention_mask": (2, 7)}


def test_ids_beyond_the_engines_table_are_refused(engine: Path, notes) -> None:
    feeds = token_feeds(3, 7)
    with pytest.raises(DataError, match="but the model's table has 32 rows"):
        feed_of(engine, Batches({**feeds, "input_ids": feeds["input_ids"] + 32}), notes)
