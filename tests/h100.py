"""What an H100 did under load, as it was measured: the record of ``tests/gpu`` in ``bench/results``."""

import re
from pathlib import Path

from calib8.gpu.activity import Activity, Extent, Sample
from calib8.report.sections.activity import BLOCKS, QUANTITIES

MEASURED = Path(__file__).parents[1] / "bench/results/2026-11-23-h100-runtime.txt"
_TITLE = re.compile(r"^(NVIDIA .*) \((sm\d+)\), driver ([\d.]+): ([\d.]+) s", re.MULTILINE)
_ROW = re.compile(r"│ (.+?) +│ +([\d.,]+) │ +([\d.,]+) │ \S+ +│ (.+?) *│")


def measured_activity() -> Activity:
    """The first timeline of the record, read back from its table: courses to an eighth of their scale."""
    text = MEASURED.read_text(encoding="utf-8")
    title = _TITLE.search(text)
    assert title is not None
    fields = {label: (field, factor, top) for field, (label, _, factor, top) in QUANTITIES.items()}
    summary, courses = {}, {}
    for label, mean, largest, course in _ROW.findall(text[title.end() : text.index("└", title.end())]):
        field, factor, top = fields[label]
        most = float(largest.replace(",", ""))
        summary[field] = Extent(mean=float(mean.replace(",", "")) * factor, max=most * factor)
        courses[field] = [
            round((BLOCKS.index(block) + 1) / len(BLOCKS) * (top or most) * factor, 1) for block in course
        ]
    assert set(courses) == set(QUANTITIES)
    device, target, driver, seconds = title.groups()
    step = float(seconds) / len(courses["power_watts"])
    rows = [dict(zip(courses, values, strict=True)) for values in zip(*courses.values(), strict=True)]
    return Activity(
        device=device,
        target=target,
        driver=driver,
        interval_seconds=0.1,
        duration_seconds=float(seconds),
        readings=len(rows),
        kept_every=1,
        summary=summary,
        samples=tuple(Sample(seconds=place * step, **row) for place, row in enumerate(rows)),
    )
