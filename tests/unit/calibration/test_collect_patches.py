import numpy as np
import onnx_ir as ir
import pytest

from calib8.calibration.collect import collect
from calib8.calibration.statistics import TensorStatistics
from calib8.data.batching import Dataset
from calib8.data.sources import Batches
from calib8.graph.builder import GraphBuilder
from calib8.graph.inputs import declared_inputs
from calib8.graph.site import Site, sites
from calib8.passes.prepare import prepare
from calib8.testing import token_feeds

IMAGES = np.random.default_rng(0).integers(-99, 100, (40, 2, 7, 6)).astype(np.float32)  # exact in 11 bits
WALK = {"pads": [1, 0, 0, 1], "strides": [2, 1], "dilations": [1, 2]}


def image_model(*kernels: tuple[int, ...], **attributes: object) -> ir.Model:
    """Convs that all read ``image`` [batch, 2, 7, 6]."""
    g = GraphBuilder()
    image = g.input("image", ir.DataType.FLOAT, "batch", 2, 7, 6)
    outputs = {}
    for number, kernel in enumerate(kernels):
        weight = g.weight(f"w{number}", 3, 2, *kernel)
        outputs[f"y{number}"] = g.op("Conv", image, weight, name=f"conv{number}", **attributes)
    return prepare(g.model(**outputs))


def seen_of(model: ir.Model, notes, sample: int, *chunks: np.ndarray) -> TensorStatistics:
    data = Dataset(Batches([{"image": chunk} for chunk in chunks]), declared_inputs(model))
    return collect(model, data, notes, sample=sample)["image"]


def sorted_rows(rows: np.ndarray) -> list[list[float]]:
    return sorted(rows.tolist())


def every_patch(images: np.ndarray) -> list[list[float]]:
    """What a 3 x 2 kernel sees on ``WALK``, by a loop: a channel's taps together."""
    padded = np.pad(images, [(0, 0), (0, 0), (1, 0), (0, 1)])  # 8 x 7
    return [
        image[:, row : row + 3, [column, column + 2]].reshape(-1).tolist()
        for image in padded
        for row in (0, 2, 4)  # a start at 6 would reach beyond 8
        for column in range(5)
    ]


def test_patches_are_those_of_real_outputs(notes) -> None:
    model = image_model((3, 2), **WALK)
    (site,) = sites(model)
    seen = seen_of(model, notes, 10**6, IMAGES[:3])
    assert list(seen.samples) == [site.window]
    assert sorted_rows(seen.sample(site.view).rows()) == sorted(every_patch(IMAGES[:3]))


def test_ranges_are_those_of_the_tensor(notes) -> None:
    """Of all positions, whatever the stride leaves out and the padding adds."""
    seen = seen_of(image_model((1, 1), strides=[3, 3], pads=[1, 1, 1, 1]), notes, 10**6, np.abs(IMAGES) + 1)
    np.testing.assert_array_equal(seen.channel_minimum, (np.abs(IMAGES) + 1).min(axis=(0, 2, 3)))
    np.testing.assert_array_equal(seen.channel_maximum, (np.abs(IMAGES) + 1).max(axis=(0, 2, 3)))
    assert seen.minimum >= 1
    assert seen.rows.counts.sum() == 40 * 7 * 6
    assert (next(iter(seen.samples.values())).rows().min(axis=1) == 0).any()  # the patches do see zeros


def test_about_as_many_as_asked_for(notes) -> None:
    model = image_model((3, 2), **WALK)
    (site,) = sites(model)
    rows = seen_of(model, notes, 200, IMAGES).sample(site.view).rows()
    # 40 images of 15 outputs, each kept with probability 200 / 600: a standard deviation of 11.5
    assert 150 < len(rows) < 250
    possible = {tuple(patch) for patch in every_patch(IMAGES)}
    assert all(tuple(row) in possible for row in rows.tolist())
    few = seen_of(model, notes, 2, IMAGES).sample(site.view)  # most batches add none
    assert len(few) < 12


