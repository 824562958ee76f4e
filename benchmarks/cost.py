"""Cost of one-step x4 upscaling, 128x128 -> 512x512, on one CPU thread: ours against two peers' shapes.

    python benchmarks/cost.py [--model FILE] [--widths 64,96,128 --blocks 2,2,3] [--rounds 5]

Process CPU seconds, the networks taking turns in every round; medians, and ratios to ours. Without --model,
ours has random weights (the cost does not depend on them); the peers always have. Exits with 1 if a gate is
missed.
"""

from functools import partial
from pathlib import Path

import torch
from common import in_turns, leave, parser, passed, table
from torch import nn

from unistep.bases.compact.network import CompactConfig, CompactDenoiser
from unistep.bases.compact.student import fold_slot
from unistep.counting.operators import count, parameters
from unistep.models.checkpoint import load_student
from unistep.students.restorers import RRDBNet, SRVGGNetCompact

OURS, RRDB, SRVGG = "unistep", "RRDBNet-23", "SRVGGNetCompact-32"


def numbers(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(","))


def main() -> bool:
    default = CompactConfig()
    p = parser(__doc__)
    p.add_argument("--model", type=Path, help="Unistep weights (default: the shape below, random)")
    p.add_argument("--widths", type=numbers, default=default.widths, help="of the three levels")
    p.add_argument("--blocks", type=numbers, default=default.blocks, help="of the three levels")
    p.add_argument("--rounds", type=int, default=5)
    args = p.parse_args()

    torch.set_num_threads(1)
    torch.manual_seed(0)
    if args.model:
        student: nn.Module = load_student(args.model)
    else:
        student = fold_slot(CompactDenoiser(CompactConfig(args.widths, args.blocks)))
    nets = {OURS: student, SRVGG: SRVGGNetCompact(64, 32, 4), RRDB: RRDBNet(64, 23, 32, 4)}
    for net in nets.values():
        net.eval().requires_grad_(False).to(memory_format=torch.channels_last)
    x = torch.rand(1, 3, 128, 128).contiguous(memory_format=torch.channels_last)
    with torch.inference_mode():
        gmacs = {name: count(net, x).macs() / 1e9 for name, net in nets.items()}  # a warm-up as well
        ways = {name: partial(net, x) for name, net in nets.items()}
        seconds = {name: cpu for name, (_, cpu) in in_turns(ways, args.rounds, x.device).items()}

    print(f"torch {torch.__version__}, one thread, {args.rounds} rounds, 128x128 -> 512x512\n")
    rows = [
        [name, f"{parameters(net) / 1e6:.2f}", f"{gmacs[name]:.1f}", f"{seconds[name]:.3f}",
         f"{seconds[name] / seconds[OURS]:.2f}"]
        for name, net in nets.items()
    ]  # fmt: skip
    print(table(["network", "parameters, M", "GMAC", "CPU s", "times ours"], rows), end="")
    return passed(
        {
            f"at least 20 times faster than {RRDB}": seconds[RRDB] >= 20 * seconds[OURS],
            f"at least 1.8 times faster than {SRVGG}": seconds[SRVGG] >= 1.8 * seconds[OURS],
            "at most 3 M parameters": parameters(nets[OURS]) <= 3e6,
            "at most 10 GMAC": gmacs[OURS] <= 10,
        }
    )


if __name__ == "__main__":
    leave(main())
