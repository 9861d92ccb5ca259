"""A report with everything that a page can show, and hostile names and texts."""

import numpy as np

from calib8.calibration.ranges import Ranges, TensorRange
from calib8.engine.plan_check import PlanCheck
from calib8.gpu.activity import Activity, Extent, Sample
from calib8.provenance import Origin
from calib8.quantization.quant_plan import Budget, OpPlan, QuantPlan
from calib8.report import contents
from calib8.report.report import CalibrationFacts, EngineFacts, FileFacts, Machine, Report
from calib8.report.section import Document
from calib8.verification.compare import Closeness, Comparison
from calib8.verification.details import details_of
from calib8.verification.speed import Speed

HOSTILE = "<script>alert('x')</script>"
MACHINE = Machine(processor="CPU", cores=2, python="3.11", system="Linux")


def comparison() -> Comparison:
    """Of 20 samples, with the texts of the worst."""
    rows = np.random.default_rng(0).normal(size=(20, 4)).astype(np.float32)
    details = details_of("y", np.arange(20), np.linspace(0.97, 1, 20), (rows, rows + 0.01))
    texts = [f"{HOSTILE} {number}" for number in range(20)]
    measures = {"same nearest neighbour": 0.95}
    close = Closeness(mean=0.985, p1=0.97, lowest=0.97, at_least=0.981, measures=measures, sqnr_db=20.0)
    return Comparison(samples=20, outputs={"y": close}, details=details.with_texts(texts))


def full_page() -> Document:
    return contents.conversion(report(), plan(), ranges())


def report() -> Report:
    return Report(
        passed=True,
        failure=None,
        created="2026-01-01T00:00:00+00:00",
        calib8="0.1.0",
        machine=MACHINE,
        model=FileFacts(name=f"{HOSTILE}.onnx", bytes=400_000_000, sha256="0" * 64),
        int8=FileFacts(name="int8.onnx", bytes=100_000_000, sha256="1" * 64),
        int8_ops=2,
        weighted_ops=3,
        calibration=CalibrationFacts(samples=8, positions=80, observer="minmax"),
        held_out="held_out.txt",
        accuracy=comparison(),
        accuracy_runtime="ONNX Runtime",
        speed=Speed(
            sentences=64, rounds=3, reference=10, candidate=31, reference_runtime="ONNX Runtime",
            candidate_runtime="OpenVINO",
        ),
        engines=(
            EngineFacts(
                file=FileFacts(name="e.engine", bytes=1, sha256="2" * 64),
                target="sm86",
                builder="TensorRT-RTX",
                plan=PlanCheck(target="sm86", expected=2, covered=2, planned_kernels=1),
            ),
        ),
        seconds={"calibrate": 5.0, "quantize": 10.0, "verify": 2.0},
        activity=Activity(
            device="GPU", target="sm90", driver="580", interval_seconds=0.1, duration_seconds=1, readings=2,
            kept_every=1, summary={"power_watts": Extent(mean=150, max=200)},
            samples=(Sample(seconds=0, power_watts=100), Sample(seconds=1, power_watts=200)),
        ),
    )  # fmt: skip


def plan() -> QuantPlan:
    shared = {"kind": "MatMul", "input": "x", "amax": 1.0, "recipe": "smooth 0.8"}
    ops = (
        OpPlan(node=f"$a_{HOSTILE}$", treatment="int8", reason="fine", sqnr_db=9.5, expected_cosine=0.999, **shared),
        OpPlan(node="b", treatment="int8", reason="fine", sqnr_db=30.0, expected_cosine=0.9999, **shared),
        OpPlan(node="c", treatment="float", reason="it hurts", sqnr_db=110.0, expected_cosine=0.9, **shared),
    )
    return QuantPlan(ops=ops, budget=Budget(name="cosine", least=0.98, reached=0.985, standard_error=0.001, samples=8))


def ranges() -> Ranges:
    origin = Origin(model_sha256="0", data_sha256="1", settings={}, tools={})
    tensors = {
        "calm": TensorRange(amax=2, minimum=-1, maximum=2, typical=0.5),
        "wild": TensorRange(amax=40, minimum=-40, maximum=3, typical=0.1),
        "dead": TensorRange(amax=0, minimum=0, maximum=0, typical=0),
    }
    return Ranges(origin=origin, samples=8, positions=80, tensors=tensors)
