"""What nobody looked at before an engine computes in FP16."""

from calib8.engine.config import Build


def unseen(config: Build) -> str | None:
    """What to say of an engine by ``config`` that may be infinite where the model is not; None if it is not so.

    A quantised model says itself what is FP16, and calibration looked. What a calibrator leaves in float TensorRT
    computes in FP16 or FP32, as it finds faster.
    """
    if config.calibrator is not None:
        return (
            "nobody looked whether FP16, which TensorRT takes where it is faster, holds all numbers: compare the "
            "engine on its GPU (calib8 verify --gpu), or quantise by calib8 convert, which looks"
        )
    if config.precision == "fp16" and config.ranges is None:
        return (
            "nobody looked whether FP16 holds all numbers of the model: calibrate it (calib8 calibrate model.onnx "
            "--data …), and give what that found (--ranges ranges.json)"
        )
    return None
