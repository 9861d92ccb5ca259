"""Build engines: one ONNX model, one engine file and one sidecar for each target."""

import importlib.metadata
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

from calib8.data.inputs import InputSpec
from calib8.data.sources import Source
from calib8.engine.able import able, able_in_fp32, able_to_convolve, with_kernels
from calib8.engine.built import BuiltEngine
from calib8.engine.calibration_data import CalibrationData, CalibrationOrigin, calibration_data
from calib8.engine.config import DEFAULT_TARGETS, Build
from calib8.engine.failures import build_error
from calib8.engine.family import TensorRT, load
from calib8.engine.host_loops import driven_by_host
from calib8.engine.layers_json import layers_from_json
from calib8.engine.layers_log import layers_from_log
from calib8.engine.options import QUANTISED, EnginePrecision
from calib8.engine.parsed_form import to_parse
from calib8.engine.plan_check import CHECK, PlanCheck, check_plan, count_calibrated
from calib8.engine.process import Outcome, run_worker
from calib8.engine.profiles import Profile, profile_sets, resolve_profiles
from calib8.engine.quantized import (
    Chain,
    QuantizedOp,
    conditioning_chains,
    fp32_products,
    quantized_ops,
    require_exact,
)
from calib8.engine.sidecar import Sidecar, TensorInfo, describe_engine, engines_of_another_model, sidecar_path
from calib8.engine.targets import describe, members, path_for, require_known, rtx_runs_on
from calib8.engine.timings import Timings, timings_of
from calib8.engine.unseen import unseen
from calib8.errors import InputError, ModelError, PlanMismatch, ProfileError, SetupError, install
from calib8.files import atomic, locked, sha256_file, sweep, write_text
from calib8.gpu.hardware import Gpu, absence, alone, gpus, numbered
from calib8.graph.codes import precision_of
from calib8.graph.host_driven import HostDriven, host_driven
from calib8.graph.inputs import declared_inputs
from calib8.graph.io import SOURCE_SHA256, source_sha256
from calib8.graph.io import load as load_model
from calib8.graph.sizes import recorded_sizes
from calib8.passes.unheld import unheld_of
from calib8.precision import GRIDS, INT8, Grid
from calib8.progress import Progress, Quiet

METADATA_PREFIX = "calib8."


def build_engine(
    model: Path,
    output: Path,
    config: Build | None = None,
    *,
    data: Source | None = None,
    limits: Mapping[str, int] | None = None,
    progress: Progress | None = None,
) -> list[BuiltEngine]:
    """Build one engine for each target of ``config``.

    For one target ``output`` is the engine; for several, ``x.engine`` becomes ``x.sm86.engine`` and so on. ``limits``
    maps a symbolic dimension to the largest size that the model can take (``calib8.graph.limits``). ``data`` is for a
    calibrator.

    An engine and its sidecar, which holds what the plan check found, are written one right after the other;
    ``describe_engine`` refuses an engine beside the sidecar of another. Once there is an engine of this model, engines
    that earlier builds into ``output`` made of another model are removed, with a note.

    Raises ``ModelError`` (damaged model, Q/DQ that TensorRT misreads, nothing quantised), ``ProfileError`` (shapes,
    targets), ``ConfigError`` (an option that this TensorRT lacks), ``DataError`` (calibration),
    ``BuildError`` (TensorRT refused), ``SetupError`` (no TensorRT, no GPU where one is needed, disk full).
    ``PlanMismatch`` (more ops would not run in INT8 than ``config`` allows) is raised when all targets were built; all
    engines are kept, those that missed are marked in their sidecars, and the error holds them.
    """
    config, progress, output = config or Build(), progress or Quiet(), Path(output)
    tensorrt, targets, visible, gpu = builder_of(config)
    source = _read(Path(model), config, limits or {}, rtx=tensorrt.family == "rtx")
    config = config.model_copy(update={"precision": source.precision})
    targets = able(targets, config, source.grid, progress)
    if source.profiles and not config.shapes:
        progress.note(f"Shapes (name:min:opt:max), chosen by calib8: {', '.join(map(str, source.profiles))}.")
    calibration = calibration_data(
        source.inputs, source.profiles, limits or {}, data, config, version=tensorrt.version, progress=progress
    )
    built: list[BuiltEngine] = []
    with to_parse(source.path, source.precision, tensorrt.family, output, source.unheld) as parsed:
        form = load_model(parsed)
        source = replace(source, ops=with_kernels(source.ops, form, progress))
        if config.targets is None and tensorrt.family == "rtx":
            targets = able_in_fp32(able_to_convolve(targets, source.ops, progress), fp32_products(form), progress)
        driven = host_driven(form)
        job = _Job(source, parsed, driven, config, tensorrt, gpu, visible, calibration, progress)
        for target in targets:
            built.append(job.build(target, path_for(output, target, targets), targets))
            _remove_stale(output, source.sha256, [engine.path for engine in built], progress)
    if told := unseen(config):
        progress.note(told)
    _require_plans(built)
    return built


