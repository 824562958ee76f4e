"""The README's table of quality, out of what `unistep eval` wrote: nobody copies a number.

    python benchmarks/headline.py              # writes it anew from docs/quality/results.json
    python benchmarks/headline.py --check      # exit 1 if the README says something else

docs/quality/README.md has the command that made the results.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from common import leave, parser, table

from unistep.atomic import atomic_write
from unistep.evaluation.beside import ARROWS
from unistep.evaluation.statistics import places

ROOT = Path(__file__).parents[1]
RESULTS, README = ROOT / "docs/quality/results.json", ROOT / "README.md"
BEGIN, END = "<!-- benchmarks/headline.py wrote this -->\n", "<!-- to here -->\n"
JUDGED = ("bicubic", "realesr-general-x4v3", "RealESRGAN_x4plus", "compact-distilled")
METRICS = {"psnr_y": 2, "ssim_y": 3, "lpips_squeeze": 3, "niqe": 2, "grid": 2}
"""Name -> digits after the point."""
SHOWN_ELSEWHERE = "scikit-image"
"""Sets that are there for their pictures: too few for a headline."""


def headline(results: Mapping[str, Any]) -> str:
    """A row for each set and model, the best of the four in bold; what a set has no truth for stays empty."""
    metrics = {name: results["metrics"][name] for name in METRICS}
    means = {(s["set"], s["judged"], s["metric"]): s["mean"] for s in results["scores"]}
    rows = []
    for on in (name for name in results["order"]["sets"] if not name.startswith(SHOWN_ELSEWHERE)):
        columns = []
        for name, metric in metrics.items():
            of, n = [means[on, who, name] for who in JUDGED], METRICS[name]
            higher = {"higher": True, "lower": False}.get(metric["better"])
            best = places(of, higher, n) if higher is not None else [0] * len(of)
            columns.append([
                "" if mean is None else f"**{mean:.{n}f}**" if place == 1 else f"{mean:.{n}f}"
                for mean, place in zip(of, best, strict=True)
            ])  # fmt: skip
        said = f"{on} ({results['sets'][on]['images']})"
        rows += [["" if i else said, who, *(c[i] for c in columns)] for i, who in enumerate(JUDGED)]
    return table(["", "", *(metric["label"] + ARROWS[metric["better"]] for metric in metrics.values())], rows)


def placed(readme: str, block: str) -> str:
    """The README with the block in its place. Raises ValueError where its marks are not there once."""
    if readme.count(BEGIN) != 1 or readme.count(END) != 1:
        raise ValueError(f"expected one {BEGIN.strip()} and one {END.strip()}")
    before, rest = readme.split(BEGIN)
    return before + BEGIN + "\n" + block + "\n" + END + rest.split(END)[1]


def main() -> None:
    p = parser(__doc__)
    p.add_argument("--check", action="store_true")
    check = p.parse_args().check
    now = README.read_text(encoding="utf-8")
    wanted = placed(now, headline(json.loads(RESULTS.read_text(encoding="utf-8"))))
    if check:
        leave(now == wanted)
    with atomic_write(README) as file:
        file.write(wanted.encode())


if __name__ == "__main__":
    main()
