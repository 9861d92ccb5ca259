"""What INT8 gains op by op: sums by hand, properties, and kernels that an H200 was timed with."""

import gzip
import io
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from calib8.data.sources import Batches
from calib8.engine.layers import Layer
from calib8.engine.profiles import parse_profile
from calib8.engine.sidecar import Sidecar
from calib8.errors import DataError
from calib8.graph.builder import GraphBuilder
from calib8.graph.dataset import dataset_for
from calib8.graph.weighted import WeightedOp, weighted_ops
from calib8.progress import Quiet
from calib8.report.sections.gains import gains_section
from calib8.report.terminal import render
from calib8.runtime.layer_time import LayerTime
from calib8.runtime.null import NullRuntime
from calib8.testing import tiny_mlp
from calib8.verification import gains, gpu_speed
from calib8.verification.bench import Cell
from calib8.verification.gains import Gains, Timed, gains_of, time_layers
from calib8.verification.gpu_speed import GpuSpeed
from calib8.verification.speed import Latency

#: all-MiniLM-L6-v2, FP16 baseline and INT8 for latency (attention's projections in FP16), as TensorRT 10.6's profiler
#: timed them on an H200 on 2026-11-30: name, ONNX nodes and milliseconds of each layer, at two shapes.
MINILM = Path(__file__).parent / "minilm_kernels.json.gz"


def layers(*kernels: tuple[str, float], prefix: str = "") -> list[LayerTime]:
    """Each kernel by the nodes that it names, parted by blanks, and its milliseconds."""
    return [
        LayerTime(Layer(f"{prefix}{place}", "", nodes=tuple(nodes.split())), 1, ms)
        for place, (nodes, ms) in enumerate(kernels)
    ]


def two_blocks() -> list[WeightedOp]:
    """Two blocks of ``q`` and ``k``, which read one tensor, and ``up``; then ``head``."""
    g = GraphBuilder()
    x = g.input("x", ir.DataType.FLOAT, "batch", 8)
    for block in "ab":
        q, k = (g.op("MatMul", x, g.weight(f"{block}{name}.w", 8, 8), name=f"{block}{name}") for name in "qk")
        x = g.op("MatMul", g.op("Add", q, k), g.weight(f"{block}up.w", 8, 8), name=f"{block}up")
    return weighted_ops(g.model(y=g.op("MatMul", x, g.weight("head.w", 8, 2), name="head")))


INT8 = ("aq", "ak", "aup", "bq", "bk", "bup")
FLOAT_KERNELS = layers(
    ("norm", 1), ("aq", 2), ("ak", 2), ("attention", 1), ("aup", 4),
    ("norm", 1), ("bq bk", 3), ("attention", 1), ("bup", 5), ("head", 1), ("out", 0.5),
)  # fmt: skip
INT8_KERNELS = layers(
    ("norm_Q", 2), ("aq ak", 2), ("attention", 1), ("aup aup_DQ", 5),
    ("norm_Q", 2), ("bq bk", 2), ("attention", 1), ("order", 1), ("bup", 5), ("head", 1), ("out", 0.5),
)  # fmt: skip
USUAL = Timed("1x8", FLOAT_KERNELS, INT8_KERNELS)


def by_ops(found: Gains) -> dict[tuple[tuple[str, ...], ...], list[tuple[float, float]]]:
    return {gain.groups: [(one.float_ms, one.int8_ms) for one in gain.times] for gain in found.gains}


def test_a_kernel_without_weights_counts_to_the_next_op_and_what_is_alike_together() -> None:
    found = gains_of("H200", two_blocks(), INT8, [USUAL])
    assert by_ops(found) == {
        (("aq", "ak"), ("bq", "bk")): [(1 + 2 + 2 + 1 + 3, 2 + 2 + 2 + 2)],
        (("aup",), ("bup",)): [(1 + 4 + 1 + 5, 1 + 5 + 1 + 1 + 5)],
        (("head",),): [(1, 1)],
    }
    assert [gain.told for gain in found.gains] == ["2 x 2 MatMul 8x8", "2 x MatMul 8x8", "MatMul 8x2"]
    assert [(one.float_ms, one.int8_ms) for one in found.tail] == [(0.5, 0.5)]
    assert [(one.float_ms, one.int8_ms) for one in found.whole] == [(21.5, 22.5)]