@pytest.mark.parametrize("kernel", [(3, 2), (1, 1)])
def test_whatever_the_batches(notes, kernel: tuple[int, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    model = image_model(kernel)
    (site,) = sites(model)
    together = seen_of(model, notes, 100, IMAGES).sample(site.view).rows()
    assert 60 < len(together) < 150
    split = seen_of(model, notes, 100, IMAGES[:7], IMAGES[7:8], IMAGES[8:]).sample(site.view).rows()
    assert sorted_rows(split) == sorted_rows(together)
    monkeypatch.setattr(Dataset, "BATCH", 5)
    small = seen_of(model, notes, 100, IMAGES).sample(site.view).rows()
    assert sorted_rows(small) == sorted_rows(together)


def test_each_window_has_patches_of_its_own(notes) -> None:
    model = image_model((3, 3), (1, 1), (3, 1))
    wide, point, high = sites(model)
    seen = seen_of(model, notes, 10**6, IMAGES[:2])
    assert set(seen.samples) == {wide.window, None, high.window}
    shapes = [seen.sample(site.view).rows().shape for site in (wide, point, high)]
    assert shapes == [(2 * 5 * 4, 18), (2 * 7 * 6, 2), (2 * 5 * 6, 6)]
    expected = np.moveaxis(IMAGES[:2], 1, -1).reshape(-1, 2)
    assert sorted_rows(seen.sample().rows()) == sorted_rows(expected)


def test_rows_fit_the_matrix(notes) -> None:
    """Rows times the site's matrix: whatever was sampled, for every kind of reader."""
    g = GraphBuilder()
    image = g.input("image", ir.DataType.FLOAT, "batch", 2, 7, 6)
    x = g.op("Conv", image, g.weight("w", 4, 2, 3, 3), name="dense", pads=[1, 1, 1, 1])
    x = g.op("Conv", g.op("Relu", x), g.weight("d", 8, 1, 3, 3), name="depthwise", group=4)
    x = g.op("Conv", g.op("Relu", x), g.weight("p", 3, 8, 1, 1), name="point")
    x = g.op("Flatten", g.op("GlobalAveragePool", x))
    model = prepare(g.model(y=g.op("MatMul", x, g.weight("h", 3, 2), name="head")))
    data = Dataset(Batches([{"image": IMAGES}]), declared_inputs(model))
    seen = collect(model, data, notes, sample=300)

    def shape(site: Site) -> tuple[int, ...]:
        return seen[site.tensor].sample(site.view).rows().shape

    found = {site.name: site for site in sites(model)}
    assert {name: shape(site)[1] for name, site in found.items()} == {
        "dense": 18,
        "depthwise": 36,
        "point": 8,
        "head": 3,
    }
    assert all(len(site.matrix()) == shape(site)[1] for site in found.values())
    assert all(230 < shape(found[name])[0] < 370 for name in ("dense", "depthwise", "point"))
    assert shape(found["head"])[0] == 40


def test_nothing_is_sampled_unless_asked_for(notes) -> None:
    model = image_model((3, 2))
    assert seen_of(model, notes, 0, IMAGES).samples == {}


def test_a_conv_over_a_sequence_with_a_mask(notes) -> None:
    """A Conv sees padding as well as words: its patches are those of the whole batch."""
    g = GraphBuilder()
    mask = g.input("attention_mask", ir.DataType.INT64, "batch", "sequence")
    ids = g.input("input_ids", ir.DataType.INT64, "batch", "sequence")
    words = g.op("Transpose", g.op("Gather", g.weight("words", 32, 4), ids), perm=[0, 2, 1], name="turned")
    y = g.op("Conv", words, g.weight("w", 3, 4, 3), name="conv")
    model = prepare(g.model(y=y, z=g.op("Identity", mask)))
    data = Dataset(Batches([token_feeds(6, 4)]), declared_inputs(model))
    (seen,) = collect(model, data, notes, sample=1000).values()
    (site,) = sites(model)
    assert seen.sample(site.view).rows().shape == (2 * 4, 12)
    assert seen.channel_maximum.shape == (4,)
