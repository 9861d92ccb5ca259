"""What an artefact was made from, written into it: work is reused only while all of that is unchanged."""

from importlib.metadata import version

from pydantic import BaseModel, ConfigDict

#: metadata_props keys of a quantised model, each holding JSON.
PLAN, CALIBRATION, MADE_BY = "calib8.plan", "calib8.calibration", "calib8.made_by"


class Origin(BaseModel):
    """What ranges, or a calibration cache, were made from. They are reused only while all of it is unchanged."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    model_sha256: str
    data_sha256: str
    settings: dict[str, str | float | int]
    tools: dict[str, str]

    def changes(self, other: "Origin") -> list[str]:
        """What differs between the two, in words; empty if nothing does."""
        changed = []
        if self.model_sha256 != other.model_sha256:
            changed.append("the model")
        if self.data_sha256 != other.data_sha256:
            changed.append("the calibration data")
        if self.settings != other.settings:
            keys = sorted(k for k in self.settings | other.settings if self.settings.get(k) != other.settings.get(k))
            changed.append(f"the settings ({', '.join(keys)})")
        if self.tools != other.tools:
            changed.append("the version of calib8 or ONNX Runtime")
        return changed


def calibrator_origin(model_sha256: str, data_sha256: str, calibrator: str) -> Origin:
    """What a cache that TensorRT's own calibrator writes now would be made from; its first line names the TensorRT."""
    return Origin(
        model_sha256=model_sha256,
        data_sha256=data_sha256,
        settings={"calibrator": calibrator},
        tools={"calib8": version("calib8")},
    )