class Builder(NamedTuple):
    """What builds, for which targets, and on which GPU: what shows it alone, and the GPU; None where none is needed."""

    tensorrt: TensorRT
    targets: tuple[str, ...]
    visible: str | None = None
    gpu: Gpu | None = None


def builder_of(config: Build) -> Builder:
    """The TensorRT that builds with ``config``, where and for what; to know before long work whether it can.

    Raises ``SetupError``, ``ConfigError`` and ``ProfileError`` as ``build_engine`` does.
    """
    present = gpus()
    for_rtx = _is_for_rtx(config, present)
    tensorrt = load(config.family, prefer="rtx" if for_rtx and not config.calibrator else "tensorrt")
    if config.family == "auto" and tensorrt.family == "rtx" and not for_rtx and config.targets is None:
        raise SetupError(
            f"TensorRT-RTX, the only TensorRT installed, does not run on this machine's {present[0].name}. Install "
            f"{install('tensorrt')}, or name what to build for: --target sm86, say."
        )
    tensorrt.require(config.asked())
    if (choices := tensorrt.targets()) is not None:
        targets = config.targets or DEFAULT_TARGETS
        require_known(targets, choices, tensorrt.title)
        return Builder(tensorrt, targets)
    return _on_its_gpu(tensorrt, config, present)


def _require_plans(built: Sequence[BuiltEngine]) -> None:
    missed = [engine for engine in built if not engine.plan.passed]
    if missed:
        reasons = " ".join(engine.plan.describe_failure() for engine in missed)
        kept = f"Kept all the same: {', '.join(str(engine.path) for engine in missed)}."
        allow = f"--allow-float-ops {max(len(engine.plan.missing) for engine in missed)}"
        raise PlanMismatch(
            f"{reasons} {kept} To accept that, run this again with {allow}.",
            failed=[engine.plan for engine in missed],
            built=built,
        )


def _remove_stale(output: Path, model_sha256: str, own: Sequence[Path], progress: Progress) -> None:
    """Whatever is at ``own`` now is this build's, or that of one which goes on beside it."""
    with locked(output.parent):
        for engine in engines_of_another_model(output, model_sha256):
            if engine not in own:
                engine.unlink()
                sidecar_path(engine).unlink()
                progress.note(f"removed {engine}: it was built from another model")


def _is_for_rtx(config: Build, present: Sequence[Gpu]) -> bool:
    """Is anything to build for something that TensorRT-RTX runs on: a target, or else a GPU, if there is any?"""
    named = [name for target in config.targets or () for name in members(target)] or [gpu.target for gpu in present]
    return not named or any(map(rtx_runs_on, named))


def _on_its_gpu(tensorrt: TensorRT, config: Build, present: Sequence[Gpu]) -> Builder:
    """With a TensorRT that builds for its GPU: the one asked for, by number or by target, else CUDA's first."""
    if not present:
        raise SetupError(f"{tensorrt.title} builds on a GPU, and {absence()}. Build elsewhere, or use family rtx.")
    if config.device is not None:
        numbers = [config.device]
        numbered(present, config.device)
    else:
        numbers = list(range(len(present)))
    for number in numbers:
        here = (present[number].target,)
        if config.targets in (None, here):
            return Builder(tensorrt, here, alone(present[number], number), present[number])
    there = " and ".join(dict.fromkeys(present[number].name for number in numbers))
    raise ProfileError(
        f"{tensorrt.title} builds only for this machine's {there}, got the targets "
        f"{', '.join(config.targets or ())}. Ask for {present[numbers[0]].target}, or use family rtx."
    )


@dataclass(frozen=True)
class _Source:
    """What a build needs to know of the model; the model itself is not kept in memory."""

    path: Path
    #: What calib8 wrote into it.
    metadata: dict[str, str]
    #: What it computes in.
    precision: EnginePrecision
    ops: Sequence[QuantizedOp]
    chains: Sequence[Chain]
    #: The tensors that FP16 does not hold; None if nobody looked.
    unheld: tuple[str, ...] | None
    inputs: Sequence[InputSpec]
    profiles: tuple[Profile, ...]

    @property
    def sha256(self) -> str:
        return self.metadata[SOURCE_SHA256]

    @property
    def grid(self) -> Grid:
        """What its quantised ops, if it has any, multiply."""
        return next((grid for name, grid in GRIDS.items() if name == self.precision), INT8)


