"""Cost of one-step x4 upscaling, 128x128 -> 512x512, on one CPU thread: ours against two peers' shapes.

    python benchmarks/cost.py [--model FILE] [--widths 64,96,128 --blocks 2,2,3] [--rounds 5]

Process CPU seconds, the networks taking turns in every round; medians, and ratios to ours. Without --model,
ours has random weights (the cost does not depend on them); the peers always have. Exits with 1 if a gate is
missed.
"""

import argparse
import statistics
import sys
import time
from pathlib import Path

import torch
from peers import RRDBNet, SRVGGNetCompact, ready
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from unistep.bases.compact.network import CompactConfig, CompactDenoiser
from unistep.bases.compact.student import fold_slot
from unistep.models.checkpoint import load_student

OURS, RRDB, SRVGG = "unistep", "RRDBNet-23", "SRVGGNetCompact-32"


def parameters(net: nn.Module) -> float:
    """Millions."""
    return sum(p.numel() for p in net.parameters()) / 1e6


def gmacs(net: nn.Module, x: Tensor) -> float:
    """Billions of multiply-adds of the convolutions and products in one run."""
    with FlopCounterMode(display=False) as counter:
        net(x)
    return float(counter.get_total_flops()) / 2e9


def cpu_seconds(nets: dict[str, nn.Module], x: Tensor, rounds: int) -> dict[str, float]:
    """Median process CPU seconds of each network after a warm-up, in turns: load falls on all alike."""
    for net in nets.values():
        net(x)
    spent: dict[str, list[float]] = {name: [] for name in nets}
    for _ in range(rounds):
        for name, net in nets.items():
            start = time.process_time()
            net(x)
            spent[name].append(time.process_time() - start)
    return {name: statistics.median(values) for name, values in spent.items()}


def numbers(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(","))


def main() -> bool:
    default = CompactConfig()
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
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
    nets = {OURS: ready(student), SRVGG: ready(SRVGGNetCompact()), RRDB: ready(RRDBNet())}
    x = torch.rand(1, 3, 128, 128).contiguous(memory_format=torch.channels_last)
    with torch.inference_mode():
        seconds = cpu_seconds(nets, x, args.rounds)
        work = {name: gmacs(net, x) for name, net in nets.items()}

    print(f"torch {torch.__version__}, one thread, {args.rounds} rounds, 128x128 -> 512x512\n")
    print("| network | parameters, M | GMAC | CPU s | times ours |\n|---|---|---|---|---|")
    for name, net in nets.items():
        ratio = seconds[name] / seconds[OURS]
        print(f"| {name} | {parameters(net):.2f} | {work[name]:.1f} | {seconds[name]:.3f} | {ratio:.2f} |")
    gates = {
        f"at least 20 times faster than {RRDB}": seconds[RRDB] >= 20 * seconds[OURS],
        f"at least 1.8 times faster than {SRVGG}": seconds[SRVGG] >= 1.8 * seconds[OURS],
        "at most 3 M parameters": parameters(nets[OURS]) <= 3,
        "at most 10 GMAC": work[OURS] <= 10,
    }
    print()
    for gate, passed in gates.items():
        print(f"{'pass' if passed else 'FAIL'}: {gate}")
    return all(gates.values())


if __name__ == "__main__":
    sys.exit(0 if main() else 1)
