import tracemalloc
from contextlib import suppress
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from google.protobuf.message import DecodeError
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import helper, numpy_helper

from calib8.errors import ModelError
from calib8.graph.builder import GraphBuilder
from calib8.graph.io import SOURCE_SHA256, load, save, source_sha256, stored_bytes
from calib8.graph.mapped import SMALLEST, MappedTensor, load_mapped
from calib8.runtime.ort import OrtRuntime
from calib8.testing import outputs_of, tiny_convnet, tiny_encoder, token_feeds

LARGE = SMALLEST // 4  # float32 values


def model_with(*weights: np.ndarray) -> onnx.ModelProto:
    g = GraphBuilder()
    values = [g.constant(f"w{number}", weight, weight.dtype) for number, weight in enumerate(weights)]
    outputs = {f"y{number}": g.op("Identity", value) for number, value in enumerate(values)}
    return ir.to_proto(g.model(**outputs))


def saved(proto: onnx.ModelProto, folder: Path) -> Path:
    path = folder / "model.onnx"
    path.write_bytes(proto.SerializeToString())
    return path


@pytest.mark.parametrize("build", [tiny_encoder, tiny_convnet])
def test_the_model_is_that_in_the_file(tmp_path: Path, build) -> None:
    proto = ir.to_proto(build())
    assert ir.to_proto(load_mapped(saved(proto, tmp_path))) == proto


@pytest.mark.parametrize("dtype", [np.float32, np.float16, np.int8, np.int64, np.float64, np.bool_])
def test_weights_of_every_type_and_place(tmp_path: Path, dtype: type) -> None:
    weights = [(np.arange(size) % 100).astype(dtype).reshape(-1, 2) for size in (2, 8 * SMALLEST, 6, 9 * SMALLEST)]
    proto = model_with(*weights)
    model = load_mapped(saved(proto, tmp_path))
    for number, weight in enumerate(weights):
        found = model.graph.initializers[f"w{number}"].const_value
        assert isinstance(found, MappedTensor) == (number % 2 == 1)  # the large ones are mapped
        np.testing.assert_array_equal(found.numpy(), weight)
        assert found.numpy().dtype == dtype
    assert ir.to_proto(model) == proto


