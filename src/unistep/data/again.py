"""Pairs that cost much are used more than once, turned otherwise each time.

A pair that was degraded, and restored by another network, costs as much as the step that learns from it. So
`WINDOW` pairs or a few more are kept and come `uses` times. Which pair comes at a position, and how it is
turned, is a function of the position alone: a run resumes anywhere, and any number of workers gives the same.
"""

from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from . import ready
from .pairs import Pairs, Samples

WINDOW = 240
"""Pairs between two uses of one, at least. Each is 0.6 MB, for crops of 160 pixels."""
STEPS = 12
"""Steps come by so many between two uses: with 2, 3, 4, 6 or 12 workers, who take turns, a pair falls to the
one who has it."""


class Again(Dataset[Any]):
    """`pairs`, each `uses` times, with what `restore` makes of its low-quality image."""

    def __init__(
        self, pairs: Pairs, uses: int = 1, restore: Callable[[Tensor], Tensor] | None = None, batch: int = 1
    ):
        """restore: [B, 3, h, w] -> [B, 3, s h, s w], both in [-1, 1]. batch: samples of a whole step.

        Whole steps make up a window: the same pairs are always restored together, and rounded alike.
        """
        self.pairs, self.uses, self.restore = pairs, uses, restore
        self.window = window(batch)
        self.kept: OrderedDict[int, Samples] = OrderedDict()

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitems__(self, offsets: list[int]) -> Samples:
        """The samples of a batch, which a DataLoader asks for at once."""
        places = [place(self.pairs.start + offset, self.uses, self.window) for offset in offsets]
        missing = list(dict.fromkeys(index for index, _ in places if index not in self.kept))
        if missing:
            made = self.pairs.__getitems__([index - self.pairs.start for index in missing])
            if self.restore is not None and made.x_lq is not None and made.restored is None:
                made = made._replace(restored=self.restore(made.x_lq))
            self.kept |= {index: _row(made, i) for i, index in enumerate(missing)}
        rows = [turned(self.kept[index], self.turn(time)) for index, time in places]
        while len(self.kept) > (self.window if self.uses > 1 else 0):
            self.kept.popitem(last=False)
        return _joined(rows)

    def turn(self, time: int) -> int:
        """How a pair is turned when it comes for the time-th time: one of 8 ways, or 2 that are upright."""
        return time % 8 if self.pairs.config.rotations else 4 * (time % 2)


def window(batch: int) -> int:
    """Pairs between two uses of one, for steps of `batch` samples."""
    return -(-WINDOW // (STEPS * batch)) * STEPS * batch


def place(position: int, uses: int, window: int) -> tuple[int, int]:
    """(index of the pair, how often it came before) at a position."""
    number, rest = divmod(position, window * uses)
    time, within = divmod(rest, window)
    return number * window + within, time


def turned(row: Samples, turn: int) -> Samples:
    """A pair, turned by quarters and mirrored; one whose latent is fixed stays as it is."""
    if row.z_hq is not None or not turn:
        return row

    return Samples._make(ready.turned(part, turn) if isinstance(part, Tensor) else part for part in row)


def _row(samples: Samples, i: int) -> Samples:
    return Samples._make(None if part is None else part[i : i + 1] for part in samples)


def _joined(rows: list[Samples]) -> Samples:
    def whole(parts: Sequence[Any]) -> Any:
        if isinstance(parts[0], Tensor):
            return torch.cat(list(parts))
        return None if parts[0] is None else [one for part in parts for one in part]

    return Samples._make(whole(parts) for parts in zip(*rows, strict=True))
