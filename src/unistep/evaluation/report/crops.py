"""Where to look: the place of a picture where its results differ most, and a flat one."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from ...image.stored import Codes

Plane = npt.NDArray[np.float32]
CLIPPED = 0.05
"""Share of black or white pixels above which a flat place shows nothing."""


@dataclass(frozen=True)
class Crop:
    """A part of a result, in its pixels; all multiples of the scale."""

    kind: Literal["differ", "flat"]
    x: int
    y: int
    width: int
    height: int

    def of(self, codes: Codes, scale: int = 1) -> Codes:
        """Its part of a picture that is `scale` times smaller, uint8 [h, w, 3]."""
        y, x, height, width = (v // scale for v in (self.y, self.x, self.height, self.width))
        return codes[y : y + height, x : x + width]


def choose(results: list[Codes], beside: Codes, size: int, scale: int) -> list[Crop]:
    """One crop where the results differ most, and the flattest one that is another place, if there is one.

    Args:
        results: uint8 [H, W, 3] each. beside: the truth, or the enlarged input: what a single result is
            compared with, and whose flatness counts.
        size: side in pixels, which a smaller picture or the scale makes smaller.
    """
    height, width = results[0].shape[:2]
    high, wide = (max(scale, min(size, side) // scale * scale) for side in (height, width))
    planes = [_luma(codes) for codes in (results if len(results) > 1 else [*results, beside])]
    spread = np.std(planes, axis=0)
    differ = _best(_means(spread, high, wide, scale))
    first = Crop("differ", differ[1] * scale, differ[0] * scale, wide, high)
    plane = _luma(beside)
    steep = np.zeros_like(plane)
    steep[1:] += np.square(np.diff(plane, axis=0))
    steep[:, 1:] += np.square(np.diff(plane, axis=1))
    clipped = _means(((plane < 2) | (plane > 253)).astype(np.float32), high, wide, scale)
    rough = _means(steep, high, wide, scale)
    rough = np.where(clipped > CLIPPED, rough + rough.max() + 1, rough)
    down = high - np.abs(np.arange(rough.shape[0]) * scale - first.y)
    across = wide - np.abs(np.arange(rough.shape[1]) * scale - first.x)
    shared = np.multiply.outer(down.clip(0), across.clip(0))
    rough = np.where(2 * shared > high * wide, np.inf, rough)  # the same place again
    if not np.isfinite(rough).any():
        return [first]
    y, x = _best(-rough)
    return [first, Crop("flat", x * scale, y * scale, wide, high)]


def _luma(codes: Codes) -> Plane:
    """[H, W, 3] -> [H, W], 0 to 255."""
    return np.asarray(codes @ np.array([0.299, 0.587, 0.114]), np.float32)


def _means(plane: Plane, height: int, width: int, step: int) -> Plane:
    """Of all windows of height x width whose corners are multiples of `step`: [rows, columns]."""
    sums = np.zeros((plane.shape[0] + 1, plane.shape[1] + 1))
    sums[1:, 1:] = plane.cumsum(0, dtype=np.float64).cumsum(1)
    whole = sums[height:, width:] - sums[:-height, width:] - sums[height:, :-width] + sums[:-height, :-width]
    return (whole[::step, ::step] / (height * width)).astype(np.float32)


def _best(values: Plane) -> tuple[int, int]:
    y, x = np.unravel_index(int(np.argmax(values)), values.shape)
    return int(y), int(x)
