import numpy as np
import onnx_ir as ir
import pytest
from hypothesis import given
from hypothesis import strategies as st

from calib8.data.inputs import InputSpec
from calib8.engine.config import Build
from calib8.engine.profiles import Profile, parse_profile, profile_sets, resolve_profiles
from calib8.errors import ConfigError, ModelError, ProfileError
from calib8.graph.inputs import declared_inputs
from calib8.graph.limits import dimension_limits
from calib8.testing import tiny_encoder

INTEGER, FLOAT = np.dtype(np.int64), np.dtype(np.float32)
IDS = InputSpec("input_ids", INTEGER, ("batch", "sequence"))
MASK = InputSpec("attention_mask", INTEGER, ("batch", "sequence"))
IMAGE = InputSpec("image", FLOAT, ("batch", 3, 224, 224))
SOUND = InputSpec("sound", FLOAT, ("batch", "frames", 80))


def resolve(inputs, *texts, **limits):
    return [str(p) for p in resolve_profiles(inputs, [parse_profile(text) for text in texts], limits)]


def test_the_brief_example():
    assert parse_profile("input_ids:1x1:8x64:64x384") == Profile(
        name="input_ids", min=(1, 1), opt=(8, 64), max=(64, 384)
    )


@given(
    st.text(min_size=1),
    st.integers(1, 5).flatmap(
        lambda rank: st.tuples(*[st.lists(st.integers(1, 999), min_size=rank, max_size=rank)] * 3)
    ),
)
def test_text_and_profile_are_the_same(name, shapes):
    low, usual, high = map(tuple, shapes)
    profile = Profile(name=name, min=low, opt=usual, max=high)
    assert parse_profile(str(profile)) == profile


@pytest.mark.parametrize(
    "text", ["", "x", "x:1:2", ":1:2:3", "x:1x:2:3", "x:a:b:c", "x:-1:1:1", "x:1.5:2:3", "x:1: 2:3"]
)
def test_other_texts_are_refused(text):
    with pytest.raises(ProfileError, match="expected for example input_ids:1x1:8x64:64x384"):
        parse_profile(text)


def test_config_takes_strings_mappings_and_profiles():
    expected = (parse_profile("x:1x2:3x4:5x6"),)
    mapping = {"x": ("1x2", "3x4", "5x6")}
    for shapes in ("x:1x2:3x4:5x6", ["x:1x2:3x4:5x6"], mapping, {"x": ((1, 2), (3, 4), (5, 6))}, expected):
        assert Build(shapes=shapes).shapes == expected
    for wrong in ([7], 7, {"x": 7}, {"x": (1, 2, 3)}):
        with pytest.raises(ConfigError, match="shapes"):
            Build(shapes=wrong)
    with pytest.raises(ProfileError, match="with the size 9999999999. Expected at most 2147483647"):
        parse_profile("x:1:8:9999999999")
    with pytest.raises(ProfileError, match="got the shapes 'x:1'"):
        Build(shapes={"x": ("1",)})
    with pytest.raises(ConfigError, match=r"got targets=86, expected text such as"):
        Build(targets=86)


def test_defaults_for_an_encoder_respect_its_limit():
    assert resolve([IDS, MASK]) == ["input_ids:1x1:8x64:64x384", "attention_mask:1x1:8x64:64x384"]
    assert resolve([IDS], sequence=512) == ["input_ids:1x1:8x64:64x384"]
    assert resolve([IDS], sequence=128) == ["input_ids:1x1:8x64:64x128"]
    assert resolve([IDS], sequence=32) == ["input_ids:1x1:8x32:64x32"]


def test_defaults_for_an_image_batch():
    assert resolve([IMAGE]) == ["image:1x3x224x224:8x3x224x224:64x3x224x224"]


def test_a_fixed_input_needs_no_profile():
    assert resolve([InputSpec("x", FLOAT, (1, 3))]) == []


def test_dimensions_without_a_sensible_default_are_asked_for():
    with pytest.raises(ProfileError, match=r"no sizes for 'frames' of sound\[batch, frames, 80\]. Pass --shapes"):
        resolve([SOUND])


def test_what_calibration_data_showed_is_taken_where_nothing_else_tells():
    seen = {"frames": (50, 98, 300), "sequence": (3, 5, 7)}
    assert resolve_text([SOUND], seen) == ["sound:1x50x80:8x98x80:64x300x80"]
    assert resolve_text([IDS], seen) == ["input_ids:1x1:8x64:64x384"]  # what calib8 measures encoders with
    given = [parse_profile("input_ids:1x8:2x16:4x32")]
    assert resolve_text([IDS, SOUND], seen, given)[1] == "sound:1x50x80:2x98x80:4x300x80"
    with pytest.raises(ProfileError, match="'frames' goes up to 300, but the model's tables hold only 200"):
        resolve_profiles([SOUND], [], {"frames": 200}, seen)


def resolve_text(inputs, seen, given=()):
    return [str(profile) for profile in resolve_profiles(inputs, given, {}, seen)]


