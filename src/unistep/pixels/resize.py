"""Exact sizes: which size is asked for, and resampling to it.

Each axis is resampled on its own: by exact areas where it shrinks (every input pixel counts with the part of
it that an output pixel covers), by Catmull-Rom cubics where it grows, and not at all where it stays. Pixel
centres lie at half coordinates, edges are repeated, weights sum to one. Source: Keys 1981 (cubic convolution,
a = -1/2).
"""

from __future__ import annotations

import math
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from unistep.errors import ConfigError

Floats = npt.NDArray[np.float32]
Weights = npt.NDArray[np.float32]
Indices = npt.NDArray[np.intp]
Box = Literal["fit", "fill", "stretch"]

BOXES = ("fit", "fill", "stretch")
MIN_SCALE, MAX_SCALE = 1.0, 8.0
MAX_OUTPUT_PIXELS = 1_000_000_000
BAND = 1 << 20  # samples resampled at a time: memory beyond input and output does not grow with the picture


def resize(array: Floats, width: int, height: int) -> Floats:
    """Resample float32 [H,W,C] to [height,width,C]: areas down, Catmull-Rom up, each axis on its own.

    Cubics may overshoot the range of the input by up to about a tenth of an edge's contrast. Raises
    ValueError for another shape or a size below 1.
    """
    if array.ndim != 3 or array.size == 0:
        raise ValueError(f"expected an array [H,W,C] with H, W, C >= 1, found {list(array.shape)}")
    if width < 1 or height < 1:
        raise ValueError(f"expected a size of at least 1 x 1, found {width} x {height}")
    rows, columns = taps(array.shape[0], height), taps(array.shape[1], width)
    out = np.empty((height, width, array.shape[2]), np.float32)
    step = max(1, BAND // (max(width, array.shape[1]) * array.shape[2]))
    for top in range(0, height, step):
        band = slice(top, top + step)
        tall = gather(array, rows[0][band], rows[1][band], axis=0)
        out[band] = gather(tall, *columns, axis=1)
    return out


def target_size(
    width: int,
    height: int,
    *,
    scale: float | None = None,
    to_width: int | None = None,
    to_height: int | None = None,
    fit: tuple[int, int] | None = None,
    megapixels: float | None = None,
    box: Box = "fit",
) -> tuple[int, int]:
    """(width, height) of the result for a picture of width x height, asked for in exactly one of five ways.

    scale: a factor from 1 to 8. to_width, to_height: that side, the other in proportion; with both, box is
    "fit" (the largest size in proportion within them), "fill" (exactly them: the picture covers them, and
    what stands over is cut off, see `covering`) or "stretch" (exactly them, the proportions are lost). fit:
    the largest size in proportion within (width, height). megapixels: the size in proportion with about that
    many million pixels. Sides are rounded to the nearest whole number, halves up, and are at least 1.
    Pictures may be made smaller by every way but scale, and at most 8 times larger by any, on either axis.
    Raises ConfigError.
    """
    asked: dict[str, Any] = {
        "scale": scale, "width": to_width, "height": to_height, "fit": fit, "megapixels": megapixels
    }  # fmt: skip
    given = [name for name, value in asked.items() if value is not None]
    both = given == ["width", "height"]
    if len(given) != 1 and not both:
        found = " and ".join(given) or "none"
        raise ConfigError(f"give exactly one of scale, width, height, fit and megapixels, not {found}")
    if box not in BOXES:
        raise ConfigError(f"box must be one of {', '.join(BOXES)}, found {box!r}")
    if box != "fit" and not both:
        raise ConfigError(f"box {box} needs both a width and a height, found {given[0]} alone")
    if width < 1 or height < 1:
        raise ConfigError(f"a picture of {width} x {height} has no pixels to resize")
    for name in given:
        for value in asked[name] if name == "fit" else (asked[name],):
            if not 0 < value <= MAX_OUTPUT_PIXELS:  # NaN too is not
                raise ConfigError(
                    f"{name} must be a positive number up to {MAX_OUTPUT_PIXELS}, not {value:.6g}"
                )
    if scale is not None:
        if not MIN_SCALE <= scale <= MAX_SCALE:
            raise ConfigError(f"scale must be from {MIN_SCALE:g} to {MAX_SCALE:g}, not {scale:g}")
        factor = scale
    elif megapixels is not None:
        factor = math.sqrt(megapixels * 1e6 / (width * height))
    else:
        sides = fit or (to_width, to_height)
        factors = [side / before for side, before in zip(sides, (width, height), strict=True) if side]
        factor = min(factors) if box == "fit" else max(factors)
    if factor > MAX_SCALE * (1 + 1e-9):
        raise ConfigError(
            f"{' and '.join(given)} {'ask' if both else 'asks'} for {factor:.4g} times the "
            f"{width} x {height} pixels of the picture, and {MAX_SCALE:g} times is the most"
        )
    if to_width is not None and to_height is not None and box != "fit":
        return _rounded(to_width), _rounded(to_height)
    return _rounded(width * factor), _rounded(height * factor)


def covering(width: int, height: int, size: tuple[int, int]) -> tuple[int, int]:
    """The smallest (width, height) that covers `size`, in the proportions of a picture of width x height."""
    factor = max(size[0] / width, size[1] / height)
    return _rounded(width * factor), _rounded(height * factor)


def centre(image: Floats, width: int, height: int) -> Floats:
    """A copy of the middle [height,width,...] of a larger image; of an odd rest, more is cut at the end."""
    top, left = (image.shape[0] - height) // 2, (image.shape[1] - width) // 2
    return image[top : top + height, left : left + width].copy()


def _rounded(side: float) -> int:
    # 33 * (99 / 33) may come out a hair beside the half or the whole number that was meant
    return max(1, math.floor(round(side, 6) + 0.5))


def taps(size: int, wanted: int) -> tuple[Indices, Weights]:
    """Which input samples make each output sample, and with which weights: both [wanted, taps]."""
    if wanted == size:
        return np.arange(size)[:, None], np.ones((size, 1), np.float32)
    ratio = size / wanted
    if wanted < size:
        start = np.arange(wanted) * ratio
        first = np.floor(start).astype(np.intp)
        indices = first[:, None] + np.arange(math.ceil(ratio) + 1)
        overlap = np.minimum(indices + 1, (start + ratio)[:, None]) - np.maximum(indices, start[:, None])
        weights = np.clip(overlap, 0, None)
    else:
        centre = (np.arange(wanted) + 0.5) * ratio - 0.5
        first = np.floor(centre).astype(np.intp)
        indices = first[:, None] + np.arange(-1, 3)
        weights = _cubic(np.abs(centre[:, None] - indices))
    weights /= weights.sum(axis=1, keepdims=True)
    return np.clip(indices, 0, size - 1), weights.astype(np.float32)


def _cubic(t: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    near = (1.5 * t - 2.5) * t * t + 1
    far = ((-0.5 * t + 2.5) * t - 4) * t + 2
    return np.where(t <= 1, near, np.where(t < 2, far, 0))


def gather(array: Floats, indices: Indices, weights: Weights, axis: int) -> Floats:
    """The weighted sum of the taps along an axis."""
    shape = (-1, 1, 1) if axis == 0 else (1, -1, 1)
    if indices.shape[1] == 1:
        return array.take(indices[:, 0], axis=axis)
    total = array.take(indices[:, 0], axis=axis) * weights[:, 0].reshape(shape)
    for tap in range(1, indices.shape[1]):
        total += array.take(indices[:, tap], axis=axis) * weights[:, tap].reshape(shape)
    return total
