"""A training of compact-distilled that fits into the minutes for which a GPU is there; gpu.sh runs it.

    python benchmarks/gpu.py pack --data PHOTOGRAPHS --restorer FILE [--restorer2 FILE] --out PACK
                                  [--wheels FOLDER] [--most 40MB]
    python benchmarks/gpu.py train --pack PACK --out OUT [--minutes 9] [--cpu] [--init compact-distilled]
                                   [--rate 4e-4] [--rate2 1e-4] [--set section.key=value]

`pack` makes a folder of at most 60 MB (packs.py). `train` times a few real steps in several batches, degraded
by the workers or by the device, takes what sees most crops a second, and plans as many steps as fit, so that
the cosine ends before the time does. Two stages where the pack has two restorers: the second goes on from the
first's weights, with sharpened photographs as targets of a quarter of each batch. All steps are those of
`unistep train`. In OUT: stageN.safetensors (fp16, the moving average), losses.csv and report.json.
"""

import argparse
import contextlib
import dataclasses
import functools
import json
import os
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from common import parser
from packs import LIMIT, RECIPE, Pack, pack

from unistep.atomic import atomic_write
from unistep.data.again import window
from unistep.data.pairs import PLACES, Pairs, Photographs
from unistep.errors import TrainingError, UnistepError
from unistep.recipes.config import Run, override
from unistep.recipes.recipes import recipe
from unistep.tensors import read_header
from unistep.training import distributed
from unistep.training.batches import make_batches
from unistep.training.loop import WEIGHTS, fit, train
from unistep.training.opening import build, open_run
from unistep.training.players import players
from unistep.training.progress import Validation

BATCHES = (16, 32, 64)
EVERY = 120.0
"""Seconds between two copies of the weights."""
MARGIN = 0.95
"""Share of the time that steps are planned for."""
FIRST = 0.6
"""The first stage's share of the time, where there are two."""
REST = 5.0
"""Seconds for what comes after the last step."""
RECIPES = (RECIPE, "compact-refined")
"""Of the stages."""
QUIET = 10.0
"""Seconds between two lines of progress."""


def workers(batch: int, uses: int, cores: int) -> int:
    """How many processes make the pairs: all cores but two, or fewer where that spares work.

    A pair comes again after so many batches; only if their number is a multiple of the workers' has the same
    worker kept it.
    """
    most = max(1, cores - 2)
    batches = window(batch) // batch
    sparing = max(n for n in range(1, most + 1) if batches % n == 0)
    return sparing if uses * sparing > most else most


@dataclass(frozen=True)
class Pace:
    """One way to take the steps of a run, and how fast it was."""

    batch: int
    degrade_on: str
    workers: int
    crops_per_second: float

    def settings(self) -> list[str]:
        return [
            f"train.batch={self.batch}",
            f"data.degrade_on={self.degrade_on}",
            f"data.workers={self.workers}",
        ]


class Trial:
    """A run, opened as a training opens it, and what takes how long."""

    def __init__(self, run: Run, data: Path):
        began = time.monotonic()
        self.run, self.accelerator = run, distributed.start()
        photographs = Photographs(data, run.data.holdout)
        self.opened = open_run(run, self.accelerator.device, photographs)
        self.method = build(run, self.opened.base, self.accelerator.device)
        self.pairs = Pairs(photographs.train, run.data, run.train.seed)
        self.pairs.preload(print)
        with tempfile.TemporaryDirectory() as folder:
            validate = Validation(photographs, run, Path(folder))
            self.opening = time.monotonic() - began
            """Seconds before a first step."""
            validate(0, functools.partial(self.opened.base.restore, self.method.student))
        self.judging = time.monotonic() - began - self.opening
        """Seconds of a validation."""

    def pace(self, batch: int, place: str, seconds: float) -> Pace:
        """Measured on real steps for so many seconds, of which the first half is a warm-up."""
        count = workers(batch, self.run.data.uses, os.cpu_count() or 1)
        way = Pace(batch, place, count, 0.0)
        run = override(self.run, way.settings())
        device = self.accelerator.device
        pairs = Pairs(self.pairs.files, run.data, run.train.seed, length=run.train.steps * batch)
        pairs.cache = self.pairs.cache
        batches = make_batches(dataclasses.replace(self.opened, run=run), pairs, device)
        ends: list[float] = []
        for _ in train(self.method, batches, run, players(self.method, run), self.accelerator):
            ends.append(time.monotonic())
            if len(ends) > 4 and ends[-1] - ends[0] >= seconds:
                break
        half = len(ends) // 2
        rate = batch * (len(ends) - 1 - half) / (ends[-1] - ends[half])
        return dataclasses.replace(way, crops_per_second=rate)

    def paces(self, ways: list[tuple[int, str]], seconds: float) -> list[Pace]:
        """The fastest first. Ways that need more memory than there is are left out."""
        found = []
        for batch, place in ways:
            with contextlib.suppress(torch.OutOfMemoryError):
                found.append(self.pace(batch, place, seconds))
                print(f"  {found[-1]}", flush=True)
        return sorted(found, key=lambda pace: -pace.crops_per_second)


