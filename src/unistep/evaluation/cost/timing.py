"""Seconds, CPU seconds and memory of calls, synchronised; and what the machine can do at most.

Calls take turns (A B C A B C ...), so that what else the machine does falls on all alike, and a ratio is
taken within a round.
"""

import contextlib
import ctypes
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from ...counting.operators import Peaks

Run = Callable[[], object]


@dataclass(frozen=True)
class Spread:
    """A median with its quartiles."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> "Spread":
        low, median, high = np.quantile(values, (0.25, 0.5, 0.75))
        return cls(float(median), float(low), float(high))


@dataclass(frozen=True)
class Times:
    """Of the rounds of one call, in their order."""

    seconds: list[float]
    cpu_seconds: list[float]
    """Of all threads of this process."""


def in_turns(
    ways: Mapping[str, Run], rounds: int, device: torch.device, tick: Callable[[int], object] | None = None
) -> dict[str, Times]:
    """Every way once in each round, in their order, each waited for. tick: called with the calls done."""
    found = {name: Times([], []) for name in ways}
    done = 0
    for _ in range(rounds):
        for name, run in ways.items():
            wall, cpu = timed(run, 1, device)
            found[name].seconds.append(wall)
            found[name].cpu_seconds.append(cpu)
            done += 1
            if tick:
                tick(done)
    return found


def ratio(of: Sequence[float], to: Sequence[float]) -> Spread:
    """How many times `to` each of `of` is, round by round."""
    return Spread.of([a / b for a, b in zip(of, to, strict=True)])


def synchronise(device: torch.device) -> None:
    """Waits until the device has done what it was given."""
    if device.type != "cpu":
        torch.accelerator.synchronize(device)


def timed(run: Run, repeat: int, device: torch.device) -> tuple[float, float]:
    """Medians over `repeat` runs, each waited for: (seconds, CPU seconds of this process)."""
    walls, cpus = [], []
    for _ in range(repeat):
        synchronise(device)
        wall, cpu = time.perf_counter(), time.process_time()
        run()
        synchronise(device)
        walls.append(time.perf_counter() - wall)
        cpus.append(time.process_time() - cpu)
    return statistics.median(walls), statistics.median(cpus)


def grown(run: Run, device: torch.device) -> int | None:
    """Bytes that a call takes at its peak beyond what was held before it; None where that cannot be known.

    On a GPU what the allocator gave out; on a CPU resident memory, on Linux alone.
    """
    if device.type == "cuda":
        synchronise(device)
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        run()
        synchronise(device)
        return int(torch.cuda.max_memory_allocated(device)) - before
    start = _resident("VmRSS", anew=True)
    run()
    peak = _resident("VmHWM")
    return None if device.type != "cpu" or start is None or peak is None else max(0, peak - start)


def _resident(field: str, anew: bool = False) -> int | None:
    """A line of Linux' account of this process, in bytes. anew: freed memory goes back, the peak begins."""
    if sys.platform != "linux":
        return None
    with contextlib.suppress(OSError, AttributeError, ValueError, StopIteration):
        if anew:
            ctypes.CDLL(None).malloc_trim(0)  # what was freed would hide a part of the peak
            Path("/proc/self/clear_refs").write_text("5")
        lines = Path("/proc/self/status").read_text().splitlines()
        return 1024 * int(next(line for line in lines if line.startswith(f"{field}:")).split()[1])
    return None


def measured_peaks(device: torch.device, dtype: torch.dtype = torch.float32) -> Peaks:
    """What a large product of matrices and a large copy reach on the device; the best of ten runs each."""
    side, length = (8192, 1 << 28) if device.type == "cuda" else (1536, 1 << 24)
    a, b = (torch.rand(side, side, device=device, dtype=dtype) for _ in range(2))
    source = torch.zeros(length, device=device, dtype=torch.float32)
    target = torch.empty_like(source)

    def best(run: Run) -> float:
        run()
        return min(timed(run, 1, device)[0] for _ in range(10))

    return Peaks(2 * side**3 / best(lambda: a @ b), 2 * source.nbytes / best(lambda: target.copy_(source)))
