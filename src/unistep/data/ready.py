"""Pairs that were made before: read from the rows of shards, and turned as a whole."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .shards import Crop

PAIR = ("x_lq", "x_hq", "restored")
"""The tensors of a row."""


class Ready(NamedTuple):
    """Pairs, each in [-1, 1]."""

    x_lq: Tensor
    """[B, 3, h, w]"""
    x_hq: Tensor
    """[B, 3, scale h, scale w]"""
    restored: Tensor
    """What a restorer made of x_lq, as large as x_hq."""


def is_ready(photo: Any) -> bool:
    """Whether a picture comes as a whole pair."""
    return isinstance(photo, Crop) and photo.made.pairs


def ready(rows: Sequence[Crop], turns: Sequence[int]) -> Ready:
    """The pairs of `rows`, each turned as `turned` says. Raises DataError for a shard that cannot be read."""
    every = [[turned(x, turn) for x in row.read_all(*PAIR)] for row, turn in zip(rows, turns, strict=True)]
    return Ready._make(torch.stack(images).float() / 255 * 2 - 1 for images in zip(*every, strict=True))


def turned(x: Tensor, turn: int) -> Tensor:
    """[..., H, W], square, by `turn` mod 4 quarters, and from 4 on mirrored then."""
    x = torch.rot90(x, turn % 4, dims=(-2, -1))
    return x.flip(-1) if turn >= 4 else x
