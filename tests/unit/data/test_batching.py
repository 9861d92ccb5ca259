import numpy as np
import onnx_ir as ir
import pytest
from hypothesis import given
from hypothesis import strategies as st

from calib8.data.batching import Dataset, by_token_budget
from calib8.data.inputs import InputSpec, named_dimensions
from calib8.data.rooms import Room
from calib8.data.sources import Batches
from calib8.errors import DataError
from calib8.graph.builder import GraphBuilder
from calib8.graph.dataset import dataset_for
from calib8.graph.inputs import declared_inputs
from calib8.testing import tiny_encoder, tiny_mlp, token_feeds

ENCODER = declared_inputs(tiny_encoder())


@given(st.lists(st.integers(1, 40), max_size=60), st.integers(1, 100), st.integers(1, 9))
def test_token_budget_yields_every_row_once(lengths: list[int], budget: int, most: int) -> None:
    rows = list(by_token_budget(np.array(lengths, np.int64), budget, lambda longest: most + longest))
    assert sorted(row for group in rows for row in group) == list(range(len(lengths)))
    for group in rows:
        longest = max(lengths[row] for row in group)
        assert len(group) == 1 or len(group) * longest <= budget
        assert len(group) <= most + longest


@pytest.mark.parametrize("masked", [True, False])
def test_a_batch_is_had_by_its_number_at_no_others_cost(monkeypatch: pytest.MonkeyPatch, masked: bool) -> None:
    if masked:
        data = Dataset(Batches([token_feeds(*[3, 9] * 200, seed=seed) for seed in (0, 1)]), ENCODER)
    else:
        data = Dataset(
            Batches([{"x": np.arange(80, dtype=np.float32).reshape(20, 4)}] * 2), declared_inputs(tiny_mlp())
        )
    every = list(data.batches())
    cuts: list[object] = []
    monkeypatch.setattr("calib8.data.batching._most_rows", lambda *asked: cuts.append(asked) or 9)
    for number, group in reversed(list(enumerate(data.groups()))):
        rows, arrays = data.batch(group)
        assert rows.tolist() == every[number][0].tolist()
        assert all(np.array_equal(array, every[number][1][name]) for name, array in arrays.items())
    assert data.groups() is data.groups()
    assert not cuts  # the batches were cut once, when they were first asked for
    assert len(data.groups((Room(rows=(1, 1)),))) > len(every)  # for another runtime they are cut again
    assert cuts


def test_token_budget_sorts_by_length_first() -> None:
    # budget 10: [5, 4] is 2 x 5 = 10; then [3, 1] would allow 10 // 3 = 3 rows
    groups = by_token_budget(np.array([1, 5, 3, 4]), 10, lambda _: 9)
    assert [group.tolist() for group in groups] == [[1, 3], [2, 0]]
    assert [group.tolist() for group in by_token_budget(np.array([0, 0]), 10, lambda _: 9)] == [[0, 1]]


def test_samples_done_tell_how_much_work_is_left() -> None:
    """Batches cost about the same; so a share of them should hold that share of the samples, short or long."""
    lengths = np.random.default_rng(0).lognormal(3, 1, 2000).astype(np.int64).clip(1, 384)
    groups = by_token_budget(lengths, 512, lambda _: 10**6)
    assert 384 in lengths[groups[0]]  # what takes most memory is met at once
    for share in (0.1, 0.25, 0.5, 0.75):
        done = sum(map(len, groups[: round(share * len(groups))]))
        assert done / len(lengths) == pytest.approx(share, abs=0.04)


@given(st.lists(st.lists(st.integers(1, 12), min_size=1, max_size=8), min_size=1, max_size=4), st.integers(1, 60))
def test_batches_yield_every_sample_once_and_trim_only_padding(chunks: list[list[int]], budget: int) -> None:
    arrays = [token_feeds(*lengths, seed=seed) for seed, lengths in enumerate(chunks)]
    samples = [row[mask == 1].tolist() for a in arrays for row, mask in zip(*a.values(), strict=True)]
    data = Dataset(Batches(arrays), ENCODER)
    found: dict[int, list[int]] = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("calib8.data.batching.TOKEN_BUDGET", budget)
        for rows, batch in data.batches():
            assert batch["attention_mask"].any(axis=0)[-1]  # the last column holds a token of some sample
            for number, ids, mask in zip(rows, *batch.values(), strict=True):
                assert number not in found
                found[int(number)] = ids[mask == 1].tolist()
    assert [found[number] for number in range(len(data))] == samples


def test_left_padding_and_holes_are_kept() -> None:
    mask = np.array([[0, 0, 1, 1, 0], [1, 0, 1, 0, 0]])
    ((rows, batch),) = Dataset(Batches({"input_ids": mask * 7, "attention_mask": mask}), ENCODER).batches()
    assert batch["attention_mask"].tolist() == [[0, 0, 1, 1], [1, 0, 1, 0]]
    assert rows.tolist() == [0, 1]