def _read(path: Path, config: Build, limits: Mapping[str, int], *, rtx: bool) -> _Source:
    model = load_model(path)
    require_exact(model, rtx=rtx)
    ops = quantized_ops(model)
    if ops and config.calibrator:
        raise ModelError(
            f"{path} has Q/DQ nodes already, and TensorRT would ignore the calibrator. Build it without one, or "
            "calibrate the FP32 model."
        )
    precision = config.precision or (precision_of(model) if ops else "int8")
    if ops and precision not in QUANTISED:
        raise ModelError(
            f"{path} has Q/DQ nodes, and precision {precision} is for the float model that it was made from. "
            "Build that one, or this one without --precision."
        )
    if ops and precision != precision_of(model):
        raise ModelError(
            f"{path} is quantised to {precision_of(model).upper()}, and {precision.upper()} was asked for. Build it "
            "without --precision, or quantise the float model anew."
        )
    if not ops and precision in QUANTISED and not config.allow_float and not config.calibrator:
        raise ModelError(
            f"{path} has no quantised op: the engine would compute in float. Expected the model that `calib8 quantize` "
            "wrote. For a float engine to set INT8 against, ask for its precision (--precision fp16); to build the "
            "graph as it is, allow float (--allow-float)."
        )
    metadata = {key: value for key, value in model.metadata_props.items() if key.startswith(METADATA_PREFIX)}
    inputs = declared_inputs(model)
    profiles = resolve_profiles(inputs, config.shapes, limits, recorded_sizes(model))
    unheld = tuple(unheld_of(config.ranges, model)) if config.ranges is not None else None
    return _Source(path, metadata, precision, ops, conditioning_chains(model), unheld, inputs, profiles)