def test_packed_types_are_read(tmp_path: Path) -> None:
    proto = model_with(np.zeros(4, np.float32))
    tensor = proto.graph.initializer.add(name="packed", data_type=onnx.TensorProto.INT4, dims=[4 * SMALLEST])
    tensor.raw_data = bytes(range(256)) * (2 * SMALLEST // 256)
    model = load_mapped(saved(proto, tmp_path))
    assert model.graph.initializers["packed"].const_value.tobytes() == tensor.raw_data


def test_nothing_large_is_read(tmp_path: Path) -> None:
    path = saved(model_with(np.ones(20_000_000, np.float32)), tmp_path)
    tracemalloc.start()
    try:
        model = load_mapped(path)
        assert tracemalloc.get_traced_memory()[1] < 1_000_000
    finally:
        tracemalloc.stop()
    assert model.graph.initializers["w0"].const_value.numpy()[-1] == 1


def test_external_weights_are_mapped_too(tmp_path: Path) -> None:
    weights = [np.full(LARGE + number, number, np.float32) for number in range(2)]
    ir.save(ir.from_proto(model_with(*weights)), tmp_path / "a.onnx", external_data="a.data", size_threshold_bytes=0)
    found = [value.const_value for value in load_mapped(tmp_path / "a.onnx").graph.initializers.values()]
    assert all(isinstance(weight, MappedTensor) and weight.path.name == "a.data" for weight in found)
    for weight, expected in zip(found, weights, strict=True):
        np.testing.assert_array_equal(weight.numpy(), expected)


def test_weights_outside_the_folder_are_refused(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    proto = model_with(np.zeros(LARGE, np.float32))
    ir.save(ir.from_proto(proto), tmp_path / "a.onnx", external_data="secret.data", size_threshold_bytes=0)
    outside = onnx.load(tmp_path / "a.onnx", load_external_data=False)
    outside.graph.initializer[0].external_data[0].value = "../secret.data"
    with pytest.raises(ValueError, match=r"'w0' is in \.\./secret\.data, which is not in the model's folder"):
        load_mapped(saved(outside, tmp_path / "model"))


@pytest.mark.parametrize("external", [False, True])
def test_a_model_behind_links(tmp_path: Path, external: bool) -> None:
    """As in the cache of the Hugging Face hub: names link to files that are called by their hashes."""
    blobs, names = tmp_path / "blobs", tmp_path / "snapshot"
    blobs.mkdir()
    names.mkdir()
    ir.save(tiny_encoder(), tmp_path / "model.onnx", external_data="model.data" if external else None)
    for number, file in enumerate(sorted(tmp_path.glob("model.*"))):
        (names / file.name).symlink_to(file.replace(blobs / f"blob{number}"))
    assert stored_bytes(names / "model.onnx") == sum(file.stat().st_size for file in blobs.iterdir())
    feeds = token_feeds(3, 5)
    with OrtRuntime(load(names / "model.onnx")) as runtime:
        found = runtime.run(feeds)
    for name, array in outputs_of(tiny_encoder(), feeds).items():
        np.testing.assert_allclose(found[name], array, atol=1e-5)


def test_a_linked_folder_makes_no_other_model_of_it(tmp_path: Path) -> None:
    path = saved(model_with(np.zeros(LARGE, np.float32)), tmp_path)
    (tmp_path / "link").symlink_to(tmp_path, target_is_directory=True)
    linked = tmp_path / "link" / path.name
    assert stored_bytes(linked) == path.stat().st_size
    assert source_sha256(linked) == source_sha256(path) == load(linked).metadata_props[SOURCE_SHA256]


def test_weights_outlive_the_name_of_their_file(tmp_path: Path) -> None:
    path = saved(model_with(np.full(LARGE, 7, np.float32)), tmp_path)
    model = load_mapped(path)
    path.with_suffix(".new").write_bytes(b"another")
    path.with_suffix(".new").replace(path)
    assert (model.graph.initializers["w0"].const_value.numpy() == 7).all()


def test_a_weight_of_another_size_than_its_shape(tmp_path: Path) -> None:
    proto = model_with(np.zeros(2 * LARGE, np.float32))
    proto.graph.initializer[0].dims[:] = [2 * LARGE + 1]
    with pytest.raises(DecodeError, match=rf"tensor 'w0' has {2 * SMALLEST} bytes for the shape \[{2 * LARGE + 1}\]"):
        load_mapped(saved(proto, tmp_path))


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_damage_is_told_and_never_crashes(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    """Cut anywhere, or with a byte replaced: either protobuf accepts it, or the error is one of those it raises."""
    whole = model_with(np.zeros(2 * LARGE, np.float32)).SerializeToString()
    graph = whole.index(b"w0") + 200
    cut = data.draw(st.integers(0, len(whole)))
    damaged = bytearray(whole[:cut] if data.draw(st.booleans()) else whole)
    if damaged and data.draw(st.booleans()):
        damaged[data.draw(st.integers(0, min(graph, len(damaged)) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.mktemp("damaged") / "model.onnx"
    path.write_bytes(damaged)
    with suppress(DecodeError, RuntimeError, ValueError, TypeError, KeyError, OSError):
        load_mapped(path)


def beside(tensor: onnx.TensorProto, location: str) -> onnx.TensorProto:
    """``tensor``, its values said to be in the file ``location``."""
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value=location)
    return tensor


def in_an_attribute(tensor: onnx.TensorProto) -> onnx.ModelProto:
    nodes = [helper.make_node("Constant", [], ["y"], value=tensor)]
    return _model_of(nodes)


def in_a_subgraph(tensor: onnx.TensorProto) -> onnx.ModelProto:
    constant = helper.make_node("Constant", [], ["inner"], value=tensor)
    branch = helper.make_graph([constant], "branch", [], [_output("inner")])
    true = helper.make_node("Constant", [], ["true"], value=numpy_helper.from_array(np.array(True)))
    return _model_of([true, helper.make_node("If", ["true"], ["y"], then_branch=branch, else_branch=branch)])


def in_a_weight_of_a_subgraph(tensor: onnx.TensorProto) -> onnx.ModelProto:
    same = helper.make_node("Identity", [tensor.name], ["inner"])
    branch = helper.make_graph([same], "branch", [], [_output("inner")], initializer=[tensor])
    true = helper.make_node("Constant", [], ["true"], value=numpy_helper.from_array(np.array(True)))
    return _model_of([true, helper.make_node("If", ["true"], ["y"], then_branch=branch, else_branch=branch)])


def in_a_function(tensor: onnx.TensorProto) -> onnx.ModelProto:
    constant = helper.make_node("Constant", [], ["y"], value=tensor)
    opset = helper.make_opsetid("", 17)
    model = _model_of([helper.make_node("Own", [], ["y"], domain="own")])
    model.opset_import.append(helper.make_opsetid("own", 1))
    model.functions.append(helper.make_function("own", "Own", [], ["y"], [constant], [opset]))
    return model


def _model_of(nodes: list[onnx.NodeProto]) -> onnx.ModelProto:
    graph = helper.make_graph(nodes, "graph", [], [_output("y")])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10)


def _output(name: str) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [3])


PLACES = [in_an_attribute, in_a_subgraph, in_a_weight_of_a_subgraph, in_a_function]


@pytest.mark.parametrize("place", PLACES)
def test_external_data_anywhere_belongs_to_the_model(tmp_path: Path, place) -> None:
    values = np.float32([1, 2, 3])
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / "a.data").write_bytes(values.tobytes())
    path = saved(place(beside(numpy_helper.from_array(values, "w"), "a.data")), tmp_path / "here")
    before = source_sha256(path)
    moved = save(load(path), tmp_path / "there" / "model.onnx")
    assert stored_bytes(path) == path.stat().st_size + 12
    (tmp_path / "here" / "a.data").write_bytes((values + 1).tobytes())
    assert source_sha256(path) not in (before, "")
    (found,) = outputs_of(load(path), {}).values()
    assert found.tolist() == [2, 3, 4]
    (found,) = outputs_of(load(moved), {}).values()
    assert found.tolist() == [1, 2, 3]
    assert [file.name for file in moved.parent.iterdir()] == ["model.onnx"]


@pytest.mark.parametrize("location", ["../secret.data", "link.data", "folder/../../secret.data"])
@pytest.mark.parametrize("place", PLACES)
def test_external_data_outside_the_folder_is_refused_anywhere(tmp_path: Path, place, location: str) -> None:
    home = tmp_path / "model"
    (home / "folder").mkdir(parents=True)
    (tmp_path / "secret.data").write_bytes(np.float32([1, 2, 3]).tobytes())
    (home / "link.data").symlink_to(tmp_path / "secret.data")
    path = saved(place(beside(numpy_helper.from_array(np.float32([1, 2, 3]), "w"), location)), home)
    with pytest.raises(ModelError, match=f"the weight 'w' is in {location}, which is not in the model's folder"):
        load(path)


def test_external_values_of_half_a_byte(tmp_path: Path) -> None:
    proto = model_with(np.zeros(4, np.float32))
    tensor = proto.graph.initializer.add(name="packed", data_type=onnx.TensorProto.INT4, dims=[4])
    beside(tensor, "a.data")
    path = saved(proto, tmp_path)
    (tmp_path / "a.data").write_bytes(b"\x21\x43")
    assert load_mapped(path).graph.initializers["packed"].const_value.numpy().tolist() == [1, 2, 3, 4]
    (tmp_path / "a.data").write_bytes(b"\x21")
    with pytest.raises(ValueError, match=r"a\.data ends within the weight 'packed'"):
        load_mapped(path)
