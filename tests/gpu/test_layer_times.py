"""What layers take, by TensorRT's profiler on a GPU: names that the plan knows, and no trace in other runs."""

import json
from pathlib import Path

import numpy as np
import pytest
from engines import build, write_encoder, write_int8

import calib8
from calib8.cli.main import main
from calib8.engine.groups import OTHER, group_of
from calib8.testing import token_feeds

pytest.importorskip("tensorrt", reason="needs pip install tensorrt")

TWO = ("input_ids:1x1:1x8:1x8", "input_ids:1x1:8x16:8x32")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("times")
    model = write_encoder(folder)
    build(write_int8(folder), folder / "int8.engine", check_plan=False, shapes=TWO)
    build(model, folder / "fp16.engine", precision="fp16")
    return folder


def batch(rows: int, length: int):
    return token_feeds(*[length] * rows, vocabulary=64)


@pytest.mark.parametrize(("rows", "length"), [(1, 8), (8, 32)], ids=["first profile", "second profile"])
def test_every_layer_is_one_of_the_plan(folder: Path, rows: int, length: int, measured) -> None:
    with calib8.open(folder / "int8.engine") as runtime:
        times = runtime.layer_times(batch(rows, length))
    unknown = [one.layer.name for one in times if not one.layer.kind]
    assert unknown == []
    assert all(one.ms >= 0 for one in times)
    assert sum(one.ms for one in times) > 0
    groups = {group_of(one.layer) for one in times}
    assert {"INT8 GEMM", "norm"} <= groups
    others = [(one.layer.name, one.layer.kind, one.layer.tactic) for one in times if group_of(one.layer) == OTHER]
    again = [one.layer.name for one in times if one.launches > 1]
    measured(f"{rows}x{length}: {len(times)} layers in {sorted(groups)}, in none {others}, launched again {again}")


def test_other_runs_are_as_before(folder: Path, leaks_nothing) -> None:
    feeds = batch(8, 32)

    def work() -> None:
        with calib8.open(folder / "fp16.engine") as runtime:
            before = [runtime.run(feeds) for _ in range(3)]  # the third is a graph
            names = [{one.layer.name for one in runtime.layer_times(feeds, runs=3, warm_up=1)} for _ in range(2)]
            after = [runtime.run(feeds) for _ in range(3)]
        assert names[0] == names[1]
        for found in (*before, *after):
            for name, array in found.items():
                np.testing.assert_array_equal(array, before[0][name])

    leaks_nothing(work)


def test_int8_is_set_against_fp16_by_group(folder: Path, monkeypatch, capsys, measured) -> None:
    engines = [str(folder / name) for name in ("fp16.engine", "int8.engine")]
    options = ["--data", str(folder / "data.npz"), "--batches", "8", "--lengths", "32", "--seconds", "0.5", "--profile"]
    monkeypatch.setattr("sys.argv", ["calib8", "bench", *engines, *options, "-o", str(folder / "bench.json"), "-q"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code in (0, None)
    measured(capsys.readouterr().out)
    (breakdown,) = json.loads((folder / "bench.json").read_text())["breakdowns"]
    groups = {name: {one["group"] for one in told["kernels"]} for name, told in breakdown["engines"].items()}
    assert "FP16 GEMM" in groups["fp16.engine"]
    assert "INT8 GEMM" in groups["int8.engine"] - groups["fp16.engine"]
