"""Which shapes an engine is timed at against FP16, and what the verdict advises."""

from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
from page_report import report

from calib8.data.batching import Dataset
from calib8.data.sources import Batches
from calib8.engine.profiles import parse_profile
from calib8.engine.sidecar import Sidecar, TensorInfo
from calib8.errors import DataError
from calib8.graph.builder import GraphBuilder
from calib8.graph.dataset import dataset_for
from calib8.progress import Quiet
from calib8.report.report import Conversion, Report
from calib8.report.sections import gpu_speed as gpu_speed_section
from calib8.report.sections import summary, verdict
from calib8.runtime.null import NullRuntime
from calib8.testing import tiny_convnet, tiny_encoder, tiny_mlp, token_feeds
from calib8.verification import gpu_speed
from calib8.verification.bench import Cell
from calib8.verification.gpu_speed import GpuSpeed, race_on_gpu
from calib8.verification.speed import Latency


class OnTheGpu(NullRuntime):
    """Takes images of ``size`` alone; all that it computes takes a millisecond."""

    on_gpu = True

    def __init__(self, size: int | None = None) -> None:
        super().__init__(self.given)
        self.size = size

    def given(self, arrays):
        shape = next(iter(arrays.values())).shape
        if self.size is not None and shape[-1] != self.size and shape[0] > 2:
            raise DataError(f"shape {shape} is in no profile.")
        return {"y": np.ones((shape[0], 2), np.float32)}

    def gpu_ms(self, arrays, *, least: float = 0.02) -> float:
        return 1.0


def raced(monkeypatch: pytest.MonkeyPatch, dataset: Dataset, *profiles: str, notes=None, size: int | None = None):
    """The shapes that were timed; ``None`` if nothing was."""
    tensors = tuple(TensorInfo(name=spec.name, mode="input", dtype="float32", shape=(4, 16)) for spec in dataset.specs)
    sidecar = Sidecar.model_construct(profiles=tuple(map(parse_profile, profiles)), tensors=tensors)
    monkeypatch.setattr(gpu_speed, "open_artefact", lambda path: OnTheGpu(size))
    monkeypatch.setattr(gpu_speed, "describe_engine", lambda path: sidecar)
    monkeypatch.setattr(gpu_speed, "SECONDS", 0)
    found = race_on_gpu(Path("fp16.engine"), Path("x.engine"), dataset, notes or Quiet())
    return None if found is None else [cell.shape for cell in found.cells]


def with_pixels() -> ir.Model:
    """Pixels [batch, 3, 4, 4] come first, then tokens and their mask."""
    g = GraphBuilder()
    pixels = g.input("pixels", ir.DataType.FLOAT, "batch", 3, 4, 4)
    ids, mask = (g.input(name, ir.DataType.INT64, "batch", "sequence") for name in ("input_ids", "attention_mask"))
    rows = g.op("MatMul", g.op("Flatten", pixels), g.weight("w", 48, 2))
    tokens = g.op("Cast", g.op("Mul", ids, mask), to=int(ir.DataType.FLOAT))
    return g.model(y=g.op("Add", rows, g.op("ReduceSum", tokens, g.constant("axis", [1], np.int64))))


def encoder_data() -> Dataset:
    return dataset_for(tiny_encoder(), Batches([token_feeds(3, 9, 13)]), Quiet())


def test_the_usual_shape_of_each_profile_and_the_largest(monkeypatch: pytest.MonkeyPatch) -> None:
    profiles = ("input_ids:1x1:1x8:2x16", "attention_mask:1x1:1x8:2x16", "input_ids:1x1:4x12:8x16")
    profiles = (*profiles, "attention_mask:1x1:4x12:8x16")
    assert raced(monkeypatch, encoder_data(), *profiles) == ["1x8", "4x12", "8x16"]


def test_lengths_are_those_of_the_mask_whatever_input_comes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    feeds = {**token_feeds(3, 9, 13), "pixels": np.ones((3, 3, 4, 4), np.float32)}
    tokens = [f"{name}:1x1:2x8:4x16" for name in ("input_ids", "attention_mask")]
    data = dataset_for(with_pixels(), Batches([feeds]), Quiet())
    assert raced(monkeypatch, data, "pixels:1x3x4x4:2x3x4x4:4x3x4x4", *tokens) == ["2x8", "4x16"]


def test_without_a_sequence_or_profiles_the_batch_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    data = dataset_for(tiny_mlp(), Batches([{"x": np.ones((5, 4), np.float32)}]), Quiet())
    assert raced(monkeypatch, data, "x:1x4:2x4:8x4") == ["2", "8"]
    assert raced(monkeypatch, data) == ["4"]


