"""Whole pairs for a method that learns from a restorer: degraded by seed, restored, rounded to 8 bits.

A pair is a function of its crop, of the run's degradations and seed, of its place in the list of all, and of
the restorer; neither of the other pairs, nor of shards, nor of where a prepare began.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ..data.degrade import Draw
from ..data.pairs import Pairs, Samples
from ..errors import ConfigError
from ..recipes.config import Run

RESTORED = 4
"""Pairs that the restorer sees at once; always as many, since sums are rounded by it."""
Restorer = Callable[[Tensor], Tensor]
"""[B, 3, h, w] -> [B, 3, s h, s w], both in [-1, 1]."""


def check_scale(run: Run, scale: int) -> None:
    """Raises ConfigError for degradations of another scale than the base's."""
    if run.data.scale != scale:
        raise ConfigError(
            f"expected data.degradations of scale {scale}, the base's, found {run.data.scale} "
            f"({', '.join(run.data.degradations)}): take others"
        )


def shares(run: Run) -> tuple[tuple[str, float], ...]:
    """(preset, share) of the run's degradations, in the order in which they are drawn."""
    pairs = Pairs([], run.data, run.train.seed)
    return tuple(zip(pairs.names, pairs.shares, strict=True))


def make_pairs(
    x_hq: Tensor, places: Sequence[int], run: Run, restore: Restorer, device: torch.device
) -> dict[str, Tensor]:
    """x_lq, x_hq and restored of crops x_hq [n, 3, H, W], all uint8. places: theirs in the list of all.

    x_lq is rounded to 8 bits when it is made, so it is stored exactly. What is rounded here are the
    restorer's results and, where the run sharpens the ground truth (data.usm_sharpen) or a preset makes it
    grey, x_hq. Degradations are made on the CPU, whatever the run says, the restorer's results on `device`.
    """
    pairs = Pairs([], run.data, run.train.seed)
    side = x_hq.shape[-1] // run.data.scale
    made: dict[str, list[Tensor]] = {
        "x_lq": [x_hq.new_zeros(0, 3, side, side)], "x_hq": [x_hq[:0]], "restored": [x_hq[:0]]
    }  # fmt: skip
    for first in range(0, len(x_hq), RESTORED):
        few = slice(first, first + RESTORED)
        indices = list(places[few])
        presets = [pairs.names[Draw(pairs.seed, index).pick(pairs.shares)] for index in indices]
        lq, hq = pairs.degraded(Samples(None, x_hq[few], None, [None] * len(indices), presets, indices))
        filled = torch.cat([lq, lq[-1:].expand(RESTORED - len(lq), -1, -1, -1)])
        restored = restore(filled.to(device))[: len(lq)]
        for name, x in (("x_lq", lq), ("x_hq", hq), ("restored", restored)):
            made[name].append(bits(x))
    return {name: torch.cat(parts) for name, parts in made.items()}


def bits(x: Tensor) -> Tensor:
    """[-1, 1] as 8 bits, on the CPU; what 8 bits were before is what it was."""
    return ((x.cpu() + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)