def planned(seconds: float, step: float, opening: float, judging: float) -> tuple[int, int]:
    """(steps, steps between two validations) that fit into `seconds`, if a step takes `step` seconds."""
    every = max(1, int(EVERY / step))
    left = MARGIN * (seconds - opening) - judging
    return max(1, int(left / (step + judging / every))), every


class Kept:
    """What lies in OUT: whole at every moment, whatever happens to this process."""

    def __init__(self, out: Path, about: dict[str, Any]):
        self.out, self.report, self.folders = out, {**about, "stages": []}, dict[str, Path]()
        self.seen, self.said = 0, 0.0
        out.mkdir(parents=True, exist_ok=True)

    def stage(self, folder: Path, about: dict[str, Any]) -> None:
        """From now on a run in `folder` is the next stage."""
        self.began, self.about = time.monotonic(), about
        self.name = f"stage{len(self.folders) + 1}"
        self.folders[self.name] = folder
        self.report["stages"].append(about)

    def say(self, text: str) -> None:
        print(text, flush=True)
        self.take()

    def tick(self, _: float, line: str) -> None:
        if time.monotonic() - self.said > QUIET:
            self.said = time.monotonic()
            print(line, flush=True)
        self.take()

    def take(self) -> None:
        """Copies the weights if they are new, and all that is known of them."""
        weights = self.folders[self.name] / WEIGHTS
        stamp = weights.stat().st_mtime_ns if weights.exists() else 0
        if stamp == self.seen or not stamp:
            return
        self.seen = stamp
        target = self.out / f"{self.name}.safetensors"
        with atomic_write(target) as file:
            file.write(weights.read_bytes())
        header, seconds = read_header(target), time.monotonic() - self.began
        steps = header["steps"] - sum(part["steps"] for part in header["history"][:-1])
        seen = steps * header["run"]["train"]["batch"]
        self.about |= {
            "weights": target.name, "steps": steps, "seconds": round(seconds, 1), "scores": header["scores"],
            "crops_per_second_in_all": round(seen / seconds, 1), "memory_gb": memory(),
        }  # fmt: skip
        rows = [
            f"{name},{row}"
            for name, folder in self.folders.items()
            for row in (folder / "losses.csv").read_text().splitlines(keepends=True)[1:]
        ]
        self.write("losses.csv", "stage,step,name,value\n" + "".join(rows))
        self.write("report.json", json.dumps(self.report, indent=1))

    def write(self, name: str, text: str) -> None:
        with atomic_write(self.out / name) as file:
            file.write(text.encode())


def memory() -> float | None:
    """GB that tensors took at most on the GPU since the stage began; None without one."""
    return round(torch.cuda.max_memory_allocated() / 1e9, 2) if torch.cuda.is_available() else None


def stages(args: argparse.Namespace, found: Pack, gpu: bool) -> list[list[str]]:
    """Of each stage its settings, without those that are measured and where it starts from."""
    common = ["base.folded=true", "train.keep=last", "train.early=[]", f"train.plain={args.init}"]
    common += ["train.precision=bf16"] if gpu else []
    made = []
    for restorer, rate in zip(found.restorers, (args.rate, args.rate2), strict=False):
        made.append([*common, f"train.restorer={restorer}", f"train.lr={rate}"])
    return made


