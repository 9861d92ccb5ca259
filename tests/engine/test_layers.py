"""The two readers of a plan: whatever the names in it hold, and whatever stands around it."""

import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from plan_text import TENSORRT, as_json, as_log, mpnet, read, text_of

from calib8.engine.layers import Layer, Tensor
from calib8.engine.layers_json import layers_from_json
from calib8.engine.layers_log import layers_from_log
from calib8.engine.quantized import RESERVED

HOSTILE = [
    *(
        ", LayerType: ",
        ", LayerType: gemm, Inputs: [",
        ", Inputs: [",
        "], Outputs: [",
        " }, { Name: ",
        ", Dimensions: [",
    ),
    *(
        ", Metadata: ",
        "Name: ",
        "Layers:",
        "[profile 1]",
        "]",
        "[",
        "{",
        "}",
        ", ",
        " | ",
        "\r",
        "\u2028",
        "é",
        "模型",
        "𝄞",
    ),
]
#: Nothing is quoted in the log: a name that holds all of a tensor, or of a layer's beginning, is what it looks like.
TENSOR = re.compile(r", Dimensions: \[")
BEGINNING = re.compile(r", LayerType: [^,]*, Inputs: \[.*\], Outputs: \[.*\]", re.DOTALL)
LINES = st.text(st.characters(exclude_characters="\n\x1e\x1f", exclude_categories=["Cs"]), max_size=6)
NAMES = st.lists(st.sampled_from(HOSTILE) | LINES, min_size=1, max_size=5).map("".join)
NODES = NAMES.filter(lambda name: not any(mark in name for mark in RESERVED))
TENSORS = st.lists(
    st.builds(
        Tensor,
        st.lists(st.integers(-1, 10**9), max_size=5).map(tuple),
        st.sampled_from(["Int8", "Half", "Float", "Int64", "Int8 NC/32HW32"]),
    ),
    max_size=3,
).map(tuple)
LAYERS = st.lists(
    st.builds(
        Layer,
        name=NAMES.filter(lambda name: not BEGINNING.search(name)),
        kind=st.sampled_from(["gemm", "kgen", "fusion", "CaskConvolution", "cjmp"]),
        tactic=st.sampled_from(["", "sm90_xmma_gemm_i8f16_i8i32_f32_tn_n", "__myl_Tra_0x1"]),
        inputs=TENSORS,
        constants=TENSORS,
        outputs=TENSORS,
        weights=st.sampled_from(["", "Int8", "Half"]),
        dynamic_filter=st.booleans(),
        nodes=st.lists(NODES, max_size=4).map(tuple),
    ),
    min_size=1,
    max_size=4,
)


@given(LAYERS, NAMES.filter(lambda name: not TENSOR.search(name)), st.sampled_from(["\x1e", "\x1f", ""]))
def test_the_log_says_what_was_written(layers, tensor, separator):
    assert read(as_log(layers, tensor, separator)) == layers


@given(LAYERS, st.text(), st.sampled_from(["\x1e", "\x1f", ""]), st.text())
def test_the_inspector_says_what_was_written(layers, tensor, separator, name):
    layers = [*layers, Layer(name, "kgen")]
    assert layers_from_json(as_json(layers, tensor, separator)) == layers


@pytest.mark.parametrize("form", ["fp16cast", "fp16scales", "fp32"])
@pytest.mark.parametrize("model", ["conv", "matmul"])
def test_log_and_inspector_tell_the_same_of_a_real_engine(model, form):
    inspected = layers_from_json(text_of(TENSORRT / f"{model}-{form}.json"))
    assert inspected == read(text_of(TENSORRT / f"{model}-{form}.layers.txt"))
    nodes = {"conv": ("/layer/Conv", "/layer/Relu"), "matmul": ("/layer/MatMul", "/layer/Relu")}[model]
    assert len([layer for layer in inspected if all(layer.computes(node) for node in nodes)]) == 1


def test_every_line_of_a_real_list_is_a_layer():
    text = mpnet("int8")
    layers = read(text)
    assert len(layers) == text.count("\nName: ") == 186
    merged = layers[6]
    assert merged.nodes[0] == "/encoder/layer.0/attention/attn/v/MatMul"
    assert len(merged.nodes) == 10
    assert merged.inputs[:2] == (Tensor((-1, 768), "Int8"), Tensor((3, 768, 768), "Int8"))
    assert merged.outputs == (Tensor((3, -1, 768), "Half"),)
    assert merged.tactic.startswith("sm90_xmma_gemm_i8f16_i8i32_f32_tn_n_tilesize128x128x128")


def test_of_several_lists_the_last_one_that_lists_something_counts():
    first, last = [Layer("first", "gemm")], [Layer("last", "gemm")]
    assert layers_from_log([as_log(first), "between", as_log(last), "Layers:\n", "behind"]) == last


def test_tensors_in_an_unknown_form_do_not_hide_a_layer():
    line = (
        "Name: k, LayerType: gemm, Inputs: [ { what is this } ], Outputs: [], TacticName: t, Metadata: [ONNX Layer: a]"
    )
    (layer,) = read(f"Layers:\n{line}\nName: without a type\nanother line\n")
    assert (layer.name, layer.kind, layer.tactic, layer.nodes, layer.inputs) == ("k", "gemm", "t", ("a",), ())


@pytest.mark.parametrize(
    "text",
    ["", "no JSON", "[]", "{}", '{"Layers": 1}', '{"Layers": ["a", "b"]}', '{"Layers": []}', "[" * 100_000],
    ids=lambda text: text[:20],
)
def test_an_inspector_without_details_tells_nothing(text):
    assert layers_from_json(text) == []


def test_odd_json_is_read_as_far_as_it_goes():
    items = [{}, {"Name": 3, "Inputs": 1, "Outputs": [None, {"Dimensions": "x"}], "Weights": [], "Metadata": None}]
    first, second = layers_from_json(json.dumps({"Layers": items}))
    assert first == Layer("", "")
    assert (second.name, second.outputs, second.nodes) == ("3", (Tensor((), ""),), ())


def test_nodes_of_a_subgraph_are_known_by_their_name():
    """As TensorRT-RTX 1.7.1 wrote it for the branch of an If."""
    layer = Layer("k", "gemm", nodes=("/If", "/then/mm | t (then_branch) | /If (If)"))
    assert layer.computes("/then/mm")
    assert not layer.computes("/then")
    assert layer.computes_beyond(["/If"])
    assert not layer.computes_beyond(layer.nodes)
