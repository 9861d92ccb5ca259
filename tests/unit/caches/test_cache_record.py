"""What is written beside a cache, and what it then protects from."""

from pathlib import Path

import pytest

from calib8.caches.cache import cache_of
from calib8.caches.record import record_path, require_fit, save_with_record
from calib8.errors import CacheError
from calib8.provenance import Origin

ORIGIN = Origin(model_sha256="a" * 64, data_sha256="b" * 64, settings={"observer": "minmax"}, tools={"calib8": "1"})


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    save_with_record(cache_of({"x": 1.0, "y": 2.0}), tmp_path / "calibration.cache", ORIGIN)
    return tmp_path / "calibration.cache"


def test_the_record_lies_beside_the_cache(cache: Path, notes) -> None:
    assert sorted(path.name for path in cache.parent.iterdir()) == ["calibration.cache", "calibration.cache.json"]
    assert require_fit(cache, "a" * 64, notes, data_sha256="b" * 64) == ORIGIN
    assert require_fit(cache, "", notes) == ORIGIN
    assert notes.messages == []


def test_another_model(cache: Path, notes) -> None:
    message = (
        "made from another model, says calibration.cache.json: its SHA-256 begins with a{12}, this one's with c{12}"
    )
    with pytest.raises(CacheError, match=message):
        require_fit(cache, "c" * 64, notes)


def test_other_data(cache: Path, notes) -> None:
    with pytest.raises(CacheError, match="made from another data, .* Use the data that it was made from, or calibrate"):
        require_fit(cache, "a" * 64, notes, data_sha256="c" * 64)


def test_tensorrt_writes_no_record(cache: Path, notes) -> None:
    record_path(cache).unlink()
    assert require_fit(cache, "c" * 64, notes) is None
    assert notes.messages == [f"nothing says which model and data {cache} was made from: only names could be compared"]


def test_entries_that_were_changed_later(cache: Path, notes) -> None:
    cache.write_text(cache.read_text().replace("3c010204", "3c010205"))
    assert require_fit(cache, "c" * 64, notes) is None
    (message,) = notes.messages
    assert "was changed after calibration.cache.json was written" in message


def test_a_header_may_be_adapted_by_hand(cache: Path, notes) -> None:
    text = cache.read_text().replace("TRT-101600", "TRT-8601").replace("3c010204", "3C010204").replace("\n", "\r\n")
    cache.write_bytes(text.encode())
    assert require_fit(cache, "a" * 64, notes) == ORIGIN
    with pytest.raises(CacheError, match="another model"):
        require_fit(cache, "c" * 64, notes)


def test_a_stale_record_does_not_outlive_its_cache(cache: Path) -> None:
    save_with_record(cache_of({"z": 1.0}), cache, None)
    assert not record_path(cache).exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"format": "calib8.cache/1"}', "is not calib8's record of a calibration cache: header: Field required"),
        ("[]", "its root: Input should be a valid dictionary"),
        ("{", "is not a record of a calibration cache: it is no valid JSON"),
    ],
)
def test_a_damaged_record(cache: Path, notes, content: str, message: str) -> None:
    record_path(cache).write_text(content)
    with pytest.raises(CacheError, match=message):
        require_fit(cache, "a" * 64, notes)
