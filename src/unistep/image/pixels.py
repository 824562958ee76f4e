"""Samples: codes and floats, upright turning, transparency without dark fringes, palettes."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from unistep.image.stored import Codes

Floats = npt.NDArray[np.float32]

BAND = 1 << 20  # samples converted at a time: bounds the memory of the temporaries


def upright(array: npt.NDArray[Any], orientation: int) -> npt.NDArray[Any]:
    """Turn and mirror [H,W,...] by its EXIF orientation 1..8, so that it stands as it was seen."""
    if orientation >= 5:
        array = array.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        array = array[::-1]
    if orientation in (2, 3, 6, 7):
        array = array[:, ::-1]
    return np.ascontiguousarray(array)


def quantise(values: Floats, depth: int, out: Codes | None = None) -> Codes:
    """Round 0..1 (beyond is clipped) to the nearest code of 8 or 16 bits, half up. `out` may be a view."""
    levels = 255 if depth == 8 else 65535
    if out is None:
        out = np.empty(values.shape, np.uint8 if depth == 8 else np.uint16)
    step = max(1, BAND // max(1, values[:1].size))
    for top in range(0, len(values), step):
        band = values[top : top + step]
        out[top : top + step] = np.clip(band * np.float32(levels) + np.float32(0.5), 0, levels)
    return out


def bleed(rgb: Floats, alpha: Floats) -> Floats:
    """Give fully transparent pixels the colours of the nearest visible ones, in place.

    rgb: float32 [H,W,3]; alpha: float32 [H,W]. What hides under full transparency is often black, and
    resampling would mix it into the visible edge. Averages over ever larger blocks fill ever larger holes
    (pull-push).
    """
    hidden = alpha == 0
    if hidden.any() and not hidden.all():
        rgb[hidden] = _filled(rgb * alpha[..., None], alpha)[hidden]
    return rgb


def to_palette(codes: Codes) -> tuple[Codes, Codes]:
    """Index 8-bit RGB or RGBA [H,W,3|4] by a palette: (indices uint8 [H,W], palette uint8 [n,3|4], n <= 256).

    Exact where there are at most 256 colours. Otherwise the palette is adapted to the picture: RGB by median
    cut with error diffusion, RGBA by an octree without.
    """
    height, width, channels = codes.shape
    mode = "RGB" if channels == 3 else "RGBA"
    image = pillow(codes, mode)
    colours = image.getcolors(256)
    if colours is not None:
        palette = np.array(sorted(colour for _, colour in colours), np.uint8)
        keys, indices = _packed(palette), np.empty((height, width), np.uint8)
        for row in range(height):
            indices[row] = np.searchsorted(keys, _packed(codes[row]))
        return indices, palette
    if channels == 3:
        adapted = image.quantize(256, Image.Quantize.MEDIANCUT)
        adapted = image.quantize(palette=adapted, dither=Image.Dither.FLOYDSTEINBERG)
    else:
        adapted = image.quantize(256, Image.Quantize.FASTOCTREE)
    entries = np.array(adapted.getpalette(mode), np.uint8).reshape(-1, channels)
    return np.asarray(adapted, np.uint8), entries


def pillow(codes: Codes, mode: str) -> Image.Image:
    """8-bit codes [H,W] or [H,W,C] as a Pillow image."""
    height, width = codes.shape[:2]
    return Image.frombuffer(mode, (width, height), np.ascontiguousarray(codes), "raw", mode, 0, 1)


def _packed(colours: Codes) -> npt.NDArray[np.uint32]:
    """One number for each colour, in the order of tuples."""
    packed: npt.NDArray[np.uint32] = np.zeros(colours.shape[:-1], np.uint32)
    for i in range(colours.shape[-1]):
        packed = packed * np.uint32(256) + colours[..., i].astype(np.uint32)
    return packed


def _filled(colour: Floats, weight: Floats) -> Floats:
    """Weighted colours [H,W,3] over their weights [H,W]; where a weight is 0, those of the coarser level."""
    own: Floats = (colour / np.maximum(weight, 1e-12)[..., None]).astype(np.float32)
    if weight.all() or weight.size == 1:
        return own
    coarse = _filled(_halved(colour), _halved(weight))
    height, width = weight.shape
    above = coarse.repeat(2, axis=0)[:height].repeat(2, axis=1)[:, :width]
    return np.where(weight[..., None] > 0, own, above)


def _halved(array: Floats) -> Floats:
    """Sums of 2x2 blocks; an odd edge counts once."""
    for axis in (0, 1):
        array = np.add.reduceat(array, np.arange(0, array.shape[axis], 2), axis=axis)
    return array
