import numpy as np
import onnx_ir as ir
import pytest

from calib8.data.inputs import InputSpec, checked, mask_name, named_dimensions, sample_count, sizes_of
from calib8.errors import DataError, ModelError
from calib8.graph.builder import GraphBuilder
from calib8.graph.inputs import declared_inputs, table_rows
from calib8.passes.prepare import prepare
from calib8.passes.quantize_embedding import quantize_embeddings
from calib8.testing import tiny_encoder, tiny_mlp, token_feeds

IDS = InputSpec("ids", np.dtype(np.int64), ("batch", "s"), limit=10)
IMAGE = InputSpec("image", np.dtype(np.float32), ("batch", 3, None))


def test_specs_of_an_encoder() -> None:
    assert declared_inputs(tiny_encoder(vocabulary=32)) == (
        InputSpec("input_ids", np.dtype(np.int64), ("batch", "sequence"), limit=32),
        InputSpec("attention_mask", np.dtype(np.int64), ("batch", "sequence")),
    )
    assert mask_name(declared_inputs(tiny_encoder())) == "attention_mask"
    assert mask_name(declared_inputs(tiny_mlp())) is None


def test_vocabulary_is_found_behind_int8_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("calib8.passes.quantize_embedding.MINIMUM_BYTES", 1)
    model = quantize_embeddings(tiny_encoder(vocabulary=32))
    assert declared_inputs(model)[0].limit == 32
    assert table_rows(None) is None


def test_input_without_a_shape_is_refused() -> None:
    model = tiny_mlp()
    model.graph.inputs[0].shape = None
    with pytest.raises(ModelError, match="input 'x' of the model has no type or no rank"):
        declared_inputs(model)


def fits(**arrays: np.ndarray) -> dict[str, np.ndarray]:
    return {"ids": np.zeros((2, 5), np.int64), "image": np.zeros((2, 3, 7), np.float32)} | arrays


def test_fitting_arrays_pass_unchanged(notes) -> None:
    arrays = fits()
    assert all(checked(arrays, (IDS, IMAGE), notes)[name] is arrays[name] for name in arrays)
    assert notes.messages == []


def test_int32_converts_into_int64_and_back(notes) -> None:
    got = checked(fits(ids=np.int32([[9, 0], [1, 2]])), (IDS, IMAGE), notes)["ids"]
    assert (got.dtype, got.tolist()) == (np.int64, [[9, 0], [1, 2]])
    assert notes.messages == ["ids: converted int32 to int64"]
    narrow = InputSpec("ids", np.dtype(np.int32), ("batch", "s"))
    assert checked({"ids": np.int64([[2**31 - 1, -(2**31)]])}, (narrow,), notes)["ids"].tolist() == [
        [2**31 - 1, -(2**31)]
    ]


@pytest.mark.parametrize("value", [2**31, -(2**31) - 1, -(2**63)])
def test_int64_that_does_not_fit_int32(value: int, notes) -> None:
    narrow = InputSpec("ids", np.dtype(np.int32), ("batch", "s"))
    with pytest.raises(DataError, match="ids holds int64 values that do not fit the model's int32 input"):
        checked({"ids": np.array([[value]])}, (narrow,), notes)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"extra": np.zeros(2)}, "the model has no input extra: expected exactly ids, image"),
        ({"ids": np.zeros((2, 5), np.float32)}, r"ids has dtype float32, expected int64. Convert it: np\.save"),
        ({"image": np.zeros((2, 3, 7))}, r"image has dtype float64, expected float32.*astype\(np\.float32\)"),
        ({"image": np.zeros((2, 3, 7), np.int64)}, "image has dtype int64, expected float32"),
        ({"ids": np.zeros(2, np.int64)}, r"ids has rank 1 \(shape \[2\]\), expected rank 2 \[batch, s\]"),
        ({"image": np.zeros((2, 4, 7), np.float32)}, r"image has size 4 on axis 1, expected 3 \[batch, 3, \?\]"),
        ({"ids": np.zeros((3, 5), np.int64)}, r"different numbers of samples: \{'ids': 3, 'image': 2\}"),
        ({"ids": np.zeros((2, 0), np.int64)}, "the data is empty: expected at least one sample"),
        ({"ids": np.int64([[0, 10], [0, 0]])}, r"ids holds the index 10, but .* has 10 rows \(0 to 9\).*vocabulary"),
        ({"ids": np.int64([[0, -11], [0, 0]])}, "ids holds the index -11, but"),
    ],
)
def test_what_does_not_fit_is_refused(change: dict[str, np.ndarray], message: str, notes) -> None:
    with pytest.raises(DataError, match=message):
        checked(fits(**change), (IDS, IMAGE), notes)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_nan_and_infinity_name_the_sample(value: float, notes) -> None:
    image = np.zeros((4, 3, 7), np.float32)
    image[2, 1, 3] = value
    with pytest.raises(DataError, match=r"image holds NaN or infinity \(first in sample 2\)"):
        checked({"image": image}, (IMAGE,), notes)


