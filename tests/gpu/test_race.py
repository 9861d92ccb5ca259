"""``convert`` sets the engine that it made against FP16 on this GPU, and ``bench`` reads the GPU's own clock."""

from pathlib import Path

import pytest
from engines import SHAPES, build, write_encoder

import calib8
from calib8.engine.sidecar import describe_engine
from calib8.testing import token_feeds

pytest.importorskip("tensorrt", reason="needs pip install tensorrt")


def test_a_conversion_says_how_fast_it_is_here(tmp_path: Path, measured) -> None:
    model = write_encoder(tmp_path, width=256)
    options = calib8.Convert(
        quantize=calib8.Int8(optimize="latency"),
        build=calib8.Build(family="tensorrt", shapes=SHAPES),
        verify=calib8.Verify(min_cosine=0.99),
    )
    report = calib8.convert(model, tmp_path / "data.npz", tmp_path / "out", options)
    found = report.gpu_speed
    assert found is not None
    assert [cell.shape for cell in found.cells] == ["8x16", "8x32"]
    assert all(cell.latencies[name].gpu_ms > 0 for cell in found.cells for name in (found.baseline, found.engine))
    assert describe_engine(tmp_path / "out" / found.baseline).precision == "fp16"
    assert [engine.executed for engine in report.engines] == [True]
    measured(f"a conversion: {found.told(found.cells)} in {found.runtime}")


def test_the_gpu_computes_for_less_than_a_run_takes(tmp_path: Path, leaks_nothing, measured) -> None:
    engine = build(write_encoder(tmp_path), tmp_path / "x.engine", precision="fp16")
    feeds = token_feeds(*[32] * 8, vocabulary=64)

    def work() -> None:
        with calib8.open(engine) as runtime:
            times = [runtime.gpu_ms(feeds) for _ in range(3)]
            cell = calib8.bench([engine], tmp_path / "data.npz", calib8.Bench(batches=(8,), lengths=(32,), seconds=0.2))
            latency = cell.cells[0].latencies["x.engine"]
            assert 0 < min(times) < latency.median_ms
            assert latency.gpu_ms == pytest.approx(min(times), rel=0.5)
            measured(f"GPU {min(times):.4f} ms of {latency.median_ms:.4f} ms from host to host")

    work()
    with calib8.open(engine) as runtime:
        leaks_nothing(lambda: runtime.gpu_ms(feeds, least=0.001))
