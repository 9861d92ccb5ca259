from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from calib8.calibration import one_pass
from calib8.calibration.collect import collect, positions
from calib8.calibration.config import Calibrate
from calib8.calibration.observers.min_max import MinMax
from calib8.calibration.origin import origin_of, reusable
from calib8.data.batching import Dataset
from calib8.data.sources import Batches
from calib8.errors import DataError, ModelError
from calib8.graph.builder import GraphBuilder
from calib8.graph.dataset import dataset_for
from calib8.graph.inputs import declared_inputs
from calib8.passes.prepare import prepare
from calib8.provenance import Origin
from calib8.testing import outputs_of, tiny_convnet, tiny_encoder, tiny_mlp, token_feeds


def data_for(model: ir.Model, *chunks: dict[str, np.ndarray]) -> Dataset:
    return Dataset(Batches(chunks), declared_inputs(model))


def one_layer(weight: np.ndarray) -> ir.Model:
    g = GraphBuilder()
    x = g.input("x", ir.DataType.FLOAT, "batch", 2)
    return prepare(g.model(y=g.op("MatMul", x, g.constant("w", weight), name="only")))


def test_a_model_that_reads_nothing_but_its_input(notes) -> None:
    model = one_layer(np.eye(2))
    seen = collect(model, data_for(model, {"x": np.float32([[1, -5], [3, 2]])}), notes)
    assert {name: (s.minimum, s.maximum) for name, s in seen.items()} == {"x": (-5, 3)}


def test_inputs_of_weighted_ops_by_hand(notes) -> None:
    model = prepare(tiny_mlp())
    for name, value in (("first.weight", np.eye(4, 8)), ("first.bias", np.full(8, -1.0))):
        model.graph.initializers[name].const_value = ir.tensor(value.astype(np.float32))
    before = ir.to_proto(model).SerializeToString()
    # x @ eye - 1, then Relu: (3, -2, 0, 1) -> (2, 0, 0, 0, 0...), (1, 6, 1, 1) -> (0, 5, 0, 0, 0...)
    chunks = [{"x": np.float32([[3, -2, 0, 1]])}, {"x": np.float32([[1, 6, 1, 1]])}]
    seen = collect(model, data_for(model, *chunks), notes)
    assert {name: (s.minimum, s.maximum) for name, s in seen.items()} == {"x": (-2, 6), "relu_out": (0, 5)}
    assert ir.to_proto(model).SerializeToString() == before
    assert notes.steps == [("calibrate", 0, 2), ("calibrate", 1, 2), ("calibrate", 2, 2)]


def test_padding_does_not_count(notes, encoder: ir.Model) -> None:
    """Equal lengths with padding and the same sentences alone must give the same statistics."""
    feeds = token_feeds(5, 2)
    alone = [{name: array[i : i + 1, :n] for name, array in feeds.items()} for i, n in enumerate((5, 2))]
    padded = collect(encoder, data_for(encoder, feeds), notes, histograms=True)
    single = collect(encoder, data_for(encoder, *alone), notes, histograms=True)
    assert list(padded) == list(single)
    for name in padded:
        assert padded[name].values.counts.sum() == single[name].values.counts.sum()
        assert padded[name].amax == pytest.approx(single[name].amax, rel=1e-5)
    assert positions(data_for(encoder, feeds)) == 7


def test_shared_tensors_are_observed_once(notes, encoder: ir.Model) -> None:
    seen = collect(encoder, data_for(encoder, token_feeds(3)), notes)
    assert len(seen) == 4  # q, k and v read one tensor; o, up and down one each


def test_images(notes) -> None:
    model = prepare(tiny_convnet())
    images = np.random.default_rng(0).normal(size=(20, 3, 8, 8)).astype(np.float32)
    seen = collect(model, data_for(model, {"image": images}), notes)
    assert seen["image"].amax == np.abs(images).max()
    assert seen["image"].rows.counts.sum() == 20 * 64  # a position of its 3 channels is a row
    np.testing.assert_array_equal(seen["image"].channel_maximum, images.max(axis=(0, 2, 3)))
    np.testing.assert_array_equal(seen["image"].channel_minimum, images.min(axis=(0, 2, 3)))
    assert positions(data_for(model, {"image": images})) == 20