def test_slow_is_what_takes_no_less_and_why_says_where() -> None:
    found = gains_of("TensorRT 10.6 on H200", two_blocks(), INT8, [USUAL])
    (slow,) = found.slow
    assert slow.ops == ("aup", "bup")
    assert (
        found.why(slow)
        == "INT8 takes 2.000 ms of 21.500 more than FP16 for 2 x MatMul 8x8 at 1x8: TensorRT 10.6 on H200"
    )
    same = gains_of("H200", two_blocks(), INT8, [Timed("1x8", FLOAT_KERNELS, FLOAT_KERNELS)])
    assert [gain.ops for gain in same.slow] == [("aq", "ak", "bq", "bk"), ("aup", "bup")]  # not head, which is FP16


def test_every_shape_counts_alike_however_long_it_takes() -> None:
    """What is 2 of 21.5 ms too long in one shape is made up for in one that takes ten times as long by 20, not by 2."""
    ten = [LayerTime(one.layer, 1, one.ms * 10) for one in FLOAT_KERNELS]

    def large(less: float) -> Timed:
        at = next(place for place, one in enumerate(ten) if one.layer.computes("bup"))
        quicker = [*ten[:at], LayerTime(ten[at].layer, 1, ten[at].ms - less), *ten[at + 1 :]]
        return Timed("8x8", ten, quicker)

    def up_is_slow(less: float) -> bool:
        found = gains_of("H200", two_blocks(), INT8, [USUAL, large(less)])
        return any(gain.ops == ("aup", "bup") for gain in found.slow)

    assert (up_is_slow(2), up_is_slow(19.9), up_is_slow(20.1)) == (True, True, False)


def test_ops_that_share_a_kernel_in_either_engine_are_one_group() -> None:
    merged = layers(("aq ak aup", 9), ("bq", 1), ("bk", 1), ("bup | inner", 2), ("head", 1))
    for timed in (Timed("1", merged, FLOAT_KERNELS), Timed("1", FLOAT_KERNELS, merged)):
        found = gains_of("H200", two_blocks(), INT8, [timed])
        assert [gain.groups for gain in found.gains] == [
            (("aq", "ak", "aup"),),
            (("bq", "bk"),),
            (("bup",),),
            (("head",),),
        ]


def test_a_group_of_which_nothing_is_int8_is_not_averaged_with_those_that_are() -> None:
    found = gains_of("H200", two_blocks(), [name for name in INT8 if name != "bup"], [USUAL])
    assert [(gain.groups, gain.quantised) for gain in found.gains if "up" in gain.ops[0]] == [
        ((("aup",),), True),
        ((("bup",),), False),
    ]


def test_what_no_kernel_names_is_not_decided() -> None:
    nameless = [one for one in INT8_KERNELS if not one.layer.computes("aup")]
    found = gains_of("H200", two_blocks(), INT8, [Timed("1x8", FLOAT_KERNELS, nameless)])
    assert [(gain.ops, gain.found) for gain in found.gains if not gain.found] == [(("aup", "bup"), False)]
    assert ("aup", "bup") not in [gain.ops for gain in found.slow]


KERNELS = st.lists(
    st.tuples(
        st.sampled_from(["", "norm", "aq", "ak", "aq ak", "aup", "bq", "bk", "bup", "bq aup", "head"]),
        st.integers(0, 1000).map(lambda ms: ms / 8),
    ),
    max_size=12,
).map(lambda kernels: layers(*kernels))