def test_a_first_dimension_is_no_sequence_of_another_input():
    """Of a graph: its edges, each from one atom to another, and what is known of each edge."""
    edges, lengths = InputSpec("edge_index", INTEGER, (2, "edges")), InputSpec("edge_length", FLOAT, ("edges",))
    assert resolve([edges, lengths]) == ["edge_index:2x1:2x8:2x64", "edge_length:1:8:64"]
    seen = resolve_profiles([edges, lengths], [], {}, {"edges": (90, 200, 310)})
    assert list(map(str, seen)) == ["edge_index:2x90:2x200:2x310", "edge_length:90:200:310"]


def test_the_hint_fits_the_input():
    photo = InputSpec("photo", FLOAT, ("n", 3, "height", "width"))
    with pytest.raises(ProfileError, match="like photo:1x3x224x224:8x3x224x224:64x3x224x224 "):
        resolve([photo])
    with pytest.raises(ProfileError, match="like sound:1x128x80:8x128x80:64x128x80 "):
        resolve([SOUND])


def test_one_profile_serves_every_input_with_the_same_symbols():
    assert resolve([IDS, MASK], "input_ids:1x8:2x16:4x32")[1] == "attention_mask:1x8:2x16:4x32"
    with pytest.raises(ProfileError, match="no sizes for 'frames'"):
        resolve([IDS, SOUND], "input_ids:1x8:2x16:4x32")


def test_an_input_given_again_begins_a_further_profile():
    short, long = "input_ids:1x1:1x16:1x64", "input_ids:2x1:8x64:64x384"
    masks = [text.replace("input_ids", "attention_mask") for text in (short, long)]
    resolved = resolve([IDS, MASK], short, long)
    assert resolved == [short, masks[0], long, masks[1]]
    first, second = profile_sets([parse_profile(text) for text in resolved])
    assert (str(first["attention_mask"]), str(second["input_ids"])) == (masks[0], long)
    with pytest.raises(ProfileError, match="goes up to 384, but the model's tables hold only 128"):
        resolve([IDS, MASK], short, long, sequence=128)


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (["ids:1x1:1x1:1x1"], "given for 'ids', but the model's inputs are input_ids, attention_mask, image"),
        (["input_ids:1x1:1x1:1x1", "input_ids:1x1:1x1:1x1"], "the same shapes are given twice, input_ids:1x1:1x1:1x1"),
        (["input_ids:1:1:1"], "its min shape has 1 dimensions, the model's .* has 2"),
        (["input_ids:1x1:1x1:1"], "its max shape has 1 dimensions"),
        (["input_ids:4x8:2x16:8x32"], "dimension 0 needs 1 <= min <= opt <= max, got 4, 2, 8"),
        (["input_ids:1x8:2x64:8x32"], "dimension 1 needs 1 <= min <= opt <= max, got 8, 64, 32"),
        (["input_ids:0x8:2x8:8x8"], "got 0, 2, 8"),
        (["image:1x3x224x224:1x3x224x224:1x3x256x224"], "dimension 2 of image.* is fixed; write 224"),
        (["input_ids:1x8:2x16:4x32", "attention_mask:1x8:2x16:4x64"], "disagree about the dimension 'sequence'"),
        (["input_ids:1x8:2x16:4x32", "image:1x3x224x224:2x3x224x224:9x3x224x224"], "the dimension 'batch'"),
        (["input_ids:1x8:2x16:4x600"], "'sequence' goes up to 600, but the model's tables hold only 512"),
    ],
)
def test_what_tensorrt_would_not_tell(texts, message):
    with pytest.raises(ProfileError, match=message):
        resolve([IDS, MASK, IMAGE], *texts, sequence=512)


def test_the_limit_itself_is_allowed():
    assert resolve([IDS], "input_ids:1x8:2x16:4x512", sequence=512) == ["input_ids:1x8:2x16:4x512"]


def test_inputs_are_read_from_the_model():
    values = [
        ir.val("ids", ir.DataType.INT64, ["batch", None]),
        ir.val("pixels", ir.DataType.FLOAT, ["batch", 3]),
    ]
    model = ir.Model(ir.Graph(values, [], nodes=[]), ir_version=10)
    assert [str(entry) for entry in declared_inputs(model)] == ["ids[batch, ids[1]]", "pixels[batch, 3]"]
    assert [(entry.dynamic, entry.integer) for entry in declared_inputs(model)] == [(True, True), (True, False)]
    values[0].shape = None
    with pytest.raises(ModelError, match="input 'ids' of the model has no type or no rank"):
        declared_inputs(model)


def test_unnamed_dimensions_keep_their_limit():
    model = tiny_encoder(positions=16)
    for value in model.graph.inputs:
        value.shape = ir.Shape([None, None])
    limits, inputs = dimension_limits(model), declared_inputs(model)
    expected = ["input_ids:1x1:8x16:64x16", "attention_mask:1x1:8x16:64x16"]
    assert [str(p) for p in resolve_profiles(inputs, (), limits)] == expected
    with pytest.raises(ProfileError, match="goes up to 17, but the model's tables hold only 16"):
        resolve_profiles(inputs, [parse_profile("input_ids:1x1:8x16:64x17")], limits)
