"""``--tensors all``: a range of every float tensor, as TensorRT's own calibrators find it."""

import json
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
from shell import Shell

import calib8 as library
from calib8.calibration import one_pass
from calib8.calibration.config import Calibrate
from calib8.calibration.observers import observer_for
from calib8.calibration.origin import origin_of
from calib8.calibration.over_ray import Observation
from calib8.calibration.ranges import Ranges
from calib8.calibration.reached import Statistics
from calib8.calibration.state import from_bytes
from calib8.calibration.statistics import TensorStatistics
from calib8.data.batching import Dataset
from calib8.data.sources import Batches
from calib8.graph.builder import GraphBuilder
from calib8.graph.inputs import declared_inputs
from calib8.passes.prepare import prepare
from calib8.testing import tiny_encoder, token_feeds

ALL = Calibrate(tensors="all")


def ranges_of(model: ir.Model, notes, config: Calibrate = ALL, *chunks: dict[str, np.ndarray]) -> Ranges:
    model = prepare(model)
    data = Dataset(Batches(chunks), declared_inputs(model))
    return one_pass.calibrate(model, data, config, origin_of("m", "d", config), notes).ranges


def by_hand() -> ir.Model:
    """x [batch, 2] * 3 -> MatMul with [[1], [-2]] -> Identity -> + [0.5, -4] -> its mean over all: no axis is left."""
    g = GraphBuilder()
    tripled = g.op("Mul", g.input("x", ir.DataType.FLOAT, "batch", 2), g.constant("three", 3.0), name="tripled")
    product = g.op("MatMul", tripled, g.constant("w", [[1.0], [-2.0]]), name="product")
    same = g.op("Identity", g.op("Identity", product, name="once"), name="twice")
    moved = g.op("Add", same, g.constant("bias", [0.5, -4.0]), name="moved")
    g.op("Shape", moved, name="shape")
    return g.model(y=g.op("ReduceMean", moved, keepdims=0))


def test_every_float_tensor_by_hand(notes) -> None:
    # (1, 2) -> (3, 6) -> -9 -> (-8.5, -13), mean -10.75; (0, -1) -> (0, -3) -> 6 -> (6.5, 2), mean 4.25
    ranges = ranges_of(by_hand(), notes, ALL, {"x": np.float32([[1, 2]])}, {"x": np.float32([[0, -1]])})
    found = {name: (tensor.minimum, tensor.maximum, tensor.amax) for name, tensor in ranges.tensors.items()}
    assert found == {
        "three_output": (3, 3, 3),
        "w_output": (-2, 1, 2),
        "bias_output": (-4, 0.5, 4),
        "x": (-1, 2, 2),
        "tripled_out": (-3, 6, 6),
        "product_out": (-9, 6, 9),
        "once_out": (-9, 6, 9),
        "twice_out": (-9, 6, 9),
        "moved_out": (-13, 6.5, 13),
        "y": (-10.75, 4.25, 10.75),
    }
    # of the root mean squares of two batches, (-8.5, -13) and (6.5, 2), half are not above the second's; bins are 2**-9
    assert ranges.tensors["moved_out"].typical == pytest.approx(np.sqrt((6.5**2 + 2**2) / 2), abs=2**-9)
    assert notes.messages == []


def test_what_weighted_ops_read_is_as_without(notes, encoder: ir.Model) -> None:
    feeds = token_feeds(6, 4, 5)
    few = ranges_of(tiny_encoder(), notes, Calibrate(), feeds).tensors
    every = ranges_of(tiny_encoder(), notes, ALL, feeds).tensors
    assert len(few) == 4
    for name, tensor in few.items():
        for field in ("amax", "minimum", "maximum", "typical"):
            assert getattr(every[name], field) == pytest.approx(getattr(tensor, field), rel=1e-5), name
    floats = [v.name for node in encoder.graph for v in node.outputs if v.dtype == ir.DataType.FLOAT]
    assert len(floats) > 20
    assert set(floats) <= set(every)