def test_missing_array(notes) -> None:
    with pytest.raises(
        DataError, match="no array for input attention_mask: got input_ids, expected attention_mask, inp"
    ):
        checked({"input_ids": token_feeds(3)["input_ids"]}, declared_inputs(tiny_encoder()), notes)
    with pytest.raises(DataError, match="no array for input ids, image: got nothing"):
        checked({}, (IDS, IMAGE), notes)


def test_no_samples(notes) -> None:
    with pytest.raises(DataError, match="the data is empty"):
        checked({"image": np.zeros((0, 3, 7), np.float32)}, (IMAGE,), notes)


@pytest.mark.parametrize("op_type", ["Cast", "Identity", "Unsqueeze", "Reshape"])
def test_vocabulary_is_found_behind_what_only_hands_ids_on(op_type: str) -> None:
    g = GraphBuilder()
    ids = g.input("ids", ir.DataType.INT32, "b", "s")
    how = {"Unsqueeze": [g.constant("axes", [0], np.int64)], "Reshape": [g.constant("flat", [-1], np.int64)]}
    moved = g.op(op_type, ids, *how.get(op_type, []), **({"to": 7} if op_type == "Cast" else {}))
    assert declared_inputs(g.model(y=g.op("Gather", g.weight("W", 32, 8), moved)))[0].limit == 32


def test_inputs_that_share_a_dimension_must_agree(notes) -> None:
    feeds = token_feeds(5, 5)
    feeds["input_ids"] = np.pad(feeds["input_ids"], ((0, 0), (0, 4)))
    message = "attention_mask has size 5 along 'sequence' and input_ids has 9: they share that dimension. Pad them"
    with pytest.raises(DataError, match=message):
        checked(feeds, declared_inputs(tiny_encoder()), notes)


@pytest.mark.parametrize("named", [True, False])
def test_beside_a_mask_there_is_one_sequence(named: bool, notes) -> None:
    model = tiny_encoder()
    for value in model.graph.inputs:
        value.shape = ir.Shape([f"{value.name}_{axis}" if named else None for axis in (0, 1)])
    specs = declared_inputs(model)
    expected = ("input_ids_0", "input_ids_1") if named else ("attention_mask[0]", "attention_mask[1]")
    assert specs[0].shape == specs[1].shape == expected
    feeds = token_feeds(5)
    feeds["input_ids"] = np.pad(feeds["input_ids"], ((0, 0), (0, 4)))
    with pytest.raises(DataError, match="they share that dimension"):
        checked(feeds, specs, notes)


def test_dimensions_of_their_own_stay_so() -> None:
    integer, real = np.dtype(np.int64), np.dtype(np.float32)
    specs = named_dimensions(
        (
            InputSpec("input_ids", integer, (None, "s")),
            InputSpec("attention_mask", integer, ("b", "t")),
            InputSpec("decoder_input_ids", integer, ("b", "u")),
            InputSpec("bias", real, ("b", 2, "t", None)),
            InputSpec("fixed", integer, ("b", 7)),
        )
    )
    assert [spec.shape for spec in specs] == [("b", "s"), ("b", "s"), ("b", "u"), ("b", 2, "s", "bias[3]"), ("b", 7)]
    assert named_dimensions(specs) == specs


def test_a_single_number_is_no_array_of_samples(notes) -> None:
    with pytest.raises(DataError, match=r"x holds a single number; expected an array \[samples, \.\.\.\]"):
        sample_count({"x": np.float32(3)})
    assert sample_count({}) == 0


@pytest.mark.parametrize("shape", [[-1, 3, "?", "?"], [0, 3, None, None], ["n", 3, "size", "size"]])
def test_dimensions_of_which_the_exporter_knew_nothing_are_free(shape: list) -> None:
    g = GraphBuilder()
    model = g.model(y=g.op("Relu", g.input("x", ir.DataType.FLOAT, *shape)))
    batch = "n" if shape[0] == "n" else "x[0]"
    for one in (model, prepare(model)):
        assert declared_inputs(one)[0].shape == (batch, 3, "x[2]", "x[3]")


def test_a_name_that_two_inputs_share_is_kept_on_both_axes() -> None:
    g = GraphBuilder()
    bias = g.input("bias", ir.DataType.FLOAT, "batch", "sequence", "sequence")
    model = g.model(y=g.op("MatMul", bias, g.input("x", ir.DataType.FLOAT, "batch", "sequence", 4)))
    assert declared_inputs(model)[0].shape == ("batch", "sequence", "sequence")


def test_sizes_in_data_are_told_per_sample() -> None:
    chunks = [{"image": np.zeros((n, 3, size), np.float32)} for n, size in ((1, 8), (5, 32), (3, 64))]
    specs = named_dimensions((IMAGE,))
    assert sizes_of(specs, chunks) == {"image[2]": (8, 32, 64)}  # of 9 samples the fifth has 32
    assert sizes_of(specs, [{"other": np.zeros(3)}, {"image": np.zeros((2, 3))}]) == {}
