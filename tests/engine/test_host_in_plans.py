"""Plans of TensorRT-RTX: an encoder's positions without the host, and what a plan with the host in it looks like."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper, numpy_helper
from plan_text import kept_layers

import calib8
from calib8.engine.build import build_engine
from calib8.engine.layers import Layer
from calib8.graph.io import load, save
from calib8.passes.half import to_half
from calib8.passes.host_loops import replace_host_loops
from calib8.passes.prepare import prepare
from calib8.testing import tiny_encoder, token_feeds

pytest.importorskip("tensorrt_rtx", reason="needs pip install tensorrt-rtx")

SHAPES = ("input_ids:1x1:8x64:64x384",)
#: Jumps that the host takes, and copies of what it needs to know.
HOST = ("cjmp", "DeviceToShapeHost")


def planned(path: Path, shapes: tuple[str, ...], notes, target: str = "sm86") -> list[Layer]:
    log = path.with_suffix(".log")
    config = calib8.Build(targets=target, shapes=shapes, allow_float=True, log=log)
    build_engine(path, path.with_suffix(".engine"), config, progress=notes)
    return kept_layers(log)


def on_host(layers: list[Layer]) -> list[str]:
    return [layer.name for layer in layers if layer.kind in HOST or layer.name.startswith("copy_d2h")]


def told(notes) -> list[str]:
    return [message for message in notes.messages if "the host drives" in message]


@pytest.mark.parametrize("target", ["sm75", "sm86"])
def test_positions_are_counted_in_one_kernel(target: str, tmp_path: Path, notes) -> None:
    encoder = prepare(tiny_encoder(positions=384, width=64, heads=2))
    before = planned(save(to_half(encoder.clone()), tmp_path / "before.onnx"), SHAPES, notes, target)
    after = planned(save(to_half(replace_host_loops(encoder)), tmp_path / "after.onnx"), SHAPES, notes, target)
    assert on_host(before) == on_host(after) == told(notes) == []  # TensorRT-RTX has a kernel for CumSum, too
    (counting,) = [layer for layer in after if layer.computes("count_out_Where")]
    assert counting.computes("count_out_Less")
    assert counting.computes("count_out_ReduceSum")
    assert len(after) <= len(before)


def test_a_converted_encoder_needs_no_host(tmp_path: Path, notes) -> None:
    save(tiny_encoder(positions=32, width=64), tmp_path / "model.onnx")
    np.savez(tmp_path / "data.npz", **token_feeds(*([3, 9, 17, 30] * 8)))
    build = calib8.Build(targets=("sm75", "sm86"), shapes=("input_ids:1x1:4x16:8x32",), log=tmp_path / "build.log")
    config = calib8.Convert(build=build, verify=calib8.Verify(min_cosine=0.99))
    report = calib8.convert(tmp_path / "model.onnx", tmp_path / "data.npz", tmp_path / "tiny", config, progress=notes)
    assert [engine.target for engine in report.engines] == ["sm75", "sm86"]
    kinds = [node.op_type for node in load(tmp_path / "tiny" / "model.int8.onnx").graph]
    assert (kinds.count("CumSum"), kinds.count("ReduceSum")) == (0, 1)
    assert told(notes) == []


def scan() -> onnx.ModelProto:
    """A running sum as ONNX's own loop."""
    state, item = (helper.make_tensor_value_info(name, TensorProto.FLOAT, ["b"]) for name in ("state", "item"))
    both = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["b"]) for name in ("sum", "out")]
    nodes = [helper.make_node("Add", ["state", "item"], ["sum"]), helper.make_node("Identity", ["sum"], ["out"])]
    body = helper.make_graph(nodes, "body", [state, item], both)
    how = {"body": body, "num_scan_inputs": 1, "scan_input_axes": [1], "scan_output_axes": [1]}
    return model(
        [
            helper.make_node("Cast", ["ids"], ["x"], to=TensorProto.FLOAT),
            helper.make_node("ReduceMin", ["x"], ["start"], axes=[1], keepdims=0),
            helper.make_node("Scan", ["start", "x"], ["last", "y"], name="walk", **how),
        ]
    )


def recurrent() -> onnx.ModelProto:
    random = np.random.default_rng(0)
    weights = {"w": (1, 16, 1), "r": (1, 16, 4)}
    constants = [numpy_helper.from_array(random.normal(size=s).astype(np.float32), n) for n, s in weights.items()]
    constants.append(numpy_helper.from_array(np.array([2]), "last"))
    return model(
        [
            helper.make_node("Cast", ["ids"], ["x"], to=TensorProto.FLOAT),
            helper.make_node("Unsqueeze", ["x", "last"], ["wide"]),
            helper.make_node("LSTM", ["wide", "w", "r"], ["y"], name="lstm", hidden_size=4),
        ],
        constants,
    )


def branching() -> onnx.ModelProto:
    def branch(kind: str) -> onnx.GraphProto:
        out = helper.make_tensor_value_info(f"{kind}_out", TensorProto.FLOAT, ["b", "s"])
        return helper.make_graph([helper.make_node(kind, ["x"], [f"{kind}_out"])], kind, [], [out])

    nodes = [
        helper.make_node("Cast", ["ids"], ["x"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMax", ["ids"], ["largest"], keepdims=0),
        helper.make_node("Less", ["largest", "five"], ["small"]),
        helper.make_node("If", ["small"], ["y"], name="choice", then_branch=branch("Neg"), else_branch=branch("Abs")),
    ]
    return model(nodes, [numpy_helper.from_array(np.array(5), "five")])


def as_long_as_the_data_says() -> onnx.ModelProto:
    constants = [numpy_helper.from_array(np.array(value), name) for name, value in (("zero", 0), ("one", 1))]
    nodes = [
        helper.make_node("ReduceMax", ["ids"], ["longest"], keepdims=0),
        helper.make_node("Range", ["zero", "longest", "one"], ["counted"], name="count"),
        helper.make_node("Cast", ["counted"], ["y"], to=TensorProto.FLOAT),
    ]
    return model(nodes, constants)


def model(nodes: list[onnx.NodeProto], constants: list[onnx.TensorProto] | None = None) -> onnx.ModelProto:
    ids = helper.make_tensor_value_info("ids", TensorProto.INT64, ["b", "s"])
    y = helper.make_empty_tensor_value_info("y")
    y.type.tensor_type.elem_type = TensorProto.FLOAT
    graph = helper.make_graph(nodes, "small", [ids], [y], constants or [])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10)


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (scan, "walk (Scan: a loop)"),
        (recurrent, "lstm (LSTM: a loop)"),
        (branching, "choice (If: a choice)"),
        (as_long_as_the_data_says, "count (Range: the data decides its size)"),
    ],
)
def test_what_is_told_has_the_host_in_its_plan(
    make: Callable[[], onnx.ModelProto], why: str, tmp_path: Path, notes
) -> None:
    path = save(ir.from_proto(make()), tmp_path / "model.onnx")
    assert on_host(planned(path, ("ids:1x1:8x64:64x384",), notes))
    said = f"the host drives {why}, so no CUDA graph can be captured of this engine"
    assert [note.endswith(f") {said}") for note in told(notes)] == [True]
