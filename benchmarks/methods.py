"""What a training step of each method costs, with its recipe's crop and batch.

    python benchmarks/methods.py [--teacher NAME_OR_FILE] [--rounds 5] [--set KEY=VALUE] [--only RECIPE ...]

FLOPs of the convolutions and products of a whole step, forward and backward, student and critic, and process
CPU seconds on one thread (median); the batch is random and ready. Then how both grow with TSD-SR's
N (dasm_steps) and with TAD-SR's teacher_steps.
"""

import argparse
import itertools
import json
import os
import statistics
import sys
import time
from collections.abc import Iterator

if __name__ == "__main__":
    os.environ["CUDA_VISIBLE_DEVICES"] = ""  # before torch is imported: the CPU's cost, in its precision

import torch
from accelerate import Accelerator
from torch.utils.flop_counter import FlopCounterMode

from unistep.diffusion.denoiser import Batch
from unistep.errors import UnistepError
from unistep.models.checkpoint import read_header, resolve
from unistep.recipes.config import Run, override
from unistep.recipes.recipes import recipe
from unistep.training.loop import build, open_base, precision, train
from unistep.training.players import Player, players

RECIPES = ("compact-tsdsr", "compact-dfosd", "compact-tadsr")
GROWTH = {
    "compact-tsdsr": ("method.dasm_steps", range(9)),
    "compact-tadsr": ("method.teacher_steps", (1, 2, 4, 8, 15)),
}
"""Recipe -> the setting with which the cost of its step grows, and the values to show."""


def steps(run: Run) -> tuple[Iterator[object], dict[str, Player]]:
    """Endless training steps on one random batch, and who is trained."""
    torch.manual_seed(0)
    device = torch.device("cpu")
    base, _ = open_base(run, device)
    method = build(run, base, device)
    table = players(method, run)
    side, batch = run.data.patch, run.train.batch
    x_lq = torch.rand(batch, 3, side // 4, side // 4) * 2 - 1
    x_hq = torch.rand(batch, 3, side, side) * 2 - 1
    one = Batch(x_lq, x_hq, base.encode(x_hq), base.cond(x_lq))
    accelerator = Accelerator(cpu=True, mixed_precision=precision(run.train.precision))
    return train(method, itertools.repeat(one), run, table, accelerator), table


def gflops(run: Run) -> float:
    """Billions of floating-point operations of the first step; a multiply-add counts as two."""
    loop, _ = steps(run)
    with FlopCounterMode(display=False) as counter:
        next(loop)
    return float(counter.get_total_flops()) / 1e9


def cpu_seconds(run: Run, rounds: int) -> float:
    """Median process CPU seconds of a step after a warm-up."""
    loop, _ = steps(run)
    next(loop)
    spent = []
    for _ in range(rounds):
        start = time.process_time()
        next(loop)
        spent.append(time.process_time() - start)
    return statistics.median(spent)


def trained(run: Run) -> dict[str, float]:
    """Millions of parameters that each player trains."""
    _, table = steps(run)
    return {name: sum(p.numel() for p in player.params.values()) / 1e6 for name, player in table.items()}


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--teacher", type=resolve, default=resolve(None), help="default: the embedded model")
    p.add_argument("--rounds", type=int, default=5)
    p.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="a setting of every recipe"
    )
    p.add_argument("--only", nargs="+", choices=RECIPES, default=list(RECIPES))
    args = p.parse_args()

    torch.set_num_threads(1)
    base = read_header(args.teacher)["run"]["base"]
    shape = [f"base.{name}={json.dumps(base[name])}" for name in ("widths", "blocks")]
    settings = [*shape, f"train.init={args.teacher}", "train.steps=1000000", *args.set]
    runs = {name: override(recipe(name), settings) for name in args.only}

    wish = next(iter(runs.values())).train.precision
    print(f"torch {torch.__version__}, one thread, {precision(wish)}, {args.rounds} rounds\n")
    print("| recipe | crop | batch | GFLOP a step | GFLOP an image | CPU s | student, M | critic, M |")
    print("|---|---|---|---|---|---|---|---|")
    for name, run in runs.items():
        work, seconds, size = gflops(run), cpu_seconds(run, args.rounds), trained(run)
        print(
            f"| {name} | {run.data.patch} | {run.train.batch} | {work:.0f} | {work / run.train.batch:.1f} | "
            f"{seconds:.2f} | {size['student']:.2f} | {size.get('critic', 0):.2f} |",
            flush=True,
        )
    for name, run in runs.items():
        if name not in GROWTH:
            continue
        key, values = GROWTH[name]
        print(f"\n| {name}: {key} | GFLOP an image | CPU s a step |\n|---|---|---|")
        for value in values:
            grown = override(run, [f"{key}={value}"])
            work, seconds = gflops(grown), cpu_seconds(grown, args.rounds)
            print(f"| {value} | {work / run.train.batch:.1f} | {seconds:.2f} |", flush=True)


if __name__ == "__main__":
    try:
        main()
    except UnistepError as error:
        sys.exit(f"methods: {error}")