def test_padding_does_not_count(notes) -> None:
    """At a padded position ``doubled`` is 2 * 90, and in the tensor [batch, sequence, 2] it would be the largest."""
    g = GraphBuilder()
    ids = g.input("input_ids", ir.DataType.INT64, "batch", "sequence")
    g.input("attention_mask", ir.DataType.INT64, "batch", "sequence")
    words = g.op("Gather", g.constant("words", [[90.0, 0], [1, -2], [3, 4]]), ids, name="words_of")
    doubled = g.op("Add", words, words, name="doubled")
    model = g.model(y=g.op("MatMul", doubled, g.constant("w", np.eye(2))))
    ids_, mask = np.int64([[1, 2, 0], [2, 1, 1]]), np.int64([[1, 1, 0], [1, 1, 1]])
    tensors = ranges_of(model, notes, ALL, {"input_ids": ids_, "attention_mask": mask}).tensors
    assert (tensors["words_of_out"].minimum, tensors["words_of_out"].maximum) == (-2, 4)
    assert (tensors["y"].minimum, tensors["y"].maximum) == (-4, 8)


@pytest.mark.parametrize(("observer", "options"), [("percentile", {"percentile": 90}), ("mse", {}), ("entropy", {})])
def test_observers_that_clip_apply_to_every_tensor(notes, observer: str, options: dict[str, float]) -> None:
    """Of a tensor that no weighted op reads, the values 1 to 10, all counted."""
    g = GraphBuilder()
    model = g.model(y=g.op("MatMul", g.input("x", ir.DataType.FLOAT, "batch", 1), g.constant("w", [[1.0]])))
    values = np.arange(1, 11, dtype=np.float32).reshape(10, 1)
    found = ranges_of(model, notes, Calibrate(observer=observer, tensors="all", **options), {"x": values}).tensors["y"]
    seen = TensorStatistics()
    seen.add(np.float32([1]), np.float32([10]), np.zeros(1, np.float32))
    seen.values.add(values)
    assert found.amax == observer_for(observer, options.get("percentile", 99.99)).amax(seen)
    assert (found.minimum, found.maximum) == (1, 10)
    if observer == "percentile":
        assert found.amax == pytest.approx(9, abs=2**-9)  # nine of ten are not above it, and bins are 2**-9


def test_a_mask_with_infinities_is_left_out(notes) -> None:
    g = GraphBuilder()
    x = g.input("x", ir.DataType.FLOAT, "batch", 2)
    masked = g.op("Where", g.op("Less", x, g.constant("zero", 0.0)), g.constant("never", -np.inf), x, name="masked")
    y = g.op("MatMul", g.op("Softmax", masked, name="soft"), g.constant("w", np.eye(2)))
    ranges = ranges_of(g.model(y=y), notes, ALL, {"x": np.float32([[0, -1]])}, {"x": np.float32([[1, 2]])})
    assert "masked_out" not in ranges.tensors
    assert ranges.tensors["soft_out"].maximum == 1
    (told,) = [note for note in notes.messages if "infinite" in note]
    assert told.startswith("1 of 4 tensors (masked_out) became NaN or infinite, as masks do.")
    assert "never_output" not in ranges.tensors


def test_nan_that_no_op_of_int8_reads_is_no_range(notes) -> None:
    g = GraphBuilder()
    x = g.input("x", ir.DataType.FLOAT, "batch", 2)
    product = g.op("MatMul", x, g.constant("w", np.eye(2)))
    ranges = ranges_of(g.model(y=g.op("Log", product)), notes, ALL, {"x": np.float32([[5, -1], [1, 2]])})
    assert "y" not in ranges.tensors
    assert any("1 of 3 tensors (y)" in note for note in notes.messages)


def test_a_tensor_of_unknown_type_that_a_weighted_op_reads(notes) -> None:
    """ONNX does not know ONNX Runtime's own Gelu, nor what it gives."""
    g = GraphBuilder()
    x = g.input("x", ir.DataType.FLOAT, "batch", 2)
    unknown = g.op("Gelu", x, name="gelu")
    g.nodes[-1].domain = "com.microsoft"
    model = g.model(y=g.op("MatMul", unknown, g.constant("w", np.eye(2))))
    model.graph.opset_imports["com.microsoft"] = 1
    tensors = ranges_of(model, notes, ALL, {"x": np.float32([[30, 0]])}).tensors
    assert (tensors["gelu_out"].minimum, tensors["gelu_out"].maximum) == (0, 30)


def test_a_tensor_without_values_in_some_batch(notes) -> None:
    """What is above 2 of each batch: nothing of the first, 3 and 5 of the second."""
    g = GraphBuilder()
    x = g.input("x", ir.DataType.FLOAT, "batch", 2)
    product = g.op("MatMul", x, g.constant("w", np.eye(2)))
    large = g.op(
        "Compress",
        product,
        g.op("Reshape", g.op("Greater", product, g.constant("two", 2.0)), g.constant("flat", [-1], np.int64)),
    )
    chunks = {"x": np.float32([[1, 2]])}, {"x": np.float32([[3, 5]])}
    model = g.model(y=product, large=large)
    tensors = ranges_of(model, notes, ALL, *chunks).tensors
    assert (tensors["large"].minimum, tensors["large"].maximum) == (3, 5)
    assert "large" not in ranges_of(model, notes, ALL, chunks[0]).tensors