@given(st.lists(st.tuples(KERNELS, KERNELS), min_size=1, max_size=3))
def test_nothing_is_lost_and_every_op_is_in_one_group(engines: list[tuple[list[LayerTime], list[LayerTime]]]) -> None:
    ops = two_blocks()
    found = gains_of("H200", ops, INT8, [Timed(str(place), *pair) for place, pair in enumerate(engines)])
    assert sorted(name for gain in found.gains for name in gain.ops) == sorted(op.name for op in ops)
    for pair, whole in zip(engines, found.whole, strict=True):
        assert (whole.float_ms, whole.int8_ms) == tuple(sum(one.ms for one in kernels) for kernels in pair)


@given(KERNELS, st.randoms(use_true_random=False))
def test_the_order_of_kernels_between_two_ops_changes_nothing(kernels: list[LayerTime], random) -> None:
    runs: list[list[LayerTime]] = [[]]
    for one in kernels:
        if one.layer.nodes in ((), ("norm",)):
            runs[-1].append(one)
        else:
            runs.extend(([one], []))
    for run in runs:
        random.shuffle(run)
    other = [one for run in runs for one in run]
    before, after = (gains_of("H200", two_blocks(), INT8, [Timed("1", kernels, one)]) for one in (kernels, other))
    assert before == after


class Profiled(NullRuntime):
    """Takes up to four rows; each time that its one kernel is timed, the next of ``ms``."""

    on_gpu = True
    description = "TensorRT 10.6 on H200"

    def __init__(self, *ms: float) -> None:
        super().__init__(lambda arrays: {})
        self.ms = list(ms)

    def layer_times(self, arrays, *, runs: int = 25, warm_up: int = 5) -> list[LayerTime]:
        if len(arrays["x"]) > 4:
            raise DataError("8 rows are in no profile.")
        return layers(("op", self.ms.pop(0)))


def test_engines_are_timed_by_turns_and_the_median_of_the_rounds_counts(monkeypatch: pytest.MonkeyPatch, notes) -> None:
    engines = {"a.engine": Profiled(9, 2, 3), "b.engine": Profiled(1, 1, 5)}  # an idle GPU is slow at first
    sidecar = Sidecar.model_construct(profiles=tuple(map(parse_profile, ["x:1x4:2x4:8x4"])), tensors=())
    monkeypatch.setattr(gains, "open_artefact", lambda path: engines[path.name])
    monkeypatch.setattr(gpu_speed, "describe_engine", lambda path: sidecar)
    data = dataset_for(tiny_mlp(), Batches([{"x": np.ones((5, 4), np.float32)}]), Quiet())
    runtime, timed = time_layers(Path("a.engine"), Path("b.engine"), data, notes)
    assert runtime == "TensorRT 10.6 on H200"
    assert [(one.shape, one.in_float, one.quantised) for one in timed] == [("2", layers(("op", 3)), layers(("op", 1)))]
    assert notes.messages == ["no kernels were timed at 8: 8 rows are in no profile."]


def minilm() -> list[WeightedOp]:
    """The weighted ops of all-MiniLM-L6-v2 by their names, sizes and inputs."""
    g = GraphBuilder()
    x = g.input("x", ir.DataType.FLOAT, "batch", 384)

    def linear(value: ir.Value, name: str, *sizes: int) -> ir.Value:
        return g.op("MatMul", value, g.weight(f"{name}.w", *sizes), name=f"/encoder/layer.{name}/MatMul")

    for number in range(6):
        q, k, v = (linear(x, f"{number}/attention/self/{name}", 384, 384) for name in ("query", "key", "value"))
        x = linear(g.op("Add", g.op("Add", q, k), v), f"{number}/attention/output/dense", 384, 384)
        x = linear(linear(x, f"{number}/intermediate/dense", 384, 1536), f"{number}/output/dense", 1536, 384)
    return weighted_ops(g.model(y=x))