@pytest.mark.parametrize("histograms", [False, True])
def test_nan_inside_the_model(notes, histograms: bool) -> None:
    g = GraphBuilder()
    x = g.input("x", ir.DataType.FLOAT, "batch", 2)
    model = prepare(g.model(y=g.op("MatMul", g.op("Log", x, name="log"), g.weight("w", 2, 2))))
    with pytest.raises(DataError, match="tensor 'log_out' became NaN or infinite during calibration"):
        collect(model, data_for(model, {"x": np.float32([[1, -1]])}), notes, histograms=histograms)


def test_calibrate_end_to_end(notes, encoder: ir.Model) -> None:
    data = data_for(encoder, token_feeds(6, 4, 5))
    config = Calibrate()
    origin = origin_of("model", data.fingerprint, config)
    found = one_pass.calibrate(encoder, data, config, origin, notes)
    ranges = found.ranges
    assert list(found.statistics) == list(ranges.tensors)
    assert {len(s.sample()) for s in found.statistics.values()} == {0}  # unless asked for
    assert (ranges.samples, ranges.positions, ranges.origin) == (3, 15, origin)
    assert notes.steps[-1] == ("minmax ranges", 4, 4)
    seen = collect(encoder, data, notes)
    assert ranges.amax() == {name: MinMax().amax(statistics) for name, statistics in seen.items()}
    tensor = ranges.tensors["norm0_out"]
    assert tensor.amax == max(-tensor.minimum, tensor.maximum)
    assert tensor.typical == pytest.approx(1, abs=0.01)  # a normalised row has a root mean square of 1


def test_data_that_says_little_is_noted(notes, encoder: ir.Model) -> None:
    def calibrated(model: ir.Model, feeds: dict[str, np.ndarray]) -> list[str]:
        notes.messages.clear()
        one_pass.calibrate(model, data_for(model, feeds), Calibrate(), origin_of("m", "d", Calibrate()), notes)
        return notes.messages

    assert calibrated(encoder, token_feeds(6, 4)) == []
    (single,) = calibrated(encoder, token_feeds(6))
    assert single.startswith("calibrated on a single sample")
    (zero,) = calibrated(prepare(tiny_mlp()), {"x": np.zeros((2, 4), np.float32)})  # of which biases make something
    assert zero.startswith("calibration saw nothing but zero in 1 of 2 tensors (x): what reads them stays in float")


def test_nothing_to_quantise(notes) -> None:
    g = GraphBuilder()
    model = g.model(y=g.op("Relu", g.input("x", ir.DataType.FLOAT, "batch", 2)))
    origin = origin_of("m", "d", Calibrate())
    with pytest.raises(
        ModelError, match="no MatMul, Gemm or Conv with a constant float weight: there is nothing to quantise"
    ):
        one_pass.calibrate(model, data_for(model, {"x": np.ones((1, 2), np.float32)}), Calibrate(), origin, notes)


def test_ranges_are_reused_only_while_nothing_changed(notes, tmp_path: Path, encoder: ir.Model) -> None:
    data = data_for(encoder, token_feeds(6, 4))
    origin = origin_of("model", data.fingerprint, Calibrate())
    path = tmp_path / "ranges.json"
    assert reusable(None, origin, notes) is None
    assert reusable(path, origin, notes) is None
    assert notes.messages == []
    ranges = one_pass.calibrate(encoder, data, Calibrate(), origin, notes).ranges
    ranges.save(path)
    assert reusable(path, origin, notes) == ranges
    assert "ranges are up to date" in notes.messages.pop()
    assert reusable(path, origin_of("other", data.fingerprint, Calibrate()), notes) is None
    assert notes.messages.pop().startswith("calibrating again: the model changed since")
    path.write_text("{")
    assert reusable(path, origin, notes) is None
    assert "no valid JSON" in notes.messages.pop()


