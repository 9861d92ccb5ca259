"""Tensors whose sequence goes before the batch: padding counts in none, and rows are those of their tokens."""

import numpy as np
import onnx_ir as ir
import pytest

from calib8.calibration.collect import collect
from calib8.calibration.state import to_state
from calib8.calibration.statistics import TensorStatistics
from calib8.data.batching import Dataset
from calib8.data.inputs import Arrays
from calib8.data.sources import Batches
from calib8.graph.builder import GraphBuilder
from calib8.graph.inputs import declared_inputs
from calib8.passes.prepare import prepare
from calib8.testing import token_feeds

WIDTH = 4
#: A row for each id, all different; that of padding would be the largest.
WORDS = np.where(np.arange(32)[:, None] == 0, 99, np.arange(32 * WIDTH).reshape(32, WIDTH) / 2).astype(np.float32)


def model_of(kind: str) -> ir.Model:
    """Words through ``Relu``, whose output one MatMul reads, in the axes ``kind``: s, b, and h for two heads."""
    g = GraphBuilder()
    mask = g.input("attention_mask", ir.DataType.INT64, "batch", "sequence")
    ids = g.input("input_ids", ir.DataType.INT64, "batch", "sequence")
    words = g.op("Gather", g.constant("words", WORDS), ids, name="words_of")
    if kind[0] == "s":
        words = g.op("Transpose", words, perm=[1, 0, 2], name="turned")
    shapes = {"bsh": [0, 0, 2, -1], "sbh": [0, 0, 2, -1], "(bs)": [-1, WIDTH], "(sb)": [-1, WIDTH]}
    if kind in ("(sb)", "s(bh)"):  # torch.nn.MultiheadAttention: its heads share an axis with the batch
        words = g.op("Transpose", g.op("Gather", g.constant("again", WORDS), ids), perm=[1, 0, 2])
        words = g.op("Reshape", words, g.constant("heads", [0, -1, WIDTH // 2], np.int64), name="heads")
        shapes["s(bh)"] = shapes["(sb)"]
    if kind in shapes:
        words = g.op("Reshape", words, g.constant("shape", shapes[kind], np.int64), name="shaped")
    words = g.op("Relu", g.op("Add", g.constant("bias", np.float32(0.5)), words, name="biased"), name="relu")
    width = WIDTH // 2 if kind.endswith("h") else WIDTH
    return prepare(g.model(y=g.op("MatMul", words, g.weight("w", width, 3), name="mm"), z=g.op("Identity", mask)))


def seen_of(model: ir.Model, notes, *chunks: Arrays, sample: int = 1000) -> TensorStatistics:
    (seen,) = collect(
        model, Dataset(Batches(chunks), declared_inputs(model)), notes, sample=sample, histograms=True
    ).values()
    return seen


def content(seen: TensorStatistics) -> dict[str, bytes]:
    """All but in what parts the rows came, and those in the order of their coordinates."""
    state = {name: array.tobytes() for name, array in to_state({"x": seen}).items() if ".sample." not in name}
    return state | {"sample": seen.sample().rows().tobytes()}


LENGTHS = [(6, 2, 2, 2), (2, 2, 1), (3, 1, 3)]


@pytest.mark.parametrize("lengths", LENGTHS)
@pytest.mark.parametrize("kind", ["sb", "(bs)", "(sb)", "s(bh)"])
def test_the_order_of_batch_and_sequence_makes_no_difference(notes, kind: str, lengths: tuple[int, ...]) -> None:
    feeds = token_feeds(*lengths)
    expected = seen_of(model_of("bs"), notes, feeds)
    assert expected.rows.counts.sum() == sum(lengths)
    assert content(seen_of(model_of(kind), notes, feeds)) == content(expected)
    assert notes.messages == []


@pytest.mark.parametrize("lengths", LENGTHS)
def test_heads_behind_the_batch(notes, lengths: tuple[int, ...]) -> None:
    feeds = token_feeds(*lengths)
    assert content(seen_of(model_of("sbh"), notes, feeds)) == content(seen_of(model_of("bsh"), notes, feeds))


@pytest.mark.parametrize("kind", ["sb", "(sb)", "sbh"])
def test_the_sample_does_not_depend_on_batches(notes, kind: str) -> None:
    feeds = token_feeds(*range(2, 16))
    alone = [{name: array[i : i + 1, : i + 2] for name, array in feeds.items()} for i in range(14)]
    together = seen_of(model_of(kind), notes, feeds, sample=60)
    assert 40 < len(together.sample()) < 160
    assert content(seen_of(model_of(kind), notes, *alone, sample=60)) == content(together)


def test_an_order_that_the_graph_does_not_tell_is_noted(notes) -> None:
    """Behind a Transpose of rows nobody asks further."""
    g = GraphBuilder()
    mask = g.input("attention_mask", ir.DataType.INT64, "batch", "sequence")
    ids = g.input("input_ids", ir.DataType.INT64, "batch", "sequence")
    flat = g.op("Reshape", g.op("Gather", g.constant("words", WORDS), ids), g.constant("f", [-1, WIDTH], np.int64))
    rows = g.op("Transpose", g.op("Transpose", flat, perm=[1, 0]), perm=[1, 0], name="back")
    model = prepare(g.model(y=g.op("MatMul", rows, g.weight("w", WIDTH, 3)), z=g.op("Identity", mask)))
    assert seen_of(model, notes, token_feeds(3, 2)).rows.counts.sum() == 5
    (note,) = notes.messages
    assert note.startswith("1 of 1 tensors (back_out) hold batch and sequence in one axis, and the graph does not tell")
    assert note.endswith("their padding is counted; export the model with batch_first=True")
