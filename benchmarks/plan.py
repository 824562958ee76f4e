"""Is the memory that `unistep train --plan` predicts the memory that a training takes?

    python benchmarks/plan.py [--device cuda] [--sizes tiny|large] [--only RECIPE ...] [--steps 2]

Each recipe takes a few steps on a base with random weights and on pictures made in code; nothing is
downloaded. `held` is what stays from step to step, `moves` what comes and goes, both as planned; on a GPU
`measured` is what tensors took at most (torch.cuda.max_memory_allocated). On a CPU the tensors of a step are
counted as they are made (`counting`), beside what the plan holds. Large sizes: 8 samples a step, ResShift's
published widths, a quarter of those of SD2.1 and of SD3, tiny autoencoders; the compact base has its own size
always. Bases of others need the extra `sd`. Exits with 1 if a training took more than was planned with its
allowances; on a CPU, which has none of what these stand for, if it is not within `CLOSE` of the plan.
"""

import contextlib
import dataclasses
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import torch
from common import leave, parser, passed, table

from unistep.bases.resshift import sizes as resshift
from unistep.bases.sd3 import sizes as sd3
from unistep.bases.sd21 import sizes as sd21
from unistep.counting.peak import Live
from unistep.data.pairs import Pairs, Photographs
from unistep.errors import UnistepError
from unistep.recipes.config import Run
from unistep.recipes.recipes import recipe
from unistep.training import distributed, smoke
from unistep.training.batches import make_batches
from unistep.training.opening import build, open_run
from unistep.training.plan import GB, Plan, plan, total
from unistep.training.players import players
from unistep.training.steps import Steps

RECIPES = {
    "compact-teacher": 128, "compact-tsdsr": 128, "compact-dfosd": 128, "compact-tadsr": 128,
    "tadsr-resshift": 256, "osediff-sd21": 256, "tsdsr-sd3": 256,
}  # fmt: skip
"""Recipe -> side of its crop at large sizes, in pixels."""
SAMPLES = 8
"""Of a step at large sizes."""
LARGE = (
    (resshift.TINY, {name: resshift.SWIN[name] for name in (
        "model_channels", "channel_mult", "num_res_blocks", "swin_embed_dim", "swin_depth", "heads")}),
    (sd21.TINY, {"block_out_channels": [80, 160, 320, 320], "layers_per_block": 2, "norm_num_groups": 16}),
    (sd3.TINY, {"attention_head_dim": 64, "num_attention_heads": 6, "num_layers": 24,
                "caption_projection_dim": 384, "pos_embed_max_size": 192}),
)  # fmt: skip
"""What `write` of a base makes a model of, and what takes its place."""
CLOSE = (0.8, 1.1)
"""What a CPU's kernels keep is a little more or less than a GPU's."""


@contextlib.contextmanager
def sized(large: bool) -> Iterator[None]:
    """Within, random bases are large."""
    before = [dict(given) for given, _ in LARGE]
    try:
        for given, wide in LARGE if large else ():
            given.update(wide)
        yield
    finally:
        for (given, _), old in zip(LARGE, before, strict=True):
            given.clear()
            given.update(old)


def arranged(name: str, large: bool, folder: Path, gpu: bool) -> tuple[Run, Path]:
    """The recipe on its random base, and its pictures."""
    with sized(large):
        run, pictures = smoke.miniature(recipe(name), folder)
    train = dataclasses.replace(run.train, precision="bf16" if gpu else "fp32", steps=1000)
    if not large:
        return dataclasses.replace(run, train=train), pictures
    data = dataclasses.replace(run.data, patch=RECIPES[name])
    train = dataclasses.replace(train, batch=SAMPLES, micro=0)
    pictures = smoke.photographs(folder / "large", data.patch + 32)
    return dataclasses.replace(run, data=data, train=train), pictures


def measured(run: Run, pictures: Path, planned: Plan, steps: int) -> float:
    """Bytes at the worst moment of steps after the first two, which make the optimisers' moments."""
    accelerator = distributed.start()
    photographs = Photographs(pictures, run.data.holdout)
    torch.manual_seed(run.train.seed)
    opened = open_run(run, accelerator.device, photographs)
    method = build(run, opened.base, accelerator.device)
    pairs = Pairs(photographs.train, run.data, run.train.seed)
    batches = make_batches(opened, pairs, accelerator.device)
    step = Steps(method, run, players(method, run), accelerator)

    def take(first: int, count: int) -> None:
        for n in range(first, first + count):
            step(n, [next(batches) for _ in range(step.forwards)])

    take(0, 2)
    if accelerator.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
        take(2, steps)
        return torch.cuda.max_memory_allocated()
    with Live() as live:
        take(2, steps)
    return planned.static - total(planned.rows).gradients + live.peak


def main() -> bool:
    p = parser(__doc__)
    here = "cuda" if torch.cuda.is_available() else "cpu"
    p.add_argument("--device", choices=["cpu", "cuda"], default=here)
    p.add_argument("--sizes", choices=["tiny", "large"], help="default: large on a GPU, tiny on a CPU")
    p.add_argument("--only", nargs="+", choices=RECIPES, default=[*RECIPES])
    p.add_argument("--steps", type=int, default=2)
    args = p.parse_args()
    gpu = args.device == "cuda"
    if args.device != here:
        raise SystemExit(f"expected --device {here}, where torch trains, found {args.device}: give that")
    large = (args.sizes or ("large" if gpu else "tiny")) == "large"
    rows, gates = [], {}
    for name in args.only:
        with tempfile.TemporaryDirectory() as folder, smoke.own_home(Path(folder) / "home"):
            try:
                run, pictures = arranged(name, large, Path(folder), gpu)
                planned = plan(run, args.device, both=False)
                found = measured(run, pictures, planned, args.steps)
            except UnistepError as error:  # an extra is missing, say: the others may do without
                print(f"{name}: {error}", flush=True)
                gates[f"{name}: runs here"] = False
                continue
        moves = max(need.peak(planned.micro) for need in planned.needs[planned.checkpointing])
        counted = planned.static + moves
        most = planned.peak(planned.micro, planned.checkpointing)
        figures = [f"{value / GB:.4f}" for value in (planned.static, moves, found)]
        rows.append([name, f"{planned.micro} x {run.data.patch}", *figures, f"{found / counted:.3f}"])
        print(f"{name}: {found / GB:.4f} GB, planned {counted / GB:.4f}", flush=True)
        if gpu:
            gates[f"{name}: at most {most / GB:.2f} GB, planned with its allowances"] = found <= most
            torch.cuda.empty_cache()
        else:
            low, high = CLOSE
            gates[f"{name}: from {low} to {high} of the plan"] = low <= found / counted <= high
    where = torch.cuda.get_device_name() if gpu else f"CPU, {os.cpu_count()} cores"
    print(f"\ntorch {torch.__version__}, {where}\n")
    heads = ["recipe", "samples x pixels", "held, GB", "moves, GB", "measured, GB", "of the plan"]
    print(table(heads, rows), end="")
    return passed(gates)


if __name__ == "__main__":
    leave(main())
