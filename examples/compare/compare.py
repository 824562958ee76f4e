"""Three methods and their ablations on one teacher, the same photographs and equal CPU time.

    python examples/compare/compare.py --data TRAINING_PHOTOS --teacher FILE --out OUT --budget CPU_SECONDS \
        --ablations --small-teacher FILE --pairs FOLDER_WITH_lr_AND_hr --lq LOW_QUALITY_PHOTOS \
        --niqe niqe_pris_params.npz --lpips squeezenet1_1.safetensors lpips_v0.1_squeeze_heads.safetensors \
        --peer realesr-general-x4v3=realesr_general_x4v3.safetensors

Each row of `rows.py` is trained on one thread for a budget of CPU seconds, then measured on the photographs
that training kept out. Stop it at will: the same command goes on, and finished runs are not run again. OUT
gets a folder per run, table.md, table.csv and figure.png. Exits with 1 if a row failed.
"""

import argparse
import sys
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import photos
import torch
from comparison import Entry, evaluated, fingerprint, write_report
from equaltime import Job, plan, read_json, train_all
from options import PRESETS, given, options, parser
from photos import Sample, bicubic, student
from PIL import Image
from rows import ABLATIONS, ROWS

from unistep.errors import UnistepError
from unistep.models.checkpoint import resolve
from unistep.tensors import read_header

SLOT = "one-step slot"
CROP = 160
"""Side of a crop of the figure, in pixels."""


def entries(args: argparse.Namespace, jobs: list[Job]) -> list[Entry]:
    """Baselines, then every run that has weights."""

    def weights(group: str, row: str, run: str, file: Path, cost: dict[str, Any]) -> Entry:
        return Entry(group, row, run, file, lambda: student(file), read_header(file), cost)

    found = [
        Entry("methods", "bicubic", "bicubic", None, lambda: bicubic),
        weights("methods", SLOT, "slot", args.teacher, {}),
    ]
    found += [Entry("methods", n, f"peer-{n}", f, lambda f=f: student(f)) for n, f in args.peer]
    if args.small_teacher:
        found.append(weights("ablations", SLOT, "slot-small", args.small_teacher, {}))
    for job in jobs:
        if job.weights.exists():
            group = "ablations" if job.ablation else "methods"
            cost = read_json(job.folder / "cost.json")
            found.append(weights(group, job.row, job.folder.name, job.weights, cost))
    return found


def arguments() -> argparse.Namespace:
    p = parser(__doc__)
    p.add_argument("--data", type=Path, required=True, help="folder of training photographs")
    p.add_argument("--teacher", type=resolve, required=True, help="a model's name or a Unistep file")
    p.add_argument("--out", type=Path, required=True, help="folder for the runs, the tables and the figure")
    p.add_argument("--budget", type=float, help="CPU seconds of each run")
    p.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    p.add_argument("--ablations", action="store_true", help="also the ablations, with the first seed")
    p.add_argument("--small-teacher", type=resolve, help="the teacher of the ablations")
    p.add_argument("--ablation-budget", type=float, default=600, help="CPU seconds of each ablation")
    p.add_argument("--only", nargs="+", metavar="ROW", choices=[*ROWS, *ABLATIONS], help="only these rows")
    p.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="a setting of every run")
    p.add_argument("--jobs", type=int, default=2, help="trainings at a time, one thread each")
    p.add_argument("--report", action="store_true", help="train nothing; measure what is there")
    options(p, "--pairs", "--lq", "--niqe", "--lpips", "--peer", "--limit")
    p.add_argument("--figure-from", choices=("held-out", "skimage"), default="held-out")
    args = p.parse_args()
    if args.budget is None and not args.report:
        p.error("--budget is needed to train: CPU seconds of each run")
    if args.ablations and not args.small_teacher:
        p.error("--ablations needs --small-teacher")
    return args


def measured_on(args: argparse.Namespace) -> dict[str, list[Sample]]:
    photographs = photos.held_out(args.data, args.limit)
    sets = {preset: list(photos.degraded(photographs, preset, 0)) for preset in PRESETS}
    return sets | {name: list(samples) for name, samples in given(args).items()}


def bundled() -> tuple[list[Sample], dict[str, photos.Centre]]:
    """scikit-image's own photographs (CC0 or public domain), degraded as `make demo` does; where to look."""
    sys.path.append(str(Path(__file__).parents[1]))
    from demo import CENTRES, PHOTOGRAPHS, degraded
    from skimage import data

    samples = []
    for index, name in enumerate(PHOTOGRAPHS):
        pair = (Image.fromarray(x) for x in degraded(getattr(data, name)(), index))
        samples.append(Sample(name, *map(photos.to_tensor, pair)))
    return samples, CENTRES


def run(args: argparse.Namespace) -> list[str]:
    """Returns what failed."""
    more = (args.data, args.out)
    jobs = plan(ROWS, False, args.seeds, args.teacher, *more, args.budget or 0.0, args.set, args.only)
    if args.ablations:
        jobs += plan(ABLATIONS, True, args.seeds[:1], args.small_teacher, *more, args.ablation_budget,
                     args.set, args.only, args.teacher)  # fmt: skip
    say = partial(print, file=sys.stderr, flush=True)
    failures = [] if args.report else train_all(jobs, args.jobs, say)

    sets, measures = measured_on(args), photos.scores(args.niqe, args.lpips)
    inputs, found = fingerprint(sets), entries(args, jobs)
    with ThreadPoolExecutor(args.jobs) as pool:
        cache = args.out / "evaluation"
        everything = pool.map(lambda e: evaluated(e, sets, inputs, measures, cache, say), found)
        results = {e.run: result for e, result in zip(found, everything, strict=True)}
    print(write_report(args.out, found, results, list(sets), measures))
    columns: dict[str, Entry] = {}
    for entry in found:
        if entry.group == "methods":
            columns.setdefault(entry.row, entry)  # of several seeds the first
    light = sets["light"]
    chosen = bundled() if args.figure_from == "skimage" else (light[:: max(1, len(light) // 4)][:4], {})
    photos.page(*chosen, {row: e.open() for row, e in columns.items()}, CROP).save(args.out / "figure.png")
    return failures


if __name__ == "__main__":
    try:
        with torch.inference_mode():
            failed = run(arguments())
    except (UnistepError, OSError) as error:
        sys.exit(f"compare: {error}")
    except KeyboardInterrupt:
        sys.exit("compare: stopped; the same command goes on")
    sys.exit("\n".join(["compare: some rows failed", *failed]) if failed else 0)