def test_other_ranges_are_not_reused(notes, tmp_path: Path) -> None:
    model, data = by_hand(), {"x": np.float32([[1, 2], [3, 4]])}
    ir.save(model, tmp_path / "m.onnx")
    output = tmp_path / "ranges.json"
    few = library.calibrate(tmp_path / "m.onnx", data, output=output)
    every = library.calibrate(tmp_path / "m.onnx", data, ALL, output=output, progress=notes)
    assert "calibrating again: the settings (tensors) changed" in notes.messages[0]
    assert (len(few.tensors), len(every.tensors)) == (1, 10)
    assert library.calibrate(tmp_path / "m.onnx", data, ALL, output=output) == every


def test_a_worker_of_a_cluster_observes_the_same(notes, tmp_path: Path) -> None:
    ir.save(by_hand(), tmp_path / "m.onnx")
    source = Batches([{"x": np.float32([[1, 2]])}])
    every = library.calibrate(tmp_path / "m.onnx", source, ALL)
    seen = Statistics(from_bytes(Observation(tmp_path / "m.onnx", source, ALL, every.origin, 0, 1)({"batches": [0]})))
    assert {name: statistics.amax for name, statistics in seen.items()}.items() <= every.amax().items()
    assert list(seen) == ["x", "tripled_out", "product_out", "moved_out", "y"]


def test_the_cache_is_text_as_tensorrt_writes_it(calib8: Shell, tmp_path: Path) -> None:
    ir.save(by_hand(), tmp_path / "m.onnx")
    np.save(tmp_path / "x.npy", np.float32([[1, 2], [0, -1]]))
    cache = tmp_path / "calibration.cache"
    arguments = ("calibrate", tmp_path / "m.onnx", "--data", tmp_path, "-o", tmp_path / "ranges.json", "--cache", cache)
    code, out, _ = calib8(*arguments, "--tensors", "all", "--cache-version", "10.6.0")
    assert code == 0
    assert f"{cache}: TRT-100600-MinMaxCalibration, 10 tensors: all but those that TensorRT's parser adds" in out
    lines = cache.read_text().splitlines()
    assert lines[0] == "TRT-100600-MinMaxCalibration"
    assert f"moved_out: {struct.pack('>f', np.float32(13 / 127)).hex()}" in lines
    assert f"w_output: {struct.pack('>f', np.float32(2 / 127)).hex()}" in lines
    code, out, _ = calib8(*arguments)
    assert f"{cache}: TRT-101600-MinMaxCalibration, 1 tensors: what weighted ops read; TensorRT 10 wants" in out
    assert json.loads((tmp_path / "ranges.json").read_text())["origin"]["settings"] == {"observer": "minmax"}


CHAIN = """
import numpy as np, onnx_ir as ir
from calib8.calibration.collect import Collector
from calib8.calibration.reached import Statistics
from calib8.data.batching import Dataset
from calib8.graph.inputs import declared_inputs
from calib8.data.sources import Batches
from calib8.passes.prepare import prepare
from calib8.graph.builder import GraphBuilder

g = GraphBuilder()
x = h = g.input("x", ir.DataType.FLOAT, "batch", 3, 256, 256)
h = g.op("Conv", h, g.weight("w", 16, 3, 1, 1))
for step in range(100):
    h = g.op("Sin" if step % 2 else "Tanh", h)
model = prepare(g.model(y=h))
data = Dataset(Batches([{"x": np.zeros((1, 3, 256, 256), np.float32)}]), declared_inputs(model))
with Collector(model, data, tensors="all") as collector:
    collector.add(*data.batch(data.groups()[0]))
    # Of this process alone: ru_maxrss still counts the parent before exec.
    peak = next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM"))
    print(len(Statistics(collector.take())), peak // 1024)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="memory is told in KiB on Linux only")
def test_no_activation_is_kept_for_longer_than_it_must() -> None:
    """102 tensors of 4 MiB are reduced one by one: less than half of them are ever there, Python and all included."""
    done = subprocess.run([sys.executable, "-c", CHAIN], capture_output=True, text=True, check=True)
    tensors, peak = map(int, done.stdout.split())
    assert tensors == 102
    assert peak < 250, f"{peak} MiB"
