from pathlib import Path

import numpy as np
import pytest

from calib8.data.inputs import Arrays
from calib8.errors import DataError, InputError
from calib8.runtime.null import NullRuntime
from calib8.text.sentence import SentenceEncoder
from calib8.verification.pairs import rank_correlation, read_pairs
from calib8.verification.speed import race

GOOD = 'a,b,1\nc,d,2.5\n\n"e, ""e""",a,0\n'


def written(folder: Path, content: str | bytes) -> Path:
    path = folder / "pairs.csv"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def test_read_pairs(tmp_path: Path) -> None:
    expected = [("a", "b", 1.0), ("c", "d", 2.5), ('e, "e"', "a", 0.0)]
    assert read_pairs(written(tmp_path, GOOD)) == expected
    assert read_pairs(written(tmp_path, "\ufeff" + GOOD)) == expected


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "expected at least three pairs with finite scores, got 0 pairs"),
        ("a,b,1\na,b,2\n", "expected at least three pairs with finite scores, got 2 pairs"),
        ("sentence1,sentence2,score\n" + GOOD, "expected three columns sentence1, sentence2, score and no header"),
        (GOOD + "a,b\n", "expected three columns"),
        (GOOD + "a,b,c,1\n", "expected three columns"),
        (GOOD + "a,b,nan\n", "expected at least three pairs with finite scores"),
        (GOOD + "a,b,inf\n", "expected at least three pairs with finite scores"),
        (GOOD.encode() + b"caf\xe9,b,1\n", "expected three columns"),
        (GOOD + "x" * 200_000 + ",b,1\n", "expected three columns"),
    ],
)
def test_unusable_pairs(tmp_path: Path, content: str | bytes, message: str) -> None:
    with pytest.raises(DataError, match=rf"pairs\.csv: {message}"):
        read_pairs(written(tmp_path, content))


def test_missing_pairs(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"file of scored pairs not found: expected a file at .*pairs\.csv"):
        read_pairs(tmp_path / "pairs.csv")


def encoder(folder: Path, table: np.ndarray) -> SentenceEncoder:
    """Every token becomes its row of ``table``."""

    def answer(arrays: Arrays) -> Arrays:
        return {"hidden": table[arrays["input_ids"]]}

    return SentenceEncoder(folder, NullRuntime(answer))


def tables() -> np.ndarray:
    """Special tokens are zero; the words a, b, c, d, e (4 to 8) point to 0, 10, 40, 90 and 60 degrees."""
    degrees = np.deg2rad([0, 10, 40, 90, 60])
    return np.concatenate([np.zeros((4, 2)), np.stack([np.cos(degrees), np.sin(degrees)], axis=1)]).astype(np.float32)


def test_rank_correlation_by_hand(tokenizer_folder: Path, notes) -> None:
    # cosines fall with the angle: a-b 10, a-c 40, a-d 90 degrees; the scores agree: 100
    pairs = [("a", "b", 5.0), ("a", "c", 3.0), ("a", "d", 1.0)]
    worse = tables()
    worse[[6, 7]] = worse[[7, 6]]  # c and d swapped: ranks 3 1 2 against 3 2 1: 1 - 6 x 2 / (3 x 8) = 0.5
    reference, candidate = encoder(tokenizer_folder, tables()), encoder(tokenizer_folder, worse)
    result = rank_correlation(reference, candidate, pairs, notes)
    assert (result.pairs, result.reference, result.candidate) == (3, pytest.approx(100), pytest.approx(50))


def test_nan_in_one_embedding_is_an_error(tokenizer_folder: Path, notes) -> None:
    pairs = [("a", "b", 5.0), ("a", "c", 3.0), ("a", "d", 1.0)]
    broken = tables()
    broken[6] = np.nan
    with pytest.raises(DataError, match="an embedding of null runtime holds NaN or infinity"):
        rank_correlation(encoder(tokenizer_folder, tables()), encoder(tokenizer_folder, broken), pairs, notes)


def test_race_by_the_clock(tokenizer_folder: Path, notes, monkeypatch: pytest.MonkeyPatch) -> None:
    # the clock advances by 2 s for each reference and 1 s for each candidate run: 8 / 2 = 4 and 8 / 1 = 8 per second
    times = iter(np.cumsum([0, 2, 0, 1] * 3).tolist())
    monkeypatch.setattr("calib8.verification.speed.time.perf_counter", lambda: next(times))
    speed = race(encoder(tokenizer_folder, tables()), encoder(tokenizer_folder, tables()), ["a b"] * 8, notes)
    assert (speed.sentences, speed.rounds, speed.reference, speed.candidate, speed.ratio) == (8, 3, 4, 8, 2)
    assert speed.reference_runtime == "null runtime"
    assert notes.steps == [("measure speed", done, 3) for done in range(4)]
