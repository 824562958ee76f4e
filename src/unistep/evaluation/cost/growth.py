"""How cost grows with the picture: counted at every size, measured as far as time and memory allow.

A megapixel here is 1024 x 1024 pixels of the result, and pictures are square. Counted is one call for the
whole picture (denoisers in their tiles); measured is what `unistep upscale` does with a picture in memory, in
the tiles and blocks that it chooses.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch

from ...errors import ConfigError, MemoryLimit, UnistepError
from ...image import Picture
from ...pixels.tiling import free_memory, out_of_memory
from .counted import Part
from .participants import Participant
from .stages import random_picture
from .timing import Spread, Times, grown, timed

DEFAULT = (0.25, 1.0, 4.0, 16.0)
MEGAPIXEL, ALIGN = 1024, 16
"""Its side; sides of results are multiples of ALIGN."""
MOST = 256.0
"""Megapixels that may be asked for."""
ROUNDS = 3
"""At most, of each size."""
COPIES = 4
"""Pictures of the result's size, in float32, that a run may hold besides what the network takes."""


@dataclass(frozen=True)
class Limits:
    seconds: float
    """A size is not measured where a run would take longer, by the size before and the counted work."""
    rounds: int


def checked(sizes: Sequence[float]) -> list[float]:
    """In ascending order. Raises ConfigError for sizes that cannot be."""
    for size in sizes:
        if not 0 < size <= MOST or side_of(size) < ALIGN:
            raise ConfigError(f"expected --sizes from 0.001 to {MOST:g} megapixels, found {size:g}")
    return sorted(set(sizes))


def side_of(megapixels: float) -> int:
    """Of the result, in pixels."""
    return ALIGN * round(math.sqrt(megapixels) * MEGAPIXEL / ALIGN)


def counted(who: Participant, sizes: Sequence[float]) -> list[dict[str, Any]]:
    """A line for each size, without what is measured."""
    lines = []
    for size in sizes:
        low = max(1, side_of(size) // who.scale)
        found: list[Part] = who.counted((low, low), tiled=True)
        peak = who.weight_bytes + max(part.peak for part in found) if found else None
        lines.append({
            "input": [low, low], "output": [low * who.scale, low * who.scale],
            "megapixels": (low * who.scale / MEGAPIXEL) ** 2,
            "gmacs": sum(part.macs for part in found) / 1e9,
            "operators": sum(part.operators for part in found) if found else None,
            "peak_bytes": peak, "seconds": None, "cpu_seconds": None, "measured_peak_bytes": None, "runs": 0,
            "why": "only counted",
        })  # fmt: skip
    return lines


def measure(
    participants: Sequence[Participant],
    lines: dict[str, list[dict[str, Any]]],
    limits: Limits,
    tick: Callable[[str], object],
) -> None:
    """Fills in what is measured, in turns at each size; `why` says what was not."""
    for i in range(len(next(iter(lines.values())))):
        times = {who.name: Times([], []) for who in participants}
        able = []
        for who in participants:
            before, line = lines[who.name][:i], lines[who.name][i]
            line["why"] = _too_much(who, before, line, limits)
            able += [] if line["why"] else [who]
        for round in range(min(ROUNDS, limits.rounds)):
            for who in able:
                line, found = lines[who.name][i], times[who.name]
                if line["why"] or sum(found.seconds) > limits.seconds:
                    continue  # one run is enough of what takes that long
                tick(f"{who.name}, {line['output'][0]} x {line['output'][1]} pixels, round {round + 1}")
                _once(who, line, found, warm=i > 0)
        for who in able:
            _settle(lines[who.name][i], times[who.name])


def _too_much(
    who: Participant, before: Sequence[dict[str, Any]], line: dict[str, Any], limits: Limits
) -> str | None:
    """Why a size is not measured; None: it is."""
    needed = COPIES * 12 * math.prod(line["output"])
    free = free_memory(torch.device("cpu"))
    if needed > free:
        return f"no room: {needed / 1e9:.1f} GB for the picture and its copies, {free / 1e9:.1f} GB free"
    if not before:
        return None
    last = before[-1]
    if last["seconds"] is None:
        return str(last["why"])
    key = "gmacs" if last["gmacs"] else "megapixels"
    expected = last["seconds"] * line[key] / last[key]
    if expected > limits.seconds:
        return f"about {expected:.0f} s expected, more than the limit of {limits.seconds:g} s"
    return None


def _once(who: Participant, line: dict[str, Any], found: Times, warm: bool) -> None:
    picture = Picture(random_picture(*line["input"]))
    try:
        if not warm and not found.seconds:
            who.enlarge(picture)  # libraries and kernels are loaded before what counts
        if line["measured_peak_bytes"] is None and not found.seconds:
            # the run that is looked at for its memory is timed as well
            took: list[tuple[float, float]] = []
            peak = grown(lambda: took.append(timed(lambda: who.enlarge(picture), 1, who.device)), who.device)
            line["measured_peak_bytes"] = None if peak is None else peak + who.weight_bytes
            ((wall, cpu),) = took
        else:
            wall, cpu = timed(lambda: who.enlarge(picture), 1, who.device)
    except (UnistepError, MemoryError, RuntimeError) as error:
        if not isinstance(error, MemoryLimit) and not out_of_memory(error):
            raise
        line["why"] = f"no room: {' '.join(str(error).split())[:200]}"
        return
    found.seconds.append(wall)
    found.cpu_seconds.append(cpu)


def _settle(line: dict[str, Any], found: Times) -> None:
    line["runs"] = len(found.seconds)
    if found.seconds:
        line["seconds"] = Spread.of(found.seconds).median
        line["cpu_seconds"] = Spread.of(found.cpu_seconds).median
        line["spread"] = {"seconds": asdict(Spread.of(found.seconds)),
                          "cpu_seconds": asdict(Spread.of(found.cpu_seconds))}  # fmt: skip