def test_percentile_matters_only_to_the_percentile_observer() -> None:
    def origin(**options: object) -> Origin:
        return origin_of("m", "d", Calibrate(**options))

    assert "percentile" not in origin().settings
    assert origin(observer="percentile", percentile=99) != origin(observer="percentile", percentile=98)


def test_data_that_the_model_cannot_run(notes) -> None:
    model = prepare(tiny_encoder(positions=4))
    feeds = token_feeds(6)
    with pytest.raises(DataError, match=r"input_ids has 6 positions along 'sequence', but .* ends at 4"):
        collect(model, dataset_for(model, Batches([feeds]), notes), notes)
    assert outputs_of(model, token_feeds(4))["last_hidden_state"].shape == (1, 4, 8)


def sorted_rows(rows: np.ndarray) -> np.ndarray:
    return rows[np.lexsort(rows.T)]


def test_every_row_is_sampled_where_there_are_few(notes) -> None:
    model = prepare(tiny_mlp())
    x = np.random.default_rng(0).normal(size=(40, 4)).astype(np.float32)
    seen = collect(model, data_for(model, {"x": x}), notes, sample=40)
    np.testing.assert_allclose(seen["x"].sample().rows(), x, rtol=2**-10, atol=1e-6)
    assert seen["relu_out"].sample().rows().shape == (40, 8)


def test_the_sample_does_not_depend_on_batches_or_padding(notes, encoder: ir.Model) -> None:
    feeds = token_feeds(*range(2, 16))
    alone = [{name: array[i : i + 1, : i + 2] for name, array in feeds.items()} for i in range(14)]
    together = collect(encoder, data_for(encoder, feeds), notes, sample=60)
    single = collect(encoder, data_for(encoder, *alone), notes, sample=60)
    for name, seen in together.items():
        # 119 tokens, each kept with probability 60/119: a standard deviation of 5.5
        assert 40 < len(seen.sample()) < 80
        alike = sorted_rows(seen.sample().rows()), sorted_rows(single[name].sample().rows())
        np.testing.assert_allclose(*alike, atol=5e-3)


def test_one_sample_a_row_where_a_mask_counts_more_positions(notes) -> None:
    """A pooled tensor has a row per sentence: there are fewer of them than of tokens, and all are wanted."""
    g = GraphBuilder()
    mask = g.input("attention_mask", ir.DataType.INT64, "batch", "sequence")
    ids = g.input("input_ids", ir.DataType.INT64, "batch", "sequence")
    words = g.op("Gather", g.weight("words", 32, 4), ids)
    words = g.op("Mul", words, g.op("Cast", g.op("Unsqueeze", mask, g.constant("last", [2], np.int64)), to=1))
    hidden = g.op("MatMul", words, g.weight("token.weight", 4, 4), name="token")
    pooled = g.op("ReduceMean", hidden, axes=[1], keepdims=0)
    model = prepare(g.model(y=g.op("MatMul", pooled, g.weight("head.weight", 4, 2), name="head")))
    seen = collect(model, data_for(model, token_feeds(*[10] * 20)), notes, sample=20)
    tokens, sentences = seen.values()
    assert len(sentences.sample()) == 20
    assert 5 < len(tokens.sample()) < 40  # of 200


def test_rows_that_belong_to_no_sample(notes) -> None:
    """A table of positions goes through its own GEMM: its rows are those of the table, whatever the batch."""
    g = GraphBuilder()
    x = g.input("x", ir.DataType.FLOAT, "batch", 4)
    table = g.op("Add", g.weight("table", 7, 4), g.op("ReduceMean", x, axes=[0], keepdims=1))
    other = g.op("MatMul", table, g.weight("w", 4, 4), name="positions")
    own = g.op("MatMul", x, g.weight("v", 4, 4), name="own")
    model = prepare(g.model(y=g.op("Add", own, g.op("ReduceMean", other, axes=[0], keepdims=1))))
    x_rows = {"x": np.random.default_rng(0).normal(size=(20, 4)).astype(np.float32)}
    seen = collect(model, data_for(model, x_rows), notes, sample=1000)
    assert len(seen["x"].sample()) == 20
    assert len(seen["Add_1_out"].sample()) == 14  # two batches


