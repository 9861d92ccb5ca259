import json
from pathlib import Path

import pytest
from pydantic import ValidationError

from calib8.calibration.ranges import Ranges, TensorRange
from calib8.errors import RangesError
from calib8.provenance import Origin

ORIGIN = Origin(model_sha256="m", data_sha256="d", settings={"observer": "minmax"}, tools={"calib8": "1"})
TENSOR = TensorRange(amax=12.7, minimum=-12.7, maximum=3, typical=1)
RANGES = Ranges(origin=ORIGIN, samples=2, positions=9, tensors={"/layer.0/: x é": TENSOR})


def test_round_trip(tmp_path: Path) -> None:
    RANGES.save(tmp_path / "ranges.json")
    assert Ranges.load(tmp_path / "ranges.json") == RANGES
    assert RANGES.amax() == {"/layer.0/: x é": 12.7}


def test_typical_sqnr_by_hand() -> None:
    # step 12.7 / 127 = 0.1, noise 0.01 / 12 = 1 / 1200; signal 1: 10 log10(1200) = 30.79 dB
    assert TENSOR.typical_sqnr_db() == pytest.approx(30.79, abs=0.005)
    # ten times the amax costs 20 dB
    assert TENSOR.model_copy(update={"amax": 127.0}).typical_sqnr_db() == pytest.approx(10.79, abs=0.005)


@pytest.mark.parametrize("nothing", [{"amax": 0.0}, {"typical": 0.0}])
def test_sqnr_of_nothing_is_infinite(nothing: dict[str, float]) -> None:
    assert TENSOR.model_copy(update=nothing).typical_sqnr_db() == float("inf")


@pytest.mark.parametrize("field", ["amax", "minimum", "maximum", "typical"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_range_is_finite(field: str, value: float) -> None:
    with pytest.raises(ValidationError, match=field):
        TensorRange.model_validate(TENSOR.model_dump() | {field: value})


@pytest.mark.parametrize(
    ("change", "changes"),
    [
        ({}, []),
        ({"model_sha256": "x"}, ["the model"]),
        ({"data_sha256": "x"}, ["the calibration data"]),
        ({"settings": {"observer": "mse", "percentile": 99.0}}, ["the settings (observer, percentile)"]),
        ({"tools": {"calib8": "2"}}, ["the version of calib8 or ONNX Runtime"]),
        ({"model_sha256": "x", "data_sha256": "x"}, ["the model", "the calibration data"]),
    ],
)
def test_changes_are_named(change: dict[str, object], changes: list[str]) -> None:
    assert ORIGIN.changes(ORIGIN.model_copy(update=change)) == changes


def damaged(**change: object) -> str:
    return json.dumps(RANGES.model_dump() | change)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "not a ranges file: it is no valid JSON"),
        ("[]", "not a calib8 ranges file: "),
        ("{}", "not a calib8 ranges file: origin: Field required"),
        (damaged(format="calib8.plan/1"), "not a calib8 ranges file: format: Input should be 'calib8.ranges/1'"),
        (damaged(extra=1), "not a calib8 ranges file: extra: Extra inputs"),
        (damaged(tensors={"x": TENSOR.model_dump() | {"amax": -1}}), r"tensors\.x\.amax: Input should be greater"),
        (damaged(tensors={"x": TENSOR.model_dump() | {"amax": float("nan")}}), r"tensors\.x\.amax: Input should be"),
        (damaged(tensors={"x": {"amax": 1}}), r"tensors\.x\.minimum: Field required"),
    ],
)
def test_damaged_file(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "ranges.json").write_text(content)
    with pytest.raises(RangesError, match=message):
        Ranges.load(tmp_path / "ranges.json")


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(RangesError, match=r"ranges file not found: expected a file at .*ranges\.json"):
        Ranges.load(tmp_path / "ranges.json")
