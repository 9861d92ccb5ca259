from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

import calib8
from calib8.calibration.config import Calibrate
from calib8.config import Config
from calib8.conversion.config import Convert
from calib8.engine.config import Build
from calib8.errors import Calib8Error, ConfigError
from calib8.quantization.config import Fp8, Int8
from calib8.text.prepare import Prepare
from calib8.verification.config import Verify


@pytest.mark.parametrize("config", [Calibrate, Int8, Prepare, Verify])
def test_unknown_key_lists_the_known_ones(config: type[Config]) -> None:
    known = ", ".join(config.model_fields)
    expected = rf"^calib8\.{config.__name__}: got typo=1, expected no such option\. Known options: {known}\.$"
    with pytest.raises(ConfigError, match=expected):
        config(typo=1)


@pytest.mark.parametrize(
    ("config", "options", "message"),
    [
        (Calibrate, {"observer": "magic"}, "got observer='magic', expected 'minmax', 'percentile', 'mse' or 'entropy'"),
        (Calibrate, {"percentile": 50}, "got percentile=50, expected more than 50"),
        (Calibrate, {"percentile": 101}, "got percentile=101, expected 100 or less"),
        (Calibrate, {"percentile": float("nan")}, "got percentile=nan, expected 100 or less"),
        (Calibrate, {"percentile": 99.9}, "a percentile is for the observer percentile, and minmax was chosen"),
        (Int8, {"remainder": "int4"}, "got remainder='int4', expected 'fp16' or 'fp32'"),
        (Int8, {"min_sqnr_db": -1}, "got min_sqnr_db=-1, expected 0 or more"),
        (Prepare, {"max_length": 2}, "got max_length=2, expected 3 or more"),
        (Verify, {"min_cosine": 2}, "got min_cosine=2, expected 1 or less"),
    ],
)
def test_impossible_value_is_named(config: type[Config], options: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        config(**options)


def test_only_an_unknown_name_asks_for_the_list_of_names() -> None:
    with pytest.raises(ConfigError, match=r"^calib8\.Verify: got min_cosine=2, expected 1 or less\.$"):
        Verify(min_cosine=2)


def test_our_own_words_come_without_pydantics() -> None:
    with pytest.raises(ConfigError, match="calib8.Build: calibration_cache and calibration_batch say how"):
        Build(calibration_batch=3)


def test_every_way_in_raises_the_same_error() -> None:
    with pytest.raises(ConfigError, match="typo"):
        Int8.model_validate({"typo": 1})


def test_anything_but_a_config_is_refused_in_our_words(tmp_path: Path) -> None:
    options: Any = {"targets": "sm86"}
    with pytest.raises(ConfigError, match=r"got options of type dict, expected calib8\.Build\(…\) with the"):
        calib8.build(tmp_path / "m.onnx", tmp_path / "m.engine", options)
    with pytest.raises(ConfigError, match=r"type Int8, expected calib8\.Verify"):
        calib8.verify("a.onnx", "b.onnx", "data", Int8())
    with pytest.raises(ConfigError, match="expected calib8.Int8"):
        Int8.of({})
    for opened in (calib8.load, calib8.open):
        with pytest.raises(ConfigError, match="got a model of type NoneType, expected the path of its file"):
            opened(None)


def test_configs_are_frozen() -> None:
    config = Int8()
    with pytest.raises(ValidationError, match="frozen"):
        config.remainder = "fp32"


def test_exit_codes() -> None:
    from calib8.errors import AccuracyMissed, PlanMismatch

    assert (Calib8Error.exit_code, ConfigError.exit_code) == (2, 2)
    assert (AccuracyMissed.exit_code, PlanMismatch.exit_code) == (1, 1)


@pytest.mark.parametrize(
    ("chosen", "goal"),
    [
        (Convert(), "latency"),
        (Convert(build=None), "accuracy"),
        (Convert(quantize=Fp8()), "accuracy"),
        (Convert(quantize=Int8(optimize="accuracy")), "accuracy"),
        (Convert(build=None, quantize=Int8(optimize="latency")), "latency"),
    ],
)
def test_an_engine_is_to_be_fast_unless_somebody_says_otherwise(chosen: Convert, goal: str) -> None:
    decided = chosen.decided()
    assert decided.quantize.goal == goal
    assert decided.decided() == decided


def test_a_goal_is_the_same_however_it_was_written() -> None:
    assert Int8() == Int8(optimize="accuracy")
    assert hash(Int8()) == hash(Int8(optimize="accuracy"))
    assert Int8() != Int8(optimize="latency")