def recorded(*shapes: str) -> Gains:
    ops, kept = minilm(), json.loads(gzip.decompress(MINILM.read_bytes()))

    def times(kernels: Sequence[tuple[str, list[str], float]]) -> list[LayerTime]:
        return [LayerTime(Layer(name, "", nodes=tuple(nodes)), 1, ms) for name, nodes, ms in kernels]

    timed = [Timed(shape, times(kept[shape]["fp16"]), times(kept[shape]["int8"])) for shape in shapes]
    quantised = [op.name for op in ops if "attention/output" not in op.name]
    return gains_of("TensorRT 10.6 on NVIDIA H200", ops, quantised, timed)


def test_minilm_on_an_h200_at_32x128_gains_in_every_group() -> None:
    found = recorded("32x128")
    assert [gain.told for gain in found.gains] == [
        "6 x 3 MatMul 384x384", "6 x MatMul 384x384", "6 x MatMul 384x1536", "6 x MatMul 1536x384"
    ]  # fmt: skip
    assert [gain.quantised for gain in found.gains] == [True, False, True, True]
    assert all(gain.found for gain in found.gains)
    ratios = [round(gain.times[0].ratio or 0, 2) for gain in found.gains]
    assert ratios == [1.3, 0.96, 1.18, 1.26]
    assert found.slow == ()
    (whole,) = found.whole
    assert (whole.float_ms, whole.int8_ms) == (pytest.approx(0.6508, abs=1e-3), pytest.approx(0.5765, abs=1e-3))


def test_minilm_on_an_h200_at_1x32_loses_in_what_has_gelu_behind_it_but_not_over_both_shapes() -> None:
    alone = recorded("1x32")
    assert [gain.told for gain in alone.slow] == ["6 x MatMul 384x1536"]
    assert alone.why(alone.slow[0]).startswith("INT8 takes 0.004 ms of 0.308 more than FP16 for 6 x MatMul 384x1536")
    assert recorded("1x32", "32x128").slow == ()


def printed(found: Gains) -> str:
    console = Console(width=80, file=io.StringIO(), record=True, highlight=False)
    console.print(render(gains_section(found)))
    return console.export_text()


def test_the_table_has_a_row_for_each_group_and_shape_and_the_sums() -> None:
    found = gains_of("H200", two_blocks(), INT8, [USUAL])
    (table,) = gains_section(found.model_copy(update={"left_out": ("aup", "bup")})).tables
    assert [[cell.text for cell in row] for row in table.rows] == [
        ["2 x 2 MatMul 8x8", "INT8", "1x8", "9.000", "8.000", "1.12x"],
        ["2 x MatMul 8x8", "FP16, INT8 is no faster", "1x8", "11.000", "13.000", "0.85x"],
        ["MatMul 8x2", "FP16", "1x8", "1.000", "1.000", "1.00x"],
        ["behind the last", "", "1x8", "0.500", "0.500", "1.00x"],
        ["all kernels", "", "1x8", "21.500", "22.500", "0.96x"],
    ]


@pytest.mark.parametrize(("left_out", "told"), [((), "so it was not taken"), (("aup", "bup"), "it was taken")])
def test_the_page_says_what_came_of_the_second_engine(left_out: tuple[str, ...], told: str) -> None:
    one = {"runs": 5, "median_ms": 3, "p95_ms": 3, "p99_ms": 3, "samples_per_second": 1}
    latencies = {"x.engine": Latency(gpu_ms=2, **one), "y.engine": Latency(gpu_ms=1.6, **one)}
    race = GpuSpeed(
        runtime="H200", baseline="x.engine", engine="y.engine", cells=(Cell(batch=1, length=8, latencies=latencies),)
    )
    found = gains_of("H200", two_blocks(), INT8, [USUAL]).model_copy(update={"left_out": left_out, "without": race})
    notes = [str(note.text) for note in gains_section(found).notes]
    assert notes[1] == f"The engine without them in INT8 is 1.25x at 1x8: {told}."
    assert "1.25x" not in printed(found)
    assert "2 x MatMul 8x8" in printed(found)