@dataclass(frozen=True)
class _Job:
    """What the builds for all targets share."""

    source: _Source
    #: The file that TensorRT parses: the model, or its float form.
    parsed: Path
    #: What the host may come to drive of it.
    host_driven: Sequence[HostDriven]
    config: Build
    tensorrt: TensorRT
    #: The GPU that it is built on, and what shows it alone.
    gpu: Gpu | None
    visible: str | None
    calibration: CalibrationData | None
    progress: Progress

    def build(self, target: str, engine: Path, targets: tuple[str, ...]) -> BuiltEngine:
        """Build, check, write; or find that all of it was done before."""
        if (existing := self._up_to_date(engine, target)) is not None:
            self.progress.note(f"engine is up to date: reused {engine} (same model, shapes, options and builder)")
            return _built(engine, self._judged_anew(engine, existing))
        stage = f"build for {target}"
        self.progress.update(stage, 0, 1)
        for path in (engine, sidecar_path(engine)):
            sweep(path)
        with ExitStack() as pair, atomic(sidecar_path(engine)) as description, atomic(engine) as temporary:
            calibration = None
            if self.calibration:
                folder = Path(pair.enter_context(TemporaryDirectory(prefix="calib8-")))
                calibration = self.calibration.request(folder)
            request = {**self._request(target, temporary), "stage": stage, "calibration": calibration}
            outcome = run_worker(request, self.progress, self.visible)
            if self.config.log is not None:
                write_text(path_for(self.config.log, target, targets), str(outcome.log))
            if outcome.built is None:
                raise build_error(outcome, self.source.path, target, self.tensorrt.title)
            if source_sha256(self.source.path) != self.source.sha256:  # TensorRT reads the file by its name
                raise ModelError(f"{self.source.path} was changed while an engine was built from it. Build it again.")
            plan = self._check(outcome, target)
            sidecar = self._sidecar(temporary, outcome.built, plan)
            description.write_text(sidecar.model_dump_json(indent=2) + "\n", encoding="utf-8")
            pair.enter_context(locked(engine.parent))  # until both are in place, lest two builds mix theirs
        self.progress.update(stage, 1, 1)
        return _built(engine, sidecar)

    def _up_to_date(self, engine: Path, target: str) -> Sidecar | None:
        """The sidecar of an engine that this build would only repeat; why another is there, a note says."""
        try:
            found = describe_engine(engine)
        except InputError:
            return None
        if changed := found.changes(
            self.config,
            sum(len(chain.nodes) for chain in self.source.chains),
            model_sha256=self.source.sha256,
            builder=self.tensorrt.title,
            target=target,
            profiles=self.source.profiles,
            gpu=self._gpu_name(),
            calibration=self._origin(),
            unheld=self.source.unheld,
            calib8_version=_version(),
        ):
            self.progress.note(f"building again: {', '.join(changed)} changed since {engine} was built")
        return found if not changed and self.config.log is None else None

    def _judged_anew(self, engine: Path, known: Sidecar) -> Sidecar:
        """The sidecar of an engine that is there, by what is allowed now."""
        sidecar = known.model_copy(update={"plan": self._judged(known.plan)})
        if sidecar != known:
            with locked(engine.parent):
                write_text(sidecar_path(engine), sidecar.model_dump_json(indent=2) + "\n")
        return sidecar

    def _gpu_name(self) -> str | None:
        return self.gpu.name if self.gpu is not None else None

    def _timings(self) -> Timings | None:
        if self.gpu is None or not self.tensorrt.times or not self.config.keep_timings:
            return None
        return timings_of(self.config.timing_cache, self.tensorrt.version, self.gpu)

    def _origin(self) -> CalibrationOrigin | None:
        return self.calibration.origin() if self.calibration else None

    def _request(self, target: str, engine: Path) -> dict[str, Any]:
        sets = profile_sets(self.source.profiles) if self.source.profiles else ()
        return {
            "model": str(self.parsed),
            "engine": str(engine),
            "family": self.tensorrt.family,
            "target": target,
            "profiles": [{name: (known.min, known.opt, known.max) for name, known in each.items()} for each in sets],
            "options": self.config.options(),
            "timings": self._timings(),
        }

    def _check(self, outcome: Outcome, target: str) -> PlanCheck:
        layers = layers_from_json(outcome.layers) or layers_from_log(outcome.log.messages())
        if self.config.calibrator:
            plan = count_calibrated(layers, target)
        else:
            plan = check_plan(
                self.source.ops,
                layers,
                target,
                rtx=self.tensorrt.family == "rtx",
                chains=self.source.chains,
                profiles=len(profile_sets(self.source.profiles)),
                precision=self.source.grid.precision,
            )
        return self._judged(plan.model_copy(update={"host_driven": driven_by_host(layers, self.host_driven)}))

    def _judged(self, plan: PlanCheck) -> PlanCheck:
        """The plan with its verdict; says what does not keep the engine from passing."""
        missed = len(plan.missing)
        plan = plan.model_copy(update={"passed": missed <= self.config.allowed_float_ops(plan.expected)})
        if missed and plan.passed:
            self.progress.note(f"{missed} of {plan.expected} quantised ops will not run in {plan.precision.upper()}.")
        if plan.unfused:
            self.progress.note(f"for {describe(plan.target)} {plan.describe_conditioning()}")
        if plan.host_driven:
            self.progress.note(f"for {describe(plan.target)} {plan.describe_host_driven()}")
        return plan

    def _sidecar(self, engine: Path, built: Mapping[str, Any], plan: PlanCheck) -> Sidecar:
        rows = {spec.name: spec.limit for spec in self.source.inputs}
        return Sidecar(
            engine_sha256=sha256_file(engine),
            engine_bytes=engine.stat().st_size,
            family=self.tensorrt.family,
            tensorrt_version=self.tensorrt.version,
            target=plan.target,
            gpu=self._gpu_name(),
            model_sha256=self.source.sha256,
            model_metadata=self.source.metadata,
            profiles=self.source.profiles,
            tensors=tuple(TensorInfo(**tensor, rows=rows.get(tensor["name"])) for tensor in built["tensors"]),
            plan=plan,
            plan_check=CHECK,
            calibration=self._origin(),
            unheld=self.source.unheld,
            **self.config.options(),
            build_seconds=built["seconds"],
            built_at=datetime.now(timezone.utc).isoformat(timespec="seconds"),
            calib8_version=_version(),
        )


def _built(engine: Path, sidecar: Sidecar) -> BuiltEngine:
    return BuiltEngine(
        path=engine,
        target=sidecar.target,
        size_bytes=sidecar.engine_bytes,
        seconds=sidecar.build_seconds,
        plan=sidecar.plan,
        precision=sidecar.precision,
    )


def _version() -> str:
    try:
        return importlib.metadata.version("calib8")
    except importlib.metadata.PackageNotFoundError:
        return "not installed"
