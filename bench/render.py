"""Write what bench/throughput.py measured into a Markdown page.

    python bench/render.py bench/results/DATE-throughput.json docs/performance.md

The table goes between ``<!-- throughput -->`` and ``<!-- /throughput -->``.
"""

import sys
from pathlib import Path
from typing import Any

from calib8.files import read_json, write_text
from encoders import ENCODERS
from throughput import OURS

BEGIN, END = "<!-- throughput -->\n", "<!-- /throughput -->"


def markdown(result: dict[str, Any]) -> str:
    """The rows as a Markdown table: for each kind of texts rate, how many times as fast calib8 is, cosine to FP32."""
    kinds = list(result["texts"])
    head = [f"{kind}: texts/s | calib8 / tuned is faster by | cosine mean / p1" for kind in kinds]
    lines = [f"| | {' | '.join(head)} |", f"|---|{'---:|' * (3 * len(kinds))}"]
    ours = [row for name in OURS if "absent" not in (row := result["rows"].get(name, {"absent": ""}))]
    for name, row in result["rows"].items():
        cells = []
        for kind in kinds if kinds[0] in row else ():
            own = row[kind]
            ratios = " / ".join(f"{mine[kind]['per_second'] / own['per_second']:.2f}x" for mine in ours)
            cells += [f"{own['per_second']:.1f}", "" if name in OURS else ratios]
            cells += [f"{own['cosine_mean']:.4f} / {own['cosine_p1']:.4f}" if "cosine_mean" in own else ""]
        lines.append(f"| {ENCODERS[name].title} | {' | '.join(cells or [row.get('absent', '')])} |")
    machine = result["machine"]
    lines += [
        "",
        f"{result['date']}, {machine['processor']}, {machine['cores']} cores; {result['texts']['short']} sentences, "
        f"{result['texts']['long']} long texts, medians of {result['rounds']} rounds by turns:",
        "",
        "<!-- needs: hours -->",
        "",
        f"    {result['command']}",
        "",
    ]
    return "\n".join(lines)


def main() -> None:
    """Replace the table of the page."""
    result, page = read_json(Path(sys.argv[1]), "result"), Path(sys.argv[2])
    before, begin, rest = page.read_text(encoding="utf-8").partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        sys.exit(f"{page} has no {BEGIN.strip()} … {END}")
    write_text(page, f"{before}{begin}{markdown(result)}{end}{after}")


if __name__ == "__main__":
    main()
