"""What several benchmarks share: command lines, tables, gates, random weights, measuring."""

import argparse
import ctypes
import os
import statistics
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import torch
from torch import nn

from unistep.evaluation.cost.timing import timed


def parser(doc: str | None) -> argparse.ArgumentParser:
    return argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)


def table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """In Markdown."""
    head, *body = ("| " + " | ".join(line) + " |" for line in [heads, *rows])
    return "\n".join([head, "|" + "---|" * len(heads), *body]) + "\n"


def passed(gates: dict[str, bool]) -> bool:
    """Prints each gate; whether all hold."""
    print()
    for gate, good in gates.items():
        print(f"{'pass' if good else 'FAIL'}: {gate}")
    return all(gates.values())


def leave(good: bool) -> None:
    sys.exit(0 if good else 1)


@torch.no_grad()
def filled(net: nn.Module) -> nn.Module:
    """With random weights that keep the scale of what goes through them."""
    generator = torch.Generator().manual_seed(0)
    for t in [*net.parameters(), *net.buffers()]:
        t.copy_(torch.randn(t.shape, generator=generator) * (t[0].numel() if t.dim() > 1 else 9) ** -0.5)
    for m in net.modules():
        if isinstance(m, (nn.LayerNorm, nn.GroupNorm)):
            m.weight += 1
    return net.eval().requires_grad_(False)


def in_turns(
    ways: Mapping[str, Callable[[], object]], rounds: int, device: torch.device
) -> dict[str, tuple[float, float]]:
    """Medians of (seconds, CPU seconds) of each way, which take turns: load falls on all alike."""
    spent: dict[str, list[tuple[float, float]]] = {way: [] for way in ways}
    for _ in range(rounds):
        for way, run in ways.items():
            spent[way].append(timed(run, 1, device))
    return {
        way: (statistics.median(wall for wall, _ in pairs), statistics.median(cpu for _, cpu in pairs))
        for way, pairs in spent.items()
    }


def resident_peak(run: Callable[[], object], before: Callable[[], object]) -> int:
    """Bytes by which this process's resident memory would grow at the peak of `run`: it runs in a fork.

    before: a smaller run, in which libraries are read into memory. Linux with glibc, on a CPU.
    """
    import resource  # not on every system

    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        before()
        ctypes.CDLL(None).malloc_trim(0)  # what was freed would hide a part of the peak
        Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
        start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        run()
        grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - start
        os.write(writing, str(grown * 1024).encode())
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as pipe:
        found = pipe.read()
    os.waitpid(child, 0)
    return int(found)