def run_stages(args: argparse.Namespace) -> None:
    gpu = torch.cuda.is_available()
    if not gpu and not args.cpu:
        raise SystemExit("expected a GPU, found none that torch sees: take --cpu for a rehearsal")
    found, work = Pack.open(args.pack), Path(tempfile.mkdtemp())
    end = args.began + 60 * args.minutes - REST
    device = torch.cuda.get_device_name() if gpu else "cpu"
    kept = Kept(args.out, {"torch": torch.__version__, "device": device, "cores": os.cpu_count()})
    ways = [(batch, place) for place in PLACES for batch in args.batches]
    init = args.init
    made = stages(args, found, gpu)
    for n, settings in enumerate(made):
        begins = time.time()
        until = end if n + 1 == len(made) else begins + FIRST * (end - begins)
        run = override(recipe(RECIPES[n]), [*settings, f"train.init={init}", *args.set])
        trial = Trial(run, found.photographs)
        print(f"stage {n + 1}: {run.train.restorer}; opening {trial.opening:.1f} s", flush=True)
        paces = trial.paces(ways, args.probe)
        best, opening, judging = paces[0], trial.opening, trial.judging
        del trial  # the run needs the memory
        if gpu:
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
        ways = [(best.batch, best.degrade_on)]
        step = best.batch / best.crops_per_second
        steps, every = planned(until - time.time(), step, opening, judging)
        steps = args.steps or steps
        plan = [f"train.steps={steps}", f"train.save_every={steps}", f"train.validate_every={every}"]
        plan += [f"train.warmup={min(run.train.warmup, steps // 10)}"]
        run = override(run, [*best.settings(), *plan, *args.set])
        kept.stage(work / f"stage{n + 1}", {
            "restorer": Path(run.train.restorer).name, "planned_steps": run.train.steps,
            "opening_s": round(opening, 1), "validation_s": round(judging, 1),
            "tried": [dataclasses.asdict(pace) for pace in paces], "finished": False,
        })  # fmt: skip
        kept.say(f"stage {n + 1}: {run.train.steps} steps, {best}")
        weights = fit(run, found.photographs, work / f"stage{n + 1}", kept.say, kept.tick)
        kept.about["finished"], kept.seen = True, 0
        kept.take()
        init = str(weights)


def megabytes(text: str) -> float:
    """Bytes of "40MB" or "40"."""
    return float(text.upper().removesuffix("MB")) * 1e6


def main() -> None:
    p = parser(__doc__)
    commands = p.add_subparsers(dest="command", required=True)
    packing = commands.add_parser("pack", help="here: make the folder that travels")
    packing.add_argument("--data", type=Path, required=True, help="photographs")
    packing.add_argument("--restorer", required=True, help="a one-step model, of the first stage")
    packing.add_argument("--restorer2", help="of the second stage")
    packing.add_argument("--out", type=Path, required=True)
    packing.add_argument("--wheels", type=Path, help="folder of wheels to take along")
    packing.add_argument("--most", type=megabytes, default=40e6, help="of photographs (default: 40MB)")
    packing.add_argument("--limit", type=megabytes, default=LIMIT, help="of the pack (default: 60MB)")
    training = commands.add_parser("train", help="there: train within the minutes")
    training.add_argument("--pack", type=Path, required=True)
    training.add_argument("--out", type=Path, required=True)
    training.add_argument("--minutes", type=float, default=9.0)
    training.add_argument("--began", type=float, default=time.time(), help="when they began, Unix time")
    training.add_argument("--cpu", action="store_true", help="rehearse where there is no GPU")
    training.add_argument("--init", default="compact-distilled", help="a model's name or a file")
    training.add_argument("--rate", type=float, default=4e-4, help="learning rate (default: 4e-4)")
    training.add_argument("--rate2", type=float, default=1e-4, help="of the second stage (default: 1e-4)")
    training.add_argument("--batches", type=int, nargs="+", default=BATCHES, help="that are tried")
    training.add_argument("--probe", type=float, default=4.0, help="seconds for which each is tried")
    training.add_argument("--steps", type=int, help="of each stage, instead of what fits: for rehearsals")
    training.add_argument("--set", action="append", default=[], help="a setting of the recipe")
    args = p.parse_args()
    # No score decides here, and the sliced Wasserstein distance costs seconds of a CPU a crop.
    Validation.count, Validation.judged = 8, 1
    try:
        if args.command == "pack":
            restorers = [name for name in (args.restorer, args.restorer2) if name]
            kept = pack(args.data, restorers, args.out, args.wheels, args.most, args.limit)
            print(f"{args.out}: {kept} photographs")
        else:
            run_stages(args)
    except (TrainingError, UnistepError) as error:
        raise SystemExit(str(error)) from error


if __name__ == "__main__":
    main()
