"""``--monitor``: what the GPU did while a command worked, beside the output and on the terminal."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from calib8.console import out


@contextmanager
def kept_activity(output: Path, wanted: bool, artefact: Path | None = None) -> Iterator[None]:
    """Watch the GPU that ``artefact`` runs on if that is ``wanted``; write ``<output>.activity.json`` and show it.

    Raises ``SetupError`` before the work begins where no GPU can be watched. Nothing is kept of work that failed.
    """
    if not wanted:
        yield
        return
    from calib8.gpu.monitor import Monitor
    from calib8.report.sections.activity import activity_section
    from calib8.report.terminal import render
    from calib8.verification.on_gpu import target_of

    with Monitor(target_of(artefact) if artefact is not None else None) as monitor:
        yield
    path = output.with_name(f"{output.name}.activity.json")
    monitor.activity.save(path)
    out.print(render(activity_section(monitor.activity)))
    out.print(f"{path}: {len(monitor.activity.samples)} samples", markup=False)
