"""What ``verify --gpu -o`` keeps: an engine's plan, and an H100 as it was measured (bench/results)."""

from page_report import HOSTILE, MACHINE

from calib8.engine.plan_check import PlanCheck
from calib8.report.report import EngineFacts, FileFacts
from calib8.report.verification import VerificationReport
from calib8.verification.bench import Cell
from calib8.verification.breakdown import Breakdown, EngineTime, Kernel
from calib8.verification.compare import Closeness, Comparison
from calib8.verification.config import Verify
from calib8.verification.on_gpu import GpuComparison
from calib8.verification.speed import Latency
from h100 import measured_activity


def gpu_report() -> VerificationReport:
    """MPNet's sizes and plan (48 kernels for 72 ops), one of them lost; latencies are those of kernels of our own."""
    latencies = {
        "FP32 on the CPU": Latency(runs=5, median_ms=84.0, p95_ms=88.0, p99_ms=90.0, samples_per_second=11.9, cosine=1),
        "engine": Latency(runs=900, median_ms=0.211, p95_ms=0.240, p99_ms=0.250, samples_per_second=4739, cosine=0.998),
    }
    activity = measured_activity()
    accuracy = _compared(0.9987)
    lost = "/encoder/layer.0/attention/attn/q/MatMul"
    plan = PlanCheck(
        target="sm90", expected=72, covered=71, planned_kernels=48, missing=(lost,), reasons={lost: HOSTILE},
        conditioning=124, divided=tuple(f"norm {number}" for number in range(16)),
    )  # fmt: skip
    engine = FileFacts(name="mpnet-int8.engine", bytes=127_069_684, sha256="1" * 64)
    return VerificationReport(
        passed=True,
        failure=None,
        created="2026-11-23T18:32:00+00:00",
        calib8="0.1.0",
        machine=MACHINE,
        reference=FileFacts(name="model.onnx", bytes=448_293_049, sha256="0" * 64),
        candidate=engine,
        held_out="held_out.txt",
        limits=Verify(min_cosine=0.975, min_p1=0.9),
        accuracy=accuracy,
        engine=EngineFacts(file=engine, target="sm90", builder="TensorRT 11.0.0", plan=plan, executed=True),
        gpu=GpuComparison(
            gpu=activity.device,
            target=activity.target,
            driver=activity.driver,
            cuda="13.0",
            reference_runtime="ONNX Runtime 1.32.0 on CPU",
            engine_runtime="TensorRT 11.0.0 on NVIDIA H100 80GB HBM3",
            accuracy=accuracy,
            int8_model="model.int8.onnx",
            against_int8=_compared(0.99991),
            speed=(Cell(batch=8, length=16, latencies=latencies),),
            breakdowns=(Breakdown(batch=8, length=16, runs=25, engines={"engine": _times()}),),
            activity=activity,
        ),
    )


def _times() -> EngineTime:
    """Kernels as an H200 was seen to take them, and one whose name is hostile."""
    times = {"INT8 GEMM": 1.475, "norm": 0.741, "gather": 0.331, "attention/softmax": 0.249}
    kernels = [Kernel(name=f"{HOSTILE}_myl0_1", group=group, launches=1, ms=ms) for group, ms in times.items()]
    return EngineTime(kernels=tuple(kernels), latency_ms=2.56)


def _compared(cosine: float) -> Comparison:
    close = Closeness(
        mean=cosine,
        p1=cosine - 0.001,
        lowest=cosine - 0.002,
        at_least=cosine - 0.0005,
        measures={"same nearest neighbour": 0.945},
        sqnr_db=24.1,
    )
    return Comparison(samples=256, outputs={"last_hidden_state": close})