def test_only_what_a_site_reads_is_sampled(notes) -> None:
    """The padding of the first Conv has no number: it is no site, and nobody would use its rows."""
    g = GraphBuilder()
    image = g.input("image", ir.DataType.FLOAT, "batch", 3, 8, 8)
    same = g.op("Conv", image, g.weight("a.weight", 4, 3, 3, 3), name="a", auto_pad="SAME_UPPER")
    y = g.op("Conv", g.op("Relu", same, name="relu"), g.weight("b.weight", 2, 4, 1, 1), name="b")
    model = prepare(g.model(y=y))
    images = np.random.default_rng(0).normal(size=(20, 3, 8, 8)).astype(np.float32)
    seen = collect(model, data_for(model, {"image": images}), notes, sample=100)
    assert {name: len(statistics.samples) for name, statistics in seen.items()} == {"image": 0, "relu_out": 1}
    assert len(seen["relu_out"].sample()) > 0


def test_four_axes_with_a_mask(notes) -> None:
    g = GraphBuilder()
    mask = g.input("attention_mask", ir.DataType.INT64, "batch", "sequence")
    ids = g.input("input_ids", ir.DataType.INT64, "batch", "sequence")
    words = g.op("Gather", g.weight("words", 32, 6), ids)
    heads = g.op("Reshape", words, g.constant("split", [0, 0, 2, 3], np.int64), name="heads")
    y = g.op("MatMul", heads, g.weight("w", 3, 3), name="op")
    model = prepare(g.model(y=y, z=g.op("Identity", mask)))
    (seen,) = collect(model, data_for(model, token_feeds(5, 2)), notes, sample=1000).values()
    assert seen.rows.counts.sum() == 14  # 7 tokens, 2 heads each
    assert seen.sample().rows().shape == (14, 3)


@pytest.mark.parametrize("lengths", [(4, 2), (4, 9)])
def test_rows_that_are_as_many_as_tokens_by_chance(notes, lengths: tuple[int, int]) -> None:
    """Four latents per sentence: in a batch of four positions their mask would be that of the tokens."""
    g = GraphBuilder()
    mask = g.input("attention_mask", ir.DataType.INT64, "batch", "sequence")
    ids = g.input("input_ids", ir.DataType.INT64, "batch", "sequence")
    words = g.op("Gather", g.weight("words", 32, 6), ids, name="words_of")
    hidden = g.op("MatMul", words, g.weight("a", 6, 6), name="token")
    latents = g.op("Add", g.op("ReduceMean", hidden, axes=[1]), g.weight("table", 4, 6), name="latents")
    model = prepare(
        g.model(y=g.op("MatMul", latents, g.weight("b", 6, 6), name="latent"), z=g.op("Identity", mask)),
    )
    chunks = [token_feeds(*lengths)] if max(lengths) == 4 else [token_feeds(length) for length in lengths]
    seen = collect(model, data_for(model, *chunks), notes, sample=1000)
    assert {name: s.rows.counts.sum() for name, s in seen.items()} == {"words_of_out": sum(lengths), "latents_out": 8}
    assert len(seen["latents_out"].sample()) == 8


def test_a_model_of_one_length_only(notes) -> None:
    """Its Reshape holds the length of the trace, though its inputs are declared dynamic."""
    g = GraphBuilder()
    mask = g.input("attention_mask", ir.DataType.INT64, "batch", "sequence")
    ids = g.input("input_ids", ir.DataType.INT64, "batch", "sequence")
    words = g.op("Gather", g.weight("words", 32, 6), ids, name="words_of")
    traced = g.op("Reshape", words, g.constant("shape", [-1, 4, 6], np.int64), name="traced")
    y = g.op("MatMul", g.op("Add", words, traced, name="sum"), g.weight("a", 6, 6))
    model = prepare(g.model(y=y, z=g.op("Identity", mask)))
    (seen,) = collect(model, data_for(model, token_feeds(4, 2)), notes, sample=1000).values()
    assert seen.rows.counts.sum() == 6