def test_fixed_sequence_is_not_trimmed() -> None:
    fixed = tuple(InputSpec(s.name, s.dtype, ("batch", 6)) for s in ENCODER)
    feeds = {name: np.pad(array, ((0, 0), (0, 3))) for name, array in token_feeds(3, 2).items()}
    ((_, batch),) = Dataset(Batches([feeds]), fixed).batches()
    assert batch["input_ids"].shape == (2, 6)


def test_without_a_mask_batches_keep_the_order() -> None:
    x = np.arange(40 * 4, dtype=np.float32).reshape(40, 4)
    data = Dataset(Batches([{"x": x[:17]}, {"x": x[17:]}]), declared_inputs(tiny_mlp()))
    assert (len(data), data.mask) == (40, None)
    # 17 = 16 + 1 and 23 = 16 + 7: batches do not reach over chunks
    assert [rows.tolist() for rows, _ in data.batches()] == [
        list(range(16)), [16], list(range(17, 33)), list(range(33, 40))
    ]  # fmt: skip
    np.testing.assert_array_equal(np.concatenate([batch["x"] for _, batch in data.batches()]), x)


def test_no_chunks_at_all() -> None:
    with pytest.raises(DataError, match="the data is empty: expected at least one batch, got none"):
        Dataset(Batches([]), ENCODER)


def test_sample_without_a_token() -> None:
    feeds = token_feeds(3, 2)
    feeds["attention_mask"][1] = 0
    with pytest.raises(DataError, match="sample 1 has an all-zero attention_mask: it holds no token"):
        list(Dataset(Batches(feeds), ENCODER).batches())


def test_sequence_beyond_the_position_table(notes) -> None:
    model = tiny_encoder(positions=16)
    (whole,) = dataset_for(model, Batches(token_feeds(16)), notes).batches()
    assert whole[1]["input_ids"].shape == (1, 16)
    too_long = dataset_for(model, Batches(token_feeds(17, 3)), notes)
    with pytest.raises(DataError, match=r"has 17 positions along 'sequence', .* table ends at 16.*--max-length 16"):
        list(too_long.batches())


def test_padding_beyond_the_position_table_is_no_error(notes) -> None:
    feeds = {name: np.pad(array, ((0, 0), (0, 30))) for name, array in token_feeds(16, 2).items()}
    ((_, batch),) = dataset_for(tiny_encoder(positions=16), Batches(feeds), notes).batches()
    assert batch["input_ids"].shape == (2, 16)


def test_token_id_beyond_the_vocabulary(notes) -> None:
    feeds = token_feeds(5)
    feeds["input_ids"][0, 3] = 32
    with pytest.raises(DataError, match=r"input_ids holds the index 32, but the model's table has 32 rows \(0 to 31\)"):
        dataset_for(tiny_encoder(vocabulary=32), Batches(feeds), notes)


def test_everything_along_the_sequence_is_trimmed() -> None:
    integer, real = np.dtype(np.int64), np.dtype(np.float32)
    specs = named_dimensions(
        (
            InputSpec("input_ids", integer, ("b", "s")),
            InputSpec("attention_mask", integer, ("b", "t")),
            InputSpec("bias", real, ("b", 1, "s", "s")),
            InputSpec("other", real, ("b", "n")),
        )
    )
    feeds = {name: np.pad(array, ((0, 0), (0, 3))) for name, array in token_feeds(3, 2).items()}
    feeds |= {"bias": np.zeros((2, 1, 6, 6), np.float32), "other": np.zeros((2, 6), np.float32)}
    ((_, batch),) = Dataset(Batches(feeds), specs).batches()
    assert {name: array.shape for name, array in batch.items()} == {
        "input_ids": (2, 3), "attention_mask": (2, 3), "bias": (2, 1, 3, 3), "other": (2, 6)
    }  # fmt: skip


def test_a_conversion_is_told_once(notes) -> None:
    feeds = {name: array.astype(np.int32) for name, array in token_feeds(3).items()}
    Dataset(Batches([feeds] * 3), ENCODER, progress=notes)
    assert notes.messages == ["input_ids: converted int32 to int64", "attention_mask: converted int32 to int64"]


def image_sizes(data: Dataset) -> list[int]:
    return [len(rows) for rows, _ in data.batches()]


def test_a_batch_without_a_mask_holds_what_memory_allows(notes) -> None:
    g = GraphBuilder()
    pixels = g.op("Relu", g.input("image", ir.DataType.FLOAT, "batch", 1, "height", "width"))
    model = g.model(y=pixels)
    small, large = (np.zeros((20, 1, side, side), np.float32) for side in (8, 2048))
    assert image_sizes(dataset_for(model, Batches({"image": small}), notes)) == [16, 4]
    # An image of 16 MiB, and what Relu makes of it, times 2.5: 80 MiB. A GiB has room for 12.
    assert image_sizes(dataset_for(model, Batches({"image": large}), notes)) == [12, 8]
    assert image_sizes(dataset_for(model, Batches({"image": large}), notes, memory=200)) == [2] * 10
    with pytest.raises(DataError, match=r"single sample takes about 80 MiB .* 79 are allowed. Allow more \(--memory"):
        image_sizes(dataset_for(model, Batches({"image": large}), notes, memory=79))
