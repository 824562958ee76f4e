"""CPU time of training `compact-distilled` on one thread, in parts: which share of it do the data take?

    python benchmarks/training.py [--restorer FILE ...] [--rounds 5] [--quick]

A restorer is a file that `train.restorer` takes; without one, SRVGGNetCompact with 64 channels and 32
convolutions, the shape of realesr-general-x4v3, with random weights (the time does not depend on them). The
student is the recipe's with base.folded, its batch and crops the recipe's; --quick takes 2 crops of 32 pixels
and a tiny restorer. Process CPU time; the parts take turns in every round; medians. Data are what makes a
pair and its target: degradation, restorer's pass, sharpening. A pair that comes n times (data.uses) costs a
step an n-th of that. The recipe does not sharpen; where data.usm_sharpen does, it costs what stands here.
"""

import tempfile
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path

import torch
from common import in_turns, parser, table
from safetensors.torch import save_file

from unistep.data.filters import usm_sharpen
from unistep.data.pairs import Pairs, Photographs
from unistep.recipes.config import Run, override
from unistep.recipes.recipes import recipe
from unistep.students.restorers import SRVGGNetCompact
from unistep.training import distributed, smoke
from unistep.training.batches import make_batches
from unistep.training.loop import players
from unistep.training.opening import Restore, Source, build, open_run
from unistep.training.steps import Steps, precision

STEP, DEGRADATION, SHARPENING = "student's step", "degradation", "sharpening"
USES = (1, 4)
MANY = 10
"""Batches that are degraded in a round: images differ much in what happens to them."""
SETTINGS = ["base.folded=true", "data.workers=0", "data.holdout=0"]
QUICK = ["data.patch=32", "train.batch=2"]
CPU = torch.device("cpu")


def parts(run: Run, data: Path, restorers: Iterable[Path]) -> dict[str, Callable[[], object]]:
    """What to time: a step, a degraded batch, a sharpened batch and, by its name, each restorer's pass."""
    photographs = Photographs(data, run.data.holdout)
    opened = open_run(run, CPU, photographs)
    method = build(run, opened.base, CPU)
    step = Steps(method, run, players(method, run), distributed.start())
    pairs = Pairs(photographs.train, run.data, run.train.seed)
    batch = next(make_batches(opened, pairs, CPU))
    pairs.preload()
    ways: dict[str, Callable[[], object]] = {
        STEP: partial(step, 0, [batch]),
        DEGRADATION: partial(pairs.__getitems__, list(range(MANY * run.train.batch))),
        SHARPENING: lambda: [usm_sharpen(image[None]) for image in batch.x_hq / 2 + 0.5],
    }
    for file in restorers:
        restore = Restore(Source(str(file), file), opened.base.scale, CPU, run.train.precision)
        ways[restoring(file)] = partial(restore, batch.x_lq)
    return ways


def restoring(file: Path) -> str:
    return f"restorer's pass: {file.stem}"


def share(step: float, data: float, uses: int) -> float:
    """Of the time of a step that uses each pair so often: what the data take."""
    return data / uses / (step + data / uses)


def main() -> dict[str, float]:
    p = parser(__doc__)
    p.add_argument("--restorer", type=Path, action="append", help="may come again; default: random weights")
    p.add_argument("--rounds", type=int, default=5)
    p.add_argument("--quick", action="store_true", help="small networks and crops, to see that it runs")
    args = p.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        default = Path(folder) / "SRVGGNetCompact-64x32.safetensors"
        torch.manual_seed(0)
        shape = (8, 2, 4) if args.quick else (64, 32, 4)
        save_file(SRVGGNetCompact(*shape).state_dict(), default)
        files = args.restorer or [default]
        named = [*SETTINGS, f"train.restorer={files[0]}", *(QUICK if args.quick else [])]
        run = override(recipe("compact-distilled"), named)
        data = smoke.photographs(Path(folder) / "pictures", run.data.patch + 32)
        ways = parts(run, data, files)
        for way in ways.values():
            way()  # a warm-up
        spent = in_turns(ways, args.rounds, CPU)
    batch = run.train.batch
    seconds = {
        name: cpu / (MANY * batch if name == DEGRADATION else batch) for name, (_, cpu) in spent.items()
    }

    print(
        f"torch {torch.__version__}, one thread, precision {precision(run.train.precision)}, {args.rounds} "
        f"rounds, batches of {batch} crops of {run.data.patch} pixels; CPU ms for a crop\n"
    )
    print(table(["part", "ms"], [[name, f"{1000 * s:.1f}"] for name, s in seconds.items()]))
    rows = []
    for file in files:
        for sharpened in (False, True):
            made = seconds[DEGRADATION] + seconds[restoring(file)] + sharpened * seconds[SHARPENING]
            for uses in USES:
                part = share(seconds[STEP], made, uses)
                rate = 1 / (seconds[STEP] + made / uses)
                rows.append(
                    [file.stem, "yes" if sharpened else "no", str(uses), f"{1000 / rate:.1f}",
                     f"{rate:.2f}", f"{part:.0%}"]
                )  # fmt: skip
    heads = ["restorer", "sharpened", "data.uses", "ms a crop", "crops a second and core", "share of data"]
    print(table(heads, rows), end="")
    return seconds


if __name__ == "__main__":
    main()