def test_a_model_that_takes_one_sample_is_timed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_mlp()
    model.graph.inputs[0].shape = ir.Shape([1, 4])
    data = dataset_for(model, Batches([{"x": np.ones((5, 4), np.float32)}]), Quiet())
    assert raced(monkeypatch, data) == ["1"]
    assert raced(monkeypatch, data, "x:1x4:2x4:8x4") == ["1"]


def test_a_shape_that_such_data_cannot_have_is_a_note(monkeypatch: pytest.MonkeyPatch, notes) -> None:
    model = tiny_convnet()
    model.graph.inputs[0].shape = ir.Shape(["batch", 3, "height", "width"])
    data = dataset_for(model, Batches([{"image": np.ones((4, 3, 8, 8), np.float32)}]), Quiet())
    profiles = ("image:1x3x8x8:2x3x8x8:2x3x8x8", "image:4x3x16x16:4x3x16x16:4x3x16x16")
    assert raced(monkeypatch, data, *profiles, notes=notes, size=16) == ["2"]
    assert notes.messages == ["nothing was timed at 4: shape (4, 3, 8, 8) is in no profile."]
    assert raced(monkeypatch, data, *profiles[1:], notes=notes, size=16) is None


@pytest.mark.parametrize(("times", "faster"), [((0.5, 2.1), True), ((0.5, 1.9), False), ((1.0, 1.0), False)])
def test_faster_is_by_the_geometric_mean_of_the_shapes(times: tuple[float, float], faster: bool) -> None:
    one = {"runs": 5, "median_ms": 3, "p95_ms": 3, "p99_ms": 3, "samples_per_second": 1}
    cells = [
        Cell(batch=1, length=place, latencies={"a": Latency(gpu_ms=ratio, **one), "b": Latency(gpu_ms=1, **one)})
        for place, ratio in enumerate(times)
    ]
    assert GpuSpeed(runtime="A", baseline="a", engine="b", cells=tuple(cells)).faster == faster


def slower(**changes: object) -> Report:
    """INT8 takes twice as long as FP16."""
    one = {"runs": 5, "median_ms": 3, "p95_ms": 3, "p99_ms": 3, "samples_per_second": 1}
    latencies = {"fp16.engine": Latency(gpu_ms=1, **one), "x.engine": Latency(gpu_ms=2, **one)}
    cells = (Cell(batch=1, length=16, latencies=latencies),)
    unheld = changes.pop("unheld", 0)
    speed = GpuSpeed(runtime="A", baseline="fp16.engine", engine="x.engine", cells=cells, unheld=unheld)
    return report().model_copy(update={"gpu_speed": speed, **changes})


def test_the_tile_is_of_the_largest_batch_wherever_it_stands() -> None:
    made = slower()
    speed = made.gpu_speed
    assert speed is not None
    small = speed.cells[0]
    fast = {name: latency.model_copy(update={"gpu_ms": 1.0}) for name, latency in small.latencies.items()}
    large = small.model_copy(update={"batch": 64, "latencies": fast})
    both = speed.model_copy(update={"cells": (large, small)})
    tiles = summary.conversion(Conversion(made.model_copy(update={"gpu_speed": both}))).tiles
    assert [(str(tile.value), str(tile.note)) for tile in tiles if tile.label.startswith("GPU speed")] == [
        ("1.00x", "at 64x16")
    ]


@pytest.mark.parametrize(
    ("changes", "advice"),
    [
        ({}, "Take fp16.engine for such shapes, or convert with --optimize latency."),
        ({"optimize": "latency"}, "Take fp16.engine for such shapes."),
        ({"precision": "fp8"}, "Take fp16.engine for such shapes."),  # which refuses --optimize latency
        ({"unheld": 3}, "Take fp16.engine for such shapes, or convert with --optimize latency."),
    ],
)
def test_what_is_advised_where_fp16_is_faster(changes: dict[str, object], advice: str) -> None:
    first = verdict.conversion(Conversion(slower(**changes))).notes[0]
    assert str(first.text).endswith(f"is 0.50x at 1x16. {advice}")


def test_the_page_says_what_of_a_float_engine_is_not_fp16() -> None:
    for unheld, told in ((0, 1), (3, 2)):
        section = gpu_speed_section.conversion(Conversion(slower(unheld=unheld)))
        assert section is not None
        assert len(section.notes) == told
    assert section.notes[1].text == "FP16 does not hold 3 of the model's tensors (ranges.json): FP32 in both engines."
